"""Outcomes: a new task, its end, its way back to the queue and on to another agent (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from chorus.backoff import Backoff
from chorus.tasks import entries
from chorus.tasks.errors import IllegalEntry
from chorus.tasks.journal import Entry
from chorus.tasks.state import DRAINING, State, TaskState
from chorus.tasks.terms import Reason

if TYPE_CHECKING:
    from chorus.seams import JSON

MAX_ATTEMPTS = 3
"""Failures of infrastructure that end a task (spec/tasks.md)."""
MAX_ASSIGNMENTS = 32
"""Assignments in all, whatever the reasons: an agent that hands everything back cannot keep a task going for ever."""
BACKOFF_S = 2.0
BACKOFF_LIMIT_S = 60.0
BACKOFF = Backoff(BACKOFF_S, BACKOFF_LIMIT_S)


def backoff(moves: int) -> float:
    """Seconds before the next assignment after the `moves`-th failure of infrastructure: 2, 4, 8, … 60."""
    return BACKOFF.ceiling(moves)


def new(state: State, index: int, entry: Entry, waiting: frozenset[str]) -> TaskState:
    attempts = entry.body.get("max_attempts", MAX_ATTEMPTS)
    if type(attempts) is not int or attempts < 1:
        raise IllegalEntry("max_attempts must be a positive whole number")
    entries.idempotency(entry.body)
    return TaskState(
        id=entry.subject,
        state=state,
        spec=entries.spec(entry.body),
        submitter=entries.text(entry.body, "submitter"),
        created_at=entry.time,
        created_index=index,
        updated_at=entry.time,
        max_attempts=attempts,
        waiting_for=waiting,
        handed_by=entries.optional_text(entry.body, "handed_by"),
    )


def settled(task: TaskState, entry: Entry) -> TaskState:
    """The end of a task that another member scheduled, as that member sent it."""
    body = entry.body
    state = entries.text(body, "state")
    if state not in {State.COMPLETED, State.FAILED, State.CANCELLED}:
        raise IllegalEntry(f"{state!r} is no end of a task that was handed over")
    reason = entries.optional_text(body, "reason") or str(Reason.LEASE_LOST)
    detail = entries.optional_text(body, "detail")
    attempt, started_at = body.get("attempt"), body.get("started_at")
    return attrs.evolve(
        ended(task, State(state), entry, reason, detail, entries.result(body)),
        attempt=attempt if type(attempt) is int else task.attempt,
        agent=entries.optional_text(body, "agent"),
        sandbox=entries.optional_text(body, "sandbox"),
        image=entries.optional_text(body, "image"),
        started_at=float(started_at) if isinstance(started_at, int | float) else None,
    )


def ended(
    task: TaskState,
    state: State,
    entry: Entry,
    reason: str,
    detail: str | None,
    result: Mapping[str, JSON] | None = None,
) -> TaskState:
    return attrs.evolve(
        task,
        state=state,
        reason=str(reason),
        detail=detail,
        result=task.result if result is None else result,
        waiting_for=frozenset(),
        ended_at=entry.time,
        updated_at=entry.time,
    )


def dependency_failed(task: TaskState, done: TaskState, time: float) -> TaskState:
    entry = Entry("task.failed", task.id, {}, time)
    return ended(
        task, State.FAILED, entry, Reason.DEPENDENCY_FAILED, f"{done.id}, which it depends on, is {done.state}"
    )


def back(
    task: TaskState, entry: Entry, reason: str, detail: str | None, result: Mapping[str, JSON] | None
) -> TaskState:
    """Waiting for an agent again, without an owner."""
    return attrs.evolve(
        task,
        state=State.SUBMITTED,
        fence=None,
        agent=None,
        reason=str(reason),
        detail=detail,
        result=task.result if result is None else result,
        updated_at=entry.time,
    )


def moved(
    task: TaskState,
    entry: Entry,
    reason: str,
    detail: str | None,
    result: Mapping[str, JSON] | None = None,
) -> TaskState:
    """After a failure of infrastructure: on to another agent, or the end when there were too many."""
    counted = reason != DRAINING
    moves = task.moves + counted
    agent = task.agent or ""
    tried = (*(each for each in task.tried if each != agent), agent) if counted else task.tried
    if moves >= task.max_attempts or task.attempt >= MAX_ASSIGNMENTS:
        text = f"gave up after {task.attempt} attempts" + (f"; the last: {detail}" if detail else "")
        final = reason if counted else Reason.LEASE_LOST
        return attrs.evolve(ended(task, State.FAILED, entry, final, text, result), moves=moves, tried=tried)
    again = back(task, entry, reason, detail, result)
    return attrs.evolve(again, moves=moves, tried=tried, not_before=entry.time + (backoff(moves) if counted else 0.0))
