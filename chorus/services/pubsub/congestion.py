"""Publishers that wait until peers have caught up, so that what is said does not push out what was."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, succeed

from chorus.protocols.gossipsub.queue import MAX_QUEUE

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

QUEUE_ROOM: Final = MAX_QUEUE // 4
"""Bytes waiting for any peer above which publishers are asked to wait."""

PUBLISH_WAIT: Final = 5.0
"""Seconds a publisher is asked to wait at most: one peer that does not read must not stop everybody."""


class Congestion:
    """`queued` gives the bytes that wait, for each peer; `drained` is to be called whenever that may have shrunk."""

    def __init__(self, clock: IReactorTime, queued: Callable[[], list[int]]) -> None:
        self._clock = clock
        self._queued = queued
        self._waiters: dict[Deferred[None], IDelayedCall] = {}

    def ready(self) -> Deferred[None]:
        """Fires when no peer has more than `QUEUE_ROOM` bytes waiting, after `PUBLISH_WAIT` seconds at the latest."""
        if not self._is_congested():
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters[waiter] = self._clock.callLater(PUBLISH_WAIT, self._give_up, waiter)
        return waiter

    def drained(self) -> None:
        if self._waiters and not self._is_congested():
            self.release()

    def release(self) -> None:
        """Let everybody go on."""
        waiters, self._waiters = self._waiters, {}
        for waiter, timer in waiters.items():
            timer.cancel()
            waiter.callback(None)

    def _is_congested(self) -> bool:
        return any(size > QUEUE_ROOM for size in self._queued())

    def _give_up(self, waiter: Deferred[None]) -> None:
        del self._waiters[waiter]
        waiter.callback(None)
