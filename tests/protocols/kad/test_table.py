"""The routing table."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import LimitExceeded
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.keys import common_bits, point_of
from chorus.protocols.kad.messages import Contact
from chorus.protocols.kad.params import MAX_FAILURES, MAX_REFRESH_BITS, MAX_TABLE, KadParams
from chorus.protocols.kad.table import RoutingTable, network_of
from tests.protocols.kad.support import PARAMS, peer, peers, peers_near
from tests.support import PureTestCase


def at(host: str, number: int) -> Contact:
    return Contact(peer(number), (Multiaddr.tcp(host, 4001),))


def table(now: float = 0.0, params: KadParams = PARAMS) -> RoutingTable:
    return RoutingTable(peer(0), params, now)


class Entering(PureTestCase):
    def test_only_who_answered_and_never_oneself(self) -> None:
        own = table()
        self.assertTrue(own.wants(Contact(peer(1))))
        self.assertEqual(len(own), 0)
        self.assertTrue(own.answered(Contact(peer(1)), 1.0))
        self.assertIn(peer(1), own)
        self.assertFalse(own.wants(Contact(peer(1))))
        self.assertFalse(own.wants(Contact(peer(0))))
        self.assertFalse(own.answered(Contact(peer(0)), 1.0))

    def test_live_ones_stay_and_failed_ones_make_room(self) -> None:
        own = table(params=KadParams(far=20))
        far = [Contact(one) for one in peers(200) if common_bits(point_of(one.raw), own.point) == 0]
        taken = [contact for contact in far if own.answered(contact, 1.0)]
        self.assertEqual(taken, far[: PARAMS.k])
        self.assertFalse(own.wants(far[30]))
        self.assertFalse(own.failed(far[7].peer))
        self.assertTrue(own.wants(far[30]))
        self.assertTrue(own.answered(far[30], 2.0))
        self.assertNotIn(far[7].peer, own)
        self.assertEqual(len(own), PARAMS.k)

    def test_the_farthest_buckets_are_larger(self) -> None:
        own = table()
        for one in peers(3000):
            own.answered(Contact(one), 1.0)
        sizes = [sum(entry.bucket == bucket for entry in own) for bucket in range(6)]
        self.assertEqual(sizes, [160, 80, 40, 20, 20, 20])

    def test_failures_in_a_row_end_it(self) -> None:
        own = table()
        contact = Contact(peer(1))
        own.answered(contact, 1.0)
        for _ in range(MAX_FAILURES - 1):
            self.assertFalse(own.failed(peer(1)))
        own.answered(contact, 2.0)
        for _ in range(MAX_FAILURES - 1):
            self.assertFalse(own.failed(peer(1)))
        self.assertEqual(own.live, 0)
        self.assertTrue(own.failed(peer(1)))
        self.assertFalse(own.failed(peer(1)))
        self.assertFalse(own.remove(peer(1)))

    def test_new_addresses_are_learnt_and_empty_ones_are_not(self) -> None:
        own = table()
        own.answered(at("192.0.2.1", 1), 1.0)
        own.answered(at("192.0.2.2", 1), 2.0)
        own.answered(Contact(peer(1)), 3.0)
        self.assertEqual(own.contact(peer(1)), at("192.0.2.2", 1))
        self.assertIsNone(own.contact(peer(2)))

    def test_it_is_bounded(self) -> None:
        wide = table(params=KadParams())
        wide._entries = dict.fromkeys(peers(MAX_TABLE))  # type: ignore[arg-type]
        self.assertFalse(wide.wants(Contact(peer(77_777))))


class Groups(PureTestCase):
    def test_three_of_a_network_in_the_table_and_two_in_a_bucket(self) -> None:
        own = table()
        taken = [n for n in range(1, 200) if own.answered(at(f"8.8.{n}.1", n), 1.0)]
        self.assertEqual(len(taken), 3)
        buckets = [common_bits(own.point, Contact(peer(n)).point) for n in taken]
        self.assertLessEqual(max(buckets.count(bucket) for bucket in buckets), 2)
        self.assertTrue(own.remove(peer(taken[0])))
        self.assertTrue(any(own.answered(at(f"8.8.{n}.1", n), 1.0) for n in range(200, 300)))

    def test_by_the_address_of_the_connection(self) -> None:
        """What a peer says of itself does not place it."""
        own = table()
        seen = Multiaddr.parse("/ip6/2a00:1450::1/tcp/9")
        taken = [n for n in range(1, 100) if own.answered(at(f"{n}.1.1.1", n), 1.0, seen)]
        self.assertEqual(len(taken), 3)

    def test_private_networks_are_not_limited_unless_wanted(self) -> None:
        for params, most in ((PARAMS, 99), (KadParams(limit_private_groups=True), 3)):
            for host in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1"):
                own = table(params=params)
                taken = sum(own.answered(at(host, n), 1.0) for n in range(1, 60))
                self.assertEqual(taken <= 3, most == 3)

    def test_names_of_networks(self) -> None:
        for text, network in (
            ("/ip4/8.8.4.4/tcp/1", "0808"),
            ("/ip6/2a00:1450:1::1/tcp/1", "2a001450"),
            ("/ip6/::ffff:8.8.4.4/tcp/1", "0808"),
            ("/ip4/127.0.0.1/tcp/1", None),
            ("/dns4/example.org/tcp/1", None),
        ):
            self.assertEqual(network_of(Multiaddr.parse(text)), network)

    def test_cve_2020_10937_ten_thousand_sybils_of_three_prefixes(self) -> None:
        """They behave well for as long as they like; old live peers stay, and no more than nine of them enter."""
        own = table()
        old = [Contact(one, (Multiaddr.tcp(f"{20 + n}.1.1.1", 1),)) for n, one in enumerate(peers(60, 5))]
        kept = [contact for contact in old if own.answered(contact, 1.0)]
        rng = random.Random(3)
        for n, one in enumerate(peers(10_000, 6)):
            sybil = Contact(
                one, (Multiaddr.tcp(f"{(93, 94, 95)[n % 3]}.1.{rng.randrange(256)}.{rng.randrange(256)}", 1),)
            )
            if own.wants(sybil):
                own.answered(sybil, 2.0 + n)
        self.assertTrue(all(contact.peer in own for contact in kept))
        self.assertLessEqual(len(own) - len(kept), 9)


class Nearest(PureTestCase):
    @settings(max_examples=30)
    @given(st.integers(0, 200), st.integers(1, 25), st.integers(0, 2**32), st.booleans())
    def test_as_sorting_everything_does(self, count: int, most: int, seed: int, near: bool) -> None:
        own = table(params=KadParams(k=20))
        for one in peers(count, seed):
            own.answered(Contact(one), 0.0)
        rng = random.Random(seed)
        point = own.point ^ (1 << rng.randrange(240, 256)) if near else rng.getrandbits(256)
        everything = sorted((entry.contact for entry in own), key=lambda contact: contact.point ^ point)
        self.assertEqual(own.nearest(point, most), everything[:most])
        if everything:
            without = everything[0].peer
            self.assertEqual(own.nearest(point, most, without=without), everything[1 : most + 1])

    def test_failed_ones_are_named_only_if_all_failed(self) -> None:
        own = table()
        one, two = Contact(peer(1)), Contact(peer(2))
        own.answered(one, 0.0)
        own.answered(two, 0.0)
        own.failed(one.peer)
        self.assertEqual(own.nearest(one.point, 5), [two])
        own.failed(two.peer)
        self.assertEqual(own.nearest(one.point, 5), [one, two])

    def test_the_estimate_of_the_networks_size(self) -> None:
        self.assertIsNone(table().size_estimate())
        for count in (50, 500, 3000):
            estimates = []
            for n in range(9):
                own = RoutingTable(peer(10**6 + n), PARAMS, 0.0)
                for contact in sorted(map(Contact, peers(count, n)), key=lambda c: c.point ^ own.point):
                    own.answered(contact, 0.0)
                estimates.append(own.size_estimate() or 0.0)
            self.assertLess(abs(sorted(estimates)[4] / count - 1), 0.35)


class Refresh(PureTestCase):
    def test_buckets_are_due_until_a_lookup_goes_through_them(self) -> None:
        own = table(1000.0)
        self.assertEqual(own.due(1000.0), [])
        for one in peers(300):
            own.answered(Contact(one), 1000.0)
        deepest = max(entry.bucket for entry in own)
        self.assertEqual(own.due(1000.0), list(range(deepest + 1)))
        rng = random.Random(1)
        for bucket in own.due(1000.0):
            key = own.refresh_key(bucket, rng)
            self.assertEqual(common_bits(point_of(key), own.point), bucket)
            own.looked_up(point_of(key), 1000.0)
        self.assertEqual(own.due(1599.0), [])
        self.assertEqual(own.due(1600.0), list(range(deepest + 1)))

    def test_deep_buckets_are_left_to_the_lookup_of_oneself(self) -> None:
        own = table(0.0)
        for one in peers_near(own.point, 3, 1 << (MAX_REFRESH_BITS + 2)):
            own.answered(Contact(one), 0.0)
        self.assertEqual(own.due(1e6), list(range(MAX_REFRESH_BITS + 1)))
        self.assertRaises(LimitExceeded, own.refresh_key, MAX_REFRESH_BITS + 1, random.Random(1))

    def test_silent_and_failed_ones_are_probed(self) -> None:
        own = table()
        own.answered(Contact(peer(1)), 0.0)
        own.answered(Contact(peer(2)), 500.0)
        own.answered(Contact(peer(3)), 500.0)
        own.failed(peer(3))
        self.assertEqual({contact.peer for contact in own.stale(600.0)}, {peer(1), peer(3)})

    def test_over_a_restart(self) -> None:
        own = table()
        for one in peers(100):
            own.answered(Contact(one), 0.0)
        own.failed(next(iter(own)).contact.peer)
        again = table(50.0)
        again.load(own.dump(), 50.0)
        self.assertEqual({e.contact for e in again}, {e.contact for e in own if not e.failures})
        self.assertEqual(len(again.stale(50.0)), len(again))
