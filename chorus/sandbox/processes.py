"""Measures the processes of a sandbox that no control group counts. Blocking, but only on /proc."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs

PAGE = os.sysconf("SC_PAGE_SIZE")

MAX_LOOKED_AT = 20_000
"""A tree larger than this is over any limit; looking on would only help it."""


MAX_DESCRIPTORS = 200_000
"""Open files looked at; holding more is over any limit too."""

OVER_ANY = 1 << 62
"""Bytes."""


@attrs.frozen
class Tree:
    """A process and its descendants: threads count as processes, as they do for `pids`. Memory is in bytes, and a page
    that several processes share counts for each."""

    pids: int = 0
    memory: int = 0
    shared: int = 0
    """Of it: pages of files and shared memory."""

    def with_files(self, held: int) -> int:
        """Memory, with files in memory of `held` bytes. What of them is mapped was counted already, and cannot be told
        from the programs' own pages: so this is never less than what is in use, and may be more."""
        return self.memory + max(0, held - self.shared)


def descendants(root: int) -> Iterator[int]:
    """`root` and what descends from it now. In a pid namespace nothing gets away from its first process."""
    stack = [root]
    looked_at = 0
    while stack and looked_at < MAX_LOOKED_AT:
        pid = stack.pop()
        looked_at += 1
        yield pid
        with contextlib.suppress(OSError, ValueError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                stack += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text("utf-8").split())


def tree(root: int) -> Tree:
    """The processes of `root` now."""
    pids = memory = shared = 0
    for pid in descendants(root):
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text("utf-8", "replace").rsplit(")", 1)[1].split()
            _, resident, files = (folder / "statm").read_text("utf-8").split()[:3]
            pids += int(fields[17])
            memory += int(resident) * PAGE
            shared += int(files) * PAGE
    return Tree(pids, memory, shared)


def in_tmpfs(pid: int, sizes: Mapping[str, int]) -> int:
    """Bytes of memory in files of the file systems that `pid` sees at these paths. `sizes`: what each was made with, in
    bytes; another one (the host's own, before the sandbox has its root) does not count."""
    used = 0
    for path, size in sizes.items():
        with contextlib.suppress(OSError):
            room = os.statvfs(f"/proc/{pid}/root{path}")
            if room.f_blocks * room.f_frsize == size:
                used += (room.f_blocks - room.f_bfree) * room.f_frsize
    return used


@attrs.frozen
class Unlinked:
    """Bytes of files that are open and have no name any more: no walk of a tree meets them."""

    disk: int = 0
    memory: int = 0
    """memfds."""


def unlinked(pids: Iterable[int], tmpfs: Iterable[str] = ()) -> Unlinked:
    """Of the open files of these processes; `tmpfs`: paths whose file systems are counted whole (`in_tmpfs`). A file
    that is only mapped, or under way through a socket, is not seen."""
    seen: set[tuple[int, int]] = set()
    disk = memory = looked_at = 0
    whole: set[int] | None = None
    for pid in pids:
        if whole is None:
            whole = _devices(pid, tmpfs)
        for status in _open_files(pid):
            looked_at += 1
            if looked_at > MAX_DESCRIPTORS:
                return Unlinked(OVER_ANY, memory)
            identity = (status.st_dev, status.st_ino)
            if status.st_nlink or not stat.S_ISREG(status.st_mode) or status.st_dev in whole or identity in seen:
                continue
            seen.add(identity)
            if status.st_dev == _memfd_device():
                memory += status.st_blocks * 512
            else:
                disk += status.st_blocks * 512
    return Unlinked(disk, memory)


def _open_files(pid: int) -> Iterator[os.stat_result]:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                yield os.stat(f"{folder}/{name}")


def _devices(pid: int, paths: Iterable[str]) -> set[int]:
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found.add(os.stat(f"/proc/{pid}/root{path}").st_dev)
    return found


@functools.cache
def _memfd_device() -> int:
    fd = os.memfd_create("chorus-device", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def alive(pid: int) -> bool:
    """Not gone and no zombie. The first process of a pid namespace is a zombie only when all others are gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


MARK = "SANDBOX_OF"
"""A variable in the environment of each helper that makes a sandbox, never of a task: it finds helpers again that no
control group holds. It names no agent (a task may read it of the first process of its sandbox)."""

KILL_S = 5.0
"""How long `kill_marked` goes on: what it kills may be making another one."""


def marks_of(agent_id: str) -> str:
    """The beginning of all marks of this agent's sandboxes."""
    return hashlib.sha256(f"chorus-sandbox {agent_id}".encode()).hexdigest()[:24]


def marked(begin: str) -> Iterator[int]:
    """Processes that live, started with this mark or one that goes on after it with a dash."""
    for name in os.listdir("/proc"):
        if name.isdigit() and _has_mark(int(name), begin) and alive(int(name)):
            yield int(name)


def kill_marked(begin: str) -> int:
    """SIGKILL to the marked processes until there are none; how many there were."""
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_S
    while (found := list(marked(begin))) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(pid)
                try:
                    # The number may be another process's by now; the handle is not.
                    if _has_mark(pid, begin):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                        killed.add(pid)
                finally:
                    os.close(handle)
        time.sleep(0.005)
    return len(killed)


def _has_mark(pid: int, begin: str) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    exact = f"{MARK}={begin}".encode()
    return any(entry == exact or entry.startswith(exact + b"-") for entry in environ.split(b"\0"))
