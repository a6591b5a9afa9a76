"""Records the outcome of one attempt, and retries until the journal takes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.protocols.task_messages import Ack, Message, Stale
from chorus.tasks.errors import IllegalEntry
from chorus.tasks.state import State

if TYPE_CHECKING:
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.tasks.journal import Entry, Fence

APPEND_RETRY_S = 1.0
"""Between attempts to record an outcome while the journal cannot commit."""


class Recording:
    """Of (task, fence). `drop(last, error)` ends the custody: with a last message to the agent, or with an error."""

    _log = Logger()

    def __init__(
        self,
        context: SchedulerContext,
        task_id: str,
        fence: Fence,
        drop: Callable[[Message | None, ChorusError | None], None],
    ) -> None:
        self._context = context
        self._task_id = task_id
        self._fence = fence
        self._drop = drop
        self._over = False
        self.recorded = False
        """Or nothing was left to record."""
        self._retry: Deferred[None] | None = None
        self._waits_for = ""

    def stop(self) -> None:
        """The custody has ended: nothing more is recorded."""
        self._over = True
        retry, self._retry = self._retry, None
        if retry is not None:
            retry.cancel()

    async def record(
        self,
        make: Callable[[], Entry | None],
        last: Message | None,
        error: ChorusError | None = None,
        *,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Append the entry that `make` gives (None: nothing is left to record), again and again until the journal takes
        it; then drop the custody with `last` or `error`. `first` is durable before the entry is."""
        looked_again = False
        while not self._over:
            try:
                if first is not None:
                    await first()
                entry = make()
                if entry is not None:
                    await self._context.ledger.append(entry)
            except IllegalEntry as problem:
                # Cancelled, or expired, meanwhile: look again, or answer the agent that it is not its task any more.
                if isinstance(last, Ack) and not looked_again and self._is_cancelled():
                    looked_again = True
                    continue
                self._drop(Stale(), None)
                self._log.info(
                    "an outcome of {task} is stale: {error}", event="task.stale", task=self._task_id, error=problem
                )
            except ChorusError as problem:
                await self._wait(str(problem))
            else:
                self.recorded = True
                self._drop(last, error)

    def _is_cancelled(self) -> bool:
        task = self._context.ledger.machine.get(self._task_id)
        return task.state is State.CANCELLED and task.fence == self._fence

    async def _wait(self, problem: str) -> None:
        """Before the journal is asked again; shorter when the custody ends."""
        if self._over:
            return
        if self._waits_for != problem:
            self._waits_for = problem
            self._log.error("an outcome of {task} waits: {error}", task=self._task_id, error=problem)
        self._retry = deferLater(self._context.clock, APPEND_RETRY_S)
        try:
            await self._retry
        except CancelledError:
            pass
        finally:
            self._retry = None
