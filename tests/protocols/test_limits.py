from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import LimitExceeded
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.limits import ConnectionCounts, HostLimits, Place, newcomer_groups
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

    def crowd(self, counts: ConnectionCounts, addresses: Iterable[Multiaddr]) -> list[Place]:
        """Enter as a listener lets them: whoever is in the way leaves. All places, also those that left."""
        places = []
        for address in addresses:
            while (place := counts.in_the_way(address)) is not None:
                counts.leave(place)
            places.append(counts.enter(address, inbound=True))
        return places

    def staying(self, places: list[Place]) -> list[int]:
        return [number for number, place in enumerate(places) if not place.left]

    def test_handshakes(self) -> None:
        counts = ConnectionCounts(HostLimits())
        places = self.crowd(counts, map(public, range(64)))
        self.assertEqual(counts.handshakes, 64)
        counts.progressed(places[0])
        places += self.crowd(counts, map(public, range(64, 66)))
        self.assertEqual(self.staying(places), [0, *range(3, 66)])

    def test_strangers_never_move_a_member(self) -> None:
        counts = ConnectionCounts(HostLimits())
        members = self.crowd(counts, [PRIVATE] * 40)
        for place in members:
            counts.established(place)
        self.crowd(counts, [PRIVATE] * 500)
        self.assertEqual(self.staying(members), list(range(40)))

    def test_who_is_admitted_last_finds_no_room(self) -> None:
        counts = ConnectionCounts(HostLimits(max_inbound_connections=1))
        first, second = self.crowd(counts, [PRIVATE] * 2)
        counts.established(first)
        error = self.assertRaises(LimitExceeded, counts.established, second)
        self.assertEqual(error.limit, "inbound_connections")
        error = self.assertRaises(LimitExceeded, counts.check_inbound, PRIVATE)
        self.assertEqual(error.limit, "inbound_connections")
        counts.leave(first)
        counts.established(second)

    def test_handshakes_of_one_address(self) -> None:
        for text, most in (
            ("/ip4/8.8.8.8/tcp/1", 8),
            ("/ip6/2600:1:2:3::1/tcp/1", 8),
            ("/ip4/192.168.1.1/tcp/1", 48),
            ("/ip4/10.0.0.2/tcp/1", 48),
            ("/ip6/fd00::1/tcp/1", 48),
        ):
            counts = ConnectionCounts(HostLimits())
            other = self.crowd(counts, [Multiaddr.parse("/ip4/10.0.0.1/tcp/1")])
            places = self.crowd(counts, [Multiaddr.parse(text)] * 100)
            self.assertEqual(self.staying(places), list(range(100 - most, 100)), text)
            self.assertEqual(self.staying(other), [0], text)

    def test_handshakes_of_one_network(self) -> None:
        for text, most in (("/ip6/2600:1:2:{:x}0::1/tcp/1", 8), ("/ip6/fd00::{:x}000:0:0:1/tcp/1", 48)):
            counts = ConnectionCounts(HostLimits())
            places = self.crowd(counts, [Multiaddr.parse(text.format(n)) for n in range(16)] * 4)
            self.assertEqual(len(self.staying(places)), most, text)
        for text in ("/ip6/2600:1:2:{:x}00::1/tcp/1", "/ip6/fd00:0:0:{:x}::1/tcp/1"):
            counts = ConnectionCounts(HostLimits())
            self.assertEqual(
                len(self.staying(self.crowd(counts, [Multiaddr.parse(text.format(n)) for n in range(60)]))), 60
            )

    def test_a_name_and_loopback_have_no_group(self) -> None:
        for text in ("/dns4/a.example/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/127.9.9.9/tcp/1", "/ip6/::1/tcp/1"):
            self.assertEqual(newcomer_groups(Multiaddr.parse(text), HostLimits()), [], text)

    def test_inbound_connections(self) -> None:
        counts = ConnectionCounts(HostLimits(max_inbound_connections=5))
        self.assertEqual(self.established(counts, [PRIVATE] * 9), ("inbound_connections", 5))
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
                    address = public(number % 3)
                    while inbound and (evicted := counts.in_the_way(address)) is not None:
                        counts.leave(evicted)
                    places.append(counts.enter(address, inbound=inbound))
                elif places:
                    place = places[number % len(places)]
                    if step == 1 and place.peer is None and not place.left:
                        counts.secured(place, PEER)
                    elif step == 2:
                        counts.progressed(place)
                        counts.established(place)
                    elif step == 3:
                        counts.leave(place)
            except LimitExceeded:
                pass
        for place in places:
            counts.leave(place)
        self.assertEqual((counts.inbound, counts.outbound, counts.handshakes), (0, 0, 0))
        self.assertEqual(len(counts._by_group) + len(counts._by_peer), 0)
