from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.observe.metrics import Histogram, Metrics
from tests.support import PureTestCase


class Registry(PureTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def lines(self) -> list[str]:
        return [line for line in self.metrics.render().decode().splitlines() if "chorus_" in line]

    def test_values_are_read_when_asked_for(self) -> None:
        box = {"n": 1}
        self.metrics.counter("chorus_tasks_completed_total", "Tasks that completed.", lambda: box["n"])
        self.metrics.gauge("chorus_tasks_active", "Tasks under way.", lambda: box["n"] * 2)
        self.assertIn("chorus_tasks_completed_total 1.0", self.lines())
        box["n"] = 5
        self.assertIn("chorus_tasks_completed_total 5.0", self.lines())
        self.assertIn("chorus_tasks_active 10.0", self.lines())
        self.assertIn("# TYPE chorus_tasks_completed_total counter", self.lines())
        self.assertIn("# HELP chorus_tasks_active Tasks under way.", self.lines())

    def test_labels(self) -> None:
        self.metrics.counter("chorus_a_total", "A.", lambda: {"x": 1, 'y"\n': 2}, labels=("reason",))
        self.metrics.gauge("chorus_b", "B.", lambda: {("1", "2"): 3}, labels=("p", "q"))
        self.assertIn('chorus_a_total{reason="x"} 1.0', self.lines())
        self.assertIn('chorus_a_total{reason="y\\"\\n"} 2.0', self.lines())
        self.assertIn('chorus_b{p="1",q="2"} 3.0', self.lines())

    def test_histogram_that_another_part_counts(self) -> None:
        histogram = Histogram((1.0, 2.0))
        histogram.observe(0.5)
        self.metrics.histogram("chorus_x_seconds", "X.", histogram)
        histogram.observe(4.0)
        histogram.observe(8.0)
        text = self.metrics.render().decode()
        for line in (
            'chorus_x_seconds_bucket{le="1.0"} 1.0',
            'chorus_x_seconds_bucket{le="2.0"} 1.0',
            'chorus_x_seconds_bucket{le="+Inf"} 3.0',
            "chorus_x_seconds_count 3.0",
            "chorus_x_seconds_sum 12.5",
        ):
            self.assertIn(line + "\n", text)

    def test_histogram(self) -> None:
        histogram = Histogram((1.0, 2.0))
        self.metrics.histogram("chorus_task_duration_seconds", "Durations.", histogram)
        for value in (0.5, 1.0, 1.5, 99.0, math.nan, math.inf):
            histogram.observe(value)
        self.assertEqual(
            [line for line in self.lines() if not line.startswith("#")],
            [
                'chorus_task_duration_seconds_bucket{le="1.0"} 2.0',
                'chorus_task_duration_seconds_bucket{le="2.0"} 3.0',
                'chorus_task_duration_seconds_bucket{le="+Inf"} 4.0',
                "chorus_task_duration_seconds_count 4.0",
                "chorus_task_duration_seconds_sum 102.0",
            ],
        )

    def test_a_broken_reading_harms_only_itself(self) -> None:
        self.metrics.gauge("chorus_bad", "Bad.", lambda: 1 / 0)
        self.metrics.gauge("chorus_good", "Good.", lambda: 1)
        self.assertIn("chorus_good 1.0", self.lines())
        self.assertEqual(self.metrics.broken, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_names(self) -> None:
        for name in ("tasks_total", "chorus_a-b_total", "chorus_x y_total"):
            with self.assertRaises(ValueError):
                self.metrics.counter(name, "", lambda: 0)
        with self.assertRaises(ValueError):
            self.metrics.counter("chorus_without_the_ending", "", lambda: 0)
        self.metrics.gauge("chorus_a", "", lambda: 0)
        with self.assertRaises(ValueError):
            self.metrics.gauge("chorus_a", "", lambda: 0)

    def test_two_nodes_in_one_process(self) -> None:
        other = Metrics()
        for metrics in (self.metrics, other):
            metrics.gauge("chorus_a", "A.", lambda: 1)
            self.assertIn(b"chorus_a 1.0", metrics.render())

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32)))
    @settings(deadline=None, max_examples=100)
    def test_every_observation_is_in_one_bucket(self, values: list[float]) -> None:
        histogram = Histogram((0.005, 0.1, 1.0, 60.0, 3600.0))
        for value in values:
            histogram.observe(value)
        self.assertEqual(sum(histogram.counts), len(values))
        rows = histogram.cumulative()
        self.assertEqual(rows[-1], ("+Inf", float(len(values))))
        for bound, count in rows[:-1]:
            self.assertEqual(count, sum(value <= float(bound) for value in values))
