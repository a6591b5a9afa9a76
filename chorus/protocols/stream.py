"""Streams, connections and the host, as a protocol on top of a connection sees them.

These are interfaces. `protocols/connection/shell.py` implements `Stream` and `Connection`, `services/p2p/host.py`
implements `Host`; tests and the simulation give their own. Peer ids travel as `chorus.identity.PeerId`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from chorus.errors import ChorusError

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.identity import PeerId
    from chorus.multiformats.multiaddr import Multiaddr


class StreamClosed(ChorusError):
    """A write to, or a wait for, a stream whose end has come."""

    code = "stream_closed"


class StreamReset(StreamClosed):
    """The stream was reset, by the peer (`remote=True`) or here; bytes in flight are lost."""

    code = "stream_reset"

    def __init__(self, message: str = "stream reset", *, remote: bool = True) -> None:
        super().__init__(message)
        self.remote = remote


class ProtocolNotSupported(ChorusError):
    """The peer speaks none of the protocols offered for a stream."""

    code = "protocol_not_supported"


class StreamReceiver(Protocol):
    """Hears one stream. All calls come from the reactor; an exception resets the stream and is counted."""

    def data_received(self, data: bytes) -> None:
        """Some bytes, in order. Their window credit is given back on return unless reading is paused."""

    def eof_received(self) -> None:
        """The peer will send no more; writing may go on."""

    def stream_closed(self, error: ChorusError | None) -> None:
        """Called exactly once, last: both directions ended (`None`), or why they broke."""

    def pause_writing(self) -> None:
        """More than `WRITE_HIGH_WATER` bytes wait for the peer's window or the socket."""

    def resume_writing(self) -> None:
        """The wait is over."""


class Stream(Protocol):
    """One bidirectional byte stream whose protocol has been negotiated.

    A lazily opened outbound stream may be written to before the peer has confirmed the protocol; a refusal then
    arrives as `stream_closed(ProtocolNotSupported)`.
    """

    stream_id: int
    protocol: str
    inbound: bool

    @property
    def connection(self) -> Connection: ...

    def set_receiver(self, receiver: StreamReceiver) -> None:
        """Attach the receiver; what came before is delivered before this returns (EOF and close included)."""

    def write(self, data: bytes) -> None:
        """Queue bytes. Raises `StreamClosed` after `write_eof`, `close` or the end of the stream."""

    def write_eof(self) -> None:
        """Close the sending direction (yamux FIN) once everything queued has gone and the protocol is agreed."""

    def close(self) -> None:
        """`write_eof`, and drop whatever else the peer sends. Idempotent."""

    def reset(self, error: ChorusError | None = None) -> None:
        """Abort both directions. Idempotent."""

    def pause_reading(self) -> None:
        """Keep window credit back: at most one window of bytes can arrive while paused, buffered here."""

    def resume_reading(self) -> None: ...


class Connection(Protocol):
    """One authenticated, multiplexed connection to one peer."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def remote_address(self) -> Multiaddr: ...

    @property
    def inbound(self) -> bool:
        """True if the peer dialled."""

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes: Noise's `h` after message 3, the same at both ends."""

    @property
    def admitted(self) -> bool:
        """True if admission succeeded (always, in open mode)."""

    def open_stream(self, protocols: Sequence[str]) -> Deferred[Stream]:
        """Open a stream for the first of `protocols` that the peer speaks.

        One protocol is opened lazily: the Deferred fires at once, in the same turn. Fails with
        `ProtocolNotSupported`, `StreamClosed`, or a local limit.
        """

    def close(self, error: ChorusError | None = None) -> None:
        """GoAway, then close; with an error the close is an abort with that reason. Idempotent."""


StreamOpened = Callable[[Stream], None]


@attrs.frozen
class ProtocolOptions:
    """How a host treats an inbound protocol."""

    needs_admission: bool = True
    """Refused (mss `na`) on connections that are not admitted."""
    max_inbound_per_peer: int = 16
    """Streams over this are reset as they open."""


class Host(Protocol):
    """A node's view of its connections. `services/p2p/host.py`."""

    @property
    def peer_id(self) -> PeerId: ...

    def listen_addresses(self) -> list[Multiaddr]:
        """Addresses to give to others, without `/p2p/…`."""

    def register(self, protocol: str, opened: StreamOpened, options: ProtocolOptions) -> None:
        """Serve `protocol`: `opened` gets each inbound stream and sets its receiver before it returns."""

    def unregister(self, protocol: str) -> None: ...

    def protocols(self) -> list[str]: ...

    def connections(self) -> list[Connection]:
        """Admitted connections, one a peer."""

    def connection(self, peer: PeerId) -> Connection | None: ...

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        """As identify reported them; empty before it has."""

    def addresses_of(self, peer: PeerId) -> list[Multiaddr]:
        """Known addresses of a peer, without `/p2p/…`; the one that worked last first."""

    def dial(self, peer: PeerId | None, addresses: Sequence[Multiaddr]) -> Deferred[Connection]:
        """Connect and be admitted. An existing connection is returned; concurrent dials of one peer are one dial.

        Fails with `chorus.protocols.dialing.DialError` (which lists each address and its failure).
        """

    def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> Deferred[Stream]:
        """A stream to a connected peer, or `StreamClosed` when there is no connection."""

    def watch_peers(self, joined: Callable[[Connection], None], left: Callable[[Connection], None]) -> None:
        """Hear of each peer once it is admitted *and* identified, and once it is gone."""
