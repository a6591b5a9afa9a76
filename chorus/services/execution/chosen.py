"""A run that chooses its sandbox before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.sandbox.contract import Begins, ImageMissing, Job, OutputSink, Run, RunResult, SandboxUnavailable
from chorus.sandbox.selection import Selection
from chorus.tasks.terms import Reason

if TYPE_CHECKING:
    from twisted.python.failure import Failure


class ChosenRun:
    """A run whose backend is chosen first."""

    _log = Logger()

    def __init__(
        self,
        selection: Selection,
        job: Job,
        scratch: Path,
        sink: OutputSink,
        now: Callable[[], float],
    ) -> None:
        self.result: Deferred[RunResult] = Deferred()
        self.began: Deferred[None] = Deferred()
        self._run: Run | None = None
        self._stopped: Reason | None = None
        self._now = now
        Deferred.fromCoroutine(self._go(selection, job, scratch, sink)).addErrback(self._broke)

    def cancel(self, reason: Reason) -> None:
        self._stopped = self._stopped or reason
        if self._run is not None:
            self._run.cancel(reason)

    def detach(self) -> None:
        if self._run is not None:
            self._run.detach()
        else:
            self.cancel(Reason.SANDBOX_UNAVAILABLE)

    async def _go(self, selection: Selection, job: Job, scratch: Path, sink: OutputSink) -> None:
        try:
            backend, _ = await selection.choose(job)
        except ImageMissing as error:
            self._never(Reason.IMAGE_MISSING, str(error), error.image)
            return
        except SandboxUnavailable as error:
            self._never(Reason.SANDBOX_UNAVAILABLE, str(error), None)
            return
        if self._stopped is not None:
            self._never(self._stopped, "stopped before it began", None)
            return
        self._run = backend.start(job, scratch, sink)
        if isinstance(self._run, Begins):
            self._run.began.chainDeferred(self.began)
        else:
            self.began.callback(None)
        self._run.result.chainDeferred(self.result)

    def _never(self, reason: Reason, detail: str, image: str | None) -> None:
        at = self._now()
        self.result.callback(RunResult(reason, None, detail, "none", image, at, at))

    def _broke(self, failure: Failure) -> None:
        self._log.failure("a sandbox could not be chosen", failure)
        self._never(Reason.SANDBOX_UNAVAILABLE, failure.getErrorMessage(), None)
