"""Waiting tasks in groups: which is next, what a failed round costs, what agents' changes open."""

from __future__ import annotations

import attrs

from chorus.services.scheduling.conduct import MAX_REMEMBERED, REST_LIMIT_S, REST_S, Conduct
from chorus.tasks.backlog import WAIT_LIMIT_S, Backlog
from chorus.tasks.demand import Demand
from chorus.tasks.groups import (
    FRESH_PLACES,
    MAX_PLACING,
    RETRY_PLACES,
    UNPROVEN_PLACES,
    Nobody,
    Standing,
    WaitingTask,
)
from chorus.tasks.scoring import Candidate
from chorus.tasks.spec import TaskSpec
from chorus.tasks.terms import Limits
from tests.support import PureTestCase

NO = Nobody("declined", offered=True)


def demand(image: str | None = None, **fields: object) -> Demand:
    return Demand.of(TaskSpec.parse({"commands": ["true"], "image": image, **fields}))


def picked(backlog: Backlog) -> WaitingTask | None:
    group = backlog.pick()
    return None if group is None else backlog.take(group)


class DemandTest(PureTestCase):
    def test_what_an_agent_cannot_tell_apart_is_one(self) -> None:
        same = demand(title="one", description="x", env={"A": "1"}, priority=9, retries=1, artifacts=[])
        self.assertEqual(same, demand(title="two"))
        for other in (
            demand("image:1"),
            demand(language="go"),
            demand(required={"role": "a"}),
            demand(required={"expertise": ["a"]}),
            demand(required={"capabilities": ["a"]}),
            demand(limits={"memory_mb": 64}),
            demand(input={"sha256": "0" * 64}),
            demand(description="rewrite it in rust"),
            Demand.of(TaskSpec.parse({"ai": {}})),
        ):
            self.assertNotEqual(same, other)
        self.assertEqual(demand().limits, Limits())


class OrderTest(PureTestCase):
    def test_priority_then_submission_over_all_groups(self) -> None:
        backlog = Backlog()
        for number, (image, priority) in enumerate((("a:1", 5), ("b:1", 9), ("a:1", 9), ("c:1", 0), ("b:1", 5))):
            backlog.add(f"t{number}", (-priority, number), demand(image))
        order = []
        while (entry := picked(backlog)) is not None:
            order.append(entry.task_id)
            backlog.taken(entry)
            backlog.discard(entry.task_id)
        self.assertEqual(order, ["t1", "t2", "t0", "t4", "t3"])
        self.assertEqual((len(backlog), backlog.groups, backlog.placing), (0, 0, 0))

    def test_what_is_gone_is_passed_over(self) -> None:
        backlog = Backlog()
        for number in range(100):
            backlog.add(f"t{number}", (0, number), demand())
        for number in range(99):
            backlog.discard(f"t{number}")
        entry = picked(backlog)
        assert entry is not None
        self.assertEqual(entry.task_id, "t99")
        self.assertIsNone(backlog.pick())

    def test_memory_of_what_is_gone(self) -> None:
        backlog = Backlog()
        for number in range(5000):
            group = backlog.add(f"t{number}", (0, number), demand())
            if number:
                backlog.discard(f"t{number}")
        self.assertLess(len(group._heap), 50)
        self.assertLess(len(group.unnoted), 50)
        self.assertEqual((len(backlog), group.size), (1, 1))


class PlacesTest(PureTestCase):
    def fill(self, backlog: Backlog, images: int, each: int) -> list[WaitingTask]:
        for image in range(images):
            for number in range(each):
                backlog.add(f"t{image}-{number}", (0, image * each + number), demand(f"i:{image}"))
        entries = []
        while (entry := picked(backlog)) is not None:
            entries.append(entry)
        return entries

    def test_one_group_has_few_until_somebody_takes_one(self) -> None:
        backlog = Backlog()
        entries = self.fill(backlog, 1, 100)
        self.assertEqual(len(entries), UNPROVEN_PLACES)
        backlog.taken(entries[0])
        backlog.discard(entries[0].task_id)
        more = 0
        while picked(backlog) is not None:
            more += 1
        self.assertEqual(backlog.placing, MAX_PLACING)
        self.assertEqual(more, MAX_PLACING - UNPROVEN_PLACES + 1)

    def test_new_groups_leave_places_to_those_that_are_taken(self) -> None:
        backlog = Backlog()
        entries = self.fill(backlog, 50, 2)
        self.assertEqual(len(entries), FRESH_PLACES)
        backlog.taken(entries[0])
        backlog.discard(entries[0].task_id)
        self.assertEqual(backlog.placing, FRESH_PLACES - 1)

    def test_retries_leave_places_to_what_is_new(self) -> None:
        backlog = Backlog()
        waiting = self.fill(backlog, 50, 1)
        while waiting:
            for entry in waiting:
                backlog.failed(entry, NO, 0.0)
            waiting = list(iter(lambda: picked(backlog), None))
        backlog.release(1.0)
        retries = []
        while (entry := picked(backlog)) is not None:
            retries.append(entry)
        self.assertEqual(len(retries), RETRY_PLACES)
        backlog.add("new", (0, 10**6), demand("new:1"))
        entry = picked(backlog)
        assert entry is not None
        self.assertEqual(entry.task_id, "new")


class BackOffTest(PureTestCase):
    def test_it_doubles_and_one_success_ends_it(self) -> None:
        backlog, now, waits = Backlog(), 0.0, []
        backlog.add("t", (0, 0), demand())
        for number in range(8):
            entry = picked(backlog)
            assert entry is not None, number
            backlog.failed(entry, NO, now)
            self.assertIsNone(backlog.pick())
            until = backlog.next_release()
            assert until is not None
            waits.append(until - now)
            backlog.release(until - 0.001)
            self.assertIsNone(backlog.pick())
            now = until
            backlog.release(now)
        entry = picked(backlog)
        assert entry is not None
        backlog.add("other", (0, 1), demand())
        backlog.taken(entry)
        backlog.discard("t")
        entry = picked(backlog)
        assert entry is not None
        backlog.failed(entry, NO, now)
        waits.append((backlog.next_release() or 0.0) - now)
        self.assertEqual(waits, [1, 2, 4, 8, 16, WAIT_LIMIT_S, WAIT_LIMIT_S, WAIT_LIMIT_S, 1])

    def test_rounds_of_one_group_that_fail_together_count_once(self) -> None:
        backlog = Backlog()
        for number in range(4):
            backlog.add(f"t{number}", (0, number), demand())
        entries = [picked(backlog) for _ in range(4)]
        for entry in entries:
            assert entry is not None
            backlog.failed(entry, attrs.evolve(NO, declined={entry.task_id: 1}), 0.0)
        group = entries[0].group  # type: ignore[union-attr]
        self.assertEqual((group.rounds, len(group.declined), group.standing), (1, 4, Standing.REFUSED))

    def test_a_task_that_fails_for_itself_leaves_the_others_alone(self) -> None:
        backlog = Backlog()
        backlog.add("bad", (0, 0), demand())
        backlog.add("good", (0, 1), demand())
        entry = picked(backlog)
        assert entry is not None
        own = backlog.failed(entry, attrs.evolve(NO, alone=True, detail="mine"), 0.0)
        self.assertEqual((own.detail, own.size, backlog.groups), ("mine", 1, 2))
        good = picked(backlog)
        assert good is not None
        self.assertEqual((good.task_id, good.group.detail), ("good", None))
        backlog.release(1.0)
        again = picked(backlog)
        self.assertIs(again, entry)
        self.assertIs(backlog.failed(entry, attrs.evolve(NO, alone=True), 1.0), own)
        backlog.discard("bad")
        backlog.given_up(good)
        self.assertEqual((backlog.groups, backlog.placing, len(backlog)), (0, 0, 0))


class ReviewTest(PureTestCase):
    def setUp(self) -> None:
        self.backlog = Backlog()
        self.group = self.backlog.add("t", (0, 0), demand(required={"role": "a"}))
        self.able = Candidate("p", role="a")

    def refused(self, **fields: object) -> None:
        entry = picked(self.backlog)
        assert entry is not None
        declined = {"p": self.able.standing}
        self.backlog.failed(entry, attrs.evolve(NO, declined=declined, **fields), 10.0)

    def review(self, *candidates: Candidate, now: float = 20.0) -> Standing:
        self.backlog.review(self.group, {each.peer: each for each in candidates}, now)
        return self.group.standing

    def test_absent_until_somebody_has_it(self) -> None:
        self.backlog.park(self.group, Standing.ABSENT, "nobody")
        self.assertIs(self.review(Candidate("q")), Standing.ABSENT)
        self.assertIn("the role a (1 agent known; ", self.group.detail or "")
        self.assertIs(self.review(attrs.evolve(self.able, current_tasks=1)), Standing.OPEN)

    def test_who_declined_for_good_is_not_asked_before_the_back_off_ends(self) -> None:
        self.refused()
        self.assertIs(self.review(self.able), Standing.REFUSED)
        self.assertIs(self.review(self.able, Candidate("q")), Standing.REFUSED, "no use to it")
        self.assertIs(self.review(self.able, attrs.evolve(self.able, peer="q", current_tasks=1)), Standing.REFUSED)

    def test_who_did_not_decline_or_has_changed_is(self) -> None:
        for other in (
            attrs.evolve(self.able, peer="q"),
            attrs.evolve(self.able, max_tasks=2),
            attrs.evolve(self.able, available=False),
        ):
            self.refused()
            seen = [self.able, other] if other.peer == "q" else [other]
            self.assertIs(self.review(*seen), Standing.OPEN)

    def test_not_sooner_than_a_second_after_it_was_offered(self) -> None:
        self.refused()
        other = attrs.evolve(self.able, peer="q")
        self.group.until = 40.0
        self.assertIs(self.review(other, now=10.5), Standing.REFUSED)
        self.assertEqual(self.backlog.next_release(), 11.0)
        self.backlog.release(11.0)
        self.assertIs(self.group.standing, Standing.OPEN)

    def test_a_fault_that_is_not_the_agents_is_waited_out(self) -> None:
        self.refused(fixed=True)
        self.assertIs(self.review(attrs.evolve(self.able, peer="q")), Standing.REFUSED)


class ConductTest(PureTestCase):
    def test_rests_double_and_an_answer_ends_them(self) -> None:
        conduct, now, rests = Conduct(), 0.0, []
        for _ in range(8):
            conduct.kept_waiting("p", now)
            conduct.kept_waiting("p", now + 0.1)
            begun = now
            while conduct.rests("p", now):
                now += 0.5
            rests.append(now - begun)
        self.assertEqual(rests, [REST_S, 30, 60, 120, 240, 480, REST_LIMIT_S, REST_LIMIT_S])
        conduct.answered("p")
        conduct.kept_waiting("p", now)
        self.assertTrue(conduct.rests("p", now + REST_S - 0.1))
        self.assertFalse(conduct.rests("p", now + REST_S))

    def test_it_is_offered_nothing_and_has_failed(self) -> None:
        conduct = Conduct()
        conduct.outcome("p", well=True)
        conduct.kept_waiting("p", 0.0)
        seen = conduct.seen(Candidate("p", max_tasks=5), 0.0, 1, 1.0)
        self.assertEqual((seen.available, seen.succeeded, seen.failed, seen.current_tasks), (False, 1, 1, 1))

    def test_memory_is_bounded(self) -> None:
        conduct = Conduct()
        for number in range(MAX_REMEMBERED + 100):
            conduct.kept_waiting(f"p{number}", 0.0)
            conduct.freed(f"p{number}", 0.0)
        for remembered in (conduct._silent, conduct._outcomes, conduct._freed):
            self.assertEqual(len(remembered), MAX_REMEMBERED)
