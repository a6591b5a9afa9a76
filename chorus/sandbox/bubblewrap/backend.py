"""The sandbox of a machine without an engine: bubblewrap, control groups where they can be written, and a BPF filter.

Holds the contract of `contract.py` as far as this machine lets it; what it cannot hold is named in the result's
`caveats`. A sandbox dies with its agent (`--die-with-parent`), so there is nothing to adopt after a restart, and
nothing left over but folders, mounts and empty groups, which `reconcile` removes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from chorus.sandbox import cgroups, processes
from chorus.sandbox.bubblewrap import seccomp
from chorus.sandbox.bubblewrap.arguments import AS_ROOT, Launch, Mode, launch_arguments, made_files, sandbox_arguments
from chorus.sandbox.bubblewrap.launch import Inherited, can_reroot, conceal, dismantle, expose, in_chroot
from chorus.sandbox.bubblewrap.run import FILES_S, BubblewrapRun, Host
from chorus.sandbox.commands import HELPER_ENVIRONMENT
from chorus.sandbox.contract import Job, OutputSink, Run, RunResult
from chorus.sandbox.files import volumes, workspace
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.uids import TASK_UIDS, Uid, Uids
from chorus.sandbox.workers import TimedOut, Workers
from chorus.tasks.terms import Limits

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

NAME = "bubblewrap"

INSTALL = "apt-get install bubblewrap"

PROBE_S = 15.0

LEFTOVERS_S = 5.0
"""Between two attempts to remove what could not be removed: descriptors ran out, or something dying still held it."""


def _caveats(mode: Mode, hierarchy: cgroups.Hierarchy | None, filtered: bool) -> tuple[str, ...]:
    found = [
        "host_tools: the programs are this machine's own, not an image's",
        "no_takeover: a restart of the agent ends the task",
    ]
    if mode in AS_ROOT:
        found.append("no_user_namespace: none may be made here; the task runs as another user without any privilege")
    if mode == "chroot":
        found.append(
            "in_chroot: the file systems around this chroot stay in the sandbox's mount namespace, out of its reach"
        )
    missing = cgroups.CONTROLLERS if hierarchy is None else hierarchy.missing
    for name, text in (
        (
            "memory",
            "memory_polled: no control group; measured every 25 ms, and not what no process has in use",
        ),
        ("pids", "pids_polled: no control group; processes are counted every 25 ms"),
        ("cpu", "cpu_unlimited: no control group; the share of the processor is not held"),
    ):
        if name in missing:
            found.append(text)
    if not filtered:
        found.append("no_seccomp: no filter of system calls for this processor")
    return tuple(found)


def _why(problems: list[str]) -> str:
    """One line on why no mode works."""
    if in_chroot():
        return "this is a chroot, whose root is no mount (start from a container, or bind-mount the root onto itself)"
    return f"{problems[-1]} (docs/sandbox.md says what has to be allowed)"


class Bubblewrap:
    """`Backend` over the `bwrap` command. `state` is a folder of this agent's own for what must outlive a killed agent
    (here: only names); `run_root` is where a root agent mounts boxes so that the task's user can reach them."""

    name = NAME
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        agent_id: str,
        *,
        path: str = os.environ.get("PATH", os.defpath),
        run_root: Path = Path("/run/chorus-sandbox"),
        tmp_mb: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.reactor: Any = reactor
        self.now = now
        self.run_root = run_root
        self.reroot = run_root / "root"
        self.tmp_mb = tmp_mb
        self.workers = Workers(reactor, "bubblewrap")
        self.runs: set[BubblewrapRun] = set()
        # Two agents on one machine must not clean up after each other.
        self.prefix = f"chorus-{agent_id[-12:]}-"
        self.marks = processes.marks_of(agent_id)
        self._path = path
        self._uids = Uids()
        self._host: Host | None = None
        self._count = 0
        self._leftovers: set[tuple[Path, Path]] = set()
        self._sweep: Any = None
        self._closed = False

    # -- Backend

    def probe(self) -> Deferred[str | None]:
        return self.workers.call(PROBE_S, self._probe).addErrback(lambda failure: failure.getErrorMessage())

    def has_image(self, job: Job) -> Deferred[bool]:
        """There are no images here: a task that names one needs an engine."""
        answer: Deferred[bool] = Deferred()
        answer.callback(job.image is None)
        return answer

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run:
        self._count += 1
        name = f"{self.prefix}{os.getpid()}-{self._count}"
        run = BubblewrapRun(self, name, job, scratch, sink)
        self.runs.add(run)
        run.result.addBoth(self._forget, run)
        run.begin()
        return run

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]:
        return self.workers.call(FILES_S, self._reconcile)

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> Run | None:
        return None

    def close(self) -> Deferred[None]:
        async def close() -> None:
            self._closed = True
            ending: list[Deferred[None]] = []
            for run in list(self.runs):
                ended: Deferred[None] = Deferred()
                run.gone.append(ended)
                ending.append(ended)
                run.detach()
            if ending:
                await gatherResults(ending)
            if self._sweep is not None and self._sweep.active():
                self._sweep.cancel()
            if self._leftovers:
                await self._sweep_all()
            self.workers.stop()

        return Deferred.fromCoroutine(close())

    # -- for the runs

    def host(self) -> Host:
        """Blocking. Raises RuntimeError with a line for a person."""
        if self._host is None:
            problem = self._probe()
            if problem is not None:
                raise RuntimeError(problem)
        assert self._host is not None
        return self._host

    def take_uid(self) -> Uid | None:
        """Of one task, under an agent that is root. Blocking. Raises `SandboxUnavailable`."""
        return self._uids.take() if os.geteuid() == 0 else None

    def remove_later(self, place: Path, box: Path) -> None:
        """Of a sandbox that is over: try again until nothing is left of it, at the latest when this backend closes."""
        self._leftovers.add((place, box))
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self._leftovers and not self._closed and (self._sweep is None or not self._sweep.active()):
            self._sweep = self.reactor.callLater(
                LEFTOVERS_S, lambda: Deferred.fromCoroutine(self._sweep_all()).addErrback(self._sweep_broke)
            )

    def _sweep_broke(self, failure: Failure) -> None:
        self._log.failure("a sandbox could not be removed", failure)
        self._sweep_later()

    async def _sweep_all(self) -> None:
        for place, box in list(self._leftovers):
            try:
                await self.workers.call(FILES_S, dismantle, place, box)
            except (OSError, TimedOut) as error:
                self._log.warn("{box} cannot be removed: {error}", box=str(box), error=error)
            else:
                self._leftovers.discard((place, box))
        self._sweep_later()

    # -- blocking

    def _probe(self) -> str | None:
        bwrap = shutil.which("bwrap", path=self._path)
        if bwrap is None:
            self._host = None
            return f"bubblewrap is not installed: {INSTALL}"
        if self._host is not None and self._host.bwrap == bwrap:
            return None
        modes: tuple[Mode, ...] = ("drop", "root") if os.geteuid() == 0 else ("user",)
        if os.geteuid() == 0 and in_chroot() and can_reroot(self.reroot):
            modes = (*modes, "chroot")
        hierarchy = cgroups.find()
        arch = seccomp.architecture()
        held = hierarchy is not None and "memory" not in hierarchy.missing
        program = seccomp.compile_filter(arch, memory_held=held) if arch is not None else None
        problems = []
        for mode in modes:
            problem = self._try(bwrap, mode, program)
            if problem is None:
                self._host = Host(bwrap, mode, hierarchy, program, _caveats(mode, hierarchy, program is not None))
                return None
            problems.append(problem)
        return f"bubblewrap cannot make a sandbox here: {_why(problems)}"

    def _try(self, bwrap: str, mode: Mode, program: bytes | None) -> str | None:
        """A sandbox that does nothing: whether this mode works on this machine is only known by trying."""
        job = Job("probe", 0, "", "", (("true",),), {}, Limits(timeout_s=PROBE_S / 2), "base", None, None, ())
        box = Box(Path(tempfile.mkdtemp(prefix="chorus-probe-")) / "box")
        place = self.run_root / f"{self.prefix}probe-{os.getpid()}-{time.monotonic_ns()}"
        # It does nothing, so it may share its user with a task.
        uid = TASK_UIDS.start if os.geteuid() == 0 else None
        launch = Launch(mode, bwrap, uid, self.reroot)
        try:
            workspace.prepare(box, 8, None if uid is None else (uid, uid), loop=False)
            folders = expose(box, place, mode)
            files = made_files(mode, job, uid)
            with Inherited(files, lambda fds: sandbox_arguments(mode, job, folders, fds), program) as inherited:
                done = subprocess.run(
                    launch_arguments(launch, (), (), job.limits, inherited.descriptors),
                    env={**HELPER_ENVIRONMENT, processes.MARK: f"{self.marks}-probe"},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    timeout=PROBE_S / 2,
                    check=False,
                    pass_fds=inherited.all,
                )
        except (OSError, subprocess.TimeoutExpired, volumes.VolumeError) as error:
            return str(error)
        finally:
            try:
                dismantle(place, box.root.parent)
            except OSError as error:
                self._log.warn("{box} cannot be removed: {error}", box=str(box.root.parent), error=error)
        if done.returncode:
            return done.stderr.decode(errors="replace").strip()[-200:] or f"it ends with {done.returncode}"
        return None

    def _reconcile(self) -> list[tuple[str, str]]:
        mine = {run.name for run in self.runs}
        if self.run_root.is_dir():
            for path in self.run_root.glob(f"{self.prefix}*"):
                if path.name not in mine:
                    try:
                        conceal(path)
                    except OSError as error:
                        self._log.error("{path} cannot be removed: {error}", path=str(path), error=error)
        hierarchy = cgroups.find()
        if not mine:
            if hierarchy is not None:
                cgroups.reap(hierarchy, self.prefix)
            # Where no group tells, and what had not joined its group yet.
            processes.kill_marked(self.marks)
        return []

    def _forget(self, result: RunResult, run: BubblewrapRun) -> RunResult:
        self.runs.discard(run)
        return result
