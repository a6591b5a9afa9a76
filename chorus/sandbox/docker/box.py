"""One container with its folder on the host, and what a later process needs to take it over. Blocking."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Mapping
from pathlib import Path

import attrs

from chorus.sandbox import cgroups, processes
from chorus.sandbox.commands import MEMORY_FOLDERS
from chorus.sandbox.docker.spec import FIRST_UID
from chorus.sandbox.files import volumes
from chorus.sandbox.files.volumes import Enforcement, Volume
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.uids import Uid
from chorus.tasks.terms import Limits

BINDING = "run.json"
"""In the box: which run the container was given to. Labels cannot change, so a warm container's name no task."""

FILES = 2 * (1 << 20)
"""Bytes that the control folder may hold on top of the kept output, where only polling watches it."""


@attrs.frozen
class RunBinding:
    """All that another process of this agent needs to take a run over."""

    task_id: str
    fence: str
    execution: str
    started_at: float
    disk: Enforcement
    disk_mb: int
    uid: int = FIRST_UID
    """The task's, under an agent that is root."""

    def write(self, box: Box) -> None:
        path = box.root / BINDING
        fresh = path.with_suffix(".new")
        with volumes.create_private(fresh, exist_ok=True) as file:
            file.write(json.dumps(attrs.asdict(self)).encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)

    @classmethod
    def read(cls, box: Box) -> RunBinding | None:
        try:
            return cls(**json.loads((box.root / BINDING).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


@attrs.define
class Contained:
    """A running container with its box. `pid` is of its first process on this machine, 0 where it cannot be seen;
    `handle` is a pidfd of it, so a later process with the same number is never hit."""

    id: str
    image: str
    box: Box
    volume: Volume
    limits: Limits
    uid: Uid = attrs.Factory(lambda: Uid(os.geteuid()))
    warm: bool = False
    """Waited for its task, and so may have died meanwhile."""
    pid: int = 0
    handle: int = -1

    def attach(self, state: Mapping[str, object]) -> None:
        pid = state.get("Pid")
        self.pid = pid if isinstance(pid, int) else 0
        if self.pid > 0:
            with contextlib.suppress(OSError):
                self.handle = os.pidfd_open(self.pid)

    def kill_now(self) -> None:
        """Without the engine: with its first process the whole pid namespace dies. Quiet where that is not allowed."""
        if self.handle >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def gone(self) -> bool:
        """The first process is no more; False where that cannot be seen."""
        if self.handle < 0:
            return False
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(0))

    def release(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        self.uid.release()

    @property
    def out(self) -> Path:
        return self.box.control / "out"

    def marked(self, name: str) -> bool:
        """The pump left this mark."""
        return (self.out / name).exists()

    def output_lost(self, name: str, cap: int) -> bool:
        """The pump of this stream gave up below its cap (bytes): this machine's disk took no more of it."""
        if not self.marked(f"{name}.cut"):
            return False
        try:
            return (self.out / name).lstat().st_size < cap
        except FileNotFoundError:
            return True

    def usage(self) -> cgroups.ResourceUsage:
        """Counters from the kernel's own files, where this machine shows them."""
        places = cgroups.of_process(self.pid) if self.pid else None
        return cgroups.read_usage(*places) if places else cgroups.ResourceUsage()

    def disk_full(self) -> bool:
        """A plain folder holds the pump's files too: a task of the same user could write there. Raises OSError."""
        unlinked = processes.Unlinked()
        places = cgroups.of_process(self.pid) if self.volume.enforcement == "poll" and self.pid else None
        if places is not None:
            # What the engine executes in a container does not descend from its first process: its group tells.
            unlinked = processes.unlinked(cgroups.members(places[1]), MEMORY_FOLDERS)
        if self.volume.full(unlinked.disk):
            return True
        most = 2 * (self.limits.output_mb << 20) + FILES
        return self.volume.enforcement == "poll" and volumes.measure(self.box.control, most) > most
