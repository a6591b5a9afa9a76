"""Campaigns over several sittings, and the command line."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

from chorus.simulation.commands import MANY
from chorus.simulation.invariants.observers import Violated, Violation
from chorus.simulation.leadership.__main__ import chosen, main, parser
from chorus.simulation.leadership.campaign import BadState, CampaignState, SeedCampaign, load, ranges
from chorus.simulation.leadership.mix import KINDS, TAME_DRIFT, WILD_DRIFT, LeadershipMix, draw_mix
from chorus.simulation.leadership.run import LeadershipFailed, LeadershipReport
from tests.support import PureTestCase


class Campaigns(PureTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.ran: list[int] = []
        self.told: list[str] = []
        self.stop_at = 0

    def sitting(self, first: int, last: int) -> SeedCampaign:
        campaign = SeedCampaign(
            load(self.path), self.path, self.told.append, lambda seed: LeadershipMix(seed=seed), self.run_one
        )
        self.campaign = campaign
        campaign.go(first, last)
        return campaign

    def run_one(self, mix: LeadershipMix) -> LeadershipReport:
        self.ran.append(mix.seed)
        if mix.seed == self.stop_at:
            self.campaign.stop()
        if mix.seed == 3:
            raise LeadershipFailed(mix, Violated(Violation("election.lease", "two", 0)))
        return LeadershipReport(mix, Counter(leases=2), 60.0, 100, "", 0.5)

    def test_it_goes_on_where_it_was_and_adds_up(self) -> None:
        self.stop_at = 2
        self.sitting(1, 5)
        self.assertEqual(self.ran, [1, 2])
        self.stop_at = 0
        state = self.sitting(1, 5).state
        self.assertEqual(self.ran, [1, 2, 3, 4, 5])
        self.assertEqual((state.totals["leases"], state.simulated_s, state.failed), (8, 240.0, 1))
        self.assertIn("--seed 3 ", self.told[0])
        lines = list(load(self.path).summary())
        self.assertIn("5 seeds, 1 failed; 240 s simulated", lines[0])
        self.assertIn("--seed 3 ", lines[-1])

    def test_rare_branches_that_nothing_reached_are_named(self) -> None:
        self.assertIn("transfers sent", CampaignState().never())

    def test_a_campaign_fails_whose_seeds_went_through_no_rare_branch(self) -> None:
        for seeds, status in ((MANY, 1), (MANY - 1, 0)):
            self.path.write_text(json.dumps(CampaignState(done=set(range(1, seeds + 1))).document()))
            told = io.StringIO()
            with mock.patch.object(sys, "stdout", told), mock.patch.object(signal, "signal"):
                self.assertEqual(main(["--seeds", f"1..{seeds}", "--state", str(self.path)]), status)
            self.assertEqual("no seed went through: votes refused" in told.getvalue(), bool(status))

    def test_ranges(self) -> None:
        self.assertEqual(ranges({1, 2, 3, 7, 9, 10}), [(1, 3), (7, 7), (9, 10)])

    def test_a_state_file_that_is_none_is_refused(self) -> None:
        for text in ("", "[]", "{}", json.dumps({"v": 2}), json.dumps({"v": 1, "done": 5})):
            self.path.write_text(text)
            self.assertRaises(BadState, load, self.path)

    def test_mistakes_on_the_command_line_are_one_line(self) -> None:
        for words in ("", "--seeds 5", "--seed -1", "--seed 1 --faults fire", "--seed 1 --seconds 0", "--trials 0"):
            self.assertEqual(self.assertRaises(SystemExit, main, words.split()).code, 2, words)

    def test_clocks_keep_to_the_bound_unless_wild_ones_are_named(self) -> None:
        for seed in range(200):
            for faults in ("none", "crash,clock", ",".join(KINDS)):
                mix = chosen(parser().parse_args(["--seed", str(seed), "--faults", faults]), seed)
                self.assertEqual(mix.drift == WILD_DRIFT, "wild-clock" in mix.faults)
                self.assertTrue(mix.drift <= TAME_DRIFT or not mix.tame)
            self.assertEqual(chosen(parser().parse_args(["--seed", str(seed)]), seed), draw_mix(seed))
