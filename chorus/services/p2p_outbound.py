"""Connections that a host dials, as its dialer sees them: their place in the counts, the link each one becomes."""

from __future__ import annotations

from collections.abc import Callable

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.limits import ConnectionCounts, Place
from chorus.protocols.stream import Connection
from chorus.services.p2p.link import Link
from chorus.services.p2p.pairs import Pairs


class Outbound:
    """`Dials`. `connect` makes the connection to a peer that is expected, or to whoever is there; it is added to
    `links`."""

    def __init__(
        self,
        local: PeerId,
        *,
        counts: ConnectionCounts,
        links: dict[Connection, Link],
        pairs: Pairs,
        connect: Callable[[Multiaddr, PeerId | None], ConnectionProtocol],
    ) -> None:
        self._local = local
        self._counts = counts
        self._links = links
        self._pairs = pairs
        self._connect = connect

    @property
    def peer_id(self) -> PeerId:
        return self._local

    def enter(self, address: Multiaddr) -> Place:
        return self._counts.enter(address, inbound=False)

    def leave(self, place: Place) -> None:
        self._counts.leave(place)

    def outbound(self, address: Multiaddr, expected: PeerId | None, place: Place) -> Link:
        connection = self._connect(address, expected)
        link = Link(connection, place, address)
        self._links[connection] = link
        return link

    def settling(self, peer: PeerId) -> bool:
        return self._pairs.settling(peer)
