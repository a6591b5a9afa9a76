"""What one publisher may say, and how long too much is held against it."""

from __future__ import annotations

from chorus.messages.rates import BURST, DEPTH, MAX_PUBLISHERS, RATE, PublisherRates
from tests.support import PureTestCase


class Rates(PureTestCase):
    def test_a_burst_then_the_rate(self) -> None:
        rates = PublisherRates()
        levels = [rates.spend(b"a", 5.0) for _ in range(int(BURST) + 1)]
        self.assertEqual((levels[0], levels[-2], levels[-1]), (BURST - 1, 0.0, -1.0))
        now, overdrawn = 5.0, 0
        for _ in range(1000):
            now += 1.0 / RATE
            overdrawn += rates.spend(b"a", now) < -1.5
        self.assertEqual(overdrawn, 0, "who keeps to the rate gets no deeper")

    def test_forgiven_after_a_time_of_quiet(self) -> None:
        rates = PublisherRates()
        for _ in range(100_000):
            rates.spend(b"a", 1.0)
        self.assertEqual(rates.level(b"a", 1.0), -DEPTH)
        self.assertEqual(rates.level(b"a", 1.0 + DEPTH / RATE), 0.0)
        self.assertEqual(rates.level(b"a", 1e6), BURST)
        self.assertEqual(rates.level(b"b", 1.0), BURST, "others pay nothing")

    def test_publishers_are_bounded(self) -> None:
        rates = PublisherRates()
        for number in range(MAX_PUBLISHERS + 10):
            rates.spend(number.to_bytes(4, "big"), 1.0)
        self.assertEqual(len(rates), MAX_PUBLISHERS)
