"""One run in a container: prepared in threads, watched from the reactor through files, removed in a thread.

The commands and the pump belong to the container, so a run goes on without this process and can be taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox import cgroups, hints
from chorus.sandbox.archive import archives
from chorus.sandbox.contract import ImageMissing, Job, OutputSink, RunResult, SandboxUnavailable
from chorus.sandbox.docker.box import Binding, Contained
from chorus.sandbox.docker.engine import EngineError
from chorus.sandbox.files import artifacts, workspace
from chorus.sandbox.files.gathering import Gathering
from chorus.sandbox.spool import Tail
from chorus.sandbox.verdict import FLOOD_FACTOR, GRACE_S, HOST_GRACE_S, Facts, ForkBomb, verdict
from chorus.sandbox.workers import Pause, TimedOut
from chorus.tasks.terms import FINAL, Reason

if TYPE_CHECKING:
    from chorus.sandbox.docker.backend import Docker

FILES_S = 300.0
"""Time limit of unpacking, collecting and removing a task's files."""

CONTAINER_S = 90.0
"""Time limit of making or removing a container."""

PROBE_S = 12.0
"""Time limit of a question to the engine."""

TAIL_S = 0.03
"""Between two looks at the output: what live means here."""

WATCH_S = 0.2
"""Between two looks at a sandbox's use of memory, processes and disk, and at whether its commands still run."""

DRAIN_S = 0.5
"""How long the pump may still write after the commands have ended."""

ENGINE_PATIENCE_S = 5.0
"""How long an engine may be silent in the middle of a run before the run ends as `sandbox_unavailable`."""


class _Refused(Exception):
    """The run ends before it begins."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@attrs.frozen
class _Sample:
    """One look at a running container."""

    usage: cgroups.Usage
    disk_full: bool
    running: bool
    exit_code: int | None
    memory_full: str = ""


class DockerRun:
    """`Run` in a container. With `kept` it takes over a run that another process of this agent began."""

    _log = Logger()

    def __init__(
        self,
        backend: Docker,
        job: Job,
        scratch: Path,
        sink: OutputSink,
        kept: tuple[Contained, Binding] | None = None,
        starts: tuple[int, int] = (0, 0),
    ) -> None:
        self.result: Deferred[RunResult] = Deferred()
        self.began: Deferred[None] = Deferred()
        self.gone: list[Deferred[None]] = []
        self.detached = False
        self.contained: Contained | None = None
        self._backend = backend
        self._reactor = backend.reactor
        self._job = job
        self._scratch = scratch
        self._sink = sink
        self._kept = kept
        self._starts = starts
        self._image = kept[0].image if kept else backend.images.image_for(job.language, job.image)
        self._stopped: tuple[Reason, str] | None = None
        self._over = False
        self._pause = Pause(backend.reactor)
        self._tail_pause = Pause(backend.reactor)
        self._tails: list[Tail] = []
        self._usage = cgroups.Usage()
        self._disk_full = False
        self._memory_full = ""
        self._bomb = ForkBomb()
        self._silent_since: float | None = None
        self._gathering = Gathering(backend.reactor)

    # -- Run

    def begin(self) -> None:
        self._spend(self._live())

    def cancel(self, reason: Reason) -> None:
        self._stop(reason, "")

    def detach(self) -> None:
        """The container goes on; whoever has its binding can take it over. Before there is one, it is removed."""
        if self.contained is None or not self._tails:
            self._stop(Reason.SANDBOX_UNAVAILABLE, "the agent stopped before the task had begun")
            return
        self.detached = True
        self._pause.stir()
        if self._over:
            self._gathering.abandon()

    # -- the life of it

    def _spend(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: self._log.failure("run {task}", failure, task=self._job.task_id)
        )

    def _call(self, limit: float, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return self._backend.workers.call(limit, function, *args)

    async def _live(self) -> None:
        started = self._backend.now()
        exit_code: int | None = None
        elapsed = 0.0
        try:
            binding = await self._enter()
            started = binding.started_at
            if self._stopped is None:
                exit_code = await self._follow(binding)
            elapsed = self._backend.now() - started
        except _Refused as refused:
            self._stopped = self._stopped or (refused.reason, str(refused))
        except ImageMissing as error:
            self._stopped = self._stopped or (Reason.IMAGE_MISSING, str(error))
        except (ChorusError, TimedOut) as error:
            self._stopped = self._stopped or (Reason.SANDBOX_UNAVAILABLE, str(error))
        except Exception as error:
            self._log.failure("the sandbox of {task} failed", task=self._job.task_id)
            self._stopped = self._stopped or (Reason.SANDBOX_UNAVAILABLE, f"{type(error).__name__}: {error}")
        self._over = True
        self._tail_pause.end()
        if self.detached:
            for tail in self._tails:
                tail.close()
            if self.contained is not None:
                self.contained.release()
            self._backend.runs.discard(self)
            self._say_gone()
            return
        self.result.callback(await self._leave(started, elapsed, exit_code))
        self._say_gone()

    def _is_stopped(self) -> bool:
        return self._stopped is not None

    def _say_gone(self) -> None:
        for waiting in self.gone:
            waiting.callback(None)

    def _stop(self, reason: Reason, detail: str) -> None:
        if self._stopped is None and not self._over:
            self._stopped = (reason, detail)
            if self.contained is not None:
                # At once, before the engine is asked: its answer may take a while, and it may be away.
                self.contained.kill_now()
            self._pause.stir()
        if self._over:
            self._gathering.abandon()

    # -- before

    async def _enter(self) -> Binding:
        if self._kept is not None:
            self.contained, binding = self._kept
            self._follow_output(self.contained)
            return binding
        try:
            return await self._begin(await self._container(warm=True))
        except (EngineError, SandboxUnavailable):
            found, self.contained = self.contained, None
            if found is None or not found.warm or self._stopped is not None:
                self.contained = found
                raise
        # It died while it waited, which only shows now: once more in a new one.
        await self._backend.discard(found)
        return await self._begin(await self._container(warm=False))

    async def _container(self, *, warm: bool) -> Contained:
        await self._call(FILES_S, partial(self._scratch.mkdir, mode=0o700, parents=True, exist_ok=True))
        found = await self._backend.container_for(self._job, self._image, warm=warm)
        self.contained = found
        if self._stopped is not None:
            raise _Refused(*self._stopped)
        return found

    async def _begin(self, found: Contained) -> Binding:
        containers, job = self._backend.containers, self._job
        try:
            await self._call(FILES_S, containers.fill, found, job, self._is_stopped)
        except archives.BadArchive as error:
            raise _Refused(Reason.REFUSED, f"bad_archive: {error}") from None
        except archives.NoSpace:
            raise _Refused(Reason.DISK, f"the input does not fit the disk of {job.limits.disk_mb} MB") from None
        except archives.Interrupted:
            raise _Refused(Reason.CANCELLED, "") from None
        if self._stopped is not None:
            raise _Refused(*self._stopped)
        if not self.began.called:
            self.began.callback(None)
        # Output may come before the call that started it returns.
        begun: Deferred[Binding] = self._call(CONTAINER_S, containers.begin, found, job, self._backend.now())
        self._follow_output(found)
        return await begun

    def _follow_output(self, found: Contained) -> None:
        cap = self._job.limits.output_mb << 20
        out, err = self._starts
        for tail in self._tails:
            tail.close()
        following = bool(self._tails)
        self._tails = [
            Tail("stdout", found.out / "stdout", cap, self._sink, out),
            Tail("stderr", found.out / "stderr", cap, self._sink, err),
        ]
        if not following:
            self._spend(self._tail())

    # -- during

    async def _tail(self) -> None:
        """Hand output on while the run lasts."""
        while not (self._over or self.detached):
            busy = sum([tail.poll() for tail in self._tails])
            if self.contained is not None and self.contained.marked("drained"):
                self._pause.stir()
            await self._tail_pause.wait(0 if busy else TAIL_S)

    async def _follow(self, binding: Binding) -> int | None:
        """Until the commands have ended: their exit code. None when the run was stopped or detached."""
        limits = self._job.limits
        left = binding.started_at + limits.timeout_s + GRACE_S + HOST_GRACE_S - self._backend.now()
        deadline = self._reactor.callLater(max(left, 0.0), self._stop, Reason.TIMEOUT, "")
        try:
            while self._stopped is None and not self.detached:
                sample = await self._look(binding)
                if sample is not None:
                    self._judge(sample)
                    if not sample.running:
                        await self._drained()
                        return sample.exit_code
                await self._pause.wait(WATCH_S)
        finally:
            if deadline.active():
                deadline.cancel()
        return None

    async def _look(self, binding: Binding) -> _Sample | None:
        """None while the engine is silent; it may come back for a while."""
        assert self.contained is not None
        try:
            sample: _Sample = await self._call(CONTAINER_S, self._sample, self.contained, binding)
        except (SandboxUnavailable, TimedOut, OSError) as error:
            self._silent_since = self._silent_since or self._reactor.seconds()
            if self.contained.gone() or self._reactor.seconds() - self._silent_since > ENGINE_PATIENCE_S:
                self._stop(Reason.SANDBOX_UNAVAILABLE, f"the engine went away: {error}")
            return None
        except EngineError as error:
            # The container or the execution is unknown: somebody removed it, or the engine forgot it in a restart.
            self._stop(Reason.SANDBOX_UNAVAILABLE, f"the container is gone: {error}")
            return None
        if not sample.running and sample.exit_code is None:
            # Taken over from an agent that was killed just before it started the commands.
            self._stop(Reason.SANDBOX_UNAVAILABLE, "the commands never began")
            return None
        self._silent_since = None
        return sample

    def _sample(self, found: Contained, binding: Binding) -> _Sample:
        usage, full = found.usage(), found.disk_full()
        running, code = self._backend.containers.engine.execution(binding.execution)
        if not running:
            last = found.usage()
            usage = attrs.evolve(last, pids=max(last.pids, usage.pids))
            if not usage.oom_kills and code and self._backend.containers.oom_killed(found):
                usage = attrs.evolve(usage, oom_kills=1)
            full = found.disk_full() or full
        memory_full = "" if running else workspace.full_memory(found.box)
        return _Sample(usage, full, running, code, memory_full)

    def _judge(self, sample: _Sample) -> None:
        limits, before = self._job.limits, self._usage
        pids = sample.usage.pids if sample.running else max(before.pids, sample.usage.pids)
        self._usage = attrs.evolve(sample.usage, pids=pids)
        self._disk_full = sample.disk_full
        self._memory_full = sample.memory_full
        if not sample.running:
            return
        found = self.contained
        if found is not None and found.volume.enforcement == "poll" and sample.disk_full:
            self._stop(Reason.DISK, f"it wrote more than {limits.disk_mb} MB")
        for tail in self._tails:
            if found is not None and found.marked(f"{tail.name}.flood"):
                self._stop(Reason.OUTPUT, f"{tail.name} got more than {FLOOD_FACTOR} times what is kept of it")
        self._judge_output()
        if self._bomb.seen(sample.usage.pids_refused, self._reactor.seconds()):
            self._stop(Reason.PIDS, f"it keeps asking for more than {limits.pids} processes")

    def _judge_output(self) -> None:
        cap = self._job.limits.output_mb << 20
        for tail in self._tails:
            if self.contained is not None and self.contained.output_lost(tail.name, cap):
                # The machine's fault, not the task's: it is to run where there is space.
                detail = f"{tail.name} could not be kept on the disk of this agent"
                self._stop(Reason.SANDBOX_UNAVAILABLE, detail)

    async def _drained(self) -> None:
        """The commands are over; what they wrote may still be in the pipes. Processes left behind hold those open, so
        this waits only so long."""
        found = self.contained
        deadline = self._reactor.seconds() + DRAIN_S
        while found is not None and not found.marked("drained") and self._reactor.seconds() < deadline:
            await self._pause.wait(0.01)
        for tail in self._tails:
            # A flood ends here too: its pump writes a mark and nothing else.
            if found is not None and found.marked(f"{tail.name}.flood"):
                self._stop(Reason.OUTPUT, f"{tail.name} got more than {FLOOD_FACTOR} times what is kept of it")

        self._judge_output()

    # -- after

    async def _leave(self, started: float, elapsed: float, exit_code: int | None) -> RunResult:
        found = self.contained
        collected: artifacts.Collected | None = None
        truncated: tuple[Any, ...] = ()
        if found is not None:
            found.kill_now()
            while any([tail.poll() for tail in self._tails]):
                pass
            truncated = tuple(tail.name for tail in self._tails if found.marked(f"{tail.name}.cut"))
            await self._remove(found)
            for tail in self._tails:
                # Once more, now that nobody writes any more.
                while tail.poll():
                    pass
                tail.close()
            collected = await self._gathering.collect(
                lambda: self._call(FILES_S, workspace.gather, found.box, self._job, self._scratch),
                self._job.task_id,
                patient=self._stopped is None or self._stopped[0] in FINAL,
            )
            try:
                await self._call(FILES_S, workspace.leave, found.box, self._scratch, lambda name: found.out / name)
            except Exception:
                self._log.failure("the folder of {task} could not be removed", task=self._job.task_id)
        stopped, detail = self._stopped or (None, "")
        facts = Facts(
            exit_code=exit_code,
            elapsed_s=elapsed,
            stopped=stopped,
            stopped_detail=detail,
            oom_kills=self._usage.oom_kills,
            pids_refused=self._usage.pids_refused,
            pids_full=self._usage.pids >= self._job.limits.pids,
            disk_full=self._disk_full,
            memory_full=self._memory_full,
        )
        reason, text = verdict(facts, self._job.limits)
        text += await self._hint(reason, exit_code)
        caveats = self._backend.containers.caveats
        if found is not None and found.volume.enforcement == "poll":
            caveats += (f"disk_polled: no file system of its own ({found.volume.note}); measured every {WATCH_S} s",)
        kept = {tail.name: tail.kept for tail in self._tails}
        return RunResult(
            reason=reason,
            exit_code=exit_code,
            detail=text,
            sandbox=self._backend.name,
            image=self._image,
            started_at=started,
            ended_at=self._backend.now(),
            stdout_bytes=kept.get("stdout", 0),
            stderr_bytes=kept.get("stderr", 0),
            truncated=truncated,
            artifacts=collected.artifacts if collected else (),
            artifacts_skipped=collected.skipped if collected else (),
            artifacts_skipped_total=collected.skipped_total if collected else 0,
            entries=collected.entries if collected else (),
            caveats=caveats,
            disk_enforcement=found.volume.enforcement if found else "none",
        )

    async def _hint(self, reason: Reason, exit_code: int | None) -> str:
        try:
            return str(await self._call(PROBE_S, hints.hint, reason, exit_code, self._job, self._scratch))
        except TimedOut:
            return ""

    async def _remove(self, found: Contained) -> None:
        try:
            await self._call(CONTAINER_S, self._backend.containers.remove, found)
        except (ChorusError, TimedOut) as error:
            self._log.warn("container {id} is left to remove later: {error}", id=found.id[:12], error=error)
            # Its processes are dead (their first one was killed here) where this machine let us; wait for that.
            deadline = time.monotonic() + 2.0
            while not found.gone() and found.handle >= 0 and time.monotonic() < deadline:
                await self._pause.wait(0.05)
            self._backend.remove_later(found.id)
