"""Rank, delay, and who is waited for."""

from __future__ import annotations

import random

from chorus.protocols.ballot.profiles import LAN
from chorus.protocols.ballot.standing import better_lives, rank_of, standing_delay
from tests.protocols.replication.support import A, B, C, D, roster
from tests.support import PureTestCase

ROSTER = roster(A, B, C)


class Ranks(PureTestCase):
    def test_counts_better_live_voters(self) -> None:
        scores = {A.peer: 500, B.peer: 700, C.peer: 300}
        self.assertEqual([rank_of(each.peer, scores, ROSTER) for each in (B, A, C)], [0, 1, 2])

    def test_ties_break_on_the_peer_id(self) -> None:
        scores = {A.peer: 500, B.peer: 500, C.peer: 500}
        self.assertEqual([rank_of(each.peer, scores, ROSTER) for each in (A, B, C)], [0, 1, 2])

    def test_members_without_a_vote_do_not_count(self) -> None:
        self.assertEqual(rank_of(A.peer, {A.peer: 0, D.peer: 1000}, ROSTER), 0)

    def test_nobody_is_known_at_first(self) -> None:
        self.assertEqual(rank_of(A.peer, {}, ROSTER), 0)
        self.assertEqual(rank_of(A.peer, {B.peer: 0}, ROSTER), 1)


class Delays(PureTestCase):
    def test_a_slot_for_each_rank_six_at_most(self) -> None:
        rng = random.Random(1)
        for rank, failures, slots in ((0, 0, 0), (1, 0, 1), (6, 0, 6), (9, 0, 6), (5, 1, 2), (5, 2, 1), (5, 3, 0)):
            for _ in range(50):
                delay = standing_delay(rank, failures, LAN, rng)
                self.assertTrue(slots * 0.05 <= delay <= slots * 0.05 + 0.05, (rank, failures, delay))

    def test_jitter_differs(self) -> None:
        rng = random.Random(1)
        self.assertGreater(len({standing_delay(0, 0, LAN, rng) for _ in range(10)}), 5)


class Waiting(PureTestCase):
    def test_for_a_voter_that_is_better_by_a_hundred(self) -> None:
        for score, waits in ((400, True), (401, False), (500, False)):
            self.assertEqual(better_lives(A.peer, score, {B.peer: 500}, ROSTER), waits, score)

    def test_not_for_itself_or_one_without_a_vote(self) -> None:
        self.assertFalse(better_lives(A.peer, 0, {A.peer: 900, D.peer: 1000}, ROSTER))
