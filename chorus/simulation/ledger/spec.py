"""One task of a ledger as its clients see it, one operation after the other: the object that histories are checked
against. The task is named by its idempotency key, so everything about one key is one object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from chorus.simulation.ledger.linearizability import UNKNOWN, Unknown
from chorus.tasks.journal import Fence

SUBMITTED: Final = "submitted"
ASSIGNED: Final = "assigned"
COMPLETED: Final = "completed"


@attrs.frozen
class SubmitCall:
    """Answer: the id of the task that the key stands for, this one or an earlier one's."""

    candidate: str


@attrs.frozen
class AssignCall:
    """Answer: the fence; None for a refusal."""

    task_id: str
    attempt: int


@attrs.frozen
class ReleaseCall:
    """Answer: whether it was accepted."""

    task_id: str
    fence: Fence


@attrs.frozen
class CompleteCall:
    """Answer: whether this result was accepted."""

    task_id: str
    fence: Fence
    result: int


@attrs.frozen
class ReadCall:
    """Answer: a `Task`, `NOTHING` for a key that stands for none."""


@attrs.frozen
class Task:
    """`fence` only while it is assigned; `UNKNOWN` when nobody has heard it yet."""

    task_id: str | None
    state: str | None = None
    attempt: int = 0
    fence: Fence | Unknown | None = None
    result: int | None = None


NOTHING: Final = Task(None)


def step(task: Task, call: Any, answer: Any) -> Iterator[Task]:
    yield from _STEPS[type(call)](task, call, answer)


def _submit(task: Task, call: SubmitCall, answer: Any) -> Iterator[Task]:
    after = task if task.task_id is not None else Task(call.candidate, SUBMITTED)
    if answer in (UNKNOWN, after.task_id):
        yield after


def _assign(task: Task, call: AssignCall, answer: Any) -> Iterator[Task]:
    may = (task.task_id, task.state, task.attempt + 1) == (call.task_id, SUBMITTED, call.attempt)
    if may and answer is not None:
        yield attrs.evolve(task, state=ASSIGNED, attempt=call.attempt, fence=answer)
    elif not may and answer in (UNKNOWN, None):
        yield task


def _release(task: Task, call: ReleaseCall, answer: Any) -> Iterator[Task]:
    return _owned(task, call, answer, Task(call.task_id, SUBMITTED, task.attempt))


def _complete(task: Task, call: CompleteCall, answer: Any) -> Iterator[Task]:
    return _owned(task, call, answer, Task(call.task_id, COMPLETED, task.attempt, None, call.result))


def _owned(task: Task, call: ReleaseCall | CompleteCall, answer: Any, after: Task) -> Iterator[Task]:
    """A fence that nobody has heard may be the caller's or not."""
    held = task.task_id == call.task_id and task.state == ASSIGNED
    if held and task.fence in (UNKNOWN, call.fence) and answer in (UNKNOWN, True):
        yield after
    if not (held and task.fence == call.fence) and answer in (UNKNOWN, False):
        yield task


def _read(task: Task, call: ReadCall, answer: Any) -> Iterator[Task]:
    if answer in (UNKNOWN, task):
        yield task
    elif task.fence is UNKNOWN and attrs.evolve(task, fence=answer.fence) == answer and answer.fence is not None:
        yield answer


_STEPS: Final[dict[type, Any]] = {
    SubmitCall: _submit,
    AssignCall: _assign,
    ReleaseCall: _release,
    CompleteCall: _complete,
    ReadCall: _read,
}
