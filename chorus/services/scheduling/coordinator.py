"""The coordinator: the scheduler's face to the HTTP API, and the start and end of its parts.

This node is the scheduler of every task it accepted. What must not be lost goes through the journal first: a
submission is answered after its commit, an assignment is sent after its commit, a result is acknowledged after its
commit (docs/architecture.md, "The way of a task").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred

if TYPE_CHECKING:
    from chorus.http.ports import Subscription
    from chorus.seams import Document
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.counters import TaskCounters
    from chorus.services.scheduling.custodies import Custodies
    from chorus.services.scheduling.intake import Intake
    from chorus.services.scheduling.placement import Placement
    from chorus.services.scheduling.subscribers import StateEvents
    from chorus.services.scheduling.views import TaskViews
    from chorus.tasks.events import TaskEvent
    from chorus.tasks.machine import TaskMachine
    from chorus.tasks.state import TaskState


class CoordinatorService(Service):
    """Implements `http.ports.TaskPort`. The journal is started (replayed) before this service is."""

    name = "coordinator"

    def __init__(
        self,
        context: SchedulerContext,
        intake: Intake,
        custodies: Custodies,
        placement: Placement,
        state_events: StateEvents,
        views: TaskViews,
    ) -> None:
        self._context = context
        self.intake = intake
        self._custodies = custodies
        self.placement = placement
        self._state_events = state_events
        self._views = views
        self.is_up = False

    async def _start(self) -> None:
        for task in self.machine:
            self._context.named.changed(None, task)
        await self._state_events.restore()
        await self._custodies.start()
        self.is_up = True
        self.placement.start()

    def startService(self) -> Deferred[None]:
        """Take up every task where the journal left it."""
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    def stopService(self) -> Deferred[None]:
        """Stop placing and receiving; agents keep their tasks and resume with the next process."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.is_up = False
        self.placement.stop()
        self._custodies.stop()
        return self._context.events.stop()

    # http.ports.TaskPort

    def submit(self, body: object, submitter: str) -> Deferred[Document]:
        return Deferred.fromCoroutine(self.intake.submit(body, submitter)).addCallback(self._views.document)

    def get(self, task_id: str) -> Deferred[Document]:
        return maybeDeferred(self._views.document, task_id)

    def list(self, *, state: str | None, limit: int, after: str | None) -> Deferred[Document]:
        return Deferred.fromCoroutine(self._views.page(state, limit, after))

    def cancel(self, task_id: str, by: str, reason: str) -> Deferred[Document]:
        cancelled = Deferred.fromCoroutine(self.intake.cancel(task_id, by, reason))
        return cancelled.addCallback(lambda _: self._views.document(task_id))

    def watch(
        self, task_id: str, after: int, deliver: Callable[[TaskEvent], None], ended: Callable[[], None]
    ) -> Deferred[Subscription]:
        def begin() -> Subscription:
            self.machine.get(task_id)
            return self._context.events.watch(task_id, after, deliver, ended)

        return maybeDeferred(begin)

    # for members that hand tasks over, and for metrics

    def agent_id_of(self, task: TaskState) -> str | None:
        """The name of the agent that has, or had, the task."""
        return None if task.agent is None else self.placement.agent_id(task.agent)

    @property
    def machine(self) -> TaskMachine:
        return self._context.ledger.machine

    @property
    def counters(self) -> TaskCounters:
        return self._context.counters

    @property
    def active(self) -> int:
        """Tasks that are not over."""
        return len(self.machine.unfinished())
