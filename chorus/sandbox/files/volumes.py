"""The task's disk: a file system of its own in a file, where this process may mount; else a folder that is measured.

Blocking; called in a thread. Mounts below a folder are found again in the mount table, so `release` cleans up after a
killed agent too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import attrs

from chorus.sandbox.files import trees

TOOL_S = 30.0
"""Time limit of one call of mkfs, mount or umount."""

OVERHEAD_MB = 8
"""MiB that ext4 keeps for itself in a small file system, on top of what the task may write."""

FULL_BYTES = 1280 * 1024
"""With a hundredth of what a task may write: a file system with less left has refused a write, or will. Many programs
write a MiB at a time, and are refused it whole."""

CLOSED_S = 10.0
"""Time limit of measuring a tree with closed folders, in a process of its own."""

REMOVALS = 3
"""Walks through a tree that is to go, while something dying still moves folders in it."""

_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

Enforcement = Literal["loop", "poll"]


class VolumeError(Exception):
    """A tool is missing or refused."""


def _tool(*argv: str | os.PathLike[str], limit_s: float = TOOL_S) -> bytes:
    """Run it to its end: its output. Raises `VolumeError`."""
    try:
        done = subprocess.run(
            argv, env=_ENV, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VolumeError(str(error)) from None
    if done.returncode:
        raise VolumeError(f"{argv[0]}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return done.stdout


@attrs.frozen
class Volume:
    """A mounted (`loop`) or plain (`poll`) folder that holds what a task writes."""

    path: Path
    enforcement: Enforcement
    limit_mb: int
    note: str = ""
    """Why it is not a loop mount."""
    folders: tuple[str, ...] = (".",)
    """Parts of a plain folder that are measured; the task cannot write to the rest."""

    def full(self, unlinked: int = 0) -> bool:
        """`unlinked`: bytes of files on this disk that have no name any more but are still open. Raises OSError."""
        if self.enforcement == "loop":
            try:
                room = os.statvfs(self.path)
            except OSError:
                return False
            # The last blocks go to metadata: a writer meets ENOSPC a little before zero.
            left = FULL_BYTES + (self.limit_mb << 20) // 100
            return room.f_bavail * room.f_frsize < left or room.f_favail == 0
        limit = (self.limit_mb << 20) - unlinked
        for folder in self.folders:
            if limit >= 0:
                limit -= measure(self.path / folder, limit)
        return limit < 0


def measure(root: Path, stop_at: int) -> int:
    """Bytes allocated below a folder, counting each inode once; ends early above `stop_at`, and is above it where there
    is a folder that cannot be measured. Raises OSError."""
    found = trees.measure(root, stop_at)
    if not found.complete and found.allocated <= stop_at:
        # An ordinary user's agent cannot read what a task of the same user has closed, and must not open it: the task
        # may mean it. In a user namespace of its own this user may read all of its files.
        found = _measure_closed(root, stop_at)
    return found.allocated if found.complete else max(found.allocated, stop_at + 1)


PRIVILEGED = (
    ("unshare", "--user", "--map-root-user", "--"),
    ("bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "CAP_DAC_READ_SEARCH", "--bind", "/", "/"),
)  # fmt: skip
"""Ways to be root over one's own files alone; some machines allow only the second."""


def _measure_closed(root: Path, stop_at: int) -> trees.Measured:
    for become in PRIVILEGED:
        argv = [*become, sys.executable, "-I", "-S", trees.__file__, os.path.abspath(root), str(stop_at)]
        with contextlib.suppress(VolumeError, ValueError):
            allocated, complete = _tool(*argv, limit_s=CLOSED_S).split()
            if int(complete):
                return trees.Measured(int(allocated), True)
    return trees.Measured(0, False)


def make_folder(path: Path, mode: int, *, exist_ok: bool = False) -> None:
    """A folder of exactly this mode, and so the missing ones above it: what a sandbox must pass through cannot be left
    to the umask, which is 077 in a daemon. `exist_ok`: one that is there gets the mode too."""
    if not path.parent.exists():
        make_folder(path.parent, mode, exist_ok=True)
    # Made closed, then opened: with a umask of 0 it must not be open to all for an instant either.
    path.mkdir(mode & 0o700, exist_ok=exist_ok)
    path.chmod(mode)


def write_readable(path: Path, text: str) -> None:
    """A file that every user may read and none is meant to change, whatever the umask."""
    with create_private(path, exist_ok=True) as file:
        file.write(text.encode(errors="surrogateescape"))
    path.chmod(0o444)


def create_private(path: Path, *, exist_ok: bool = False) -> BinaryIO:
    """A new file of this process's user alone, whatever the umask. `exist_ok`: or one that is there, emptied."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if exist_ok else os.O_EXCL)
    fd = os.open(path, flags, 0o600)
    os.fchmod(fd, 0o600)
    return os.fdopen(fd, "wb")


def mount_volume(image: Path, path: Path, size_mb: int, owner: tuple[int, int] | None, *, loop: bool) -> Volume:
    """Make a file system of `size_mb` in the file `image` and mount it on `path`, or use `path` as a plain folder."""
    path.mkdir(mode=0o700, exist_ok=True)
    if not loop:
        return Volume(path, "poll", size_mb, "not asked for")
    if os.geteuid() == 0:
        try:
            _mount_loop(image, path, size_mb, owner)
        except VolumeError as error:
            release(path)
            image.unlink(missing_ok=True)
            return Volume(path, "poll", size_mb, str(error))
        return Volume(path, "loop", size_mb)
    return Volume(path, "poll", size_mb, "mounting needs root")


def _mount_loop(image: Path, path: Path, size_mb: int, owner: tuple[int, int] | None) -> None:
    with create_private(image) as file:
        os.truncate(file.fileno(), (size_mb + OVERHEAD_MB) << 20)
    uid, gid = owner or (os.getuid(), os.getgid())
    # No journal and no reserved blocks: it lives as long as the task. Inodes for small files, or a source tree meets
    # "no space" with most of its bytes free.
    _tool(
        "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-i", "8192",
        "-E", f"lazy_itable_init=1,nodiscard,root_owner={uid}:{gid}", image,
    )  # fmt: skip
    _tool("mount", "-t", "ext4", "-o", "loop,nosuid,nodev,noatime", image, path)
    with contextlib.suppress(OSError):
        (path / "lost+found").rmdir()


BALLAST = ".ballast"
"""At the root of a task's file system, which is not mounted inside: it only takes room."""


def leave_free(path: Path, free_mb: int) -> None:
    """Take room from a file system of a task's own until it has no more than `free_mb`. Raises OSError."""
    room = os.statvfs(path)
    over = room.f_bavail * room.f_frsize - (free_mb << 20)
    if over > 0:
        with create_private(path / BALLAST) as file:
            os.posix_fallocate(file.fileno(), 0, over)


def bind(source: Path, target: Path, *, private: bool = True) -> None:
    """Mount a folder, with what is mounted below it, at a second place. Raises `VolumeError`."""
    _tool("mount", "--rbind", source, target)
    if private:
        # Its unmounting must not take the first place's mounts with it.
        _tool("mount", "--make-rprivate", target)


def mounts_below(root: Path, table: Path = Path("/proc/self/mountinfo")) -> list[Path]:
    """Mount points at or below a folder, deepest first."""
    base = os.path.realpath(root)

    def all_mounts() -> Iterator[str]:
        for line in table.read_text("utf-8", "surrogateescape").splitlines():
            field = line.split(" ")[4]
            yield field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")

    found = [Path(mount) for mount in all_mounts() if mount == base or mount.startswith(base + "/")]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def release(path: Path) -> None:
    """Unmount whatever is mounted at or below `path`. The loop device goes with its last mount. Raises OSError."""
    # What is mounted here itself needs no look at the table, and so no descriptor: none may be left.
    while _unmount(path):
        pass
    for mount in mounts_below(path):
        if not _unmount(mount):
            raise OSError(errno.EBUSY, "still mounted", str(mount))


_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8


def _unmount(path: Path) -> bool:
    """Unmounts what is mounted here; True if something was. By the system call: the command takes a process and
    descriptors, which is what a failing start may have run out of."""
    # Lazy: a process that is dying may still hold it.
    return bool(_LIBC.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0)


_LIBC = ctypes.CDLL(None, use_errno=True)


def remove_tree(path: Path) -> None:
    """Unmount and delete, whatever a dead task left there. Nothing above `path` is touched. Raises OSError when
    something remains."""
    release(path)
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return
    for last in range(1 - REMOVALS, 1):
        try:
            trees.empty(path)
            path.rmdir()
        except FileNotFoundError:
            return
        except (OSError, trees.Moved) as error:
            if not last:
                raise error if isinstance(error, OSError) else OSError(errno.EBUSY, "still in use", str(path)) from None
        else:
            return
