"""How many connections, handshakes and streams a node holds, in all, per peer and per address (spec/security.md 1.8).

Limits per address count public addresses only: a LAN, or one host, is one group (spec/cluster.md).
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TypeVar

import attrs

from chorus.errors import LimitExceeded
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr

Group = str
_Key = TypeVar("_Key")


@attrs.frozen
class HostLimits:
    """Named limits of one node. The defaults are go-libp2p's for 1 GiB, but for the numbers that CHORUS sets itself."""

    max_inbound_connections: int = 128
    max_outbound_connections: int = 192
    max_connections_per_peer: int = 8
    """Also counts those that are about to be closed because a pair keeps one."""
    max_connections_per_ip: int = 8
    """A public IPv4 address, or IPv6 /56."""
    max_connections_per_ip6_site: int = 64
    """A public IPv6 /48."""
    max_handshakes: int = 64
    """Connections whose set-up or admission has not ended."""
    max_handshakes_per_ip: int = 8
    max_dials: int = 64
    """Addresses being dialled at a time; further ones wait."""
    max_dials_per_peer: int = 8
    max_streams: int = 4096
    """Streams of all connections, above which no further one is taken."""
    max_inbound_streams_per_peer: int = 256
    max_buffered: int = 128 * 1024 * 1024
    """Bytes received and not taken, or queued and not sent, of all connections; over it the fullest one goes. Looked at
    once a second; each connection has its own budget besides (`YamuxLimits`), which together would be gigabytes."""


def groups(address: Multiaddr, limits: HostLimits) -> list[tuple[Group, int]]:
    """The groups that a connection from `address` counts in, each with its limit; none for addresses that are not
    public, and for names (nobody connects from a name)."""
    ip = address.ip()
    if ip is None or not ip.is_global:
        return []
    if isinstance(ip, IPv4Address):
        return [(str(ip), limits.max_connections_per_ip)]
    return [
        (_network(ip, 56), limits.max_connections_per_ip),
        (_network(ip, 48), limits.max_connections_per_ip6_site),
    ]


def _network(ip: IPv6Address, prefix: int) -> Group:
    return str(ip_network((ip, prefix), strict=False))


@attrs.define(eq=False)
class Place:
    """A connection's place in the counts, from `ConnectionCounts.enter` to `leave`."""

    inbound: bool
    groups: tuple[Group, ...]
    peer: PeerId | None = None
    established: bool = False
    left: bool = False


class ConnectionCounts:
    """Counts connections from the first byte to the last."""

    def __init__(self, limits: HostLimits) -> None:
        self.limits = limits
        self.inbound = 0
        self.outbound = 0
        self.handshakes = 0
        """Inbound connections whose set-up or admission has not ended."""
        self._by_group: Counter[Group] = Counter()
        self._handshakes_by_group: Counter[Group] = Counter()
        self._by_peer: Counter[PeerId] = Counter()

    def of_peer(self, peer: PeerId) -> int:
        return self._by_peer.get(peer, 0)

    def enter(self, address: Multiaddr, *, inbound: bool) -> Place:
        """A connection begins. Raises `LimitExceeded` and counts nothing."""
        limits = self.limits
        counted = groups(address, limits)
        if inbound:
            _check("inbound_connections", self.inbound, limits.max_inbound_connections)
            _check("handshakes", self.handshakes, limits.max_handshakes)
            for group, _ in counted[:1]:
                _check("handshakes_per_ip", self._handshakes_by_group.get(group, 0), limits.max_handshakes_per_ip)
        else:
            _check("outbound_connections", self.outbound, limits.max_outbound_connections)
        for group, maximum in counted:
            _check("connections_per_ip", self._by_group.get(group, 0), maximum)
        place = Place(inbound, tuple(group for group, _ in counted))
        self._count(place, 1)
        self._count_handshake(place, 1)
        return place

    def secured(self, place: Place, peer: PeerId) -> None:
        """The peer is known. Raises `LimitExceeded` when it has too many connections (this one counts until it
        leaves)."""
        place.peer = peer
        self._by_peer[peer] += 1
        if self._by_peer[peer] > self.limits.max_connections_per_peer:
            raise LimitExceeded("connections_per_peer", self._by_peer[peer], self.limits.max_connections_per_peer)

    def established(self, place: Place) -> None:
        """Set-up and admission are over. Idempotent."""
        if not place.established and not place.left:
            place.established = True
            self._count_handshake(place, -1)

    def leave(self, place: Place) -> None:
        """The connection has ended. Idempotent."""
        if place.left:
            return
        self.established(place)
        place.left = True
        self._count(place, -1)
        if place.peer is not None:
            _add(self._by_peer, place.peer, -1)

    def _count(self, place: Place, change: int) -> None:
        if place.inbound:
            self.inbound += change
        else:
            self.outbound += change
        for group in place.groups:
            _add(self._by_group, group, change)

    def _count_handshake(self, place: Place, change: int) -> None:
        if not place.inbound:
            return
        self.handshakes += change
        for group in place.groups[:1]:
            _add(self._handshakes_by_group, group, change)


def _check(name: str, present: int, maximum: int) -> None:
    if present >= maximum:
        raise LimitExceeded(name, present + 1, maximum)


def _add(counter: Counter[_Key], key: _Key, change: int) -> None:
    """Keys at zero go: the counter stays as small as what it counts."""
    counter[key] += change
    if not counter[key]:
        del counter[key]
