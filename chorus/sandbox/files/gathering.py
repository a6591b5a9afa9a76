"""Collects a run's deliverables before its sandbox is removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.files import is_shortage
from chorus.sandbox.files.artifacts import Collected
from chorus.sandbox.workers import Pause

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

RETRY_S = 1.0
"""Between attempts to collect while the machine's disk is full."""


class Gathering:
    """`abandon` ends the waiting: whoever wanted the deliverables does not wait any more."""

    _log = Logger()

    def __init__(self, reactor: IReactorTime) -> None:
        self._pause = Pause(reactor)
        self._abandoned = False

    def abandon(self) -> None:
        self._abandoned = True
        self._pause.end()

    async def collect(self, attempt: Callable[[], Awaitable[Collected]], task: str, *, patient: bool) -> Collected:
        """Collects by `attempt`. While the machine lacks disk or descriptors it is tried again, for as long as that
        takes, unless nobody is `patient` enough for it. Never raises; what went wrong is among the skipped."""
        said = False
        while True:
            try:
                return await attempt()
            except OSError as error:
                problem = error.strerror or str(error)
                if not is_shortage(error):
                    self._log.error("the output of {task} cannot be read: {error}", task=task, error=problem)
                    return Collected(skipped=(f"the output could not be read: {problem}",))
            except Exception:
                self._log.failure("the output of {task} cannot be collected", task=task)
                return Collected(skipped=("the output could not be read",))
            if not patient or self._abandoned:
                return Collected(skipped=(f"the output could not be kept: {problem}",))
            if not said:
                said = True
                self._log.error(
                    "the output of {task} waits: {error}", event="sandbox.output_waits", task=task, error=problem
                )
            await self._pause.wait(RETRY_S)
