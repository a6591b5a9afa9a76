"""Fail-over times and traffic, in small: the whole table is a command (docs/simulation.md)."""

from __future__ import annotations

from chorus.simulation.leadership.failover import ROWS, WITHIN, measure
from chorus.simulation.leadership.traffic import measure_traffic
from tests.support import PureTestCase


class Figures(PureTestCase):
    def test_the_median_of_a_fail_over_is_the_specified_one(self) -> None:
        for row in (ROWS[0], ROWS[2]):
            figures = measure(row, 40)
            self.assertLess(abs(figures.off[0]), WITHIN, str(figures))

    def test_a_hundred_members_keep_their_budget_of_messages(self) -> None:
        traffic = measure_traffic(seconds=20.0)
        self.assertTrue(traffic.within, str(traffic))
