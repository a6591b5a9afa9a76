"""Inbound connections: room for each newcomer, its place in the counts, and its link."""

from __future__ import annotations

from collections.abc import Callable

from chorus.errors import LimitExceeded
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.limits import ConnectionCounts, Place
from chorus.protocols.stream import Connection
from chorus.services.p2p.link import Link, P2PCounters

NO_PROGRESS = "handshakes"
"""The limit that a connection ran into when it had to make room for another."""


class Inbound:
    """`accept` makes the protocol of a connection from an address, `made` takes it into `links` once it has its socket:
    what the system refuses in between is as if it had never come."""

    def __init__(
        self,
        *,
        counts: ConnectionCounts,
        links: dict[Connection, Link],
        counters: P2PCounters,
        connect: Callable[[Multiaddr], ConnectionProtocol],
    ) -> None:
        self._counts = counts
        self._links = links
        self._counters = counters
        self._connect = connect

    def accept(self, address: Multiaddr) -> ConnectionProtocol | None:
        """None when no further member could be admitted; else whoever has made no progress for longest makes room."""
        try:
            self._counts.check_inbound(address)
        except LimitExceeded as error:
            self._counters.refused[error.limit] += 1
            return None
        while (place := self._counts.in_the_way(address)) is not None:
            self._evict(place)
        return self._connect(address)

    def made(self, connection: ConnectionProtocol) -> None:
        self._counters.accepted += 1
        place = self._counts.enter(connection.remote_address, inbound=True)
        self._links[connection] = Link(connection, place)

    def progressed(self, connection: Connection) -> None:
        self._counts.progressed(self._links[connection].place)

    def established(self, link: Link) -> bool:
        """True if there is room for a connection that was admitted; it is closed otherwise."""
        try:
            self._counts.established(link.place)
        except LimitExceeded as error:
            self._counters.refused[error.limit] += 1
            link.connection.close(error)
            return False
        return True

    def _evict(self, place: Place) -> None:
        # At once, and not when its socket is closed: the newcomer enters in this very turn.
        self._counts.leave(place)
        self._counters.refused[NO_PROGRESS] += 1
        most = self._counts.limits.max_handshakes
        for link in self._links.values():
            if link.place is place:
                link.connection.close(LimitExceeded(NO_PROGRESS, most + 1, most))
                return
