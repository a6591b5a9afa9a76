from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.dialing import (
    BACKOFF_KEPT,
    BACKOFF_MAX,
    DIAL_TIMEOUT,
    MAX_ADDRESSES_PER_DIAL,
    PRIVATE_DIAL_TIMEOUT,
    SIMULTANEOUS_WINDOW,
    Backoffs,
    Contender,
    DialError,
    backoff,
    dial_timeout,
    newcomer_stays,
    peer_named,
    rank,
)
from tests.support import PureTestCase

SMALL, LARGE = sorted(Identity.from_seed(bytes([n]) * 32).peer_id for n in range(2))
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")


class Named(PureTestCase):
    def test_table(self) -> None:
        one, other = ADDRESS.with_peer(SMALL), ADDRESS.with_peer(LARGE)
        again = Multiaddr.parse("/ip6/2001:db8::1/tcp/1").with_peer(SMALL)
        for addresses, peer in [
            ([], None),
            ([ADDRESS], None),
            ([one], SMALL),
            ([one, again], SMALL),
            ([one, ADDRESS], None),
            ([one, other], None),
        ]:
            self.assertEqual(peer_named(addresses), peer)


class Backoff(PureTestCase):
    def test_table(self) -> None:
        rng = random.Random(1)
        for failures, low, high in [(0, 0, 0), (1, 0.25, 0.5), (2, 0.5, 1), (5, 4, 8), (7, 15, 30), (10, 15, 30)]:
            for _ in range(20):
                self.assertTrue(low <= backoff(failures, rng) <= high)

    @settings(deadline=None)
    @given(st.integers(-5, 10**9), st.integers())
    def test_always_bounded(self, failures: int, seed: int) -> None:
        self.assertTrue(0 <= backoff(failures, random.Random(seed)) <= BACKOFF_MAX)

    def test_failures_are_remembered_and_a_success_forgets(self) -> None:
        backoffs = Backoffs(random.Random(1))
        self.assertEqual(backoffs.waiting(SMALL, ADDRESS, 0), 0)
        for _ in range(4):
            until = backoffs.failed(SMALL, ADDRESS, 100)
        self.assertTrue(102 <= until <= 104)
        self.assertEqual(backoffs.waiting(SMALL, ADDRESS, 101), until - 101)
        self.assertEqual(backoffs.waiting(SMALL, ADDRESS, until), 0)
        self.assertEqual(backoffs.waiting(LARGE, ADDRESS, 101), 0)
        backoffs.succeeded(SMALL, ADDRESS)
        self.assertEqual(backoffs.waiting(SMALL, ADDRESS, 101), 0)

    def test_bounded(self) -> None:
        backoffs = Backoffs(random.Random(1))
        for port in range(1, BACKOFF_KEPT + 100):
            backoffs.failed(SMALL, Multiaddr.tcp("192.0.2.1", port), 0)
        self.assertEqual(len(backoffs), BACKOFF_KEPT)


class Ranking(PureTestCase):
    def test_nearest_first_families_in_turn_and_only_what_can_be_dialled(self) -> None:
        texts = [
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/8.8.4.4/tcp/1",
            "/ip6/2600::1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/8.8.8.8/udp/1/quic-v1",
            f"/ip4/8.8.8.8/tcp/1/p2p/{SMALL}",
            "/ip4/8.8.8.8/tcp/1/ws",
        ]
        self.assertEqual(
            [str(a) for a in rank(map(Multiaddr.parse, texts))],
            [texts[4], texts[3], texts[2], texts[0], texts[1]],
        )

    def test_capped(self) -> None:
        many = [Multiaddr.tcp("192.0.2.1", n) for n in range(1, 1000)]
        self.assertEqual(len(rank(many)), MAX_ADDRESSES_PER_DIAL)
        self.assertEqual(rank([]), [])

    def test_time_limits(self) -> None:
        self.assertEqual(dial_timeout(Multiaddr.parse("/ip4/8.8.8.8/tcp/1")), DIAL_TIMEOUT)
        self.assertEqual(dial_timeout(Multiaddr.parse("/ip4/10.8.8.8/tcp/1")), PRIVATE_DIAL_TIMEOUT)

    def test_the_error_lists_each_address(self) -> None:
        error = DialError(SMALL, [(ADDRESS, "refused")])
        self.assertIn("/ip4/192.0.2.1/tcp/4001: refused", str(error))
        self.assertIn("no address", str(DialError(None, [])))


class SimultaneousDials(PureTestCase):
    def test_both_ends_keep_the_one_that_the_smaller_id_dialled(self) -> None:
        for first_dialled_by_small in (True, False):
            for gap in (0, 1, SIMULTANEOUS_WINDOW):
                at_small = newcomer_stays(
                    SMALL, LARGE, Contender(not first_dialled_by_small, 0), Contender(first_dialled_by_small, gap)
                )
                at_large = newcomer_stays(
                    LARGE, SMALL, Contender(first_dialled_by_small, 0), Contender(not first_dialled_by_small, gap)
                )
                self.assertEqual(at_small, at_large)
                self.assertEqual(at_small, not first_dialled_by_small)

    def test_ends_that_saw_them_in_another_order_agree(self) -> None:
        # Small dialled A, large dialled B; small sees A then B, large sees B then A.
        self.assertFalse(newcomer_stays(SMALL, LARGE, Contender(False, 0), Contender(True, 1)))
        self.assertTrue(newcomer_stays(LARGE, SMALL, Contender(False, 0), Contender(True, 1)))

    def test_a_peer_that_dials_again_lost_its_old_connection(self) -> None:
        self.assertTrue(newcomer_stays(SMALL, LARGE, Contender(True, 0), Contender(True, 1)))
        self.assertTrue(newcomer_stays(SMALL, LARGE, Contender(False, 0), Contender(True, SIMULTANEOUS_WINDOW + 1)))
