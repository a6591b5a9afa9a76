"""A wait between two tries, which ends early once nobody wants the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class Patience:
    """For one who waits at a time; `wanted` is asked before every wait."""

    def __init__(self, clock: IReactorTime, wanted: Callable[[], bool]) -> None:
        self._clock = clock
        self._wanted = wanted
        self._waiting: Deferred[None] | None = None

    @property
    def waits(self) -> bool:
        """True while somebody waits."""
        return self._waiting is not None

    def check(self) -> None:
        """Raises `CancelledError` once there is nothing to wait for any more."""
        if not self._wanted():
            raise CancelledError

    async def wait(self, seconds: float) -> None:
        """Raises `CancelledError` when it is given up, or should not begin."""
        self.check()
        self._waiting = deferLater(self._clock, seconds)
        try:
            await self._waiting
        finally:
            self._waiting = None

    def give_up(self) -> None:
        """End the wait under way, if there is one."""
        if self._waiting is not None:
            self._waiting.cancel()
