"""Base cases of the test suite."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str) -> Any:
    """The published vectors in `tests/vectors/<name>` (each file names its source and licence)."""
    return json.loads((VECTORS / name).read_text())


class _Plain(SynchronousTestCase):
    """An `async def` test would pass without running, so it is refused."""

    def run(self, result: Any) -> Any:
        if inspect.iscoroutinefunction(getattr(self, self._testMethodName)):
            raise TypeError(f"{self.id()} is async: use twisted.trial.unittest.TestCase")
        return super().run(result)


class ProcessTestCase(_Plain):
    """A test that starts real processes and waits for them without a reactor. `scripts/run_tests.py` gives it a second
    run when it fails, as to every test that is no `PureTestCase`."""


class PureTestCase(_Plain):
    """A test of logic, without a reactor, processes and sockets.

    A `Clock` from `self.clock()` must be empty of delayed calls when the test ends.
    """

    def clock(self) -> Clock:
        """A fake clock; delayed calls left on it fail the test."""
        clock = Clock()

        def check() -> None:
            left = [call for call in clock.getDelayedCalls() if call.active()]
            self.assertEqual(left, [], "delayed calls were left behind")

        self.addCleanup(check)
        return clock

    _measure = math.inf

    def assert_cheap(self, work: Callable[[], object], yardsticks: float) -> None:
        """`work` takes at most so many times the processor time of `yardstick`, which is measured in the same test.

        Neither a machine that is slow nor one that is busy fails it: three tries are given, each with a measure of its
        own. Name five times what the work takes, or more: this tells orders of growth apart, not speeds.
        """
        ratio = math.inf
        for attempt in range(3):
            taken = processor_time(work)
            if attempt or self._measure is math.inf:
                self._measure = processor_time(yardstick)
            ratio = min(ratio, taken / self._measure)
            if ratio <= yardsticks:
                return
        self.fail(f"it took {ratio:.1f} times the yardstick, and {yardsticks:g} are allowed")


YARDSTICK_TURNS = 50_000


def yardstick() -> int:
    """Plain work of the interpreter: a few milliseconds on a machine of 2026."""
    total = 0
    for turn in range(YARDSTICK_TURNS):
        total += turn & 7
    return total


def processor_time(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
