"""Blocking work of the blobs, off the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorFromThreads

T = TypeVar("T")

THREADS = 4


class Offload(Protocol):
    """Runs blocking work off the reactor's thread."""

    def __call__(self, work: Callable[[], T]) -> Deferred[T]: ...


class ThreadOffload:
    """`Offload` on threads of its own."""

    def __init__(self, reactor: IReactorFromThreads, threads: int = THREADS) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, threads, "blobs")

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        return cast("Deferred[T]", deferToThreadPool(self._reactor, self._pool, work))

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Waits for what is running."""
        self._pool.stop()
