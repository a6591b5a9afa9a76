"""Base cases of the test suite."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str) -> Any:
    """The published vectors in `tests/vectors/<name>` (each file names its source and licence)."""
    return json.loads((VECTORS / name).read_text())


class PureTestCase(SynchronousTestCase):
    """A test without a reactor.

    An `async def` test would pass without running, so it is refused; a `Clock` from `self.clock()` must be empty of
    delayed calls when the test ends.
    """

    def run(self, result: Any) -> Any:
        if inspect.iscoroutinefunction(getattr(self, self._testMethodName)):
            raise TypeError(f"{self.id()} is async: use twisted.trial.unittest.TestCase")
        return super().run(result)

    def clock(self) -> Clock:
        """A fake clock; delayed calls left on it fail the test."""
        clock = Clock()

        def check() -> None:
            left = [call for call in clock.getDelayedCalls() if call.active()]
            self.assertEqual(left, [], "delayed calls were left behind")

        self.addCleanup(check)
        return clock
