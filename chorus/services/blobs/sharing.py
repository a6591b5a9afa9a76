"""Shared work: one writer at a time for a blob, one transfer for many callers, work that outlives its caller."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredLock

if TYPE_CHECKING:
    from chorus.identity import PeerId

T = TypeVar("T")


class BlobLock:
    """One at a time for one blob; forgets itself when nobody holds or awaits it."""

    def __init__(self, sha256: str, locks: dict[str, BlobLock]) -> None:
        self._sha256 = sha256
        self._locks = locks
        self._lock = DeferredLock()
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._locks.pop(self._sha256, None)


class SharedFetch:
    """One transfer for several callers."""

    def __init__(
        self, running: Deferred[Path], limit: int, holders: Sequence[PeerId], over: Callable[[], object]
    ) -> None:
        self._running = running
        self._limit = limit
        self._holders = frozenset(holders)
        self._waiting: list[Deferred[Path]] = []
        self._result: object = None
        self._over = over
        self.done = False
        running.addBoth(self._finished)

    def covers(self, limit: int, holders: Sequence[PeerId]) -> bool:
        return limit == self._limit and self._holders.issuperset(holders)

    def wait(self) -> Deferred[Path]:
        waiter: Deferred[Path] = Deferred(self._cancelled)
        if self.done:
            waiter.callback(cast("Path", self._result))
        else:
            self._waiting.append(waiter)
        return waiter

    def cancel(self) -> None:
        self._running.cancel()

    def _cancelled(self, waiter: Deferred[Path]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            if not self._waiting and not self.done:
                self._running.cancel()

    def _finished(self, result: object) -> None:
        self.done = True
        self._result = result
        self._over()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(cast("Path", result))


def detached(work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
    """Cancelling the result stops the waiting, not the work, which must not be left half done."""
    waiter: Deferred[T] = Deferred()
    Deferred.fromCoroutine(work).addBoth(waiter.callback)
    return waiter
