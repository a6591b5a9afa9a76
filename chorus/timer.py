"""A timer that is armed again and again for one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Timer:
    """Calls `due` once after it was armed; arming it anew takes the place of the time before."""

    def __init__(self, clock: IReactorTime, due: Callable[[], None]) -> None:
        self._clock = clock
        self._due = due
        self._call: IDelayedCall | None = None

    @property
    def armed(self) -> bool:
        return self._call is not None

    def arm(self, seconds: float) -> None:
        """A time that is past already counts as now."""
        self.cancel()
        self._call = self._clock.callLater(max(0.0, seconds), self._passed)

    def cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _passed(self) -> None:
        self._call = None
        self._due()
