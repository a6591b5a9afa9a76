"""Timers: one that is armed again and again for one thing, and one that runs a body periodically whatever it raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

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

    @property
    def at(self) -> float | None:
        """Seconds of the clock when it is due; None when it is not armed."""
        return None if self._call is None else self._call.getTime()

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


class Periodic:
    """Runs `body` every `interval()` seconds from `start` or `run` to `stop`. An exception of it is logged and counted,
    and the next time comes all the same."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, name: str, body: Callable[[], None], interval: Callable[[], float]) -> None:
        self.errors = 0
        self.timer = Timer(clock, self.run)
        self._clock = clock
        self._name = name
        self._body = body
        self._interval = interval
        self._running = False

    def start(self, first: float | None = None) -> None:
        """For the first time after `first` seconds, by default after one interval."""
        self._running = True
        self.timer.arm(self._interval() if first is None else first)

    def run(self) -> None:
        """Now, and from here on."""
        self._running = True
        self.timer.cancel()
        began = self._clock.seconds()
        try:
            self._body()
        except Exception:
            self.errors += 1
            self._log.failure("{name} failed", name=self._name)
        if self._running and not self.timer.armed:
            self.timer.arm(began + self._interval() - self._clock.seconds())

    def stop(self) -> None:
        self._running = False
        self.timer.cancel()
