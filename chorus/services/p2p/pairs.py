"""Connections to each peer: those we dial, those that await admission, and the one that is kept.

Simultaneous dials make two. Both ends decide by `dialing.newcomer_stays` and come to the same answer.
"""

from __future__ import annotations

from collections.abc import Callable

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.dialing import newcomer_stays
from chorus.protocols.limits import ConnectionCounts, Place
from chorus.protocols.stream import Connection
from chorus.services.p2p.link import Link, P2PCounters
from chorus.services.p2p.watchers import Watchers


class Pairs:
    """`Dials` of the dialer. `local` is our own id; watchers are told of connections that are replaced. `connect` makes
    a connection to the peer that is expected, or to whoever is there; it is added to `links`."""

    def __init__(
        self,
        local: PeerId,
        watchers: Watchers,
        counters: P2PCounters,
        *,
        counts: ConnectionCounts,
        links: dict[Connection, Link],
        connect: Callable[[Multiaddr, PeerId | None], ConnectionProtocol],
    ) -> None:
        self.peer_id = local
        self._watchers = watchers
        self._counters = counters
        self._counts = counts
        self._links = links
        self._connect = connect
        self._kept: dict[PeerId, Link] = {}
        self._settling: dict[PeerId, int] = {}
        """Secured connections of each peer that are not admitted yet."""

    def enter(self, address: Multiaddr) -> Place:
        return self._counts.enter(address, inbound=False)

    def leave(self, place: Place) -> None:
        self._counts.leave(place)

    def outbound(self, address: Multiaddr, expected: PeerId | None, place: Place) -> Link:
        connection = self._connect(address, expected)
        link = self._links[connection] = Link(connection, place, address)
        return link

    def kept(self, peer: PeerId) -> Link | None:
        """The admitted connection of that peer."""
        return self._kept.get(peer)

    def keeps(self, link: Link) -> bool:
        return link.peer is not None and self._kept.get(link.peer) is link

    def all_kept(self) -> list[Link]:
        return list(self._kept.values())

    def settling(self, peer: PeerId) -> bool:
        """True if a connection of that peer is waiting for its admission."""
        return peer in self._settling

    def secured(self, link: Link, peer: PeerId) -> None:
        """The peer of a connection is known; its admission is awaited."""
        link.settling = True
        self._settling[peer] = self._settling.get(peer, 0) + 1

    def admit(self, link: Link, peer: PeerId) -> Link:
        """The connection is admitted; returns which one stays. The other has been closed."""
        self._settled(link)
        existing = self._kept.get(peer)
        if existing is not None:
            alive = not existing.connection.closed
            if alive and not newcomer_stays(self.peer_id, peer, existing.contender(), link.contender()):
                self._supersede(link)
                return existing
            self._supersede(existing)
        self._kept[peer] = link
        return link

    def closed(self, link: Link) -> bool:
        """The connection has ended; returns whether it was the one kept."""
        self._settled(link)
        if link.peer is None or self._kept.get(link.peer) is not link:
            return False
        del self._kept[link.peer]
        return True

    def _supersede(self, link: Link) -> None:
        """Another connection takes its place. Watchers see it leave before the other joins."""
        self._watchers.leave(link)
        if not link.connection.closed:
            self._counters.superseded += 1
            link.connection.close()

    def _settled(self, link: Link) -> None:
        peer = link.peer
        if not link.settling or peer is None:
            return
        link.settling = False
        left = self._settling[peer] - 1
        if left:
            self._settling[peer] = left
        else:
            del self._settling[peer]
