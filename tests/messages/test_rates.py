"""How much is heard of one peer, and how long too much is held against it."""

from __future__ import annotations

from chorus.messages import rates
from chorus.messages.rates import (
    MAX_PEERS,
    NEWCOMERS,
    OWN,
    RELAYED,
    SHARE_MEMORY,
    THROUGH_OTHERS,
    UNIT,
    Buckets,
    Usage,
    cost,
)
from tests.support import PureTestCase


class Rates(PureTestCase):
    def test_a_burst_then_the_rate(self) -> None:
        for rate in (OWN, RELAYED, NEWCOMERS):
            buckets = Buckets(rate)
            levels = [buckets.spend(b"a", 5.0) for _ in range(int(rate.burst) + 1)]
            self.assertEqual((levels[0], levels[-2], levels[-1]), (rate.burst - 1, 0.0, -1.0))
            now, overdrawn = 5.0, 0
            for _ in range(1000):
                now += 1.0 / rate.per_second
                overdrawn += buckets.spend(b"a", now) < -1.5
            self.assertEqual(overdrawn, 0, "who keeps to the rate gets no deeper")

    def test_forgiven_after_a_time_of_quiet(self) -> None:
        buckets = Buckets(OWN)
        for _ in range(100_000):
            buckets.spend(b"a", 1.0)
        self.assertEqual(buckets.level(b"a", 1.0), -OWN.depth)
        self.assertEqual(buckets.level(b"a", 1.0 + OWN.depth / OWN.per_second), 0.0)
        self.assertEqual(buckets.level(b"a", 1e6), OWN.burst)
        self.assertEqual(buckets.level(b"b", 1.0), OWN.burst, "others pay nothing")

    def test_without_depth_nothing_is_held_against_anybody(self) -> None:
        buckets = Buckets(RELAYED)
        for _ in range(100_000):
            buckets.spend(b"a", 1.0)
        self.assertEqual(buckets.level(b"a", 1.0), 0.0)

    def test_asked_faster_than_it_fills_it_lets_through_what_it_may(self) -> None:
        for rate in (THROUGH_OTHERS, RELAYED, NEWCOMERS):
            for faster in (1.1, 1.25, 10.0):
                buckets, now = Buckets(rate), 0.0
                while buckets.spend(b"a", now) >= 0:
                    pass
                through = 0
                for _ in range(2000):
                    now += 1.0 / (faster * rate.per_second)
                    through += buckets.spend(b"a", now) >= 0
                self.assertLess(abs(through - 2000 / faster), 3)

    def test_what_is_too_dear_takes_nothing_from_what_is_not(self) -> None:
        buckets = Buckets(NEWCOMERS)
        for _ in range(10):
            self.assertLess(buckets.spend(b"a", 1.0, NEWCOMERS.burst + 1), 0)
        self.assertEqual(buckets.spend(b"a", 1.0, NEWCOMERS.burst), 0)

    def test_a_token_for_each_kib_that_begins(self) -> None:
        sizes = (0, 1, UNIT, UNIT + 1, 32 * UNIT)
        self.assertEqual([cost(size) for size in sizes], [1, 1, 1, 2, 32])

    def test_usage_fades(self) -> None:
        usage = Usage()
        self.assertEqual(usage.of(b"a", 5.0), 0.0)
        usage.add(b"a", 5.0, 10.0)
        usage.add(b"a", 5.0, 5.0)
        self.assertEqual((usage.of(b"a", 5.0), usage.of(b"b", 5.0)), (15.0, 0.0))
        self.assertAlmostEqual(usage.of(b"a", 5.0 + SHARE_MEMORY), 15.0 / 2.718282, places=3)
        self.assertLess(usage.of(b"a", 5.0 + 10 * SHARE_MEMORY), 0.001)

    def test_what_was_used_longest_ago_leaves_first(self) -> None:
        self.patch(rates, "MAX_PEERS", 3)
        buckets, usage = Buckets(OWN), Usage()
        for peer in (b"a", b"b", b"c", b"a", b"d"):
            buckets.spend(peer, 1.0, 7.0)
            usage.add(peer, 1.0, 7.0)
        left = {b"a": 14.0, b"b": 0.0, b"c": 7.0, b"d": 7.0}
        for peer, tokens in left.items():
            self.assertEqual((OWN.burst - buckets.level(peer, 1.0), usage.of(peer, 1.0)), (tokens, tokens), peer)

    def test_the_rates_that_were_decided(self) -> None:
        """docs/messages.md tells members in other languages of the first."""
        given = [(rate.per_second, rate.burst, rate.depth) for rate in (OWN, THROUGH_OTHERS, RELAYED, NEWCOMERS)]
        self.assertEqual(given, [(200, 2000, 1000), (200, 2000, 0), (1000, 5000, 0), (4, 256, 0)])

    def test_they_are_bounded(self) -> None:
        buckets, usage = Buckets(OWN), Usage()
        for number in range(MAX_PEERS + 10):
            buckets.spend(number.to_bytes(4, "big"), 1.0)
            usage.add(number.to_bytes(4, "big"), 1.0, 1.0)
        self.assertEqual((len(buckets), len(usage)), (MAX_PEERS, MAX_PEERS))
