"""One run in a bubblewrap sandbox: prepared in a thread, watched from the reactor, cleaned up in a thread."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.sandbox import cgroups, hints, processes
from chorus.sandbox.archive import archives
from chorus.sandbox.bubblewrap.arguments import (
    SHARED,
    Folders,
    Launch,
    Mode,
    launch_arguments,
    made_files,
    rlimits,
    sandbox_arguments,
)
from chorus.sandbox.bubblewrap.launch import Inherited, conceal, expose
from chorus.sandbox.bubblewrap.pipes import Exit, Pipe
from chorus.sandbox.commands import HELPER_ENVIRONMENT, tmpfs_mb
from chorus.sandbox.contract import Job, OutputSink, RunResult, SandboxUnavailable
from chorus.sandbox.files import workspace
from chorus.sandbox.files.gathering import Gathering
from chorus.sandbox.files.volumes import Volume, VolumeError
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.spool import Spool
from chorus.sandbox.uids import Uid
from chorus.sandbox.verdict import FLOOD_FACTOR, GRACE_S, HOST_GRACE_S, Facts, ForkBomb, verdict
from chorus.sandbox.workers import Pause, TimedOut
from chorus.tasks.terms import FINAL, Reason, StreamName

if TYPE_CHECKING:
    from chorus.sandbox.bubblewrap.backend import Bubblewrap

FILES_S = 300.0
"""Time limit of unpacking, collecting and removing a task's files."""

WATCH_S = 0.1
"""Between two looks at a sandbox's use of memory, processes and disk."""

POLL_S = 0.025
"""The same where no control group holds memory and processes: what is taken between two looks is not held."""

DISK_WATCH_S = 0.5
"""Between two walks through a folder that is no file system of its own."""

BLIND_S = 1.0
"""Before the next look after one that failed."""

DEATH_S = 10.0
"""How long a killed sandbox may take to be gone."""

STATUS_BYTES = 64 * 1024
"""Most that is read of bwrap's own status."""


@attrs.frozen
class Host:
    """What `probe` found out about this machine."""

    bwrap: str
    mode: Mode
    hierarchy: cgroups.Hierarchy | None
    filter: bytes | None
    caveats: tuple[str, ...]


@attrs.frozen
class _Prepared:
    """What the blocking part of a start made."""

    host: Host
    uid: int | None
    volume: Volume
    folders: Folders
    group: cgroups.Group | None
    caveats: tuple[str, ...]

    def holds(self, controller: str) -> bool:
        """A control group holds this."""
        return self.host.hierarchy is not None and controller not in self.host.hierarchy.missing


@attrs.frozen
class _Sample:
    """One look at a running sandbox."""

    usage: cgroups.Usage
    disk_full: bool | None
    """None where it was not looked at."""


class _Refused(Exception):
    """The run ends before it begins."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _not_kept(spool: Spool) -> str:
    """The machine's fault, not the task's: it is to run where there is space."""
    why = spool.failed.strerror if spool.failed is not None else ""
    return f"{spool.name} could not be kept on the disk of this agent: {why}"


class BubblewrapRun:
    """One run: prepared in a thread, watched from the reactor, cleaned up in a thread."""

    _log = Logger()

    def __init__(self, backend: Bubblewrap, name: str, job: Job, scratch: Path, sink: OutputSink) -> None:
        self.name = name
        self.result: Deferred[RunResult] = Deferred()
        self.began: Deferred[None] = Deferred()
        self.gone: list[Deferred[None]] = []
        self._backend = backend
        self._reactor = backend.reactor
        self._job = job
        self._scratch = scratch
        self._sink = sink
        self._box = Box(scratch / "box")
        self._place = backend.run_root / name
        self._stopped: tuple[Reason, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._inherited: Inherited | None = None
        self._ended: Deferred[None] = Deferred()
        self._spools: dict[str, Spool] = {}
        self._pipes: list[Pipe] = []
        self._usage = cgroups.Usage()
        self._memory_peak = 0.0
        self._disk_full = False
        self._memory_full = ""
        self._uid: Uid | None = None
        self._bomb = ForkBomb()
        self._disk_at = 0.0
        self._status = b""
        self._inner: int | None = None
        self._pause = Pause(backend.reactor)
        self._gathering = Gathering(backend.reactor)
        self._mark = f"{backend.marks}-{name.removeprefix(backend.prefix)}"
        sizes = tmpfs_mb(job.limits, backend.tmp_mb)
        self._tmpfs = {path: megabytes << 20 for path, megabytes in sizes.items()}

    # -- Run

    def begin(self) -> None:
        self._spend(self._live())

    def cancel(self, reason: Reason) -> None:
        self._stop(reason, "")

    def detach(self) -> None:
        """A sandbox that dies with its agent cannot be left behind: it is stopped."""
        self._stop(Reason.SANDBOX_UNAVAILABLE, "the agent stopped, and a bubblewrap sandbox ends with it")

    # -- the life of it

    def _spend(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: self._log.failure("run {name}", failure, name=self.name)
        )

    async def _live(self) -> None:
        started = self._backend.now()
        prepared: _Prepared | None = None
        exit_code: int | None = None
        elapsed = 0.0
        collected = None
        try:
            prepared = await self._call(self._prepare)
            if self._stopped is None:
                elapsed, exit_code = await self._execute(prepared)
        except _Refused as refused:
            self._stopped = self._stopped or (refused.reason, str(refused))
        except (OSError, VolumeError) as error:
            self._log.error("sandbox {name} failed: {error}", name=self.name, error=str(error))
            self._stopped = self._stopped or (Reason.SANDBOX_UNAVAILABLE, f"the machine failed: {error}")
        except Exception as error:
            self._log.failure("sandbox {name} failed", name=self.name)
            self._stopped = self._stopped or (Reason.SANDBOX_UNAVAILABLE, f"{type(error).__name__}: {error}")
            if isinstance(error, TimedOut):
                # Its thread is still at it, and may make more after the first removal.
                self._backend.remove_later(self._place, self._box.root)
        if prepared is not None:
            collected = await self._gathering.collect(
                lambda: self._call(workspace.gather, self._box, self._job, self._scratch),
                self._job.task_id,
                patient=self._stopped is None or self._stopped[0] in FINAL,
            )
        await self._leave(prepared)
        stopped, detail = self._stopped or (None, "")
        facts = Facts(
            exit_code=exit_code,
            elapsed_s=elapsed,
            stopped=stopped,
            stopped_detail=detail,
            oom_kills=self._usage.oom_kills,
            memory_peak=self._memory_peak,
            pids_refused=self._usage.pids_refused,
            pids_full=self._usage.pids >= self._job.limits.pids,
            disk_full=self._disk_full,
            memory_full=self._memory_full,
        )
        reason, text = verdict(facts, self._job.limits)
        text += await self._hint(reason, exit_code)
        out, err = self._spools.get("stdout"), self._spools.get("stderr")
        result = RunResult(
            reason=reason,
            exit_code=exit_code,
            detail=text,
            sandbox=self._backend.name,
            image=None,
            started_at=started,
            ended_at=self._backend.now(),
            stdout_bytes=out.kept if out else 0,
            stderr_bytes=err.kept if err else 0,
            truncated=tuple(spool.name for spool in (out, err) if spool and spool.truncated),
            artifacts=collected.artifacts if collected else (),
            artifacts_skipped=collected.skipped if collected else (),
            artifacts_skipped_total=collected.skipped_total if collected else 0,
            entries=collected.entries if collected else (),
            caveats=prepared.caveats if prepared else (),
            disk_enforcement=prepared.volume.enforcement if prepared else "none",
        )
        self.result.callback(result)
        for waiting in self.gone:
            waiting.callback(None)

    async def _hint(self, reason: Reason, exit_code: int | None) -> str:
        try:
            return str(await self._call(hints.hint, reason, exit_code, self._job, self._scratch, SHARED))
        except TimedOut:
            return ""

    async def _leave(self, prepared: _Prepared | None) -> None:
        """Remove what there is of the sandbox, however far it came."""
        for pipe in self._pipes:
            pipe.close()
        try:
            await self._call(self._clean, prepared)
        except (OSError, TimedOut) as error:
            self._log.warn("sandbox {name} is left to remove later: {error}", name=self.name, error=error)
            self._backend.remove_later(self._place, self._box.root)
        except Exception:
            self._log.failure("sandbox {name} could not be removed", name=self.name)
            self._backend.remove_later(self._place, self._box.root)
        finally:
            if self._uid is not None:
                self._uid.release()

    def _call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return self._backend.workers.call(FILES_S, function, *args)

    def _stop(self, reason: Reason, detail: str) -> None:
        if self._stopped is None and not self._ended.called:
            self._stopped = (reason, detail)
            self._kill()
        if self._ended.called:
            self._gathering.abandon()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(OSError):
                self._process.kill()

    # -- before (blocking)

    def _prepare(self) -> _Prepared:
        job, backend = self._job, self._backend
        try:
            host = backend.host()
        except RuntimeError as error:
            raise _Refused(Reason.SANDBOX_UNAVAILABLE, str(error)) from None
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        group = None
        try:
            self._uid = backend.take_uid()
            owner = self._uid.owner if self._uid else None
            volume = workspace.prepare(self._box, job.limits.disk_mb, owner)
            workspace.fill(self._box, job, owner, lambda: self._stopped is not None)
            folders = expose(self._box, self._place, host.mode)
            if host.hierarchy is not None:
                group = cgroups.Group(host.hierarchy, self.name)
                group.create(job.limits)
        except SandboxUnavailable as error:
            raise _Refused(Reason.SANDBOX_UNAVAILABLE, str(error)) from None
        except archives.BadArchive as error:
            raise _Refused(Reason.REFUSED, f"bad_archive: {error}") from None
        except archives.NoSpace:
            raise _Refused(Reason.DISK, f"the input does not fit the disk of {job.limits.disk_mb} MB") from None
        except archives.Interrupted:
            raise _Refused(Reason.CANCELLED, "") from None
        caveats = host.caveats
        if volume.enforcement == "poll":
            caveats += (f"disk_polled: no file system of its own ({volume.note}); measured every {DISK_WATCH_S} s",)
        return _Prepared(host, self._uid.number if self._uid else None, volume, folders, group, caveats)

    # -- during

    async def _execute(self, prepared: _Prepared) -> tuple[float, int | None]:
        began = self._reactor.seconds()
        limits = self._job.limits
        self._launch(prepared)
        self.began.callback(None)
        deadline = self._reactor.callLater(limits.timeout_s + GRACE_S + HOST_GRACE_S, self._stop, Reason.TIMEOUT, "")
        watching = Deferred.fromCoroutine(self._watch(prepared))
        await self._ended
        elapsed = self._reactor.seconds() - began
        self._pause.end()
        await watching
        if deadline.active():
            deadline.cancel()
        await self._call(self._bury, prepared)
        for pipe in self._pipes:
            pipe.drain()
            pipe.close()
        for spool in self._spools.values():
            spool.close()
            if spool.failed is not None and self._stopped is None:
                self._stopped = (Reason.SANDBOX_UNAVAILABLE, _not_kept(spool))
        return elapsed, self._exit_code(prepared)

    def _launch(self, prepared: _Prepared) -> None:
        host, limits, group = prepared.host, self._job.limits, prepared.group
        missing = cgroups.CONTROLLERS if host.hierarchy is None else host.hierarchy.missing
        lower = rlimits(limits, memory="memory" in missing)
        ends = {}
        job, folders, tmp_mb = self._job, prepared.folders, self._backend.tmp_mb
        inherited = Inherited(
            made_files(host.mode, job, prepared.uid),
            lambda files: sandbox_arguments(host.mode, job, folders, files, tmp_mb),
            host.filter,
        )
        self._inherited = inherited
        try:
            for name in ("stdout", "stderr"):
                read, ends[name] = os.pipe2(os.O_CLOEXEC)
                self._collect_stream(name, read)
            argv = launch_arguments(
                Launch(host.mode, host.bwrap, prepared.uid, self._backend.reroot),
                group.join_files if group else (),
                lower,
                limits,
                inherited.descriptors,
                count_pids="pids" in missing,
            )
            # From the reactor's thread, which lives as long as the agent: the sandbox dies with its parent thread.
            self._process = subprocess.Popen(
                argv,
                env={**HELPER_ENVIRONMENT, processes.MARK: self._mark},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=ends["stdout"],
                stderr=ends["stderr"],
                pass_fds=inherited.all,
            )
        finally:
            for end in ends.values():
                os.close(end)
            inherited.close_theirs()
        try:
            Exit(self._reactor, self._process.pid, self._reap)
        except OSError:
            # Nobody would see it end.
            self._process.kill()
            self._process.wait()
            raise

    def _collect_stream(self, name: StreamName, read: int) -> None:
        """Keep what comes out of a pipe; closes it if that cannot be."""
        try:
            spool = Spool(name, self._scratch / name, self._job.limits.output_mb << 20, self._sink)
            self._spools[name] = spool
            self._pipes.append(Pipe(self._reactor, read, spool, self._output_changed))
        except OSError:
            os.close(read)
            raise

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
        if not self._ended.called:
            self._ended.callback(None)

    def _output_changed(self) -> None:
        for spool in self._spools.values():
            if spool.failed is not None:
                if self._stopped is None:
                    self._log.error("{task} is stopped: {why}", task=self._job.task_id, why=_not_kept(spool))
                self._stop(Reason.SANDBOX_UNAVAILABLE, _not_kept(spool))
            elif spool.discarded > FLOOD_FACTOR * (self._job.limits.output_mb << 20):
                self._stop(Reason.OUTPUT, f"{spool.name} got more than {FLOOD_FACTOR} times what is kept of it")

    async def _watch(self, prepared: _Prepared) -> None:
        while not self._ended.called:
            try:
                sample, cost = await self._call(self._timed_sample, prepared)
            except (OSError, TimedOut) as error:
                # Out of descriptors, for one: what cannot be looked at now is at the next look.
                self._log.warn("sandbox {name} cannot be looked at: {error}", name=self.name, error=error)
                await self._pause.wait(BLIND_S)
                continue
            if not self._ended.called:
                self._judge(sample, prepared)
            # A tree of many processes takes long to look at: a tenth of a core is enough for that. Processor time, not
            # time: on a busy machine it must not look less often.
            polled = not (prepared.holds("memory") and prepared.holds("pids"))
            await self._pause.wait(max(POLL_S if polled else WATCH_S, 10 * cost))

    def _judge(self, sample: _Sample, prepared: _Prepared) -> None:
        limits, usage = self._job.limits, sample.usage
        self._note(sample, prepared)
        if prepared.volume.enforcement == "poll" and sample.disk_full:
            self._stop(Reason.DISK, f"it wrote more than {limits.disk_mb} MB")
        if not prepared.holds("pids") and usage.pids > limits.pids + cgroups.OVERHEAD_PIDS:
            self._stop(Reason.PIDS, f"it had more than {limits.pids} processes")
        if not prepared.holds("memory") and usage.memory > limits.memory_mb << 20:
            self._stop(Reason.OOM, f"it used more than {limits.memory_mb} MB of memory")
        if self._bomb.seen(sample.usage.pids_refused, self._reactor.seconds()):
            self._stop(Reason.PIDS, f"it keeps asking for more than {limits.pids} processes")

    def _note(self, sample: _Sample, prepared: _Prepared) -> None:
        self._usage = sample.usage
        if not prepared.holds("memory"):
            self._memory_peak = max(self._memory_peak, sample.usage.memory / (self._job.limits.memory_mb << 20))
        if sample.disk_full is not None:
            self._disk_full = sample.disk_full

    def _timed_sample(self, prepared: _Prepared) -> tuple[_Sample, float]:
        """With the seconds of processor time that it took."""
        began = time.thread_time()
        return self._sample(prepared), time.thread_time() - began

    def _sample(self, prepared: _Prepared) -> _Sample:
        self._read_status()
        usage = prepared.group.usage() if prepared.group is not None else cgroups.Usage()
        if not (prepared.holds("memory") and prepared.holds("pids")) and self._inner is not None:
            seen = processes.tree(self._inner)
            if not prepared.holds("memory"):
                usage = attrs.evolve(usage, memory=seen.with_files(processes.in_tmpfs(self._inner, self._tmpfs)))
            if not prepared.holds("pids"):
                usage = attrs.evolve(usage, pids=seen.pids)
        full: bool | None = None
        if prepared.volume.enforcement == "loop" or time.monotonic() - self._disk_at >= DISK_WATCH_S:
            held = self._unlinked(prepared)
            full = prepared.volume.full(held.disk)
            self._disk_at = time.monotonic()
            if not prepared.holds("memory"):
                usage = attrs.evolve(usage, memory=usage.memory + held.memory)
        return _Sample(usage, full)

    def _unlinked(self, prepared: _Prepared) -> processes.Unlinked:
        if prepared.volume.enforcement == "loop" or self._inner is None:
            # The file system counts them itself.
            return processes.Unlinked()
        return processes.unlinked(processes.descendants(self._inner), self._tmpfs)

    def _read_status(self) -> None:
        assert self._inherited is not None
        with contextlib.suppress(BlockingIOError, OSError):
            while len(self._status) < STATUS_BYTES and (data := os.read(self._inherited.report, 4096)):
                self._status += data
        if self._inner is None:
            self._inner = self._reported("child-pid")

    def _reported(self, field: str) -> int | None:
        for line in self._status.splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and isinstance(document.get(field), int):
                    return int(document[field])
        return None

    # -- after (blocking)

    def _bury(self, prepared: _Prepared) -> None:
        """Look once more, then wait until nothing of the sandbox is alive."""
        try:
            last = self._sample(prepared)
        except OSError as error:
            self._log.warn("sandbox {name} cannot be looked at: {error}", name=self.name, error=error)
        else:
            # The group is emptying by now: how many were there before tells more.
            usage = attrs.evolve(last.usage, pids=max(last.usage.pids, self._usage.pids), memory=self._usage.memory)
            self._note(attrs.evolve(last, usage=usage), prepared)
        self._memory_full = workspace.full_memory(self._box)
        if prepared.group is not None:
            prepared.group.kill()
        elif self._stopped is not None:
            # Killed at the wrong instant, one half of bwrap waits for the other for good.
            processes.kill_marked(self._mark)
        if self._inner is not None:
            deadline = time.monotonic() + DEATH_S
            while processes.alive(self._inner) and time.monotonic() < deadline:
                time.sleep(0.005)

    def _exit_code(self, prepared: _Prepared) -> int | None:
        code = self._reported("exit-code")
        if code is not None or self._stopped is not None:
            return code
        if self._usage.oom_kills:
            return 137
        text = (self._scratch / "stderr").read_bytes()[-300:].decode(errors="replace").strip()
        raise _Refused(Reason.SANDBOX_UNAVAILABLE, f"bubblewrap ended by itself: {text or 'no word why'}")

    def _clean(self, prepared: _Prepared | None) -> None:
        for spool in self._spools.values():
            spool.close()
        if self._inherited is not None:
            self._inherited.close()
        if prepared is not None and prepared.group is not None:
            prepared.group.remove()
        conceal(self._place)
        workspace.leave(self._box, self._scratch, lambda name: None)
