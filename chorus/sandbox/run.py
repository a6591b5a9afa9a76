"""The skeleton of a sandbox run: make, start, watch, judge, stop, gather, clean up, result.

An engine is a subclass that fills in what differs (docs/sandbox.md, "A third engine"). Blocking work is done in threads
of the site, and everything else on the reactor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox import hints
from chorus.sandbox.archive.archives import BadArchive, Interrupted, NoSpace
from chorus.sandbox.cgroups import ResourceUsage
from chorus.sandbox.contract import ImageMissing, Job, OutputSink, RunResult
from chorus.sandbox.files import workspace
from chorus.sandbox.files.artifacts import Collected
from chorus.sandbox.files.gathering import Gathering
from chorus.sandbox.files.volumes import Volume, VolumeError
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.verdict import FLOOD_FACTOR, GRACE_S, HOST_GRACE_S, Facts, ForkBomb, verdict
from chorus.sandbox.workers import Pause, TimedOut, Workers
from chorus.tasks.terms import FINAL, Reason, StreamName
from chorus.timer import Timer

HINT_S = 12.0
"""Seconds for the line that tells why a command may have failed: a result does not wait longer for that."""
FILES_S = 300.0
"""Time limit of unpacking, collecting and removing a task's files."""


@attrs.frozen
class Site:
    """The part of a backend that its runs use."""

    name: str
    """As results name the sandbox."""
    reactor: Any
    workers: Workers
    now: Callable[[], float]
    """Unix seconds."""


@attrs.frozen
class Look:
    """One look at a sandbox."""

    usage: ResourceUsage
    disk_full: bool | None = None
    """None where it was not looked at."""
    running: bool = True
    """The commands still run. The last look, when they do not, is noted and stops nothing."""
    memory_full: str = ""
    """The file system in memory that was full when a command failed: known to the last look."""


class OutputStream(Protocol):
    """A stream of output, as far as its run knows it."""

    name: StreamName
    kept: int
    """Bytes."""

    @property
    def truncated(self) -> bool: ...


class Ended(Exception):
    """The run ends here, for this reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class SandboxRun(ABC):
    """One run, by whatever engine. The methods without a body, and those that say so, are the engine's."""

    _log = Logger()

    shared: ClassVar[Sequence[str]] = ()
    """Folders of the machine that the task sees as they are."""
    disk_watch_s: ClassVar[float]
    """Seconds between two looks at a disk that is measured."""

    def __init__(self, site: Site, job: Job, scratch: Path, sink: OutputSink) -> None:
        self.result: Deferred[RunResult] = Deferred()
        self.began: Deferred[None] = Deferred()
        self.gone: Deferred[None] = Deferred()
        """Fires when this is over, with a result or detached."""
        self.detached = False
        self._site = site
        self._job = job
        self._scratch = scratch
        self._sink = sink
        self._image: str | None = None
        self._caveats: tuple[str, ...] = ()
        self._streams: Sequence[OutputStream] = ()
        self._started_at = site.now()
        self._ran_before = 0.0
        """Seconds for which the commands had run when this took them over."""
        self._elapsed = 0.0
        self._exit_code: int | None = None
        self._stopped: tuple[Reason, str] | None = None
        self._over = False
        """Stopping has no effect any more on how it ended."""
        self._usage = ResourceUsage()
        self._memory_peak = 0.0
        self._disk_full = False
        self._memory_full = ""
        self._bomb = ForkBomb()
        self._pause = Pause(site.reactor)
        self._gathering = Gathering(site.reactor)

    # -- the engine's part

    @abstractmethod
    async def _make(self) -> None:
        """Make the sandbox, with the job's input in it or ready for it."""

    @abstractmethod
    async def _start(self) -> None:
        """Start the commands, and call `began`."""

    @abstractmethod
    def _watched(self) -> bool:
        """True while the commands run, as far as is known: look again."""

    @abstractmethod
    async def _look(self) -> tuple[Look | None, float]:
        """Look at it (None where that was not possible), and the seconds until the next look."""

    @abstractmethod
    def _judge_more(self, look: Look) -> None:
        """Stop it for whatever only this engine has to watch."""

    @abstractmethod
    async def _commands_over(self) -> None:
        """The commands have ended, or nobody waits for that: set `_exit_code` and `_elapsed`."""

    @abstractmethod
    def _kill(self) -> None:
        """Kill all that runs, without waiting for anything."""

    @abstractmethod
    def _disk(self) -> tuple[Box, Volume] | None:
        """The box and its disk, once they are made."""

    @abstractmethod
    async def _settle(self) -> None:
        """Nothing of the task may be alive, nor write, when this returns: its output is collected next."""

    @abstractmethod
    async def _clean_up(self) -> None:
        """Remove all that is left of the sandbox, however far it came. Raises nothing."""

    def _let_go(self) -> None:  # noqa: B027
        """It was detached: close what this process has of it."""

    def _thread_hangs(self) -> None:  # noqa: B027
        """A blocking call did not come back, and may still make something after the removal."""

    # -- Run

    def begin(self) -> None:
        self._spend(self._live())

    def cancel(self, reason: Reason) -> None:
        self._stop(reason)

    def detach(self) -> None:
        """A sandbox that ends with its agent cannot be left behind: it is stopped."""
        self._stop(Reason.SANDBOX_UNAVAILABLE, f"the agent stopped, and a {self._site.name} sandbox ends with it")

    # -- its life

    async def _live(self) -> None:
        try:
            await self._make()
            self._check()
            await self._start()
            await self._follow()
        except Exception as error:
            self._blame(*self._meaning(error))
            if isinstance(error, TimedOut):
                self._log.error("a blocking call for {task} hangs: {error}", task=self._job.task_id, error=error)
                self._thread_hangs()
        self._over = True
        if self.detached:
            self._let_go()
        else:
            self.result.callback(await self._come_to_result())
        self.gone.callback(None)

    def _check(self) -> None:
        """Raises `Ended` if it was stopped meanwhile."""
        if self._stopped is not None:
            raise Ended(*self._stopped)

    def _is_stopped(self) -> bool:
        return self._stopped is not None

    def _meaning(self, error: Exception) -> tuple[Reason, str]:
        match error:
            case Ended():
                return error.reason, str(error)
            case BadArchive():
                return Reason.REFUSED, f"bad_archive: {error}"
            case NoSpace():
                return Reason.DISK, f"the input does not fit the disk of {self._job.limits.disk_mb} MB"
            case Interrupted():
                return Reason.CANCELLED, ""
            case ImageMissing():
                return Reason.IMAGE_MISSING, str(error)
            case ChorusError() | TimedOut():
                return Reason.SANDBOX_UNAVAILABLE, str(error)
            case OSError() | VolumeError():
                self._log.error("the sandbox of {task} failed: {error}", task=self._job.task_id, error=str(error))
                return Reason.SANDBOX_UNAVAILABLE, f"the machine failed: {error}"
        self._log.failure("the sandbox of {task} failed", task=self._job.task_id)
        return Reason.SANDBOX_UNAVAILABLE, f"{type(error).__name__}: {error}"

    def _spend(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: self._log.failure("internal error in the run of {task}", failure, task=self._job.task_id)
        )

    def _call(self, function: Callable[..., Any], *args: Any, limit: float = FILES_S) -> Deferred[Any]:
        return self._site.workers.call(limit, function, *args)

    # -- stop

    def _stop(self, reason: Reason, detail: str = "") -> None:
        if self._over:
            self._gathering.abandon()
        elif self._stopped is None:
            self._stopped = (reason, detail)
            self._kill()
            self._pause.stir()

    def _blame(self, reason: Reason, detail: str) -> None:
        """It ended for this reason, unless there is one already."""
        self._stopped = self._stopped or (reason, detail)

    def _timed_out(self) -> None:
        if not self._over:
            self._stop(Reason.TIMEOUT)

    def _stop_for_flood(self, stream: str) -> None:
        self._stop(Reason.OUTPUT, f"{stream} got more than {FLOOD_FACTOR} times what is kept of it")

    # -- watch and judge

    async def _follow(self) -> None:
        deadline = Timer(self._site.reactor, self._timed_out)
        deadline.arm(self._job.limits.timeout_s + GRACE_S + HOST_GRACE_S - self._ran_before)
        try:
            while self._watched():
                look, pause = await self._look()
                if look is not None:
                    self._judged(look)
                if self._watched():
                    await self._pause.wait(pause)
            await self._commands_over()
        finally:
            deadline.cancel()

    def _judged(self, look: Look) -> None:
        try:
            self._judge(look)
        except Exception as error:
            # It must not go on unwatched, nor be taken for ended.
            self._stop(*self._meaning(error))

    def _judge(self, look: Look) -> None:
        self._note(look)
        if not look.running:
            return
        limits, disk = self._job.limits, self._disk()
        if look.disk_full and disk is not None and disk[1].enforcement == "poll":
            self._stop(Reason.DISK, f"it wrote more than {limits.disk_mb} MB")
        self._judge_more(look)
        if self._bomb.seen(look.usage.pids_refused, self._site.reactor.seconds()):
            self._stop(Reason.PIDS, f"it keeps asking for more than {limits.pids} processes")

    def _note(self, look: Look) -> None:
        before, self._usage = self._usage, look.usage
        if not look.running:
            # Its processes are ending by now: how many there were before tells more.
            pids = max(before.pids, look.usage.pids)
            self._usage = attrs.evolve(look.usage, pids=pids, memory=before.memory)
        if look.disk_full is not None:
            self._disk_full = look.disk_full
        self._memory_full = look.memory_full

    # -- gather and result

    async def _come_to_result(self) -> RunResult:
        await self._settle()
        disk, collected = self._disk(), Collected()
        if disk is not None:
            collected = await self._gathering.collect(
                lambda: self._call(workspace.gather, disk[0], self._job, self._scratch),
                self._job.task_id,
                patient=self._stopped is None or self._stopped[0] in FINAL,
            )
        await self._clean_up()
        reason, detail = verdict(self._facts(), self._job.limits)
        caveats = self._caveats
        if disk is not None and disk[1].enforcement == "poll":
            every = f"measured every {self.disk_watch_s} s"
            caveats += (f"disk_polled: no file system of its own ({disk[1].note}); {every}",)
        kept = {stream.name: stream.kept for stream in self._streams}
        return RunResult(
            reason=reason,
            exit_code=self._exit_code,
            detail=detail + await self._hint(reason),
            sandbox=self._site.name,
            image=self._image,
            started_at=self._started_at,
            ended_at=self._site.now(),
            stdout_bytes=kept.get("stdout", 0),
            stderr_bytes=kept.get("stderr", 0),
            truncated=tuple(stream.name for stream in self._streams if stream.truncated),
            artifacts=collected.artifacts,
            artifacts_skipped=collected.skipped,
            artifacts_skipped_total=collected.skipped_total,
            entries=collected.entries,
            caveats=caveats,
            disk_enforcement=disk[1].enforcement if disk is not None else "none",
        )

    def _facts(self) -> Facts:
        stopped, detail = self._stopped or (None, "")
        return Facts(
            exit_code=self._exit_code,
            elapsed_s=self._elapsed,
            stopped=stopped,
            stopped_detail=detail,
            oom_kills=self._usage.oom_kills,
            memory_peak=self._memory_peak,
            pids_refused=self._usage.pids_refused,
            pids_full=self._usage.pids >= self._job.limits.pids,
            disk_full=self._disk_full,
            memory_full=self._memory_full,
        )

    async def _hint(self, reason: Reason) -> str:
        try:
            asked = (reason, self._exit_code, self._job, self._scratch, self.shared)
            return str(await self._call(hints.hint, *asked, limit=HINT_S))
        except TimedOut:
            return ""


RunT = TypeVar("RunT", bound=SandboxRun)


class Runs(set[RunT]):
    """The runs of one backend that are not over."""

    def begin(self, run: RunT) -> RunT:
        self.add(run)
        for over in (run.result, run.gone):
            over.addCallback(self._forget, run)
        run.begin()
        return run

    async def end(self, stop: Callable[[RunT], None]) -> None:
        """Stop each; return when all are gone."""
        ending = [run.gone for run in self]
        for run in list(self):
            stop(run)
        await gatherResults(ending)

    def _forget(self, result: Any, run: RunT) -> Any:
        self.discard(run)
        return result
