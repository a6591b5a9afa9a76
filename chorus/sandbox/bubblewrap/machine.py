"""The ways in which bubblewrap can make a sandbox on this machine, found by trying. Blocking."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import attrs
from twisted.logger import Logger

from chorus.sandbox import cgroups, processes
from chorus.sandbox.bubblewrap import seccomp
from chorus.sandbox.bubblewrap.arguments import AS_ROOT, Launch, Mode, launch_arguments, made_files, sandbox_arguments
from chorus.sandbox.bubblewrap.launch import Inherited, can_reroot, dismantle, expose, in_chroot
from chorus.sandbox.commands import HELPER_ENVIRONMENT
from chorus.sandbox.contract import Job, SandboxUnavailable
from chorus.sandbox.files import volumes, workspace
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.uids import TASK_UIDS
from chorus.tasks.terms import Limits

INSTALL = "apt-get install bubblewrap"

PROBE_S = 15.0


@attrs.frozen
class Abilities:
    """The way that works here, and what holds a sandbox's limits."""

    bwrap: str
    mode: Mode
    hierarchy: cgroups.Hierarchy | None
    filter: bytes | None

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers of which no control group can be made."""
        return cgroups.CONTROLLERS if self.hierarchy is None else self.hierarchy.missing

    @property
    def caveats(self) -> tuple[str, ...]:
        found = [
            "host_tools: the programs are this machine's own, not an image's",
            "no_takeover: a restart of the agent ends the task",
        ]
        if self.mode in AS_ROOT:
            found.append(
                "no_user_namespace: none may be made here; the task runs as another user without any privilege"
            )
        if self.mode == "chroot":
            found.append(
                "in_chroot: the file systems around this chroot stay in the sandbox's mount namespace, out of its reach"
            )
        for name, text in (
            ("memory", "memory_polled: no control group; measured every 25 ms, and not what no process has in use"),
            ("pids", "pids_polled: no control group; processes are counted every 25 ms"),
            ("cpu", "cpu_unlimited: no control group; the share of the processor is not held"),
        ):
            if name in self.missing:
                found.append(text)
        if self.filter is None:
            found.append("no_seccomp: no filter of system calls for this processor")
        return tuple(found)


class Machine:
    """Of one agent. `run_root` is where a root agent mounts boxes so that a task's user can reach them."""

    _log = Logger()

    def __init__(self, agent_id: str, path: str | None, run_root: Path) -> None:
        self.run_root = run_root
        self.reroot = run_root / "root"
        # Two agents on one machine must not clean up after each other.
        self.prefix = f"chorus-{agent_id[-12:]}-"
        self.marks = processes.marks_of(agent_id)
        self._path = path
        self._found: Abilities | None = None

    def abilities(self) -> Abilities:
        """Raises `SandboxUnavailable`."""
        if self._found is None and (problem := self.look()) is not None:
            raise SandboxUnavailable(problem)
        assert self._found is not None
        return self._found

    def look(self) -> str | None:
        """None if a sandbox can be made, else one line."""
        bwrap = shutil.which("bwrap", path=self._path)
        if bwrap is None:
            self._found = None
            return f"bubblewrap is not installed: {INSTALL}"
        if self._found is not None and self._found.bwrap == bwrap:
            return None
        modes: tuple[Mode, ...] = ("drop", "root") if os.geteuid() == 0 else ("user",)
        if os.geteuid() == 0 and in_chroot() and can_reroot(self.reroot):
            modes = (*modes, "chroot")
        hierarchy = cgroups.find()
        arch = seccomp.architecture()
        held = hierarchy is not None and "memory" not in hierarchy.missing
        program = seccomp.compile_filter(arch, memory_held=held) if arch is not None else None
        problem: str | None = None
        for mode in modes:
            problem = self._try(bwrap, mode, program)
            if problem is None:
                self._found = Abilities(bwrap, mode, hierarchy, program)
                return None
        why = f"{problem} (docs/sandbox.md says what has to be allowed)"
        if in_chroot():
            why = (
                "this is a chroot, whose root is no mount (start from a container, or bind-mount the root onto itself)"
            )
        return f"bubblewrap cannot make a sandbox here: {why}"

    def _try(self, bwrap: str, mode: Mode, program: bytes | None) -> str | None:
        """Make a sandbox that does nothing: whether this mode works on this machine is only known by trying."""
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
