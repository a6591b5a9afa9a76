from __future__ import annotations

import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chorus.tasks import entries, errors, ids, outcomes
from chorus.tasks.applied import Applied
from chorus.tasks.journal import Entry, Fence
from chorus.tasks.machine import TaskMachine
from chorus.tasks.state import DRAINING, OWNED, TERMINAL, State, TaskState
from chorus.tasks.terms import Reason
from tests.support import PureTestCase

A, B, C, D = (ids.make(number, bytes) for number in range(1, 5))


def fence_of(index: int) -> Fence:
    return Fence(0, 1, index)


def changed(applied: Applied) -> tuple[str, ...]:
    return tuple(change.task_id for change in applied.changes)


def did(applied: Applied) -> tuple[object, object]:
    return applied.changes, applied.refusal


NOTHING = ((), None)


def _assignable(machine: TaskMachine) -> list[TaskState]:
    return [task for task in machine.unfinished() if task.state is State.SUBMITTED and not task.waiting_for]


def ready(machine: TaskMachine, now: float) -> list[TaskState]:
    """Tasks that may be assigned at `now`: highest priority first, then oldest submission."""
    found = [task for task in _assignable(machine) if task.not_before <= now]
    return sorted(found, key=lambda task: (-task.priority, task.created_index))


def next_ready(machine: TaskMachine, now: float) -> float | None:
    """The next time after `now` at which a back-off ends."""
    return min((task.not_before for task in _assignable(machine) if task.not_before > now), default=None)


class Scribe:
    """Writes a journal and applies it at once."""

    def __init__(self) -> None:
        self.machine = TaskMachine(fence_of)
        self.journal: list[Entry] = []
        self.time = 1000.0

    def write(self, entry: Entry) -> Applied:
        self.machine.check(entry)
        return self.force(entry)

    def force(self, entry: Entry) -> Applied:
        self.journal.append(entry)
        return self.machine.apply(len(self.journal), entry)

    def submit(self, task_id: str, *depends: str, max_attempts: int = 3, **fields: Any) -> Applied:
        spec = {"commands": ["true"], "depends_on": list(depends)} | fields.pop("spec", {})
        return self.write(entries.submitted(self.time, task_id, spec, "someone", max_attempts=max_attempts, **fields))

    def assign(self, task_id: str, agent: str = "agent") -> Fence:
        attempt = self.machine.get(task_id).attempt + 1
        self.write(entries.assigned(self.time, task_id, agent=agent, attempt=attempt, lease_s=30))
        return fence_of(len(self.journal))

    def run(self, task_id: str) -> Fence:
        fence = self.assign(task_id)
        self.write(entries.started(self.time, task_id, fence, sandbox="docker", image="x"))
        return fence


class HandedOverTests(PureTestCase):
    """A task that another member schedules."""

    def setUp(self) -> None:
        super().setUp()
        self.scribe = Scribe()
        self.scribe.submit(A)

    def state(self) -> TaskState:
        return self.scribe.machine.get(A)

    def test_it_ends_as_the_other_member_says(self) -> None:
        self.scribe.write(entries.moved(1001, A, "there"))
        self.assertEqual((self.state().state, self.state().scheduler), (State.MOVED, "there"))
        self.assertEqual(ready(self.scribe.machine, 2000), [])
        end = {"reason": "exit", "result": {"exit_code": 0}, "attempt": 2, "agent": "six", "started_at": 1001.5}
        self.scribe.write(entries.settled(1002, A, State.COMPLETED, **end))
        task = self.state()
        self.assertEqual((task.state, task.reason, task.result), (State.COMPLETED, "exit", {"exit_code": 0}))
        self.assertEqual((task.attempt, task.agent, task.started_at, task.ended_at), (2, "six", 1001.5, 1002))

    def test_dependents_go_on_here(self) -> None:
        self.scribe.submit(B, A)
        self.scribe.write(entries.moved(1001, A, "there"))
        self.scribe.write(entries.settled(1002, A, State.COMPLETED, result={}))
        self.assertEqual([task.id for task in ready(self.scribe.machine, 2000)], [B])

    def test_it_comes_back_when_it_was_not_taken(self) -> None:
        self.scribe.write(entries.moved(1001, A, "there"))
        self.scribe.write(entries.returned(1002, A, "full"))
        self.assertEqual((self.state().state, self.state().scheduler, self.state().detail), ("submitted", None, "full"))
        self.scribe.assign(A)

    def test_what_is_not_in_its_place_changes_nothing(self) -> None:
        moved, returned = entries.moved(1001, A, "there"), entries.returned(1001, A, "no")
        settled, cancelled = entries.settled(1001, A, State.FAILED), entries.cancelled(1001, A, "me", "")
        for entry in (returned, settled):
            self.assertRaises(errors.IllegalTransition, self.scribe.write, entry)
        self.scribe.write(moved)
        for entry in (moved, cancelled, entries.assigned(1001, A, agent="a", attempt=1, lease_s=30)):
            self.assertRaises(errors.IllegalTransition, self.scribe.write, entry)
        for state in ("running", "refused", "lost"):
            self.assertRaises(errors.IllegalEntry, self.scribe.write, entries.settled(1001, A, state))

    def test_what_was_handed_over_is_not_handed_on(self) -> None:
        self.scribe.submit(B, handed_by="there")
        self.assertEqual(self.scribe.machine.get(B).handed_by, "there")
        self.assertRaises(errors.IllegalTransition, self.scribe.write, entries.moved(1001, B, "elsewhere"))

    def test_a_snapshot_keeps_it_and_an_older_one_is_read(self) -> None:
        self.scribe.write(entries.moved(1001, A, "there"))
        again = TaskMachine(fence_of)
        again.restore(self.scribe.machine.snapshot().encode())
        self.assertEqual(again.get(A), self.state())
        older = self.state().to_json()
        del older["scheduler"], older["handed_by"]
        self.assertIsNone(TaskState.from_json(older).scheduler)


class MachineTests(PureTestCase):
    def setUp(self) -> None:
        self.scribe = Scribe()
        self.machine = self.scribe.machine

    def states(self, *task_ids: str) -> list[str]:
        return [str(self.machine.get(each).state) for each in task_ids]

    def refuse(self, error: type[errors.IllegalEntry], entry: Entry) -> errors.IllegalEntry:
        before = {task.id: task for task in self.machine}
        with self.assertRaises(error) as caught:
            self.machine.check(entry)
        applied = self.scribe.force(entry)
        self.assertEqual(applied.changes, ())
        self.assertEqual(type(applied.refusal), error)
        self.assertEqual({task.id: task for task in self.machine}, before)
        return caught.exception  # type: ignore[no-any-return]

    def test_the_straight_way(self) -> None:
        self.assertEqual(changed(self.scribe.submit(A)), (A,))
        fence = self.scribe.assign(A)
        self.assertEqual(self.machine.get(A).fence, fence)
        self.scribe.write(entries.started(1001, A, fence, sandbox="docker"))
        self.scribe.write(entries.completed(1002, A, fence, {"exit_code": 0}))
        task = self.machine.get(A)
        self.assertEqual((task.state, task.reason, task.result), (State.COMPLETED, "exit", {"exit_code": 0}))
        self.assertEqual((task.created_at, task.started_at, task.ended_at), (1000, 1001, 1002))
        self.assertEqual(self.machine.unfinished(), [])

    def test_preparing_is_between_assigned_and_running(self) -> None:
        self.scribe.submit(A)
        fence = self.scribe.assign(A)
        self.scribe.time = 1001
        self.assertEqual(changed(self.scribe.write(entries.preparing(1001, A, fence))), (A,))
        task = self.machine.get(A)
        self.assertEqual((task.state, task.fence, task.agent), (State.PREPARING, fence, "agent"))
        self.assertEqual((task.started_at, task.updated_at), (None, 1001))
        self.assertEqual(did(self.scribe.write(entries.preparing(1002, A, fence))), NOTHING, "again is no change")
        self.scribe.write(entries.started(1003, A, fence, sandbox="docker"))
        self.assertEqual((self.machine.get(A).state, self.machine.get(A).started_at), (State.RUNNING, 1003))
        self.assertEqual(did(self.scribe.write(entries.preparing(1004, A, fence))), NOTHING, "late, it leads not back")
        self.assertEqual(self.states(A), ["running"])

    def test_preparing_needs_the_current_fence(self) -> None:
        self.scribe.submit(A)
        self.refuse(errors.StaleFence, entries.preparing(1, A, fence_of(1)))
        fence = self.scribe.assign(A)
        self.refuse(errors.StaleFence, entries.preparing(1, A, fence_of(fence.index - 1)))
        self.refuse(errors.IllegalEntry, Entry("task.preparing", A, {}, 1))
        self.scribe.write(entries.completed(1, A, fence, {"exit_code": 0}))
        self.refuse(errors.StaleFence, entries.preparing(2, A, fence))

    def test_every_way_out_of_preparing(self) -> None:
        for make, state in (
            (lambda fence: entries.lease_expired(1, A, fence), "submitted"),
            (lambda fence: entries.released(1, A, fence, "sandbox_unavailable"), "submitted"),
            (lambda fence: entries.completed(1, A, fence, {"exit_code": 0}), "completed"),
            (lambda fence: entries.failed(1, A, fence, "refused", "a bad archive"), "failed"),
            (lambda fence: entries.cancelled(1, A, "me", "enough"), "cancelled"),
        ):
            self.setUp()
            self.scribe.submit(A)
            fence = self.scribe.assign(A)
            self.scribe.write(entries.preparing(1, A, fence))
            self.scribe.write(make(fence))
            self.assertEqual(self.states(A), [state])

    def test_preparing_is_in_snapshots(self) -> None:
        self.scribe.submit(A)
        self.scribe.write(entries.preparing(1, A, self.scribe.assign(A)))
        again = TaskMachine(fence_of)
        again.restore(self.machine.snapshot().encode())
        self.assertEqual(again.get(A), self.machine.get(A))

    def test_second_submission_with_an_id_changes_nothing(self) -> None:
        self.scribe.submit(A)
        self.assertEqual(did(self.scribe.submit(A, spec={"commands": ["false"]})), NOTHING)
        self.assertEqual(self.machine.get(A).spec["commands"], ["true"])

    def test_queued(self) -> None:
        self.scribe.submit(A, queued=True)
        self.scribe.submit(B, queued=True)
        self.assertEqual(ready(self.machine, 2000), [])
        self.refuse(errors.IllegalTransition, entries.assigned(1, A, agent="x", attempt=1, lease_s=30))
        self.scribe.time = 1005
        self.scribe.submit(A)
        self.scribe.write(entries.refused(1005, B, "refused", "conflict"))
        self.assertEqual(self.states(A, B), ["submitted", "refused"])
        self.assertEqual(self.machine.get(A).created_at, 1000)
        self.refuse(errors.TaskFinished, entries.refused(1, B, "refused", "again"))
        self.refuse(errors.IllegalTransition, entries.refused(1, A, "refused", "late"))

    def test_cycle_through_queued_tasks(self) -> None:
        self.scribe.submit(A, C, queued=True)
        self.scribe.submit(B, A)
        spec = {"commands": ["true"], "depends_on": [B]}
        refusal = self.refuse(errors.DependencyCycle, entries.submitted(1, C, spec, "someone", max_attempts=3))
        assert isinstance(refusal, errors.DependencyCycle)
        self.assertEqual(refusal.cycle, (C, B, A, C))
        spec = {"commands": ["true"], "depends_on": [C]}
        refusal = self.refuse(errors.UnknownDependency, entries.submitted(1, A, spec, "someone", max_attempts=3))
        self.scribe.write(entries.refused(1, A, "refused", str(refusal)))
        self.assertEqual(self.states(A, B), ["refused", "failed"])

    def test_cycle_of_a_resubmitted_task(self) -> None:
        self.scribe.submit(A, B, queued=True)
        self.scribe.submit(C)
        self.refuse(
            errors.DependencyCycle,
            entries.submitted(1, B, {"depends_on": [C, A]}, "someone", max_attempts=3),
        )

    def test_what_a_resubmitted_task_depended_on_before_is_nothing_to_it(self) -> None:
        self.scribe.submit(B)
        self.scribe.submit(A, B, queued=True)
        self.scribe.submit(A)
        self.scribe.write(entries.cancelled(1, A, "x", ""))
        self.scribe.write(entries.forgotten(1, A))
        self.assertEqual(changed(self.scribe.write(entries.cancelled(1, B, "x", ""))), (B,))

    def test_depending_on_oneself_or_on_nothing(self) -> None:
        for depends, error in (([A], errors.DependencyCycle), ([B], errors.UnknownDependency)):
            spec = {"commands": ["true"], "depends_on": depends}
            self.refuse(error, entries.submitted(1, A, spec, "someone", max_attempts=3))

    def test_dependencies_wait(self) -> None:
        self.scribe.submit(A)
        self.scribe.submit(B, A)
        self.scribe.submit(C, A, B)
        self.assertEqual([task.id for task in ready(self.machine, 2000)], [A])
        self.refuse(errors.IllegalTransition, entries.assigned(1, B, agent="x", attempt=1, lease_s=30))
        applied = self.scribe.write(entries.completed(1, A, self.scribe.run(A), {}))
        self.assertEqual(changed(applied), (A, B, C))
        self.assertEqual([task.id for task in ready(self.machine, 2000)], [B])
        self.scribe.write(entries.completed(1, B, self.scribe.run(B), {}))
        self.assertEqual([task.id for task in ready(self.machine, 2000)], [C])
        self.scribe.submit(D, A, B)
        self.assertEqual(self.machine.get(D).waiting_for, frozenset())

    def test_a_failed_dependency_fails_the_chain(self) -> None:
        self.scribe.submit(A)
        self.scribe.submit(B, A)
        self.scribe.submit(C, B)
        applied = self.scribe.write(entries.failed(1, A, self.scribe.run(A), "exit", "exit code 2"))
        self.assertEqual(changed(applied), (A, B, C))
        for task_id in (B, C):
            task = self.machine.get(task_id)
            self.assertEqual((task.state, task.reason), (State.FAILED, "dependency_failed"))
        self.assertIn(A, self.machine.get(B).detail or "")
        applied = self.scribe.submit(D, A)
        self.assertEqual((changed(applied), self.states(D)), ((D,), ["failed"]))

    def test_long_chains_do_not_recurse(self) -> None:
        chain = [ids.make(number, bytes) for number in range(5000)]
        self.scribe.submit(chain[0])
        for before, task_id in itertools.pairwise(chain):
            self.scribe.submit(task_id, before)
        applied = self.scribe.write(entries.cancelled(1, chain[0], "user", ""))
        self.assertEqual(len(applied.changes), 5000)

    def test_terminal_states_never_change(self) -> None:
        self.scribe.submit(A)
        fence = self.scribe.run(A)
        self.scribe.write(entries.completed(1, A, fence, {}))
        self.refuse(errors.TaskFinished, entries.cancelled(1, A, "x", ""))
        self.refuse(errors.TaskFinished, entries.assigned(1, A, agent="x", attempt=2, lease_s=30))
        self.refuse(errors.TaskFinished, entries.failed(1, A, None, "exit"))
        for entry in (
            entries.failed(1, A, fence, "exit"),
            entries.completed(1, A, fence, {"exit_code": 9}),
            entries.lease_expired(1, A, fence),
            entries.released(1, A, fence, DRAINING),
            entries.started(1, A, fence),
            entries.collected(1, A, fence, {}),
        ):
            self.refuse(errors.StaleFence, entry)

    def test_lease_expired_voids_the_fence(self) -> None:
        self.scribe.submit(A)
        old = self.scribe.run(A)
        self.scribe.write(entries.lease_expired(1000, A, old, "node-2"))
        self.assertEqual(self.machine.get(A).detail, "node-2 went silent")
        task = self.machine.get(A)
        self.assertEqual((task.state, task.fence, task.agent), (State.SUBMITTED, None, None))
        self.assertEqual((task.reason, task.tried, task.not_before), ("lease_lost", ("agent",), 1002))
        self.refuse(errors.StaleFence, entries.completed(1, A, old, {}))
        new = self.scribe.assign(A, "other")
        self.assertGreater(new, old)
        self.refuse(errors.StaleFence, entries.completed(1, A, old, {}))
        self.scribe.write(entries.completed(1, A, new, {}))
        self.assertEqual(self.states(A), ["completed"])

    def test_back_off_and_max_attempts(self) -> None:
        self.scribe.submit(A)
        for moves, wait in ((1, 2.0), (2, 4.0)):
            self.scribe.write(entries.lease_expired(1000, A, self.scribe.assign(A, f"agent{moves}")))
            self.assertEqual(ready(self.machine, 1000 + wait - 0.1), [])
            self.assertEqual(next_ready(self.machine, 1000), 1000 + wait)
            self.assertEqual(len(ready(self.machine, 1000 + wait)), 1)
            self.assertIsNone(next_ready(self.machine, 1000 + wait))
        self.scribe.write(entries.released(1000, A, self.scribe.assign(A), "image_missing", "no chorus-rust-dev"))
        task = self.machine.get(A)
        self.assertEqual((task.state, task.reason, task.attempt), (State.FAILED, "image_missing", 3))
        self.assertEqual(task.detail, "gave up after 3 attempts; the last: no chorus-rust-dev")

    def test_agents_are_tried_in_order_and_each_stands_once(self) -> None:
        self.scribe.submit(A, max_attempts=9)
        for agent in ("a", "b", "a", "c", "b"):
            self.scribe.write(entries.lease_expired(1000, A, self.scribe.assign(A, agent)))
        self.assertEqual(self.machine.get(A).tried, ("a", "c", "b"), "the one tried last stands last")
        self.assertEqual((self.machine.get(A).moves, self.machine.get(A).not_before), (5, 1032))

    def test_back_off_formula(self) -> None:
        self.assertEqual([outcomes.backoff(n) for n in (0, 1, 2, 5, 6, 10**9)], [0, 2, 4, 32, 60, 60])

    def test_infrastructure_failure_in_a_result_moves_the_task(self) -> None:
        self.scribe.submit(A, max_attempts=1)
        self.scribe.submit(B)
        for task_id, state in ((A, "failed"), (B, "submitted")):
            self.scribe.write(entries.failed(1, task_id, self.scribe.run(task_id), "sandbox_unavailable"))
            self.assertEqual(self.states(task_id), [state])

    def test_draining_is_not_counted(self) -> None:
        self.scribe.submit(A)
        for _ in range(5):
            self.scribe.write(entries.released(1000, A, self.scribe.run(A), DRAINING))
        task = self.machine.get(A)
        self.assertEqual((task.state, task.moves, task.tried, task.not_before), (State.SUBMITTED, 0, (), 1000))

    def test_limit_assignments(self) -> None:
        self.scribe.submit(A)
        for _ in range(outcomes.MAX_ASSIGNMENTS):
            self.assertEqual(self.states(A), ["submitted"])
            self.scribe.write(entries.released(1000, A, self.scribe.assign(A), DRAINING))
        self.assertEqual(self.states(A), ["failed"])

    def test_retries_are_for_the_tasks_own_failures(self) -> None:
        for reason in ("exit", "timeout", "oom", "pids", "disk", "output"):
            task_id = ids.make(50, lambda n, r=reason: r.encode().ljust(n))  # type: ignore[misc]
            self.scribe.submit(task_id, spec={"retries": 1})
            self.scribe.write(entries.failed(1, task_id, self.scribe.run(task_id), reason, result={"exit_code": 1}))
            task = self.machine.get(task_id)
            self.assertEqual((task.state, task.retried, task.moves), (State.SUBMITTED, 1, 0))
            self.assertEqual(task.result, {"exit_code": 1})
            self.scribe.write(entries.failed(1, task_id, self.scribe.run(task_id), reason))
            self.assertEqual(self.states(task_id), ["failed"])
        self.scribe.submit(A, spec={"retries": 1})
        self.scribe.write(entries.failed(1, A, self.scribe.run(A), "refused"))
        self.assertEqual(self.states(A), ["failed"])

    def test_attempts_are_counted_in_order(self) -> None:
        self.scribe.submit(A)
        for attempt in (0, 2, "1", True, None):
            body = {"agent": "x", "attempt": attempt, "lease_s": 30}
            self.refuse(errors.IllegalTransition, Entry("task.assigned", A, body, 1))  # type: ignore[arg-type]

    def test_cancel_in_each_state(self) -> None:
        self.scribe.submit(A, queued=True)
        self.scribe.submit(B)
        self.scribe.submit(C)
        self.scribe.assign(C)
        self.scribe.submit(D)
        fence = self.scribe.run(D)
        for task_id in (A, B, C, D):
            self.scribe.write(entries.cancelled(5, task_id, "alice", "enough"))
            self.assertEqual(self.states(task_id), ["cancelled"])
            self.assertEqual(self.machine.get(task_id).detail, "cancelled by alice: enough")
        self.refuse(errors.StaleFence, entries.collected(6, D, Fence(0, 1, 999), {}))
        self.refuse(errors.StaleFence, entries.collected(6, B, fence, {}))
        self.scribe.write(entries.collected(6, D, fence, {"artifacts": []}))
        self.assertEqual(did(self.scribe.write(entries.collected(7, D, fence, {"artifacts": ["other"]}))), NOTHING)
        task = self.machine.get(D)
        self.assertEqual((task.state, task.result), (State.CANCELLED, {"artifacts": []}))

    def test_what_a_cancelled_retry_left_replaces_the_first_result(self) -> None:
        self.scribe.submit(A, spec={"retries": 1})
        self.scribe.write(entries.failed(1, A, self.scribe.run(A), "exit", result={"exit_code": 1}))
        fence = self.scribe.run(A)
        self.assertIsNone(self.machine.get(A).result)
        self.scribe.write(entries.cancelled(2, A, "x", ""))
        self.scribe.write(entries.collected(3, A, fence, {"artifacts": []}))
        self.assertEqual(self.machine.get(A).result, {"artifacts": []})

    def test_a_queued_task_hears_of_its_dependency_when_it_is_submitted(self) -> None:
        self.scribe.submit(A)
        self.scribe.submit(B, A, queued=True)
        self.assertEqual(changed(self.scribe.write(entries.cancelled(1, A, "x", ""))), (A,))
        self.assertEqual(self.states(B), ["queued"])
        self.scribe.submit(B, A)
        self.assertEqual(self.machine.get(B).reason, "dependency_failed")

    def test_started_twice(self) -> None:
        self.scribe.submit(A)
        fence = self.scribe.run(A)
        self.assertEqual(did(self.scribe.write(entries.started(9, A, fence, sandbox="other"))), NOTHING)

    def test_giving_up_without_an_owner(self) -> None:
        self.scribe.submit(A)
        self.scribe.submit(B)
        self.scribe.assign(B)
        self.scribe.write(entries.failed(1, A, None, "refused", "its input is gone"))
        self.assertEqual(self.states(A), ["failed"])
        self.refuse(errors.StaleFence, entries.failed(1, B, None, "refused"))

    def test_idempotency(self) -> None:
        self.scribe.submit(A, idempotency=("k", "one"), idempotency_days=1)
        self.assertEqual(self.machine.submitted_before("someone", "k", "one", 1001), A)
        self.assertIsNone(self.machine.submitted_before("someone else", "k", "one", 1001))
        with self.assertRaises(errors.IdempotencyConflict) as caught:
            self.machine.submitted_before("someone", "k", "two", 1001)
        self.assertEqual((caught.exception.http_status, caught.exception.task_id), (409, A))
        spec = {"commands": ["true"]}
        for digest, error in (("one", errors.AlreadySubmitted), ("two", errors.IdempotencyConflict)):
            entry = entries.submitted(1001, B, spec, "someone", max_attempts=3, idempotency=("k", digest))
            self.refuse(error, entry)
        self.assertIsNone(self.machine.submitted_before("someone", "k", "two", 1000 + 86400))
        self.scribe.time = 1000 + 86400
        self.scribe.submit(B, idempotency=("k", "two"))
        self.assertEqual(self.machine.submitted_before("someone", "k", "two", self.scribe.time), B)
        self.assertEqual(len(self.machine.snapshot()._keys), 1)

    def test_ready_order(self) -> None:
        for task_id, priority in ((A, 5), (B, 9), (C, 5), (D, 0)):
            self.scribe.submit(task_id, spec={"priority": priority})
        self.assertEqual([task.id for task in ready(self.machine, 2000)], [B, A, C, D])
        self.assertEqual([task.id for task in self.machine.newest_first()], [D, C, B, A])

    def test_forgotten(self) -> None:
        self.scribe.submit(A)
        self.refuse(errors.IllegalTransition, entries.forgotten(1, A))
        self.scribe.write(entries.cancelled(1, A, "x", ""))
        self.assertEqual(changed(self.scribe.write(entries.forgotten(1, A))), (A,))
        self.assertNotIn(A, self.machine)
        self.refuse(errors.UnknownTask, entries.forgotten(1, A))

    def test_malformed_entries_change_nothing(self) -> None:
        self.scribe.submit(A)
        self.scribe.assign(A)
        bodies: list[dict[str, Any]] = [
            {},
            {"fence": 1, "spec": 1, "agent": 1, "reason": 1, "result": 1},
            {"fence": "x", "spec": {"depends_on": 1}, "submitter": "x"},
            {"fence": "0.1", "spec": {"depends_on": [1]}, "submitter": "x"},
            {"fence": "0.1.2", "reason": "nonsense", "result": []},
            {"spec": {}, "submitter": "x", "max_attempts": 0},
            {"spec": {}, "submitter": "x", "idempotency": {"key": "x"}},
            {"agent": "x", "attempt": 1, "lease_s": 0},
        ]
        kinds = [
            "task.nonsense",
            "task.",
            *(
                f"task.{name}"
                for name in (
                    "queued",
                    "submitted",
                    "refused",
                    "assigned",
                    "lease_expired",
                    "released",
                    "completed",
                    "failed",
                    "cancelled",
                    "collected",
                    "forgotten",
                )
            ),
        ]
        for kind, body, subject in itertools.product(kinds, bodies, (A, B)):
            if kind in ("task.submitted", "task.queued") and subject == A:
                continue
            if kind == "task.lease_expired" and body.get("fence") == "0.1.2":
                continue
            with self.subTest(kind=kind, body=body, subject=subject):
                applied = self.scribe.force(Entry(kind, subject, body, 1))
                self.assertEqual((applied.changes, self.states(A)), ((), ["assigned"]))
                self.assertIsNotNone(applied.refusal)

    def test_entries_of_other_machines(self) -> None:
        self.assertEqual(did(self.scribe.force(Entry("member.admitted", "x", {}, 1))), NOTHING)
        self.assertEqual(self.machine.index, 1)

    def test_an_old_index_is_not_applied_again(self) -> None:
        self.scribe.submit(A)
        self.assertEqual(did(self.machine.apply(1, entries.cancelled(1, A, "x", ""))), NOTHING)
        self.assertEqual(self.states(A), ["submitted"])

    def test_snapshot_of_another_version(self) -> None:
        with self.assertRaises(ValueError):
            self.machine.restore(b'{"version": 99}')


class AnyOrder(RuleBasedStateMachine):
    """Valid and invalid entries in any order; what must hold holds after each."""

    def __init__(self) -> None:
        super().__init__()
        self.scribe = Scribe()
        self.machine = self.scribe.machine
        self.ended: dict[str, TaskState] = {}
        self.owners: dict[Fence, tuple[str, str]] = {}
        self.fences: list[Fence] = [Fence(0, 0, 0)]

    tasks = st.sampled_from([A, B, C, D])
    which = st.integers(0, 100)

    def fence(self, which: int) -> Fence:
        return self.fences[-1 - which % min(len(self.fences), 4)]

    def force(self, entry: Entry) -> None:
        try:
            self.machine.check(entry)
            legal = True
        except errors.IllegalEntry:
            legal = False
        self.scribe.time += 0.5
        before = {task.id: task for task in self.machine}
        applied = self.scribe.force(entry)
        assert legal == (applied.refusal is None)
        after = {task.id: task for task in self.machine}
        different = {each for each in before.keys() | after.keys() if before.get(each) is not after.get(each)}
        assert different == set(changed(applied)), (different, applied)
        for task in after.values():
            if task.state in OWNED and task.fence is not None:
                assert task.agent is not None
                owner = self.owners.setdefault(task.fence, (task.id, task.agent))
                assert owner == (task.id, task.agent), "two owners under one fence"

    @rule(
        task=tasks,
        depends=st.lists(tasks, max_size=2, unique=True),
        queued=st.booleans(),
        key=st.sampled_from("xyz-"),
        digest=st.sampled_from("12"),
        retries=st.integers(0, 1),
        days=st.sampled_from([1e-5, 7.0]),
    )
    def submit(
        self, task: str, depends: list[str], queued: bool, key: str, digest: str, retries: int, days: float
    ) -> None:
        self.force(
            entries.submitted(
                self.scribe.time,
                task,
                {"depends_on": list(depends), "retries": retries},
                "someone",
                max_attempts=2,
                queued=queued,
                idempotency=None if key == "-" else (key, digest),
                idempotency_days=days,
            )
        )

    @rule(task=tasks, agent=st.sampled_from("pq"), off=st.sampled_from([0, 0, 0, 1]))
    def assign(self, task: str, agent: str, off: int) -> None:
        attempt = (self.machine.get(task).attempt if task in self.machine else 0) + 1 + off
        self.force(entries.assigned(self.scribe.time, task, agent=agent, attempt=attempt, lease_s=30))
        self.fences.append(fence_of(len(self.scribe.journal)))

    @rule(task=tasks, which=which)
    def start(self, task: str, which: int) -> None:
        self.force(entries.started(self.scribe.time, task, self.fence(which)))

    @rule(task=tasks, which=which)
    def expire(self, task: str, which: int) -> None:
        self.force(entries.lease_expired(self.scribe.time, task, self.fence(which)))

    @rule(task=tasks, which=which, reason=st.sampled_from(["image_missing", DRAINING, "nonsense"]))
    def release(self, task: str, which: int, reason: str) -> None:
        self.force(entries.released(self.scribe.time, task, self.fence(which), reason))

    @rule(task=tasks, which=which)
    def complete(self, task: str, which: int) -> None:
        self.force(entries.completed(self.scribe.time, task, self.fence(which), {"which": which}))

    @rule(task=tasks, which=which | st.none(), reason=st.sampled_from(list(Reason)))
    def fail(self, task: str, which: int | None, reason: Reason) -> None:
        fence = None if which is None else self.fence(which)
        self.force(entries.failed(self.scribe.time, task, fence, reason))

    @rule(task=tasks)
    def cancel(self, task: str) -> None:
        self.force(entries.cancelled(self.scribe.time, task, "user", ""))

    @rule(task=tasks, which=which)
    def collect(self, task: str, which: int) -> None:
        self.force(entries.collected(self.scribe.time, task, self.fence(which), {"left": which}))

    @rule(task=tasks)
    def refuse(self, task: str) -> None:
        self.force(entries.refused(self.scribe.time, task, "refused", "conflict"))

    @precondition(lambda self: self.ended)
    @rule(task=tasks)
    def forget(self, task: str) -> None:
        self.force(entries.forgotten(self.scribe.time, task))
        if task not in self.machine:
            self.ended.pop(task, None)

    @rule()
    def restart_from_snapshot(self) -> None:
        data = self.machine.snapshot().encode()
        self.machine = self.scribe.machine = TaskMachine(fence_of)
        self.machine.restore(data)

    @invariant()
    def terminal_never_changes(self) -> None:
        for task in self.machine:
            if task.terminal:
                first = self.ended.setdefault(task.id, task)
                assert (task.state, task.reason, task.ended_at) == (first.state, first.reason, first.ended_at)
            else:
                assert task.id not in self.ended
        assert [task.id for task in self.machine.unfinished()] == [t.id for t in self.machine if not t.terminal]

    @invariant()
    def nobody_waits_for_a_failed_task(self) -> None:
        for task in self.machine.unfinished():
            if task.state is State.QUEUED:
                continue
            for dependency in task.waiting_for:
                assert self.machine.get(dependency).state not in TERMINAL
            assert task.state is State.SUBMITTED or not task.waiting_for

    @invariant()
    def an_owner_has_a_fence(self) -> None:
        for task in self.machine:
            assert task.fence is not None if task.state in OWNED else task.terminal or task.fence is None
            assert task.moves < task.max_attempts or task.terminal

    def teardown(self) -> None:
        replayed = TaskMachine(fence_of)
        for index, entry in enumerate(self.scribe.journal, 1):
            replayed.apply(index, entry)
        assert list(replayed) == list(self.machine)
        assert replayed.snapshot() == self.machine.snapshot()


class AnyOrderTests(PureTestCase):
    def test_any_order_of_entries(self) -> None:
        run_state_machine_as_test(AnyOrder, settings=settings(deadline=None, max_examples=50, stateful_step_count=40))
