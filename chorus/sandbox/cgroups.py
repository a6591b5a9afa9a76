"""Control groups of a sandbox without an engine: version 1 and 2, where this process may write them.

Blocking, but only on file systems of the kernel. A group is named for its run and removed with it; what a killed agent
left is found again by the name (`reap`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from chorus.tasks.terms import Limits

PERIOD_US = 100_000
"""Of the CPU bandwidth controller: its default."""

OVERHEAD_PIDS = 4
"""Processes of the sandbox itself that are counted with the task's: two of bwrap, `timeout`, the shell."""

OVERHEAD_MEMORY = 8 << 20
"""Bytes of those."""

CONTROLLERS = ("memory", "pids", "cpu")


@attrs.frozen
class Hierarchy:
    """The folders in which groups can be made. Version 1 has a folder per controller, version 2 one for all."""

    version: int
    folders: dict[str, Path]

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in CONTROLLERS if name not in self.folders)


def find(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Hierarchy | None:
    """The hierarchy this process may make groups in, proved by making one; None where there is none."""
    try:
        places = dict(_own_places(own.read_text("utf-8", "surrogateescape")))
    except (OSError, ValueError):
        return None
    if (root / "cgroup.controllers").exists():
        folder = _find_v2(root, places.get("", "/"))
        return Hierarchy(2, dict.fromkeys(CONTROLLERS, folder)) if folder else None
    folders = {}
    for name in CONTROLLERS:
        for candidate in (root / name / places.get(name, "/").lstrip("/"), root / name):
            if (candidate / "cgroup.procs").exists() and _writable(candidate, name):
                folders[name] = candidate
                break
    return Hierarchy(1, folders) if folders else None


def _own_places(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        _, names, place = line.split(":", 2)
        for name in names.split(","):
            yield name, place


def _probe_name() -> str:
    return f"chorus-probe-{os.getpid()}-{time.monotonic_ns()}"


def _writable(folder: Path, controller: str) -> bool:
    probe = folder / _probe_name()
    marker = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu": "cpu.cfs_quota_us"}[controller]
    try:
        probe.mkdir()
    except OSError:
        return False
    try:
        return os.access(probe / marker, os.W_OK)
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()


def _find_v2(root: Path, place: str) -> Path | None:
    for candidate in (root / place.lstrip("/"), root):
        try:
            control = candidate / "cgroup.subtree_control"
            wanted = [name for name in CONTROLLERS if name not in control.read_text("utf-8").split()]
            if wanted:
                # EBUSY where processes live in the group itself: then it is not ours to divide.
                control.write_text(" ".join(f"+{name}" for name in wanted), "utf-8")
            probe = candidate / _probe_name()
            probe.mkdir()
        except OSError:
            continue
        usable = (probe / "memory.max").exists() and (probe / "pids.max").exists()
        with contextlib.suppress(OSError):
            probe.rmdir()
        if usable:
            return candidate
    return None


@attrs.frozen
class ResourceUsage:
    """Counters of a group; `oom_kills` and `pids_refused` only grow."""

    memory: int = 0
    pids: int = 0
    oom_kills: int = 0
    pids_refused: int = 0


class ControlGroup:
    """The control group of one run."""

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        self._version = hierarchy.version
        self._folders = {controller: folder / name for controller, folder in hierarchy.folders.items()}

    def create(self, limits: Limits) -> None:
        """Make the group and set its limits; raises OSError and leaves nothing."""
        try:
            for folder in set(self._folders.values()):
                folder.mkdir()
            (self._limit_v1 if self._version == 1 else self._limit_v2)(limits)
        except OSError:
            self.remove()
            raise

    def _limit_v1(self, limits: Limits) -> None:
        if memory := self._folders.get("memory"):
            bound = str((limits.memory_mb << 20) + OVERHEAD_MEMORY)
            _put(memory / "memory.limit_in_bytes", bound)
            # Absent where the kernel does not account for swap.
            if (memory / "memory.memsw.limit_in_bytes").exists():
                _put(memory / "memory.memsw.limit_in_bytes", bound)
            with contextlib.suppress(OSError):
                _put(memory / "memory.swappiness", "0")
        if pids := self._folders.get("pids"):
            _put(pids / "pids.max", str(limits.pids + OVERHEAD_PIDS))
        if cpu := self._folders.get("cpu"):
            _put(cpu / "cpu.cfs_period_us", str(PERIOD_US))
            _put(cpu / "cpu.cfs_quota_us", str(max(1000, round(limits.cpu * PERIOD_US))))

    def _limit_v2(self, limits: Limits) -> None:
        folder = self._folders["memory"]
        _put(folder / "memory.max", str((limits.memory_mb << 20) + OVERHEAD_MEMORY))
        if (folder / "memory.swap.max").exists():
            _put(folder / "memory.swap.max", "0")
        _put(folder / "pids.max", str(limits.pids + OVERHEAD_PIDS))
        if (folder / "cpu.max").exists():
            _put(folder / "cpu.max", f"{max(1000, round(limits.cpu * PERIOD_US))} {PERIOD_US}")

    @property
    def join_files(self) -> list[Path]:
        """A process writes its pid into each of these to belong to the group."""
        return [folder / "cgroup.procs" for folder in sorted(set(self._folders.values()))]

    def usage(self) -> ResourceUsage:
        return read_usage(self._version, self._folders)

    def kill(self) -> None:
        """SIGKILL to every member until none is left (a fork bomb makes new ones meanwhile)."""
        folders = set(self._folders.values())
        for folder in folders:
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1", "utf-8")
        for _ in range(100):
            members = {pid for folder in folders for pid in _members(folder)} - {os.getpid()}
            if not members:
                return
            for pid in members:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)

    def remove(self) -> None:
        """Kill what is inside and remove the group; quietly, since there is nothing else to try."""
        self.kill()
        for folder in set(self._folders.values()):
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        break
                    time.sleep(0.01)
                else:
                    break


def read_usage(version: int, folders: dict[str, Path]) -> ResourceUsage:
    """Counters of the group in these folders; what cannot be read is 0."""
    memory, pids = folders.get("memory"), folders.get("pids")
    if version == 1:
        return ResourceUsage(
            memory=_int(memory, "memory.usage_in_bytes"),
            pids=_int(pids, "pids.current"),
            oom_kills=_field(memory, "memory.oom_control", "oom_kill"),
            pids_refused=_field(pids, "pids.events", "max"),
        )
    return ResourceUsage(
        memory=_int(memory, "memory.current"),
        pids=_int(pids, "pids.current"),
        oom_kills=_field(memory, "memory.events", "oom_kill"),
        pids_refused=_field(pids, "pids.events", "max"),
    )


def of_process(pid: int, root: Path = Path("/sys/fs/cgroup")) -> tuple[int, dict[str, Path]] | None:
    """The groups a process is in, as far as this machine shows them: (version, folders)."""
    try:
        places = dict(_own_places(Path(f"/proc/{pid}/cgroup").read_text("utf-8", "surrogateescape")))
    except (OSError, ValueError):
        return None
    if (root / "cgroup.controllers").exists():
        folder = root / places.get("", "/").lstrip("/")
        return (2, dict.fromkeys(CONTROLLERS, folder)) if folder != root and folder.exists() else None
    folders = {name: root / name / places[name].lstrip("/") for name in CONTROLLERS if places.get(name, "/") != "/"}
    folders = {name: folder for name, folder in folders.items() if folder.exists()}
    return (1, folders) if folders else None


def members(folders: Mapping[str, Path]) -> set[int]:
    """Processes in the groups of these folders now."""
    return {pid for folder in set(folders.values()) for pid in _members(folder)}


def reap(hierarchy: Hierarchy, prefix: str) -> int:
    """Remove groups of runs that are no more; how many."""
    names = {path.name for folder in set(hierarchy.folders.values()) for path in folder.glob(f"{prefix}*")}
    for name in names:
        ControlGroup(hierarchy, name).remove()
    return len(names)


def _put(path: Path, value: str) -> None:
    path.write_text(value, "utf-8")


def _int(folder: Path | None, name: str) -> int:
    try:
        return int((folder / name).read_text("utf-8")) if folder else 0
    except (OSError, ValueError):
        return 0


def _field(folder: Path | None, name: str, field: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        if folder:
            for line in (folder / name).read_text("utf-8").splitlines():
                key, _, value = line.partition(" ")
                if key == field:
                    return int(value)
    return 0


def _members(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text("utf-8").split()]
    except (OSError, ValueError):
        return []
