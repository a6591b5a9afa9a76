from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import LimitExceeded
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.limits import ConnectionCounts, HostLimits, Place
from tests.support import PureTestCase

PEER = Identity.from_seed(bytes(32)).peer_id
PRIVATE = Multiaddr.parse("/ip4/192.168.1.1/tcp/1")


def public(number: int) -> Multiaddr:
    return Multiaddr.tcp(f"8.8.{number // 256}.{number % 256}", 1)


class Limits(PureTestCase):
    def fill(self, counts: ConnectionCounts, addresses: Iterable[Multiaddr], **how: bool) -> tuple[str, list[Place]]:
        """Enter until refused: the limit's name, and the places taken."""
        places = []
        for address in addresses:
            try:
                places.append(counts.enter(address, **how))
            except LimitExceeded as error:
                return error.limit, places
        self.fail("never refused")

    def test_handshakes(self) -> None:
        counts = ConnectionCounts(HostLimits())
        limit, places = self.fill(counts, map(public, range(1000)), inbound=True)
        self.assertEqual((limit, len(places)), ("handshakes", 64))
        counts.established(places[0])
        counts.established(places[0])
        counts.enter(public(999), inbound=True)
        with self.assertRaises(LimitExceeded):
            counts.enter(public(998), inbound=True)

    def test_handshakes_of_one_public_address(self) -> None:
        counts = ConnectionCounts(HostLimits(max_connections_per_ip=100))
        limit, places = self.fill(counts, [public(1)] * 100, inbound=True)
        self.assertEqual((limit, len(places)), ("handshakes_per_ip", 8))
        counts.enter(public(2), inbound=True)

    def test_a_lan_and_a_host_are_one_group_without_limit_per_address(self) -> None:
        for text in ("/ip4/192.168.1.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/fd00::1/tcp/1"):
            counts = ConnectionCounts(HostLimits())
            limit, places = self.fill(counts, [Multiaddr.parse(text)] * 100, inbound=True)
            self.assertEqual((limit, len(places)), ("handshakes", 64))

    def test_inbound_connections(self) -> None:
        counts = ConnectionCounts(HostLimits(max_inbound_connections=5))
        limit, places = self.fill(counts, [PRIVATE] * 9, inbound=True)
        self.assertEqual((limit, len(places)), ("inbound_connections", 5))
        counts.enter(PRIVATE, inbound=False)

    def test_outbound_connections(self) -> None:
        counts = ConnectionCounts(HostLimits(max_outbound_connections=5))
        limit, places = self.fill(counts, [PRIVATE] * 9, inbound=False)
        self.assertEqual((limit, len(places)), ("outbound_connections", 5))
        counts.enter(PRIVATE, inbound=True)

    def established(self, counts: ConnectionCounts, addresses: Iterable[Multiaddr]) -> tuple[str, int]:
        for number, address in enumerate(addresses):
            try:
                counts.established(counts.enter(address, inbound=True))
            except LimitExceeded as error:
                return error.limit, number
        self.fail("never refused")

    def test_connections_of_one_public_address(self) -> None:
        self.assertEqual(self.established(ConnectionCounts(HostLimits()), [public(1)] * 20), ("connections_per_ip", 8))

    def test_ip6_counts_networks(self) -> None:
        within_56 = [Multiaddr.parse(f"/ip6/2600:1:2:3{n:x}::1/tcp/1") for n in range(16)]
        self.assertEqual(self.established(ConnectionCounts(HostLimits()), within_56), ("connections_per_ip", 8))
        within_48 = [Multiaddr.parse(f"/ip6/2600:1:2:{n << 8:x}::1/tcp/1") for n in range(100)]
        self.assertEqual(self.established(ConnectionCounts(HostLimits()), within_48), ("connections_per_ip", 64))

    def test_connections_of_one_peer(self) -> None:
        counts = ConnectionCounts(HostLimits())
        places = [counts.enter(PRIVATE, inbound=True) for _ in range(9)]
        for place in places[:8]:
            counts.secured(place, PEER)
        with self.assertRaises(LimitExceeded):
            counts.secured(places[8], PEER)
        for place in places:
            counts.leave(place)
        self.assertEqual(counts.of_peer(PEER), 0)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.booleans()), max_size=200))
    def test_counts_return_to_nothing(self, steps: list[tuple[int, int, bool]]) -> None:
        counts = ConnectionCounts(HostLimits())
        places: list[Place] = []
        for step, number, inbound in steps:
            try:
                if step == 0:
                    places.append(counts.enter(public(number % 3), inbound=inbound))
                elif places:
                    place = places[number % len(places)]
                    if step == 1 and place.peer is None and not place.left:
                        counts.secured(place, PEER)
                    elif step == 2:
                        counts.established(place)
                    elif step == 3:
                        counts.leave(place)
            except LimitExceeded:
                pass
        for place in places:
            counts.leave(place)
        self.assertEqual((counts.inbound, counts.outbound, counts.handshakes), (0, 0, 0))
        self.assertEqual(counts.enter(public(1), inbound=True).left, False)
        self.assertEqual(len(counts._by_group) + len(counts._by_peer), 1)
