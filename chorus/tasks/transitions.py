"""Transitions of one task: the task after an entry, the same object for no change (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from chorus.tasks import entries, outcomes
from chorus.tasks.errors import IllegalEntry, IllegalTransition, StaleFence, TaskFinished
from chorus.tasks.journal import Entry
from chorus.tasks.state import MOVES, OWN_FAILURES, OWNED, State, TaskState
from chorus.tasks.terms import INFRASTRUCTURE, Reason

_REASONS = frozenset(map(str, Reason))


def unfinished(task: TaskState, entry: Entry) -> None:
    if task.terminal:
        raise TaskFinished(task.id, task.state)


def owned(task: TaskState, entry: Entry) -> None:
    fence = entries.fence(entry.body)
    if task.state not in OWNED or task.fence != fence:
        current = f"owned under {task.fence}" if task.state in OWNED else str(task.state)
        raise StaleFence(f"task {task.id} is {current}: fence {fence} is stale")


def elsewhere(task: TaskState, entry: Entry) -> None:
    if task.state is not State.MOVED:
        raise IllegalTransition(f"task {task.id} is {task.state}: it is with no other member")


def anyhow(task: TaskState, entry: Entry) -> None:
    """The transition itself says from where."""


def _refused(task: TaskState, entry: Entry) -> TaskState:
    if task.state is not State.QUEUED:
        raise IllegalTransition(f"task {task.id} is {task.state}: only a queued one is refused")
    detail = entries.optional_text(entry.body, "detail")
    return outcomes.ended(task, State.REFUSED, entry, entries.text(entry.body, "reason"), detail)


def _assigned(task: TaskState, entry: Entry) -> TaskState:
    if task.state is not State.SUBMITTED:
        raise IllegalTransition(f"task {task.id} is {task.state}: only a submitted one is assigned")
    if task.waiting_for:
        raise IllegalTransition(f"task {task.id} waits for {', '.join(sorted(task.waiting_for))}")
    attempt = entry.body.get("attempt")
    if type(attempt) is not int or attempt != task.attempt + 1:
        raise IllegalTransition(f"task {task.id}: the next attempt is {task.attempt + 1}, not {attempt!r}")
    lease = entry.body.get("lease_s")
    if isinstance(lease, bool) or not isinstance(lease, int | float) or lease <= 0:
        raise IllegalEntry("lease_s must be a positive number")
    return attrs.evolve(
        task,
        state=State.ASSIGNED,
        agent=entries.text(entry.body, "agent"),
        attempt=attempt,
        lease_s=float(lease),
        assigned_at=entry.time,
        started_at=None,
        sandbox=None,
        image=None,
        reason=None,
        detail=None,
        result=None,
        updated_at=entry.time,
    )


def _preparing(task: TaskState, entry: Entry) -> TaskState:
    if task.state is not State.ASSIGNED:
        return task
    return attrs.evolve(task, state=State.PREPARING, updated_at=entry.time)


def _started(task: TaskState, entry: Entry) -> TaskState:
    if task.state is State.RUNNING:
        return task
    return attrs.evolve(
        task,
        state=State.RUNNING,
        started_at=entry.time,
        sandbox=entries.optional_text(entry.body, "sandbox"),
        image=entries.optional_text(entry.body, "image"),
        updated_at=entry.time,
    )


def _lease_expired(task: TaskState, entry: Entry) -> TaskState:
    agent = entries.optional_text(entry.body, "agent_id") or task.agent
    return outcomes.moved(task, entry, Reason.LEASE_LOST, f"{agent} went silent")


def _released(task: TaskState, entry: Entry) -> TaskState:
    reason = entries.text(entry.body, "reason")
    if reason not in MOVES:
        raise IllegalEntry(f"a task is not handed back for {reason!r}")
    return outcomes.moved(task, entry, reason, entries.optional_text(entry.body, "detail"))


def _completed(task: TaskState, entry: Entry) -> TaskState:
    detail = entries.optional_text(entry.body, "detail")
    return outcomes.ended(task, State.COMPLETED, entry, Reason.EXIT, detail, entries.result(entry.body, required=True))


def _failed(task: TaskState, entry: Entry) -> TaskState:
    reason = entries.text(entry.body, "reason")
    if reason not in _REASONS:
        raise IllegalEntry(f"{reason!r} is no reason for a failure")
    detail = entries.optional_text(entry.body, "detail")
    if entry.body.get("fence") is None:
        unfinished(task, entry)
        if task.state is not State.SUBMITTED:
            raise StaleFence(f"task {task.id} is {task.state}: its owner's fence is needed")
        return outcomes.ended(task, State.FAILED, entry, reason, detail)
    owned(task, entry)
    result = entries.result(entry.body)
    if reason in INFRASTRUCTURE:
        return outcomes.moved(task, entry, reason, detail, result)
    if reason in OWN_FAILURES and task.retried < task.retries and task.attempt < outcomes.MAX_ASSIGNMENTS:
        again = outcomes.back(task, entry, reason, detail, result)
        return attrs.evolve(again, retried=task.retried + 1, not_before=entry.time)
    return outcomes.ended(task, State.FAILED, entry, reason, detail, result)


def _cancelled(task: TaskState, entry: Entry) -> TaskState:
    if task.state is State.MOVED:
        raise IllegalTransition(f"task {task.id} is with {task.scheduler}, which alone may cancel it")
    why = entries.optional_text(entry.body, "reason")
    detail = f"cancelled by {entries.text(entry.body, 'by')}" + (f": {why}" if why else "")
    return outcomes.ended(task, State.CANCELLED, entry, Reason.CANCELLED, detail)


def _moved(task: TaskState, entry: Entry) -> TaskState:
    if task.state is not State.SUBMITTED or task.waiting_for or task.handed_by is not None:
        raise IllegalTransition(f"task {task.id} is not one to be handed over")
    to = entries.text(entry.body, "to")
    return attrs.evolve(task, state=State.MOVED, scheduler=to, reason=None, detail=None, updated_at=entry.time)


def _returned(task: TaskState, entry: Entry) -> TaskState:
    detail = entries.text(entry.body, "detail")
    return attrs.evolve(task, state=State.SUBMITTED, scheduler=None, detail=detail, updated_at=entry.time)


def _collected(task: TaskState, entry: Entry) -> TaskState:
    if task.state is not State.CANCELLED or task.fence is None or task.fence != entries.fence(entry.body):
        raise StaleFence(f"task {task.id} is {task.state} under fence {task.fence}")
    if task.result is not None:
        return task
    return attrs.evolve(task, result=entries.result(entry.body, required=True), updated_at=entry.time)


Transition = Callable[[TaskState, Entry], TaskState]

TRANSITIONS: Mapping[str, tuple[Callable[[TaskState, Entry], None], Transition]] = {
    "task.refused": (unfinished, _refused),
    "task.assigned": (unfinished, _assigned),
    "task.preparing": (owned, _preparing),
    "task.started": (owned, _started),
    "task.lease_expired": (owned, _lease_expired),
    "task.released": (owned, _released),
    "task.completed": (owned, _completed),
    "task.failed": (anyhow, _failed),
    "task.cancelled": (unfinished, _cancelled),
    "task.moved": (unfinished, _moved),
    "task.returned": (elsewhere, _returned),
    "task.settled": (elsewhere, outcomes.settled),
    "task.collected": (anyhow, _collected),
}
"""Of a task that there is: what must hold before, and the transition. Both raise `IllegalEntry`."""


def after(task: TaskState, entry: Entry) -> TaskState:
    """`entry` is of a kind in `TRANSITIONS`."""
    check, transition = TRANSITIONS[entry.kind]
    check(task, entry)
    return transition(task, entry)
