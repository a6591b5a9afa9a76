"""Forgets finished tasks after their time: the journal's record, the event history, the blobs that no other task names.

Blobs that no task of this node names go after the same time: what this node made as an executor for other schedulers
(who have fetched it long ago), and uploads that nobody made a task of. Where their quota is nearly full, they go
sooner; pinned ones never (`BlobService.make_room`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.services.blobs.named import blobs_of
from chorus.tasks import entries
from chorus.timer import Timer

if TYPE_CHECKING:
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.tasks.state import TaskState

INTERVAL_S = 3600.0
FIRST_S = 60.0
"""After the start, when the node has better things to do."""
MAX_AT_ONCE = 500
"""Tasks forgotten in one round, so that a round stays short."""
DAY_S = 86400.0


class RetentionService(Service):
    """Keeps tasks for `retention_days` after their end, and at least as long as their idempotency keys."""

    name = "retention"
    _log = Logger()

    def __init__(self, context: SchedulerContext) -> None:
        self._context = context
        self._named = context.named
        self._keep_s = max(context.settings.retention_days, context.settings.idempotency_days) * DAY_S
        self._timer = Timer(context.clock, self._due)
        self._swept = False
        self._running = False
        self.forgotten = 0
        self.errors = 0

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._timer.arm(FIRST_S)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._timer.cancel()

    def _due(self) -> None:
        self._timer.arm(INTERVAL_S)
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
            self._log.error("old tasks could not be removed: {error}", error=failure.value)
        else:
            self._log.failure("internal error while removing old tasks", failure=failure)

    async def round(self) -> int:
        """Forget what is due, at most `MAX_AT_ONCE` tasks; returns how many went."""
        if not self._swept:
            await self._sweep()
        context, stored = self._context, self._context.stored
        limit = context.wall() - self._keep_s
        due = [task for task in context.ledger.machine if task.terminal and (task.ended_at or task.updated_at) < limit]
        due = due[:MAX_AT_ONCE]
        for task in due:
            await context.ledger.append(entries.forgotten(context.wall(), task.id))
            await stored.forget(task.id)
            context.events.forget(task.id)
            self.forgotten += 1
        await self._remove_blobs(due, limit)
        await context.blobs.make_room(lambda sha256: sha256 in self._named)
        if due:
            self._log.info("old tasks forgotten: {count}", event="tasks.forgotten", count=len(due))
        return len(due)

    async def _sweep(self) -> None:
        """Histories whose task was forgotten by a process that ended in between."""
        for task_id in await self._context.stored.known_tasks():
            if task_id not in self._context.ledger.machine:
                await self._context.stored.forget(task_id)
        self._swept = True

    async def _remove_blobs(self, gone: list[TaskState], limit: float) -> None:
        """Blobs that are named or fetched again meanwhile stay: each removal checks that in its own step."""
        unwanted = {sha256 for task in gone for sha256 in blobs_of(task)}
        unwanted.update(await self._context.stored.blobs_unused_since(limit))
        for sha256 in sorted(unwanted):
            if sha256 not in self._named:
                await self._context.blobs.remove_unused(sha256, limit, lambda sha256=sha256: sha256 in self._named)  # type: ignore[misc]
