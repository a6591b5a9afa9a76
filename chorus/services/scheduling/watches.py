"""Watches of tasks' events: each delivers what is durable, in order, at the pace of its reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

if TYPE_CHECKING:
    from chorus.tasks.events import TaskEvent

PAGE = 64
"""Events a watcher reads from the store at once (each up to `MAX_EVENT_OUTPUT`, base64 when not text)."""


@attrs.frozen
class WatchedHistory:
    """The side of `TaskEvents` that watches read."""

    read: Callable[[str, int, int], Deferred[list[TaskEvent]]]
    """`read(task_id, after, limit)`."""
    is_complete: Callable[[str], bool]
    """True if the task is over and its events are all in the store."""
    unwatch: Callable[[Watch], None]


class Watch:
    """One `Subscription`. Idle (caught up), reading from the store, paused, or stopped."""

    _log = Logger()

    def __init__(
        self,
        history: WatchedHistory,
        task_id: str,
        after: int,
        deliver: Callable[[TaskEvent], None],
        ended: Callable[[], None],
    ) -> None:
        self._history = history
        self.task_id = task_id
        self._cursor = after
        self._deliver = deliver
        self._ended = ended
        self._paused = True
        self._reading = False
        self._behind = False
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._history.unwatch(self)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused and not self._stopped:
            self._paused = False
            self._read()

    def fresh(self, events: list[TaskEvent]) -> None:
        """New events are durable: pass them on when caught up, else they are read when their turn comes."""
        if self._stopped or self._paused:
            return
        if self._reading or events[0].id != self._cursor + 1:
            self._behind = True
            self._read()
            return
        if self._pass_on(events) and self._history.is_complete(self.task_id):
            self._end()

    def _pass_on(self, events: list[TaskEvent]) -> bool:
        """Deliver; false when the reader paused or stopped on the way."""
        for event in events:
            if self._stopped or self._paused:
                return False
            self._cursor = event.id
            self._deliver(event)
        return not self._stopped and not self._paused

    def _end(self) -> None:
        self.stop()
        self._ended()

    def _read(self) -> None:
        if not self._reading:
            self._reading = True
            Deferred.fromCoroutine(self._read_on()).addErrback(self._broken)

    def _broken(self, failure: object) -> None:
        self._reading = False
        self._log.failure("internal error in a watch of {task}", task=self.task_id, failure=failure)  # type: ignore[arg-type]
        if not self._stopped:
            self._end()

    async def _read_on(self) -> None:
        while not self._stopped and not self._paused:
            self._behind = False
            complete = self._history.is_complete(self.task_id)
            found = await self._history.read(self.task_id, self._cursor, PAGE)
            if self._stopped or self._paused:
                break
            if found:
                self._pass_on(found)
            elif complete:
                self._end()
            elif not self._behind:
                break
        self._reading = False
