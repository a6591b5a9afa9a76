"""The skeleton of a sandbox run, with an engine that runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from chorus.sandbox import hints
from chorus.sandbox.archive.limits import BadArchive, Interrupted, NoSpace
from chorus.sandbox.cgroups import ResourceUsage
from chorus.sandbox.contract import ImageMissing, RunResult, SandboxUnavailable
from chorus.sandbox.files.volumes import VolumeError
from chorus.sandbox.run import HINT_S, Look, Runs, SandboxRun, Site
from chorus.sandbox.verdict import GRACE_S, HOST_GRACE_S, PIDS_PATIENCE_S
from chorus.sandbox.workers import TimedOut
from chorus.tasks.terms import Reason
from tests.sandbox.support import shell
from tests.support import PureTestCase


class AtOnce:
    """Workers without threads."""

    def __init__(self) -> None:
        self.limits: dict[Any, float] = {}

    def call(self, limit: float, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        self.limits[function] = limit
        return maybeDeferred(function, *args)


class NothingRun(SandboxRun):
    disk_watch_s = 1.0
    fails: Exception | None = None
    errors: Exception | None = None

    def __init__(self, clock: Clock, **limits: Any) -> None:
        site = Site("nothing", clock, AtOnce(), clock.seconds)  # type: ignore[arg-type]
        super().__init__(site, shell("true", limits=limits), Path("unused"), lambda *_: None)
        self.made: Deferred[None] = Deferred()
        self.looks = [Look(ResourceUsage())]
        self.ends_with: int | None = None
        self.steps: list[str] = []

    async def _make(self) -> None:
        self.steps.append("make")
        await self.made

    async def _start(self) -> None:
        self.steps.append("start")
        if self.fails is not None:
            raise self.fails
        self.began.callback(None)

    def _watched(self) -> bool:
        return self._stopped is None and self.ends_with is None

    async def _look(self) -> tuple[Look | None, float]:
        return self.looks[0] if len(self.looks) == 1 else self.looks.pop(0), 1.0

    def _judge_more(self, look: Look) -> None:
        if self.errors is not None:
            raise self.errors

    async def _commands_over(self) -> None:
        self.steps.append("over")
        self._exit_code = self.ends_with

    def _kill(self) -> None:
        self.steps.append("kill")

    def _disk(self) -> None:
        return None

    async def _settle(self) -> None:
        self.steps.append("settle")

    async def _clean_up(self) -> None:
        self.steps.append("clean up")


class SkeletonTests(PureTestCase):
    def run_of(self, **limits: Any) -> NothingRun:
        self.time = Clock()
        self.runs: Runs[NothingRun] = Runs()
        return self.runs.begin(NothingRun(self.time, **limits))

    def result(self, run: NothingRun) -> RunResult:
        result: RunResult = self.successResultOf(run.result)
        self.successResultOf(run.gone)
        self.assertEqual(list(self.runs), [])
        return result

    def test_from_beginning_to_end(self) -> None:
        run = self.run_of()
        run.made.callback(None)
        self.successResultOf(run.began)
        self.time.advance(1.0)
        self.assertNoResult(run.result)
        run.ends_with = 0
        self.time.advance(1.0)
        result = self.result(run)
        self.assertEqual((result.reason, result.exit_code, result.sandbox), (Reason.EXIT, 0, "nothing"))
        self.assertEqual(run.steps, ["make", "start", "over", "settle", "clean up"])
        self.assertEqual((run._site.workers.limits[hints.hint], HINT_S), (12.0, 12.0))  # type: ignore[attr-defined]
        self.assertEqual(self.time.getDelayedCalls(), [])

    def test_stopped_before_it_starts(self) -> None:
        run = self.run_of()
        run.cancel(Reason.CANCELLED)
        run.cancel(Reason.LEASE_LOST)
        run.made.callback(None)
        self.assertEqual(self.result(run).reason, Reason.CANCELLED)
        self.assertNoResult(run.began)
        self.assertEqual(run.steps, ["make", "kill", "settle", "clean up"])

    def test_the_time_limit_from_outside(self) -> None:
        run = self.run_of(timeout_s=10.0)
        run.made.callback(None)
        self.time.advance(10.0 + GRACE_S + HOST_GRACE_S)
        self.assertEqual(self.result(run).reason, Reason.TIMEOUT)
        self.assertEqual(run.steps, ["make", "start", "kill", "over", "settle", "clean up"])

    def test_a_fork_bomb(self) -> None:
        run = self.run_of()
        run.looks = [Look(ResourceUsage(pids_refused=count)) for count in range(1, 10)]
        run.made.callback(None)
        self.time.pump([0.5] * int(4 * PIDS_PATIENCE_S + 4))
        self.assertEqual(self.result(run).reason, Reason.PIDS)

    def test_an_internal_error_in_a_look_stops_it_and_waits_for_its_end(self) -> None:
        run = self.run_of()
        run.made.callback(None)
        run.errors = KeyError("x")
        self.time.advance(1.0)
        self.assertEqual(self.result(run).reason, Reason.SANDBOX_UNAVAILABLE)
        self.assertEqual(run.steps, ["make", "start", "kill", "over", "settle", "clean up"])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_a_stop_of_the_agent(self) -> None:
        run = self.run_of()
        run.made.callback(None)
        ended = Deferred.fromCoroutine(self.runs.end(NothingRun.detach))
        self.successResultOf(ended)
        result = self.result(run)
        self.assertEqual(result.reason, Reason.SANDBOX_UNAVAILABLE)
        self.assertIn("a nothing sandbox ends with it", result.detail)

    def test_what_an_error_means(self) -> None:
        for error, reason, logged in (
            (BadArchive("x"), Reason.REFUSED, 0),
            (NoSpace("x"), Reason.DISK, 0),
            (Interrupted(), Reason.CANCELLED, 0),
            (ImageMissing("image", "hint"), Reason.IMAGE_MISSING, 0),
            (SandboxUnavailable("x"), Reason.SANDBOX_UNAVAILABLE, 0),
            (TimedOut("x"), Reason.SANDBOX_UNAVAILABLE, 0),
            (OSError(5, "x"), Reason.SANDBOX_UNAVAILABLE, 0),
            (VolumeError("x"), Reason.SANDBOX_UNAVAILABLE, 0),
            (KeyError("x"), Reason.SANDBOX_UNAVAILABLE, 1),
        ):
            run = self.run_of()
            run.fails = error
            run.made.callback(None)
            self.assertEqual(self.result(run).reason, reason, error)
            self.assertEqual(run.steps, ["make", "start", "settle", "clean up"])
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), logged, error)
