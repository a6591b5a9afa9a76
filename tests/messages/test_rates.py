"""How much is heard of one peer, and how long too much is held against it."""

from __future__ import annotations

from chorus.messages.rates import MAX_PEERS, NEWCOMERS, OWN, RELAYED, Buckets
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

    def test_buckets_are_bounded(self) -> None:
        buckets = Buckets(OWN)
        for number in range(MAX_PEERS + 10):
            buckets.spend(number.to_bytes(4, "big"), 1.0)
        self.assertEqual(len(buckets), MAX_PEERS)
