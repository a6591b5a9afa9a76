"""Invariants, checked during a run. Observers look and change nothing.

A violation is noted where it is seen, often deep inside a callback that would swallow an exception, and raised by
`Judge.check`, which the world calls between events.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from chorus.simulation.world import SECOND, World

UNHANDLED: Final = "Unhandled error in Deferred"
"""Twisted's headline; the event with the failure itself follows it."""


@attrs.frozen
class Violation:
    invariant: str
    """`part.name`, as docs/simulation.md lists them."""
    detail: str
    ns: int
    """True time."""

    def __str__(self) -> str:
        return f"{self.invariant} at {self.ns / SECOND:.6f} s: {self.detail}"


class Violated(Exception):
    """An invariant does not hold."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


class Judge:
    """Collects violations; `check` raises the first."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.first: Violation | None = None

    def accuse(self, invariant: str, detail: str) -> None:
        if self.first is None:
            self.first = Violation(invariant, detail, self._world.now_ns)

    def require(self, holds: bool, invariant: str, detail: Callable[[], str]) -> None:
        if not holds:
            self.accuse(invariant, detail())

    def check(self) -> None:
        """Raises `Violated`."""
        if self.first is not None:
            raise Violated(self.first)


class ErrorWatch:
    """`whole.errors`: nothing is logged as a failure, and no Deferred ends in an error that nobody takes."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._observer: Any = self._logged

    def __enter__(self) -> ErrorWatch:
        # What was left behind by others is not this run's.
        gc.collect()
        globalLogPublisher.addObserver(self._observer)
        return self

    def __exit__(self, *exception: object) -> None:
        globalLogPublisher.removeObserver(self._observer)

    def collect(self) -> None:
        """Deferreds that nobody holds any more say now what nobody heard."""
        gc.collect()

    def _logged(self, event: LogEvent) -> None:
        level: Any = event.get("log_level")
        failure: Any = event.get("log_failure")
        if failure is not None:
            self._judge.accuse("whole.errors", f"{formatEvent(event)}: {failure.getTraceback()}")
        elif level is not None and level >= LogLevel.critical and not formatEvent(event).startswith(UNHANDLED):
            self._judge.accuse("whole.errors", formatEvent(event))
