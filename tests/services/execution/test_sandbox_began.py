"""A run says when its commands begin, through whatever chose its sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from chorus.sandbox.contract import Begins, RunResult, SandboxUnavailable
from chorus.services.execution.sandbox import SandboxService
from chorus.tasks.terms import Reason
from tests.sandbox.support import shell
from tests.support import PureTestCase

RESULT = RunResult(Reason.EXIT, 0, "", "docker", None, 1.0, 2.0)


class PlainRun:
    def __init__(self) -> None:
        self.result: Deferred[RunResult] = Deferred()

    def cancel(self, reason: Reason) -> None:
        """Nothing runs."""

    def detach(self) -> None:
        """Nothing runs."""


class SayingRun(PlainRun):
    def __init__(self) -> None:
        super().__init__()
        self.began: Deferred[None] = Deferred()


class OneBackend:
    name = "docker"

    def __init__(self, run: Any, problem: str | None = None) -> None:
        self._run = run
        self._problem = problem

    def probe(self) -> Deferred[str | None]:
        return succeed(self._problem)

    def has_image(self, job: Any) -> Deferred[bool]:
        return succeed(True)

    def start(self, *_: Any) -> Any:
        if self._problem is not None:
            raise SandboxUnavailable(self._problem)
        return self._run


class BeganTest(PureTestCase):
    def start(self, run: Any, problem: str | None = None) -> Any:
        backend: Any = OneBackend(run, problem)
        service = SandboxService(self.clock(), {"docker": backend}, mode="docker")
        return service.start(shell("true"), Path("unused"), lambda *_: None)

    def test_as_soon_as_the_sandbox_says_so(self) -> None:
        inner = SayingRun()
        run = self.start(inner)
        self.assertIsInstance(run, Begins)
        self.assertNoResult(run.began)
        inner.began.callback(None)
        self.successResultOf(run.began)
        self.assertNoResult(run.result)
        inner.result.callback(RESULT)
        self.assertEqual(self.successResultOf(run.result), RESULT)

    def test_at_once_where_the_sandbox_does_not_tell(self) -> None:
        run = self.start(PlainRun())
        self.assertNotIsInstance(PlainRun(), Begins)
        self.successResultOf(run.began)

    def test_never_without_a_sandbox(self) -> None:
        run = self.start(SayingRun(), "no engine answers")
        self.assertEqual(self.successResultOf(run.result).reason, Reason.SANDBOX_UNAVAILABLE)
        self.assertNoResult(run.began)
