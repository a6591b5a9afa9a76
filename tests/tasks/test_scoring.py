from __future__ import annotations

import random

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.tasks.scoring import (
    DEFAULT_WEIGHTS,
    UNKNOWN_SUCCESS,
    Candidate,
    Weights,
    missing,
    rank,
    score,
    why_absent,
)
from chorus.tasks.spec import Required, TaskSpec
from tests.support import PureTestCase

PLAIN = TaskSpec(commands=("true",))
PYTHON = TaskSpec(commands=("true",), language="python", required=Required(expertise=("unittest",)))


class ScoringTests(PureTestCase):
    def better(self, spec: TaskSpec, better: Candidate, worse: Candidate) -> None:
        # The worse one has the smaller peer id, so that a tie would not pass.
        better, worse = attrs.evolve(better, peer="z"), attrs.evolve(worse, peer="a")
        self.assertEqual([each.candidate.peer for each in rank(spec, [worse, better]).order], ["z", "a"])

    def test_each_part_counts(self) -> None:
        base = Candidate("p", expertise=frozenset({"unittest"}), max_tasks=4)
        self.better(PYTHON, attrs.evolve(base, expertise=frozenset({"unittest", "Python"})), base)
        self.better(PYTHON, attrs.evolve(base, specialisation="python"), base)
        self.better(PLAIN, base, attrs.evolve(base, current_tasks=2))
        self.better(PLAIN, attrs.evolve(base, succeeded=20), base)
        self.better(PLAIN, base, attrs.evolve(base, failed=1))
        self.better(PLAIN, attrs.evolve(base, has_input=True), base)
        self.better(PLAIN, base, attrs.evolve(base, load=0.9))
        self.assertEqual(score(PLAIN, base, False) - score(PLAIN, base, True), Weights().tried)
        reviewer = TaskSpec(commands=("true",), required=Required(role="reviewer"))
        self.assertEqual(
            score(reviewer, attrs.evolve(base, role="reviewer"), False) - score(reviewer, base, False), Weights().role
        )

    def test_the_weights_and_their_order(self) -> None:
        """By value (spec/tasks.md, "Choosing the agent"): what one part is worth against another is a promise."""
        self.assertEqual(
            attrs.asdict(DEFAULT_WEIGHTS),
            {
                "expertise": 30.0,
                "free_capacity": 20.0,
                "success": 15.0,
                "role": 10.0,
                "specialisation": 10.0,
                "locality": 10.0,
                "load": 5.0,
                "tried": 40.0,
            },
        )
        self.assertEqual(UNKNOWN_SUCCESS, 0.8)

    def test_each_part_is_what_its_weight_says(self) -> None:
        base = Candidate("p", max_tasks=4, current_tasks=4, load=1.0, failed=10**9)
        wanted = TaskSpec(commands=("true",), language="python", required=Required(role="developer"))
        self.assertAlmostEqual(score(wanted, base, False), 0.0, 6)
        for change, worth in (
            ({"expertise": frozenset({"Python"})}, 30.0),
            ({"role": "developer"}, 10.0),
            ({"specialisation": "Python"}, 10.0),
            ({"current_tasks": 0}, 20.0),
            ({"current_tasks": 3}, 5.0),
            ({"failed": 0, "succeeded": 10**9}, 15.0),
            ({"failed": 0}, 12.0),
            ({"has_input": True}, 10.0),
            ({"load": 0.0}, 5.0),
            ({"load": 0.6}, 2.0),
            ({"load": 7.0}, 0.0),
        ):
            self.assertAlmostEqual(score(wanted, attrs.evolve(base, **change), False), worth, 6, str(change))
        self.assertAlmostEqual(score(wanted, base, True), -40.0, 6)
        self.assertAlmostEqual(score(PLAIN, attrs.evolve(base, role=None), False), 15.0 + 10.0, 6)

    def test_nobody_suitable_is_told_from_nobody_free(self) -> None:
        gpu = TaskSpec(commands=("x",), required=Required(capabilities=("gpu",)))
        able = Candidate("p", capabilities=frozenset({"gpu"}))
        for candidates, absent in (
            ([], True),
            ([Candidate("a")], True),
            ([attrs.evolve(able, current_tasks=1)], False),
            ([attrs.evolve(able, available=False)], False),
            ([able], False),
        ):
            self.assertIs(rank(gpu, candidates).absent, absent)
            self.assertEqual(why_absent(gpu, candidates), rank(gpu, candidates).nobody if absent else None)

    def test_free_and_refusing(self) -> None:
        for current, available, free, refuses in (
            (0, True, True, False),
            (1, True, True, False),
            (2, True, False, False),
            (1, False, False, True),
            (2, False, False, False),
        ):
            candidate = Candidate("p", current_tasks=current, max_tasks=2, available=available)
            self.assertEqual((candidate.free, candidate.refuses), (free, refuses))

    def test_one_that_failed_the_task_goes_last(self) -> None:
        good = Candidate("good", max_tasks=9, succeeded=50, has_input=True)
        poor = Candidate("poor", max_tasks=2, current_tasks=1, load=1.0)
        order = rank(PLAIN, [good, poor], tried=["good"]).order
        self.assertEqual([each.candidate.peer for each in order], ["poor", "good"])
        self.assertEqual([each.candidate.peer for each in rank(PLAIN, [good], tried=["good"]).order], ["good"])

    def test_ties_by_peer_id(self) -> None:
        candidates = [Candidate(peer) for peer in "dbca"]
        self.assertEqual([each.candidate.peer for each in rank(PLAIN, candidates).order], ["a", "b", "c", "d"])

    def test_required_things(self) -> None:
        spec = TaskSpec(
            commands=("x",), required=Required(role="developer", expertise=("Go", "rust"), capabilities=("gpu",))
        )
        full = Candidate("p", "developer", frozenset({"go", "Rust"}), frozenset({"GPU"}))
        self.assertIsNone(missing(spec, full))
        self.assertEqual(missing(spec, attrs.evolve(full, role="human")), "the role developer")
        self.assertEqual(missing(spec, attrs.evolve(full, expertise=frozenset({"go"}))), "the expertise rust")
        self.assertEqual(missing(spec, attrs.evolve(full, capabilities=frozenset())), "the capability gpu")

    def test_why_nobody(self) -> None:
        gpu = TaskSpec(commands=("x",), required=Required(role="developer", capabilities=("gpu",)))
        able = Candidate("p", "developer", capabilities=frozenset({"gpu"}))
        plan = TaskSpec.parse({"ai": {}})
        for spec, candidates, text in (
            (PLAIN, [], "no agent is known yet"),
            (gpu, [Candidate("a", "developer")], "no agent has the capability gpu (1 agent known)"),
            (
                gpu,
                [Candidate("a"), Candidate("b")],
                "no agent has the role developer (2 agents known; an agent announces its role as CHORUS_AGENT_ROLE)",
            ),
            (
                gpu,
                [Candidate("a"), Candidate("b", "developer")],
                "no agent has all that the task requires: one lacks the capability gpu, another the role developer",
            ),
            (gpu, [Candidate("a"), attrs.evolve(able, current_tasks=1)], "every suitable agent is busy (1 agent)"),
            (gpu, [attrs.evolve(able, max_tasks=0)], "no suitable agent executes tasks (1 agent that may run 0)"),
            (
                gpu,
                [attrs.evolve(able, available=False), attrs.evolve(able, current_tasks=1)],
                "no suitable agent takes work now (1 busy, 1 not available)",
            ),
            (plan, [able], "no agent has an AI provider to plan the commands (1 agent known)"),
        ):
            ranking = rank(spec, candidates)
            self.assertEqual((ranking.order, ranking.nobody), ((), text))
        self.assertIsNone(rank(gpu, [able]).nobody)

    candidates = st.lists(
        st.builds(
            Candidate,
            peer=st.text("ab", min_size=1, max_size=3),
            expertise=st.sampled_from([frozenset(), frozenset({"python"}), frozenset({"unittest"})]),
            current_tasks=st.integers(0, 3),
            max_tasks=st.integers(0, 3),
            succeeded=st.integers(0, 9),
            failed=st.integers(0, 9),
            load=st.floats(0, 3),
        ),
        max_size=6,
        unique_by=lambda each: each.peer,
    )

    @settings(deadline=None, max_examples=100)
    @given(candidates, st.integers())
    def test_order_does_not_depend_on_the_order_given(self, given: list[Candidate], seed: int) -> None:
        shuffled = given.copy()
        random.Random(seed).shuffle(shuffled)
        for spec in (PLAIN, PYTHON):
            ranking = rank(spec, given)
            self.assertEqual(ranking, rank(spec, shuffled))
            self.assertEqual(ranking.nobody is None, bool(ranking.order))
