"""Reads tasks: the document of one, and pages of all, newest first."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater

from chorus.errors import UserError
from chorus.seams import JSON
from chorus.services.scheduling import documents as task_documents
from chorus.tasks.state import State, TaskState

if TYPE_CHECKING:
    from chorus.seams import Document
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.custodies import Custodies
    from chorus.services.scheduling.decisions import TaskDecisions
    from chorus.services.scheduling.placement import Placement

MAX_LIST = 200
"""Summaries of one page."""


class UnknownCursor(UserError):
    code = "unknown_cursor"


class UnknownState(UserError):
    code = "unknown_state"


class Elsewhere(Protocol):
    """`services/handover/service.py`: tasks that other members schedule for this node."""

    def seen(self, task: TaskState) -> TaskState: ...

    async def cancel(self, task: TaskState, by: str, reason: str) -> None: ...


class TaskViews:
    """Of this node's tasks, and of those that it handed over."""

    def __init__(
        self,
        context: SchedulerContext,
        custodies: Custodies,
        placement: Placement,
        elsewhere: Elsewhere,
        decisions: TaskDecisions,
    ) -> None:
        self._context = context
        self._machine = context.ledger.machine
        self._custodies = custodies
        self._placement = placement
        self._elsewhere = elsewhere
        self._decisions = decisions
        self._listing = DeferredLock()

    def document(self, task_id: str) -> Document:
        """Raises `UnknownTask`."""
        task = self._elsewhere.seen(self._machine.get(task_id))
        return task_documents.document(
            task,
            waiting=self._placement.waiting(task.id),
            received=self._custodies.received(task),
            agent_id=self._placement.agent_id,
            absent=lambda sha256: self._context.blobs.path_of(sha256) is None,
            decision=self._decisions.of(task),
        )

    async def page(self, state: str | None, limit: int, after: str | None) -> Document:
        """At most `limit` tasks in `state`, or in any, that are older than the task `after`. Raises `UnknownState` and
        `UnknownCursor`."""
        if state is not None and state not in set(State):
            raise UnknownState(f"{state!r} is no state; the states are {', '.join(State)}")
        limit = max(1, min(limit, MAX_LIST))
        async with self._listing:
            # Each page in a turn of its own: readers who come together hold up nobody else for longer than one does.
            await deferLater(self._context.clock, 0)
            return self._page(state, limit, after)

    def _page(self, state: str | None, limit: int, after: str | None) -> Document:
        tasks = self._machine.newest_first()
        if after is not None:
            if after not in self._machine:
                raise UnknownCursor("the page before ended at a task that is gone: start again without a cursor")
            while next(tasks).id != after:
                pass
        found = list(islice((task for task in tasks if state is None or task.state == state), limit + 1))
        names: dict[str, str | None] = {}
        return {
            "tasks": cast("JSON", [self._summary(task, names) for task in found[:limit]]),
            "next": found[limit - 1].id if len(found) > limit else None,
        }

    def _summary(self, task: TaskState, names: dict[str, str | None]) -> Document:
        """`names` of agents that were asked for already."""
        task = self._elsewhere.seen(task)
        if task.agent is not None and task.agent not in names:
            names[task.agent] = self._placement.agent_id(task.agent)
        return task_documents.summary(
            task, waiting=self._placement.waiting(task.id), agent_id=names.get(task.agent or "")
        )
