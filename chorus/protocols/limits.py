"""How many connections, handshakes and streams a node holds, in all, per peer and per address (spec/security.md 1.8).

Inbound connections whose set-up or admission has not ended have a pool of their own, in which a further one always
finds a place (`chorus/newcomers.py`); those that are admitted have theirs, which no stranger can fill. Limits per
address on admitted connections count public addresses only: a LAN, or one host, is one group (spec/cluster.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TypeVar

import attrs

from chorus.errors import LimitExceeded
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.newcomers import Newcomers

Group = str
_Key = TypeVar("_Key")


@attrs.frozen
class HostLimits:
    """Named limits of one node. The defaults are go-libp2p's for 1 GiB, but for the numbers that CHORUS sets itself."""

    max_inbound_connections: int = 128
    """Admitted ones."""
    max_outbound_connections: int = 192
    max_connections_per_peer: int = 8
    """Also counts those that are about to be closed because a pair keeps one."""
    max_connections_per_ip: int = 8
    """A public IPv4 address, or IPv6 /56."""
    max_connections_per_ip6_site: int = 64
    """A public IPv6 /48."""
    max_handshakes: int = 64
    """Inbound connections whose set-up or admission has not ended; for one more, the one that has made no progress for
    longest goes."""
    max_handshakes_per_ip: int = 8
    """Of those, from one public IPv4 address or IPv6 /56."""
    max_handshakes_per_private_ip: int = 48
    """The same for a private IPv4 address or IPv6 /64: a host may run many nodes, but not fill the pool alone.
    Loopback is free, as in go-libp2p: nobody but this machine is there."""
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


def newcomer_groups(address: Multiaddr, limits: HostLimits) -> list[tuple[Group, int]]:
    """The group that an inbound connection from `address` belongs to until it is admitted, with its limit."""
    ip = address.ip()
    if ip is None or ip.is_loopback:
        return []
    most = limits.max_handshakes_per_ip if ip.is_global else limits.max_handshakes_per_private_ip
    if isinstance(ip, IPv4Address):
        return [(str(ip), most)]
    return [(_network(ip, 56 if ip.is_global else 64), most)]


def _network(ip: IPv6Address, prefix: int) -> Group:
    return str(ip_network((ip, prefix), strict=False))


@attrs.define(eq=False)
class Place:
    """A connection's place in the counts, from `ConnectionCounts.enter` to `leave`."""

    inbound: bool
    groups: tuple[tuple[Group, int], ...]
    peer: PeerId | None = None
    counted: bool = False
    """In the numbers of connections: an outbound one at once, an inbound one when it is admitted."""
    left: bool = False


class ConnectionCounts:
    """Counts connections from the first byte to the last."""

    def __init__(self, limits: HostLimits) -> None:
        self.limits = limits
        self.inbound = 0
        """Admitted ones."""
        self.outbound = 0
        self._newcomers: Newcomers[Place] = Newcomers(limits.max_handshakes)
        self._by_group: Counter[Group] = Counter()
        self._by_peer: Counter[PeerId] = Counter()

    @property
    def handshakes(self) -> int:
        """Inbound connections whose set-up or admission has not ended."""
        return len(self._newcomers)

    def of_peer(self, peer: PeerId) -> int:
        return self._by_peer.get(peer, 0)

    def check_inbound(self, address: Multiaddr) -> None:
        """Raises `LimitExceeded` when a connection from there could not be admitted, whoever it is."""
        self._check(True, groups(address, self.limits))

    def in_the_way(self, address: Multiaddr) -> Place | None:
        """The place that has to leave before an inbound connection from there enters; ask until there is none."""
        return self._newcomers.in_the_way(newcomer_groups(address, self.limits))

    def enter(self, address: Multiaddr, *, inbound: bool) -> Place:
        """A connection begins. Raises `LimitExceeded` and counts nothing."""
        counted = groups(address, self.limits)
        self._check(inbound, counted)
        place = Place(inbound, tuple(counted))
        if inbound:
            self._newcomers.add(place, newcomer_groups(address, self.limits))
        else:
            self._count(place, 1)
        return place

    def progressed(self, place: Place) -> None:
        """Its set-up or admission came a step further."""
        self._newcomers.progressed(place)

    def secured(self, place: Place, peer: PeerId) -> None:
        """The peer is known. Raises `LimitExceeded` when it has too many connections (this one counts until it
        leaves)."""
        place.peer = peer
        self._by_peer[peer] += 1
        if self._by_peer[peer] > self.limits.max_connections_per_peer:
            raise LimitExceeded("connections_per_peer", self._by_peer[peer], self.limits.max_connections_per_peer)

    def established(self, place: Place) -> None:
        """Set-up and admission are over. Idempotent. Raises `LimitExceeded` when others were admitted meanwhile."""
        if place.counted or place.left:
            return
        self._check(place.inbound, place.groups)
        self._newcomers.remove(place)
        self._count(place, 1)

    def leave(self, place: Place) -> None:
        """The connection has ended. Idempotent."""
        if place.left:
            return
        place.left = True
        self._newcomers.remove(place)
        if place.counted:
            self._count(place, -1)
        if place.peer is not None:
            _add(self._by_peer, place.peer, -1)

    def _check(self, inbound: bool, counted: Iterable[tuple[Group, int]]) -> None:
        if inbound:
            _check("inbound_connections", self.inbound, self.limits.max_inbound_connections)
        else:
            _check("outbound_connections", self.outbound, self.limits.max_outbound_connections)
        for group, maximum in counted:
            _check("connections_per_ip", self._by_group.get(group, 0), maximum)

    def _count(self, place: Place, change: int) -> None:
        place.counted = change > 0
        if place.inbound:
            self.inbound += change
        else:
            self.outbound += change
        for group, _ in place.groups:
            _add(self._by_group, group, change)


def _check(name: str, present: int, maximum: int) -> None:
    if present >= maximum:
        raise LimitExceeded(name, present + 1, maximum)


def _add(counter: Counter[_Key], key: _Key, change: int) -> None:
    """Keys at zero go: the counter stays as small as what it counts."""
    counter[key] += change
    if not counter[key]:
        del counter[key]
