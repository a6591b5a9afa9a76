"""Forgets finished tasks after their time: the journal's record, the event history, the blobs nobody else names.

Blobs that no task of this node names go after the same time: what this node made as an executor for other schedulers
(who have fetched it long ago), and uploads that nobody made a task of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.services.blobs.named import blobs_of
from chorus.tasks import entries

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from chorus.services.blobs.named import NamedBlobs
    from chorus.services.scheduling.events import TaskEvents
    from chorus.services.scheduling.store import StoredEvents
    from chorus.tasks.journal import Entry
    from chorus.tasks.machine import TaskMachine
    from chorus.tasks.state import TaskState

INTERVAL_S = 3600.0
FIRST_S = 60.0
"""After the start, when the node has better things to do."""
MAX_AT_ONCE = 500
"""Tasks forgotten in one round, so that a round stays short."""
DAY_S = 86400.0


class RemovableBlobs(Protocol):
    """What retention asks of the blob service."""

    def remove_unused(self, sha256: str, before: float, named: Callable[[], bool]) -> Deferred[bool]: ...


class RetentionService(Service):
    """Tasks are kept `retention_days` after their end, and at least as long as their idempotency keys."""

    name = "retention"
    _log = Logger()

    def __init__(
        self,
        *,
        machine: TaskMachine,
        append: Callable[[Entry], Awaitable[int]],
        events: TaskEvents,
        stored_events: StoredEvents,
        blobs: RemovableBlobs,
        named: NamedBlobs,
        clock: IReactorTime,
        wall: Callable[[], float],
        retention_days: float,
        idempotency_days: float,
    ) -> None:
        self._machine = machine
        self._append = append
        self._events = events
        self._stored_events = stored_events
        self._blobs = blobs
        self._named = named
        self._clock = clock
        self._wall = wall
        self._keep_s = max(retention_days, idempotency_days) * DAY_S
        self._timer: IDelayedCall | None = None
        self._swept = False
        self._running = False
        self.forgotten = 0
        self.errors = 0

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._timer = self._clock.callLater(FIRST_S, self._due)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = self._clock.callLater(INTERVAL_S, self._due)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self.round()).addBoth(self._over)

    def _over(self, found: int | Failure) -> None:
        self._running = False
        if isinstance(found, Failure):
            self._failed(found)

    def _failed(self, failure: Failure) -> None:
        self.errors += 1
        if isinstance(failure.value, ChorusError):
            self._log.error("forgetting old tasks failed: {error}", error=failure.value)
        else:
            self._log.failure("forgetting old tasks broke", failure=failure)

    async def round(self) -> int:
        """Forget what is due, at most `MAX_AT_ONCE` tasks; returns how many went."""
        if not self._swept:
            await self._sweep()
        limit = self._wall() - self._keep_s
        due = [task for task in self._machine if task.terminal and (task.ended_at or task.updated_at) < limit]
        due = due[:MAX_AT_ONCE]
        for task in due:
            await self._append(entries.forgotten(self._wall(), task.id))
            await self._stored_events.forget(task.id)
            self._events.forget(task.id)
            self.forgotten += 1
        await self._remove_blobs(due, limit)
        if due:
            self._log.info("old tasks forgotten: {count}", event="tasks.forgotten", count=len(due))
        return len(due)

    async def _sweep(self) -> None:
        """Histories whose task was forgotten by a process that ended in between."""
        for task_id in await self._stored_events.known_tasks():
            if task_id not in self._machine:
                await self._stored_events.forget(task_id)
        self._swept = True

    async def _remove_blobs(self, gone: list[TaskState], limit: float) -> None:
        """Whatever is named or brought again meanwhile stays: each removal asks anew, in one step with itself."""
        unwanted = {sha256 for task in gone for sha256 in blobs_of(task)}
        unwanted.update(await self._stored_events.blobs_unused_since(limit))
        for sha256 in sorted(unwanted):
            if sha256 not in self._named:
                await self._blobs.remove_unused(sha256, limit, lambda sha256=sha256: sha256 in self._named)  # type: ignore[misc]
