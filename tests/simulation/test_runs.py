from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

import attrs

from chorus.simulation import byzantine, nemesis
from chorus.simulation.__main__ import configuration, main, parser
from chorus.simulation.configuration import BadConfiguration, Configuration, draw
from chorus.simulation.runs import Report, RunFailed, SimRun, run
from chorus.simulation.shrink import shrink
from tests.simulation.hash_seeds import HASH_SEEDS, trace_of
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]


class Tiers(PureTestCase):
    def assertBusy(self, report: Report, *names: str) -> None:
        """A run in which nothing happened proves nothing."""
        for name in names:
            self.assertGreater(report.counts[name], 0, f"{name}: {report}")

    def test_tier_a_holds_under_every_fault(self) -> None:
        report = run(Configuration(tier="A", seed=11, nodes=4, seconds=60, faults=tuple(nemesis.KINDS)))
        self.assertBusy(report, *(f"fault.{kind}" for kind in nemesis.KINDS))
        self.assertBusy(report, "streams.whole", "deliveries", "net.resets", "disk.crashes")
        self.assertGreater(report.counts["starts"], 10)
        self.assertGreater(report.counts["ledger.acknowledged"], 1000)
        self.assertGreater(report.counts["ledger.operations"], 500)
        self.assertEqual(report.counts["ledger.undecided"], 0)

    def test_tier_a_holds_when_power_fails_again_and_again(self) -> None:
        report = run(Configuration(tier="A", seed=13, nodes=3, seconds=120, faults=("power",)))
        self.assertBusy(report, "fault.power", "disk.dropped", "disk.torn", "ledger.acknowledged", "deliveries")

    def test_tier_a_holds_on_bad_disks(self) -> None:
        report = run(Configuration(tier="A", seed=14, nodes=3, seconds=60, faults=("power", "disk")))
        self.assertBusy(report, "disk.sync_errors", "disk.read_errors", "disk.full", "ledger.refused", "disk.crashes")

    def test_tier_a_holds_among_every_kind_of_attacker(self) -> None:
        kinds = tuple(byzantine.KINDS)
        report = run(Configuration(tier="A", seed=12, nodes=4, seconds=10, byzantine=kinds))
        self.assertBusy(report, "streams.whole", "deliveries", "gossip.equivocal")

    def test_tier_a_holds_for_drawn_seeds(self) -> None:
        for seed in (1, 4):
            # As drawn, but for the minute: most of it is the same again.
            self.assertBusy(run(attrs.evolve(draw(seed, "A"), seconds=20)), "streams.whole", "deliveries")

    def test_tier_b_holds(self) -> None:
        faults = ("partition", "kill", "slow")
        report = run(Configuration(tier="B", seed=2, nodes=30, seconds=10, faults=faults, byzantine=("selfish",)))
        self.assertBusy(report, "streams.whole", "deliveries", "starts")

    def test_tier_c_holds(self) -> None:
        report = run(Configuration(tier="C", seed=3, nodes=60, seconds=10, faults=("partition", "power")))
        self.assertBusy(report, "deliveries", "fault.power")


class Determinism(PureTestCase):
    """One seed is one run."""

    small = Configuration(
        tier="A", seed=21, nodes=3, seconds=8, faults=tuple(nemesis.KINDS), byzantine=("mutating", "wrong-signature")
    )

    def test_the_same_seed_gives_the_same_trace_in_any_process(self) -> None:
        here = run(self.small).trace
        for hash_seed in HASH_SEEDS:
            self.assertEqual(trace_of("chorus.simulation", self.small.arguments(), hash_seed), here)

    def test_another_seed_or_fault_gives_another(self) -> None:
        traces = {
            run(attrs.evolve(self.small, nodes=2, seconds=2, seed=seed, faults=faults, byzantine=())).trace
            for seed, faults in ((1, ()), (2, ()), (1, ("clock",)))
        }
        self.assertEqual(len(traces), 3)


class Configurations(PureTestCase):
    def test_what_is_drawn_depends_on_the_seed_and_is_a_line_that_gives_it_again(self) -> None:
        drawn = [draw(seed, tier) for seed in range(20) for tier in "ABC"]
        self.assertEqual(drawn[4], draw(1, "B"))
        self.assertGreater(len({each.faults for each in drawn}), 10)
        for each in drawn:
            arguments = parser().parse_args(each.arguments().split())
            self.assertEqual(configuration(arguments, arguments.seed), each)

    def test_what_cannot_be_is_refused(self) -> None:
        for wrong in (
            {"tier": "D"},
            {"faults": ("earthquake",)},
            {"byzantine": ("polite",)},
            {"nodes": 1},
            {"seconds": -1.0},
            {"seconds": 0.0},
            {"seconds": float("nan")},
            {"seconds": float("inf")},
            {"seed": -1},
            {"seed": 2**63},
            {"nodes": 5_001},
            {"tier": "C", "faults": ("corrupt",)},
        ):
            self.assertRaises(BadConfiguration, Configuration, **wrong)

    def test_numbers_that_mean_nothing_are_refused_by_the_command(self) -> None:
        for words, line in (
            (["--seeds", "0"], "--seeds must be between 1 and 1000000, not 0"),
            (["--seeds", "-3"], "--seeds must be between 1 and 1000000, not -3"),
            (["--last", "-1"], "--last must be between 0 and 200, not -1"),
            (["--seed", "-1"], "--seed must be between 0 and 9223372036854775807, not -1"),
            (["--seconds", "0"], "--seconds must be above 0 and at most 86400, not 0"),
            (["--nodes", "1"], "--nodes must be between 2 and 5000, not 1"),
            (["--tier", "E"], "there is no tier 'E' here: A, B, C"),
            (
                ["--tier", "D"],
                "tier D (thousands of nodes, without bytes) is run by `chorus simulate` (docs/simulate.md)",
            ),
        ):
            written: list[str] = []
            with mock.patch.object(sys, "stderr", mock.Mock(write=written.append)):
                stopped = self.assertRaises(SystemExit, main, words)
            self.assertEqual(stopped.code, 2)
            self.assertEqual("".join(written), f"python -m chorus.simulation: {line}\n")

    def test_the_command_says_what_is_wrong_with_its_arguments(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "chorus.simulation", "--faults", "earthquake"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("earthquake", done.stderr)


class Failing(PureTestCase):
    def test_a_failure_ends_with_the_line_that_replays_it(self) -> None:
        made = Configuration(seed=5, nodes=3, seconds=2, faults=("kill",))
        failing = SimRun(made)
        failing.world.after(1_000_000_000, lambda: failing.judge.accuse("some.thing", "went wrong"))
        failed = self.assertRaises(RunFailed, failing.run)
        lines = str(failed).splitlines()
        self.assertIn("some.thing at 1.000000 s: went wrong", lines[0])
        self.assertEqual(lines[-1], f"python -m chorus.simulation {made.arguments()}")
        arguments = parser().parse_args(lines[-1].split()[3:])
        self.assertEqual(configuration(arguments, arguments.seed), made)

    def test_shrinking_leaves_what_is_needed(self) -> None:
        runs: list[Configuration] = []

        def go(each: Configuration) -> None:
            runs.append(each)
            if "pause" in each.faults and "flooding" in each.byzantine and each.nodes >= 3 and each.seconds > 7:
                raise RunFailed(each, "a.b", "")
            if each.nodes == 2:
                raise RunFailed(each, "another.one", "")

        large = Configuration(
            nodes=8, seconds=60, faults=("kill", "pause", "slow"), byzantine=("silent", "flooding", "mutating")
        )
        small = shrink(large, "a.b", go)
        self.assertEqual((small.faults, small.byzantine, small.nodes), (("pause",), ("flooding",), 3))
        self.assertTrue(7 < small.seconds < 10)
        self.assertLess(len(runs), 60)
        self.assertEqual(shrink(large, "never.seen", go), large)
        self.assertEqual(shrink(large, "a.b", go, max_runs=0), large)

    def test_the_command_fails_when_a_run_does(self) -> None:
        self.patch(SimRun, "_calm", lambda self: self.judge.accuse("x.y", "mutant"))
        written: list[str] = []
        self.patch(
            sys, "stdout", type("Out", (), {"write": lambda _, text: written.append(text), "flush": lambda _: None})()
        )
        status = main(
            ["--seed", "3", "--nodes", "2", "--seconds", "1", "--faults", "none", "--byzantine", "none", "--last", "5"]
        )
        self.assertEqual(status, 1)
        self.assertIn("FAILED x.y", "".join(written))
        self.assertIn("--seed 3", "".join(written))
