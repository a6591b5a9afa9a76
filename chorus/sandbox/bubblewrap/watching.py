"""Measures a running bubblewrap sandbox: its control group, or its processes where no group counts them.

Blocking, but only on /proc and the file systems of the kernel and the task.
"""

from __future__ import annotations

import time

import attrs

from chorus.sandbox import processes
from chorus.sandbox.bubblewrap.launch import Inherited
from chorus.sandbox.cgroups import ControlGroup, ResourceUsage
from chorus.sandbox.commands import tmpfs_mb
from chorus.sandbox.files.volumes import Volume
from chorus.sandbox.run import Look
from chorus.tasks.terms import Limits

DISK_WATCH_S = 0.5
"""Between two walks through a folder that is no file system of its own."""


class Watching:
    """Of one sandbox. `missing`: the controllers of which it has no control group."""

    def __init__(
        self, group: ControlGroup | None, missing: tuple[str, ...], volume: Volume, limits: Limits, tmp_mb: int | None
    ) -> None:
        self._group = group
        self._missing = frozenset(missing)
        self._volume = volume
        self._tmpfs = {path: megabytes << 20 for path, megabytes in tmpfs_mb(limits, tmp_mb).items()}
        self._disk_at = 0.0
        self.inner: int | None = None
        """The first process inside, once it is known."""

    @property
    def polled(self) -> bool:
        """Memory or processes are held by these looks alone."""
        return not self._missing.isdisjoint(("memory", "pids"))

    def timed(self, inherited: Inherited) -> tuple[Look, float]:
        """A look, and the seconds of processor time that it took."""
        began = time.thread_time()
        return self.look(inherited), time.thread_time() - began

    def look(self, inherited: Inherited) -> Look:
        """Raises OSError."""
        if self.inner is None:
            self.inner = inherited.reported("child-pid")
        usage = self._group.usage() if self._group is not None else ResourceUsage()
        if self.polled and self.inner is not None:
            seen = processes.tree(self.inner)
            if "memory" in self._missing:
                usage = attrs.evolve(usage, memory=seen.with_files(processes.in_tmpfs(self.inner, self._tmpfs)))
            if "pids" in self._missing:
                usage = attrs.evolve(usage, pids=seen.pids)
        full: bool | None = None
        if self._volume.enforcement == "loop" or time.monotonic() - self._disk_at >= DISK_WATCH_S:
            unlinked = self._unlinked()
            full = self._volume.full(unlinked.disk)
            self._disk_at = time.monotonic()
            if "memory" in self._missing:
                usage = attrs.evolve(usage, memory=usage.memory + unlinked.memory)
        return Look(usage, full)

    def _unlinked(self) -> processes.Unlinked:
        if self._volume.enforcement == "loop" or self.inner is None:
            # The file system counts them itself.
            return processes.Unlinked()
        return processes.unlinked(processes.descendants(self.inner), self._tmpfs)
