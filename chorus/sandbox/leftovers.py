"""Remains of sandboxes that could not be removed: tried again until nothing is left of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox.workers import TimedOut
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")

LEFTOVERS_S = 5.0
"""Between two attempts: descriptors ran out, something dying still held it, or the engine was away."""


class Leftovers(Generic[T]):
    """`remove` is tried on each until it succeeds. `alike`: what keeps one from going keeps all (an engine is away)."""

    _log = Logger()

    def __init__(self, reactor: IReactorTime, remove: Callable[[T], Deferred[None]], *, alike: bool = False) -> None:
        self._remove = remove
        self._alike = alike
        self._left: set[T] = set()
        self._timer = Timer(reactor, self._due)
        self._sweeping = False
        self._closed = False

    def add(self, item: T) -> None:
        self._left.add(item)
        self._arm()

    def close(self) -> None:
        """Try no more by itself."""
        self._closed = True
        self._timer.cancel()

    async def sweep(self) -> None:
        """Try all once, now."""
        for item in list(self._left):
            try:
                await self._remove(item)
            except (ChorusError, OSError, TimedOut) as error:
                self._log.warn("{item} cannot be removed: {error}", item=str(item), error=error)
                if self._alike:
                    break
            else:
                self._left.discard(item)

    def _arm(self) -> None:
        if self._left and not (self._closed or self._sweeping or self._timer.armed):
            self._timer.arm(LEFTOVERS_S)

    def _due(self) -> None:
        self._sweeping = True
        sweep = Deferred.fromCoroutine(self.sweep())
        sweep.addErrback(lambda failure: self._log.failure("a sandbox could not be removed", failure))
        sweep.addCallback(self._swept)

    def _swept(self, _: None) -> None:
        self._sweeping = False
        self._arm()
