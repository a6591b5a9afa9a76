"""A host's state of each connection, and its counters."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from chorus.errors import LimitExceeded
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.dialing import Contender
from chorus.protocols.identify import Identification
from chorus.protocols.limits import Place

if TYPE_CHECKING:
    from chorus.protocols.connection.streams import MuxedStream


MAX_REFUSED_STREAMS = 500
REFUSED_WINDOW = 10.0
"""Streams over a limit cost us a negotiation each: a peer that opens more of them in this many seconds is closed."""


@attrs.define
class TransportCounters:
    """Dials over one transport, since start."""

    dialled: int = 0
    """Addresses tried."""
    connected: int = 0
    """Of those, the ones that ended in an authenticated connection."""
    failed: Counter[str] = attrs.field(factory=Counter)
    """By reason: an error's code, `refused`, `timeout`, `unreachable`, `backoff`."""
    seconds: float = 0.0
    """Sum over `connected`, from the start of the dial to the authenticated connection."""


@attrs.define
class P2PCounters:
    """Since start. Plain numbers: whoever exports them reads them."""

    accepted: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    """Connections refused, by the name of the limit."""
    secured: int = 0
    admitted: int = 0
    admission_failed: Counter[str] = attrs.field(factory=Counter)
    """By the error's code."""
    identified: int = 0
    identify_failed: Counter[str] = attrs.field(factory=Counter)
    superseded: int = 0
    """Connections closed because a pair keeps one."""
    closed: Counter[str] = attrs.field(factory=Counter)
    """By the error's code; `normal` without one."""
    streams_refused: Counter[str] = attrs.field(factory=Counter)
    """Inbound streams reset as they opened, by the name of the limit."""
    peer_errors: Counter[str] = attrs.field(factory=Counter)
    """Errors of peers on their connections and streams, by the error's code."""
    tcp: TransportCounters = attrs.field(factory=TransportCounters)


@attrs.define(eq=False)
class Link:
    """One connection, from its first byte to its last."""

    connection: ConnectionProtocol
    place: Place
    address: Multiaddr | None = None
    """The address that was dialled."""
    peer: PeerId | None = None
    """Once the connection is secured."""
    settling: bool = False
    """Secured, not yet admitted."""
    admitted_at: float | None = None
    identification: Identification | None = None
    announced: bool = False
    """Watchers know of it."""
    start_answered: bytes | None = None
    """The record of another start of ours that the peer showed us last."""
    latency: float | None = None
    """Seconds of the last ping."""
    next_ping: float = 0.0
    _refused: int = 0
    _refused_until: float = 0.0
    _streams: dict[str, list[MuxedStream]] = attrs.field(factory=dict)
    _total: int = 0

    @property
    def admitted(self) -> bool:
        return self.admitted_at is not None

    def contender(self) -> Contender:
        assert self.admitted_at is not None
        return Contender(self.connection.inbound, self.admitted_at)

    def count_stream(self, stream: MuxedStream, per_protocol: int, per_peer: int) -> None:
        """Count an inbound stream as open until it ends. Raises `LimitExceeded`.

        Streams that have ended are forgotten when a limit is met: opening and closing costs nothing else.
        """
        streams = self._streams.setdefault(stream.protocol, [])
        if len(streams) >= per_protocol or self._total >= per_peer:
            self._forget_ended()
            if len(streams) >= per_protocol:
                raise LimitExceeded("inbound_streams_per_protocol", len(streams) + 1, per_protocol)
            if self._total >= per_peer:
                raise LimitExceeded("inbound_streams_per_peer", self._total + 1, per_peer)
        streams.append(stream)
        self._total += 1

    def count_refused(self, now: float) -> None:
        """A stream was reset as it opened. Raises `LimitExceeded` for a peer that does not learn from it."""
        if now >= self._refused_until:
            self._refused = 0
            self._refused_until = now + REFUSED_WINDOW
        self._refused += 1
        if self._refused > MAX_REFUSED_STREAMS:
            raise LimitExceeded("refused_streams", self._refused, MAX_REFUSED_STREAMS)

    def _forget_ended(self) -> None:
        self._total = 0
        for streams in self._streams.values():
            streams[:] = [stream for stream in streams if not stream.ended]
            self._total += len(streams)
