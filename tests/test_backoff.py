from __future__ import annotations

import random

from chorus.backoff import Backoff
from chorus.bounded import Bounded
from tests.support import PureTestCase


class BackoffTest(PureTestCase):
    def test_it_doubles_up_to_the_most(self) -> None:
        backoff = Backoff(0.5, 30.0)
        waits = [backoff.ceiling(failures) for failures in range(9)]
        self.assertEqual(waits, [0, 0.5, 1, 2, 4, 8, 16, 30, 30])
        self.assertEqual(backoff.ceiling(10**9), 30.0)
        self.assertEqual(backoff.delay(3, random.Random(1)), 2.0)

    def test_chance_stays_between_low_and_high(self) -> None:
        backoff, rng = Backoff(1.0, 60.0, low=0.5, high=1.25), random.Random(7)
        delays = [backoff.delay(4, rng) for _ in range(500)]
        self.assertTrue(all(4 <= delay <= 10 for delay in delays))
        self.assertGreater(max(delays) - min(delays), 5)


class BoundedTest(PureTestCase):
    def test_the_oldest_leaves_first_and_a_key_set_again_is_young(self) -> None:
        kept: Bounded[str, int] = Bounded(3)
        for number, key in enumerate("abcadd"):
            kept.put(key, number)
        self.assertEqual(kept, {"c": 2, "a": 3, "d": 5})
        self.assertEqual(list(kept), ["c", "a", "d"])
        kept.pop("a")
        kept.put("e", 6)
        self.assertEqual(list(kept), ["c", "d", "e"])
