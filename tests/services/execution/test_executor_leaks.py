"""Whatever raises between an offer and the end of a run, the place comes back and the next task runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail

from chorus.protocols.task_messages import Accept, Decline, Released, Result
from chorus.services.execution import attempt as attempt_module
from chorus.services.execution import delivery, offers, preparation, result_blobs
from chorus.services.execution import outcome as run_outcome
from chorus.services.execution import output as spool
from chorus.services.execution import row as run_row
from chorus.services.execution import run as execution
from chorus.services.execution.executor import ExecutorService
from chorus.services.task_streams import TaskChannel
from tests.services.task_kit import LEASE, World
from tests.support import PureTestCase


class Oops(Exception):
    """An error that no part expects."""


def raising(*_: Any, **__: Any) -> Any:
    raise Oops("this step is broken")


# In the place of a class that is read from: the scheduler of the same process goes on reading.
raising.from_json = raising  # type: ignore[attr-defined]


def failing(*_: Any, **__: Any) -> Deferred[Any]:
    return fail(Oops("this step is broken"))


class Hurt:
    """An object whose one method is broken."""

    def __init__(self, inner: Any, name: str, broken: Callable[..., Any]) -> None:
        self._inner, self._name, self._broken = inner, name, broken

    def __getattr__(self, name: str) -> Any:
        return self._broken if name == self._name else getattr(self._inner, name)


def not_sending(kind: type[Any]) -> Any:
    """A channel that breaks where it should say a message of this kind."""
    honest = TaskChannel.send

    def send(channel: Any, message: Any) -> bool:
        if isinstance(message, kind):
            raise Oops(f"{kind.__name__} cannot be said")
        return honest(channel, message)

    return send


PORTS = {
    "runs.save": ("runs", "save"),
    "runs.delete": ("runs", "delete"),
    "blobs.fetch": ("blobs", "fetch"),
    "blobs.put_file": ("blobs", "put_file"),
    "sandboxes.choose": ("sandboxes", "choose"),
    "sandboxes.start": ("sandboxes", "start"),
}
"""Steps in other parts of the node: once raised at once, once failing later."""

PARTS: dict[str, tuple[Any, str]] = {
    "the specification": (offers, "TaskSpec"),
    "the judgement": (offers, "suits"),
    "the sum of what is owed": (offers, "by_scheduler"),
    "the language": (offers, "detect"),
    "the job": (offers, "job_of"),
    "the row's job": (preparation, "job_of"),
    "the lease": (attempt_module.HeldLease, "hold"),
    "its first renewal": (attempt_module.HeldLease, "renew"),
    "the conversation": (attempt_module.Conversation, "take_up"),
    "the delivery": (delivery.OutputDelivery, "begin"),
    "the execution": (execution.TaskExecution, "begin"),
    "the folder": (execution, "_make_directory"),
    "the spool": (execution, "Spool"),
    "the copies": (execution, "_remove_copies"),
    "flushing": (spool.Spool, "flushed"),
    "what is kept": (result_blobs.ResultBlobs, "keep"),
    "the result": (run_outcome, "of_run"),
    "the record of the outcome": (run_row.AttemptRow, "settle"),
    "the end": (delivery.OutputDelivery, "finish"),
}
"""Steps in parts of the executor."""


class LeaksTest(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.scheduler = self.world.node("scheduler", max_tasks=1)
        self.worker = self.world.node("worker", expertise=("x",), max_tasks=1)

    def submit(self) -> str:
        blob = self.scheduler.blobs.put(b"source")
        return self.scheduler.submit("true", required={"expertise": ["x"]}, input={"sha256": blob})

    def finish(self) -> None:
        for container in list(self.worker.engine.containers.values()):
            container.say("stdout", b"said")
            container.finish(0, artifacts={"it": b"made"})
        self.world.settle()

    def check(self, step: str, broken: Any) -> None:
        """Run one task into the broken step; mend it; the place is free, and a task runs on it."""
        task = self.submit()
        self.worker.visible = False
        self.finish()
        self.world.advance(offers.ASSIGN_S + 1)
        self.assertEqual(self.worker.executor.current_tasks, 0, f"{step}: the place is lost")
        self.assertEqual(len(self.worker.executor._offers._promises), 0, step)
        self.assertEqual(self.worker.executor._offers._reserved, {}, step)
        broken.restore()
        self.worker.visible = True
        self.world.advance(4 * LEASE, step=1.0)
        for _ in range(6):
            self.finish()
            self.world.advance(40, step=1.0)
        self.assertIn(self.scheduler.state(task), ("completed", "failed"), step)
        after = self.submit()
        self.world.advance(2)
        self.finish()
        self.world.advance(2)
        self.assertEqual(self.scheduler.state(after), "completed", step)
        self.assertEqual((self.worker.executor.current_tasks, self.worker.executor.unacknowledged), (0, 0), step)
        self.flushLoggedErrors(Oops)

    def test_each_step_in_other_parts(self) -> None:
        for step, (port, name) in PORTS.items():
            # What starts a sandbox gives no Deferred; `test_a_sandbox_whose_result_fails` is about what it gives.
            for broken in (raising,) if name == "start" else (raising, failing):
                place = self.worker.executor._place
                hurt = self.patch(_Slot(place, port), "value", Hurt(getattr(place, port), name, broken))
                self.check(f"{step} ({broken.__name__})", hurt)

    def test_each_step_in_parts_of_the_executor(self) -> None:
        for step, (where, name) in PARTS.items():
            self.check(step, self.patch(where, name, raising))

    def test_each_word_to_the_scheduler(self) -> None:
        for kind in (Accept, Decline, Released, Result):
            self.check(kind.__name__, self.patch(TaskChannel, "send", not_sending(kind)))

    def test_what_is_told_of_the_load(self) -> None:
        self.check("changed", self.patch(self.worker.executor, "_changed", raising))

    def test_what_hinders(self) -> None:
        self.check("blocked_by", self.patch(self.worker.executor._offers, "_blocked_by", raising))

    def test_a_sandbox_whose_result_fails(self) -> None:
        task = self.submit()
        container = self.worker.engine.only()
        container.alive = False
        assert container.run is not None
        container.run.result.errback(Oops("the sandbox broke"))
        self.worker.engine.containers.clear()
        self.world.settle()
        self.assertEqual(self.worker.executor.current_tasks, 0)
        self.assertEqual(self.scheduler.machine.get(task).reason, "sandbox_unavailable")
        self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)

    def test_a_run_that_cannot_be_taken_back_keeps_no_other_from_it(self) -> None:
        task = self.submit()
        container = self.worker.engine.only()
        self.worker.kill()
        honest = attempt_module.Attempt.take_back
        broken = self.patch(attempt_module.Attempt, "take_back", raising)
        self.worker.restart()
        self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)
        self.assertEqual(self.worker.executor.current_tasks, 0)
        broken.restore()
        self.assertIs(attempt_module.Attempt.take_back, honest)
        container.alive = False
        self.worker.engine.containers.clear()
        self.world.advance(2 * LEASE, step=1.0)
        self.assertEqual(self.scheduler.show(task)["attempt"], 2, "it is run again")
        self.assertIsInstance(self.worker.executor, ExecutorService)


class _Slot:
    """One field of a frozen value, for `patch`."""

    def __init__(self, owner: Any, name: str) -> None:
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "_name", name)

    @property
    def value(self) -> Any:
        return getattr(self._owner, self._name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self._owner, self._name, value)
