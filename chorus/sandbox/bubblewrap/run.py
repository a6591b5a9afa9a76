"""One run in a bubblewrap sandbox: its processes end with this one, and its output comes through pipes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import attrs

from chorus.sandbox import cgroups, processes
from chorus.sandbox.bubblewrap.arguments import (
    SHARED,
    Folders,
    Launch,
    launch_arguments,
    made_files,
    rlimits,
    sandbox_arguments,
)
from chorus.sandbox.bubblewrap.launch import Inherited, conceal, expose
from chorus.sandbox.bubblewrap.machine import Abilities
from chorus.sandbox.bubblewrap.pipes import Exit, Pipe
from chorus.sandbox.bubblewrap.site import BubblewrapSite
from chorus.sandbox.bubblewrap.watching import DISK_WATCH_S, Watching
from chorus.sandbox.commands import HELPER_ENVIRONMENT
from chorus.sandbox.contract import Job, OutputSink
from chorus.sandbox.files import workspace
from chorus.sandbox.files.volumes import Volume
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.run import Ended, Look, SandboxRun
from chorus.sandbox.spool import PipeSpool
from chorus.sandbox.uids import Uid
from chorus.sandbox.verdict import FLOOD_FACTOR
from chorus.sandbox.workers import TimedOut
from chorus.tasks.terms import Reason, StreamName

WATCH_S = 0.1
"""Between two looks at a sandbox's use of memory, processes and disk."""

POLL_S = 0.025
"""The same where no control group holds memory and processes: what is taken between two looks is not held."""

BLIND_S = 1.0
"""Before the next look after one that failed."""

DEATH_S = 10.0
"""How long a killed sandbox may take to be gone."""


@attrs.frozen
class _Prepared:
    """The sandbox before its first process."""

    host: Abilities
    uid: int | None
    volume: Volume
    folders: Folders
    group: cgroups.ControlGroup | None


class BubblewrapRun(SandboxRun):
    """`Run` of a sandbox that ends with its agent. `name` is that of its control group and of its mount."""

    shared = SHARED
    disk_watch_s = DISK_WATCH_S
    _site: BubblewrapSite

    def __init__(self, site: BubblewrapSite, name: str, job: Job, scratch: Path, sink: OutputSink) -> None:
        super().__init__(site, job, scratch, sink)
        self.name = name
        self._box = Box(scratch / "box")
        self._place = site.machine.run_root / name
        self._mark = f"{site.machine.marks}-{name.removeprefix(site.machine.prefix)}"
        self._uid: Uid | None = None
        self._prepared: _Prepared | None = None
        self._watching: Watching | None = None
        self._inherited: Inherited | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._launched_at = 0.0
        self._spools: list[PipeSpool] = []
        self._streams = self._spools
        self._pipes: list[Pipe] = []

    # -- make

    async def _make(self) -> None:
        self._prepared = prepared = await self._call(self._prepare)
        self._caveats = prepared.host.caveats
        self._watching = Watching(
            prepared.group, prepared.host.missing, prepared.volume, self._job.limits, self._site.tmp_mb
        )

    def _prepare(self) -> _Prepared:
        """Blocking."""
        job, host = self._job, self._site.machine.abilities()
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._uid = self._site.take_uid()
        owner = self._uid.owner if self._uid else None
        volume = workspace.prepare(self._box, job.limits.disk_mb, owner)
        workspace.fill(self._box, job, owner, self._is_stopped)
        folders = expose(self._box, self._place, host.mode)
        group = None
        if host.hierarchy is not None:
            group = cgroups.ControlGroup(host.hierarchy, self.name)
            group.create(job.limits)
        return _Prepared(host, self._uid.number if self._uid else None, volume, folders, group)

    def _disk(self) -> tuple[Box, Volume] | None:
        return None if self._prepared is None else (self._box, self._prepared.volume)

    # -- start

    async def _start(self) -> None:
        assert self._prepared is not None
        self._launched_at = self._site.reactor.seconds()
        self._launch(self._prepared)
        self.began.callback(None)

    def _launch(self, prepared: _Prepared) -> None:
        host, job, group, tmp_mb = prepared.host, self._job, prepared.group, self._site.tmp_mb
        self._inherited = inherited = Inherited(
            made_files(host.mode, job, prepared.uid),
            lambda files: sandbox_arguments(host.mode, job, prepared.folders, files, tmp_mb),
            host.filter,
        )
        ends: dict[StreamName, int] = {}
        names: tuple[StreamName, StreamName] = ("stdout", "stderr")
        try:
            for name in names:
                read, ends[name] = os.pipe2(os.O_CLOEXEC)
                self._collect_stream(name, read)
            argv = launch_arguments(
                Launch(host.mode, host.bwrap, prepared.uid, self._site.machine.reroot),
                group.join_files if group else (),
                rlimits(job.limits, memory="memory" in host.missing),
                job.limits,
                inherited.descriptors,
                count_pids="pids" in host.missing,
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
            Exit(self._site.reactor, self._process.pid, self._reap)
        except OSError:
            # Nobody would see it end.
            self._process.kill()
            self._process.wait()
            raise

    def _collect_stream(self, name: StreamName, read: int) -> None:
        """Keep what comes out of a pipe; closes it if that cannot be."""
        try:
            spool = PipeSpool(name, self._scratch / name, self._job.limits.output_mb << 20, self._sink)
            self._spools.append(spool)
            self._pipes.append(Pipe(self._site.reactor, read, spool, self._output_changed))
        except OSError:
            os.close(read)
            raise

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
        self._elapsed = self._site.reactor.seconds() - self._launched_at
        self._over = True
        self._pause.stir()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(OSError):
                self._process.kill()

    # -- watch and judge

    def _watched(self) -> bool:
        return not self._over

    async def _look(self) -> tuple[Look | None, float]:
        assert self._watching is not None
        try:
            look, cost = await self._call(self._watching.timed, self._inherited)
        except (OSError, TimedOut) as error:
            # Out of descriptors, for one: what cannot be looked at now is at the next look.
            self._log.warn("sandbox {name} cannot be measured: {error}", name=self.name, error=error)
            return None, BLIND_S
        except Exception as error:
            self._stop(*self._meaning(error))
            return None, BLIND_S
        # A tree of many processes takes long to look at: a tenth of a core is enough for that. Processor time, not
        # time: on a busy machine it must not look less often.
        return None if self._over else look, max(POLL_S if self._watching.polled else WATCH_S, 10 * cost)

    def _judge_more(self, look: Look) -> None:
        limits, usage = self._job.limits, look.usage
        missing = self._prepared.host.missing if self._prepared is not None else ()
        if "pids" in missing and usage.pids > limits.pids + cgroups.OVERHEAD_PIDS:
            self._stop(Reason.PIDS, f"it had more than {limits.pids} processes")
        if "memory" in missing:
            self._memory_peak = max(self._memory_peak, usage.memory / (limits.memory_mb << 20))
            if usage.memory > limits.memory_mb << 20:
                self._stop(Reason.OOM, f"it used more than {limits.memory_mb} MB of memory")

    def _output_changed(self) -> None:
        for spool in self._spools:
            if spool.failed is not None:
                if self._stopped is None:
                    self._log.error("{task} is stopped: {why}", task=self._job.task_id, why=_not_kept(spool))
                self._stop(Reason.SANDBOX_UNAVAILABLE, _not_kept(spool))
            elif spool.discarded > FLOOD_FACTOR * (self._job.limits.output_mb << 20):
                self._stop_for_flood(spool.name)

    # -- its end

    async def _commands_over(self) -> None:
        self._note(await self._call(self._await_exit))
        for pipe in self._pipes:
            pipe.drain()
            pipe.close()
        for spool in self._spools:
            spool.close()
            if spool.failed is not None:
                self._blame(Reason.SANDBOX_UNAVAILABLE, _not_kept(spool))
        self._exit_code = self._find_exit_code()

    def _await_exit(self) -> Look:
        """Look once more, then wait until nothing of the sandbox is alive. Blocking."""
        assert self._prepared is not None and self._watching is not None and self._inherited is not None
        try:
            last = self._watching.look(self._inherited)
        except OSError as error:
            self._log.warn("sandbox {name} cannot be measured: {error}", name=self.name, error=error)
            last = Look(self._usage)
        memory_full = workspace.full_memory(self._box)
        if self._prepared.group is not None:
            self._prepared.group.kill()
        elif self._stopped is not None:
            # Killed at the wrong instant, one half of bwrap waits for the other for good.
            processes.kill_marked(self._mark)
        if (inner := self._watching.inner) is not None:
            deadline = time.monotonic() + DEATH_S
            while processes.alive(inner) and time.monotonic() < deadline:
                time.sleep(0.005)
        return attrs.evolve(last, running=False, memory_full=memory_full)

    def _find_exit_code(self) -> int | None:
        code = self._inherited.reported("exit-code") if self._inherited is not None else None
        if code is not None or self._stopped is not None:
            return code
        if self._usage.oom_kills:
            return 137
        text = (self._scratch / "stderr").read_bytes()[-300:].decode(errors="replace").strip()
        raise Ended(Reason.SANDBOX_UNAVAILABLE, f"bubblewrap ended by itself: {text or 'no word why'}")

    async def _settle(self) -> None:
        """Nothing is left to do: `_await_exit` has waited for its processes."""

    async def _clean_up(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        try:
            await self._call(self._remove)
        except Exception as error:
            if isinstance(error, OSError | TimedOut):
                self._log.warn("sandbox {name} could not be removed yet: {error}", name=self.name, error=error)
            else:
                self._log.failure("sandbox {name} could not be removed", name=self.name)
            self._thread_hangs()
        finally:
            if self._uid is not None:
                self._uid.release()

    def _thread_hangs(self) -> None:
        self._site.leftovers.add((self._place, self._box.root))

    def _remove(self) -> None:
        """Blocking."""
        for spool in self._spools:
            spool.close()
        if self._inherited is not None:
            self._inherited.close()
        if self._prepared is not None and self._prepared.group is not None:
            self._prepared.group.remove()
        conceal(self._place)
        workspace.leave(self._box, self._scratch, lambda name: None)


def _not_kept(spool: PipeSpool) -> str:
    """The machine's fault, not the task's: it is to run where there is space."""
    why = spool.failed.strerror if spool.failed is not None else ""
    return f"{spool.name} could not be kept on the disk of this agent: {why}"
