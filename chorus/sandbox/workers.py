"""Blocking calls of the sandbox, in threads of their own, each with a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

P = ParamSpec("P")
T = TypeVar("T")


class TimedOut(Exception):
    """A blocking call did not come back in time; its thread may still be at it."""


class Pause:
    """Waiting on the reactor that can be cut short, and ended for good: then nothing waits any more."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._waiting: Deferred[None] | None = None
        self._ended = False

    async def wait(self, seconds: float) -> None:
        if self._ended:
            return
        self._waiting = Deferred()
        timer = self._reactor.callLater(seconds, self.stir)
        await self._waiting
        if timer.active():
            timer.cancel()

    def stir(self) -> None:
        """End the wait under way."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def end(self) -> None:
        self._ended = True
        self.stir()


class Workers:
    """A named thread pool. Threads are daemons: one that hangs in a dead engine must not hold up the exit."""

    def __init__(self, reactor: IReactorTime, name: str, threads: int = 8) -> None:
        self._reactor: Any = reactor
        self._pool = ThreadPool(0, threads, name)
        self._pool.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        self._started = False

    def call(self, limit: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """`function` in a thread; fails with `TimedOut` after `limit` seconds."""
        if not self._started:
            self._started = True
            self._pool.start()
        outcome: Deferred[T] = deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)
        name = getattr(function, "__name__", "call")

        def late(value: object, seconds: float) -> T:
            from twisted.python.failure import Failure

            if isinstance(value, Failure) and isinstance(value.value, CancelledError):
                raise TimedOut(f"{name} did not answer within {seconds:g} s")
            return value  # type: ignore[return-value]

        outcome.addTimeout(limit, self._reactor, onTimeoutCancel=late)
        return outcome

    def stop(self) -> None:
        """Let idle threads go; one that is busy ends with its call."""
        if self._started:
            self._started = False
            # stop() joins, which would block the reactor on a thread that hangs.
            threading.Thread(target=self._pool.stop, daemon=True).start()
