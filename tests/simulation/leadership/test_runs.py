"""Seeds of tier D of leadership: a share of them at each commit, and what makes a run repeatable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import attrs

from chorus.simulation.leadership.__main__ import chosen, parser
from chorus.simulation.leadership.mix import KINDS, LeadershipMix, draw_mix
from chorus.simulation.leadership.run import run_seed
from tests.simulation.hash_seeds import HASH_SEEDS, trace_of
from tests.support import PureTestCase

ROOT: Final = Path(__file__).resolve().parents[3]
SECONDS: Final = 10.0
"""Of chaos; healing, the steady phase and the way there take about as long again."""
EACH: Final = 50


class Seeds(PureTestCase):
    """Two hundred in all; `python -m chorus.simulation.leadership --seeds 1..20000 --state FILE` runs whole ones."""

    def assert_clean(self, first: int) -> Counter[str]:
        total: Counter[str] = Counter()
        for seed in range(first, first + EACH):
            mix = draw_mix(seed)
            total.update(run_seed(attrs.evolve(mix, seconds=min(SECONDS, mix.seconds))).counts)
        self.assertGreater(total["leases"], EACH)
        self.assertGreater(total["acknowledged"], 10 * EACH)
        self.assertGreater(total["fault.crash"] + total["fault.bounces"], EACH)
        return total

    def test_the_first_fifty(self) -> None:
        self.assert_clean(1)

    def test_the_second_fifty(self) -> None:
        self.assert_clean(51)

    def test_the_third_fifty(self) -> None:
        self.assert_clean(101)

    def test_the_fourth_fifty(self) -> None:
        self.assert_clean(151)

    def test_a_voter_that_was_added_and_not_yet_committed_may_be_admin(self) -> None:
        """Everybody voted for it, and it stepped down each time since the committed roster did not name it."""
        run_seed(draw_mix(19))


class Repeating(PureTestCase):
    small = LeadershipMix(seed=5, voters=3, learners=1, seconds=4.0, faults=("crash", "roster", "loss"), loss=0.05)

    def test_one_seed_gives_one_run_under_any_hash_seed(self) -> None:
        # A line names what it changes of the drawn mix.
        here = run_seed(chosen(parser().parse_args(self.small.arguments().split()), self.small.seed)).trace
        for hash_seed in HASH_SEEDS:
            self.assertEqual(trace_of("chorus.simulation.leadership", self.small.arguments(), hash_seed), here)

    def test_another_seed_gives_another_run(self) -> None:
        self.assertNotEqual(run_seed(self.small).trace, run_seed(attrs.evolve(self.small, seed=6)).trace)

    def test_every_kind_of_fault_is_drawn(self) -> None:
        drawn = Counter(kind for seed in range(300) for kind in draw_mix(seed).faults)
        self.assertEqual(set(drawn), set(KINDS))
