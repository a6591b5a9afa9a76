"""Pings every peer now and then to measure its distance (spec/wire.md 10).

Only measures: the multiplexer's keepalive decides whether a connection lives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from chorus.entropy import RandomBytes
from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.protocols import ping
from chorus.protocols.stream import Connection, Stream
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p.link import Link

PING_INTERVAL = 30.0
"""Seconds, on average."""


class PingService:
    """`links` are those of the host, by their connection; `Link.latency` is what is measured."""

    def __init__(
        self,
        clock: Any,
        links: Mapping[Connection, Link],
        *,
        open_stream: Callable[[PeerId, Sequence[str]], Deferred[Stream]],
        rng: random.Random,
        random_bytes: RandomBytes,
    ) -> None:
        self._clock = clock
        self._links = links
        self._open_stream = open_stream
        self._rng = rng
        self._random_bytes = random_bytes

    def answer(self, stream: Stream) -> None:
        """Serve `/ipfs/ping/1.0.0`."""
        ping.PingResponder(stream)

    async def ping(self, peer: PeerId) -> float:
        """Seconds of one round trip."""
        stream = await self._open_stream(peer, [ping.PROTOCOL])
        io = StreamIO(stream, self._clock, timeout=ping.TIMEOUT)
        seconds = await ping.ping(io, self._clock, self._random_bytes)
        io.close()
        link = self._links.get(stream.connection)
        if link is not None:
            link.latency = seconds
        return seconds

    def ping_due(self, links: Iterable[Link], now: float) -> None:
        """Ping the peers of those whose time has come."""
        for link in links:
            if not link.announced or now < link.next_ping:
                continue
            # Spread, so that a thousand peers are not asked in one turn.
            link.next_ping = now + PING_INTERVAL * (0.75 + self._rng.random() / 2)
            said = link.identification
            if link.peer is not None and said is not None and ping.PROTOCOL in said.protocols:
                Deferred.fromCoroutine(self.ping(link.peer)).addErrback(self._not_pinged)

    def _not_pinged(self, failure: Failure) -> None:
        failure.trap(ChorusError)  # type: ignore[no-untyped-call]
