"""The task's disk: a file system of its own in a file, where this process may mount; else a folder that is measured.

Blocking; called in a thread. Mounts below a folder are found again in the mount table, so `release` cleans up after a
killed agent too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

TOOL_S = 30.0
"""Time limit of one call of mkfs, mount or umount."""

OVERHEAD_MB = 8
"""What ext4 keeps for itself in a small file system, on top of what the task may write."""

FULL_BYTES = 512 * 1024
"""With a hundredth of its size: a file system with less left has refused a write, or will."""

POLL_ENTRIES = 200_000
"""Files counted in one measurement; a tree of more is over the limit whatever their size."""

_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

Enforcement = Literal["loop", "poll"]


class VolumeError(Exception):
    """A tool is missing or refused."""


def _tool(*argv: str | os.PathLike[str]) -> None:
    try:
        done = subprocess.run(
            argv, env=_ENV, stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VolumeError(str(error)) from None
    if done.returncode:
        raise VolumeError(f"{argv[0]}: {done.stderr.decode(errors='replace').strip()[-200:]}")


@attrs.frozen
class Volume:
    """A mounted (`loop`) or plain (`poll`) folder that holds what a task writes."""

    path: Path
    enforcement: Enforcement
    limit_mb: int
    note: str = ""
    """Why it is not a loop mount."""

    def used_mb(self) -> float:
        """Bytes in use; quick for a loop mount, a walk of the tree for a folder."""
        if self.enforcement == "loop":
            room = os.statvfs(self.path)
            return (room.f_blocks - room.f_bfree) * room.f_frsize / 1e6
        return measure(self.path, self.limit_mb << 20) / 1e6

    def full(self) -> bool:
        if self.enforcement == "loop":
            try:
                room = os.statvfs(self.path)
            except OSError:
                return False
            # The last blocks go to metadata: a writer meets ENOSPC a little before zero.
            left = FULL_BYTES + room.f_blocks * room.f_frsize // 100
            return room.f_bavail * room.f_frsize < left or room.f_favail == 0
        return measure(self.path, self.limit_mb << 20) > self.limit_mb << 20


def measure(root: Path, stop_at: int) -> int:
    """Bytes allocated below a folder, counting each inode once; ends early above `stop_at`."""
    total = entries = 0
    seen: set[int] = set()
    stack = [os.fspath(root)]
    while stack and total <= stop_at:
        try:
            with os.scandir(stack.pop()) as found:
                for entry in found:
                    entries += 1
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            stack.append(entry.path)
                        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                            if status.st_ino in seen:
                                continue
                            seen.add(status.st_ino)
                        total += status.st_blocks * 512
                    if entries > POLL_ENTRIES:
                        return stop_at + 1
        except OSError:
            continue
    return total


def make_folder(path: Path, mode: int, *, exist_ok: bool = False) -> None:
    """A folder of exactly this mode, and so the missing ones above it: what a sandbox must pass through cannot be left
    to the umask, which is 077 in a daemon. `exist_ok`: one that is there gets the mode too."""
    if not path.parent.exists():
        make_folder(path.parent, mode, exist_ok=True)
    path.mkdir(exist_ok=exist_ok)
    path.chmod(mode)


def write_readable(path: Path, text: str) -> None:
    """A file that every user may read and none is meant to change, whatever the umask."""
    path.write_text(text, errors="surrogateescape")
    path.chmod(0o444)


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
    with image.open("xb") as file:
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
        for line in table.read_text().splitlines():
            field = line.split(" ")[4]
            yield field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")

    found = [Path(mount) for mount in all_mounts() if mount == base or mount.startswith(base + "/")]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def release(path: Path) -> None:
    """Unmount whatever is mounted at or below `path`. The loop device goes with its last mount."""
    for mount in mounts_below(path):
        with contextlib.suppress(VolumeError):
            # Lazy: a process that is dying may still hold it.
            _tool("umount", "-l", mount)


def remove_tree(path: Path) -> None:
    """Unmount and delete. Folders in it may have been made unreadable by the task; nothing above `path` is touched."""
    release(path)
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        # Rights are given back from the top down, as far as they reach; then once more.
        for _, names, _, fd in os.fwalk(path, follow_symlinks=False, onerror=lambda error: None):
            for name in names:
                with contextlib.suppress(OSError):
                    if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                        os.chmod(name, 0o700, dir_fd=fd)
        shutil.rmtree(path, ignore_errors=True)
