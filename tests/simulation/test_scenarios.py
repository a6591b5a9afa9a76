"""The named scenarios: their values, and each of them in a small version."""

from __future__ import annotations

import json
from typing import Any

import attrs

from chorus.simulation.gossip.links import LinkParams
from chorus.simulation.gossip.nodes import HONEST
from chorus.simulation.gossip.parameters import changed
from chorus.simulation.gossip.run import GossipResult, simulate
from chorus.simulation.gossip.scenario import Attack, Scenario, ScenarioError, WantedFigure
from chorus.simulation.gossip.scenarios import SCENARIOS
from tests.support import PureTestCase


def small(name: str, nodes: int = 120, **changes: Any) -> GossipResult:
    """The scenario with fewer nodes and messages; what is wanted of the full one stays on it."""
    scenario = SCENARIOS[name]
    changes = {"seconds": min(scenario.seconds, 15.0), **changes}
    return simulate(attrs.evolve(scenario.resized(nodes), **changes), 1)


class Values(PureTestCase):
    def mistakes(self, **changes: Any) -> tuple[str, ...]:
        error = self.assertRaises(ScenarioError, Scenario, name="x", **changes)
        return error.mistakes

    def test_every_quantity_has_bounds_and_every_mistake_is_said(self) -> None:
        self.assertEqual(
            self.mistakes(nodes=1, degree=1, churn=3.0, links=LinkParams(delay_ms=(20, 10), loss=0.9)),
            (
                "nodes must be between 4 and 20000, not 1",
                "degree must be between 2 and 200, not 1",
                "links must be between 20 and 10000 ms, not 10",
                "loss must be between 0% and 50%, not 90%",
                "churn must be between 0% and 200%, not 300%",
            ),
        )
        self.assertEqual(len(self.mistakes(rate=100.0, seconds=10_000.0)), 1)
        self.assertEqual(len(self.mistakes(seconds=float("nan"))), 1)
        self.assertEqual(len(self.mistakes(nodes=50, publishers=50, attacks=(Attack("silent", 2, 51),))), 1)
        self.assertEqual(len(self.mistakes(attacks=(Attack("silent", 4000, 51), Attack("grafting", 4000, 51)))), 1)

    def test_attacks(self) -> None:
        self.assertEqual(str(Attack("silent", 400, 100)), "silent:400x100")
        self.assertRaises(ScenarioError, Attack, "rude", 1, 1)
        self.assertRaises(ScenarioError, Attack, "silent", 0, 1)
        self.assertRaises(ScenarioError, Attack, "silent", 1, 1001)

    def test_another_size_keeps_proportions(self) -> None:
        scenario = SCENARIOS["sybils"].resized(50)
        self.assertEqual((scenario.nodes, scenario.publishers, scenario.degree), (50, 5, 20))
        self.assertEqual(scenario.attacks, (Attack("silent", 20, 5),))
        self.assertEqual(SCENARIOS["sybils"].resized(10).degree, 9)

    def test_what_is_wanted(self) -> None:
        figures = {"p50_ms": 200.0}
        for wanted, holds, text in (
            (WantedFigure("p50_ms", 190, 210), True, "190 ≤ p50_ms ≤ 210"),
            (WantedFigure("p50_ms", high=199), False, "p50_ms ≤ 199"),
            (WantedFigure("p50_ms", low=201), False, "p50_ms ≥ 201"),
            (WantedFigure("p50_ms", 200, 200), True, "p50_ms = 200"),
        ):
            self.assertEqual((wanted.holds(figures), str(wanted)), (holds, text))

    def test_every_wanted_figure_is_one_that_its_run_gives(self) -> None:
        result = small("misbehaviour", 40, seconds=2.0)
        for scenario in SCENARIOS.values():
            for wanted in scenario.wanted:
                kind, _, what = wanted.figure.rpartition("_")
                if what in ("score", "places"):
                    self.assertIn(kind, [attack.kind for attack in scenario.attacks])
                else:
                    self.assertIn(wanted.figure, result.figures)
            self.assertTrue(scenario.summary)


class Changes(PureTestCase):
    BASE = SCENARIOS["calibration"]

    def test_a_changed_scenario_says_what_is_changed_and_no_more_what_it_was(self) -> None:
        made = changed(self.BASE, self.BASE.resized(60))
        self.assertEqual(
            made.summary, "changed from calibration: nodes 60 instead of 1,000, publishers 6 instead of 100"
        )
        self.assertEqual(made.wanted, ())

    def test_an_unchanged_one_keeps_its_words_and_what_is_wanted_of_it(self) -> None:
        same = changed(self.BASE, attrs.evolve(self.BASE, degree=self.BASE.degree))
        self.assertEqual((same.summary, same.wanted), (self.BASE.summary, self.BASE.wanted))

    def test_every_quantity_of_a_scenario_is_among_its_parameters(self) -> None:
        others: dict[str, Any] = {
            "nodes": 999,
            "degree": 19,
            "churn": 0.123,
            "attacks": (Attack("silent", 3, 5), Attack("grafting", 1, 2)),
            "publishers": 7,
            "rate": 1.25,
            "size": 1000,
            "warm_up": 21.0,
            "seconds": 31.5,
        }
        words = {attribute.name for attribute in attrs.fields(Scenario)}
        self.assertEqual(words - set(others), {"name", "summary", "links", "params", "score_params", "wanted"})
        for name, value in others.items():
            self.assertIn(" instead of ", changed(self.BASE, attrs.evolve(self.BASE, **{name: value})).summary, name)
        for links, text in (
            (LinkParams(delay_ms=(22.5, 27.5)), "links 22.5-27.5 ms instead of 10-150 ms"),
            (LinkParams(loss=0.07), "loss 7 % instead of 0 %"),
            (LinkParams(rate_mbit=0.5), "uplink 0.5 Mbit/s instead of no bound"),
        ):
            made = changed(self.BASE, attrs.evolve(self.BASE, links=links))
            self.assertEqual(made.summary, f"changed from calibration: {text}")
        flooding = attrs.evolve(self.BASE, params=attrs.evolve(self.BASE.params, flood_publish=True))
        self.assertIn("flood publish yes instead of no", changed(self.BASE, flooding).summary)
        attacked = attrs.evolve(self.BASE, attacks=others["attacks"])
        self.assertIn("attackers silent:3x5, grafting:1x2 instead of none", changed(self.BASE, attacked).summary)


class SmallVersions(PureTestCase):
    def assert_all_once(self, result: GossipResult) -> None:
        self.assertEqual((result.figures["delivered_percent"], result.figures["delivered_twice"]), (100, 0))
        self.assertGreater(result.figures["messages"], 10)

    def test_calibration(self) -> None:
        # spec/anchors.md 1 has 135 and 221 ms for 100 nodes on a static mesh.
        result = small("calibration", 100)
        self.assert_all_once(result)
        self.assertTrue(0.9 * 135 <= result.figures["p50_ms"] <= 1.1 * 135, result.figures["p50_ms"])
        self.assertLess(result.figures["p99_ms"], 1.1 * 221)
        self.assertLess(result.figures["sends_per_delivery"], 7)
        self.assertGreaterEqual(result.figures["mesh_degree_low"], 5)
        self.assertLessEqual(result.figures["mesh_degree_high"], 12)
        self.assertEqual(sum(count for _, count, _ in result.hops), result.figures["deliveries"])

    def test_flood_publish_is_quicker(self) -> None:
        result, plain = small("flood-publish"), small("calibration")
        self.assert_all_once(result)
        self.assertLess(result.figures["p50_ms"], 0.95 * plain.figures["p50_ms"])

    def test_near(self) -> None:
        result = small("near")
        self.assert_all_once(result)
        self.assertLess(result.figures["p99_ms"], 150)

    def test_loss(self) -> None:
        result, plain = small("loss"), small("calibration")
        self.assert_all_once(result)
        self.assertLess(plain.figures["p99_ms"], result.figures["p99_ms"])
        self.assertLess(result.figures["p99_ms"], 1000)

    def test_churn(self) -> None:
        self.assert_all_once(small("churn"))

    def test_sybils(self) -> None:
        result = small("sybils", 60, seconds=30.0)
        self.assert_all_once(result)
        self.assertLess(result.figures["p99_ms"], 2000)
        self.assertLess(result.figures["silent_score"], 0)
        self.assertGreaterEqual(result.figures[f"{HONEST}_score"], 0)

    def test_misbehaviour(self) -> None:
        result = small("misbehaviour", 80, seconds=40.0)
        self.assert_all_once(result)
        for kind in ("silent", "replaying", "equivocating", "forging", "advertising", "grafting"):
            self.assertLess(result.figures[f"{kind}_score"], 0, kind)

    def test_a_result_is_a_document_and_says_what_it_missed(self) -> None:
        result = small(
            "calibration", 30, seconds=5.0, wanted=(WantedFigure("p50_ms", high=1), WantedFigure("messages", low=10))
        )
        self.assertEqual(len(result.missed()), 1)
        self.assertIn("p50_ms ≤ 1, but it is", result.missed()[0])
        document = json.loads(json.dumps(result.document()))
        self.assertEqual(document["figures"]["messages"], 10)
        self.assertEqual(document["scenario"]["nodes"], 30)
        self.assertEqual(list(result.latencies_ms), sorted(result.latencies_ms))

    def test_effort_is_counted(self) -> None:
        times = iter((5.0, 7.0))
        result = simulate(attrs.evolve(SCENARIOS["calibration"].resized(10), seconds=2.0), 1, cpu=lambda: next(times))
        figures = result.figures
        self.assertEqual(figures["cpu_s"], 2)
        self.assertEqual(figures["events_per_second"], figures["events"] / 2)
        self.assertEqual(figures["times_real_time"], 2 / figures["simulated_s"])
