"""Publishers wait until peers have caught up, so that new messages do not push out queued ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, succeed

from chorus.protocols.gossipsub.queue import MAX_QUEUE

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

QUEUE_ROOM: Final = MAX_QUEUE // 4
"""Bytes waiting for any peer above which publishers are asked to wait."""

PUBLISH_WAIT: Final = 5.0
"""Seconds a publisher is asked to wait at most: one peer that does not read must not stop everybody."""


class Congestion:
    """`queued` gives the bytes that wait, for each peer; `drained` is to be called whenever that may have shrunk."""

    def __init__(self, clock: IReactorTime, queued: Callable[[], list[int]]) -> None:
        self._clock = clock
        self._queued = queued
        self._waiters: dict[Deferred[None], None] = {}

    def ready(self) -> Deferred[None]:
        """Fires when no peer has more than `QUEUE_ROOM` bytes waiting, after `PUBLISH_WAIT` seconds at the latest."""
        if not self._is_congested():
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._waiters.pop)
        self._waiters[waiter] = None
        return waiter.addTimeout(PUBLISH_WAIT, self._clock, onTimeoutCancel=lambda *_: None)

    def drained(self) -> None:
        if self._waiters and not self._is_congested():
            self.release()

    def release(self) -> None:
        """Let everybody go on."""
        for waiter in list(self._waiters):
            # One that goes on may come back at once: it waits for the next time.
            if waiter in self._waiters:
                del self._waiters[waiter]
                waiter.callback(None)

    def _is_congested(self) -> bool:
        return any(size > QUEUE_ROOM for size in self._queued())
