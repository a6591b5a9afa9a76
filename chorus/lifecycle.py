"""Starting and stopping the parts of a node in order, each step named and limited in time.

`MultiService` starts its children without waiting for them and stops them all at once; a node needs an order both ways
(docs/architecture.md), so the root keeps one.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from chorus.errors import ChorusError, LocalError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class ExitStatus:
    """The exit status of a start that failed after twistd began to run the reactor, which twistd itself has no way
    to return."""

    def __init__(self) -> None:
        self._code = 0
        atexit.register(self._leave)

    def fail(self, code: int) -> None:
        """The process will end with `code`, unless it already has a worse one."""
        self._code = max(self._code, code)

    def _leave(self) -> None:
        if self._code:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)


class StepFailed(LocalError):
    """A step that the node cannot do without; the text is one line for a person."""

    code = "start_failed"


@attrs.frozen
class Step:
    """`start` and `stop` may return a Deferred. One that is not `fatal` may fail: a warning, and the node runs on."""

    name: str
    start: Callable[[], Any] | None = None
    stop: Callable[[], Any] | None = None
    limit_s: float = 10.0
    """Of starting, and of stopping."""
    fatal: bool = True


class Sequence:
    """Steps in their order; what was started is stopped in reverse."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._started: list[Step] = []

    async def start(self, step: Step) -> bool:
        """Run one step. Raises the step's own `ChorusError`, or `StepFailed`, when it is fatal; else says whether it
        succeeded. Cancelled, it raises `CancelledError`: the start is given up, which is no failure of the step."""
        self._started.append(step)
        if step.start is None:
            return True
        try:
            await self._limited(step.start, step.limit_s)
        except CancelledError:
            raise
        except Exception as error:
            if not step.fatal:
                self._log.warn("{step} is not available: {error}", step=step.name, error=_line(error))
                return False
            if isinstance(error, ChorusError):
                raise
            self._log.failure("{step} failed to start", step=step.name)
            raise StepFailed(f"{step.name} failed to start: {_line(error)}") from error
        self._log.debug("started {step}", step=step.name)
        return True

    async def stop(self, budget_s: float) -> None:
        """Stop in reverse, within `budget_s` seconds in all. A step that fails or overruns is logged by name and left
        behind; the ones after it still get a moment each."""
        deadline = self._clock.seconds() + budget_s
        while self._started:
            step = self._started.pop()
            if step.stop is None:
                continue
            limit = min(step.limit_s, max(0.5, deadline - self._clock.seconds()))
            try:
                await self._limited(step.stop, limit)
                self._log.debug("stopped {step}", step=step.name)
            except DeferredTimeout:
                self._log.error("{step} did not stop within {limit} s", step=step.name, limit=round(limit, 1))
            except Exception:
                self._log.failure("{step} failed to stop", step=step.name)

    def _limited(self, call: Callable[[], Any], limit_s: float) -> Deferred[Any]:
        done: Deferred[Any] = maybeDeferred(call)
        return done.addTimeout(limit_s, self._clock)


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
