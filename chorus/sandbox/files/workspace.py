"""The folder of one sandbox on the host: what is mounted into it, and what is left when it is gone.

    box/fs/       the task's disk: data (a copy of the input), output, home; and the input, read-only inside
    box/control/  of a container: the commands' script, and what is kept of stdout and stderr
    box/disk.img  the disk's file system, where it is a loop mount

The box lets nobody pass but its owner and the task's own group, whatever lies inside and whatever the umask: a root
agent mounts it where every user can see the place. The input lies on the task's disk so that the task sees no path of
the agent's in its table of mounts.

Blocking; called in a thread.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import attrs

from chorus.sandbox.archive import archives
from chorus.sandbox.commands import FULL_MARK, MEMORY_FOLDERS, script
from chorus.sandbox.contract import Job
from chorus.sandbox.files import artifacts, volumes
from chorus.sandbox.files.duplicate import duplicate
from chorus.sandbox.files.volumes import Volume

INPUT_FACTOR = 1
"""Unpacked input may be this many times the task's disk: it is there once more, read-only, outside of the limit."""

WRITABLE = ("data", "output", "home")
"""Folders of the task's disk that the task can write to."""

MARK_BYTES = 64
"""Most that is read of the mark for a full file system in memory."""


@attrs.frozen
class Box:
    """The paths of one sandbox."""

    root: Path

    @property
    def input(self) -> Path:
        return self.fs / "input"

    @property
    def fs(self) -> Path:
        return self.root / "fs"

    @property
    def data(self) -> Path:
        return self.fs / "data"

    @property
    def output(self) -> Path:
        return self.fs / "output"

    @property
    def home(self) -> Path:
        return self.fs / "home"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def image(self) -> Path:
        return self.root / "disk.img"


def prepare(box: Box, disk_mb: int, owner: tuple[int, int] | None, *, loop: bool = True) -> Volume:
    """Make the folders and the disk. `owner`: who the task is on the host; None for this process's own user."""
    if not box.root.parent.exists():
        # Another task may make it in the same moment; one that is there keeps its mode.
        volumes.make_folder(box.root.parent, 0o700, exist_ok=True)
    volumes.make_folder(box.root, 0o700, exist_ok=True)
    if owner:
        os.chown(box.root, -1, owner[1])
        box.root.chmod(0o710)
    volumes.make_folder(box.control, 0o755)
    # With room for the input beside what the task may write; `fill` takes back what is left of it.
    volume = volumes.mount_volume(box.image, box.fs, disk_mb * (1 + INPUT_FACTOR), owner, loop=loop)
    for folder in (box.input, box.data, box.output, box.home):
        volumes.make_folder(folder, 0o755)
        if owner:
            os.chown(folder, *owner)
    if owner:
        os.chown(box.fs, *owner)
    box.fs.chmod(0o700)
    return attrs.evolve(volume, limit_mb=disk_mb, folders=WRITABLE)


def fill(box: Box, job: Job, owner: tuple[int, int] | None, stop: Callable[[], bool]) -> None:
    """Unpack the input, leave of the disk what the task may write, and make a copy of the input to work on.

    Raises `archives.BadArchive`, `archives.Interrupted`, and `archives.NoSpace` when it does not fit the task's disk.
    """
    bounds = archives.Bounds(max_bytes=job.limits.disk_mb * INPUT_FACTOR << 20)
    if job.input_archive is not None:
        archives.unpack(job.input_archive, box.input, bounds, owner=owner, stop=stop)
    if box.image.exists():
        volumes.leave_free(box.fs, job.limits.disk_mb + volumes.OVERHEAD_MB)
    if job.input_archive is not None:
        duplicate(box.input, box.data, stop)


def write_script(box: Box, job: Job) -> None:
    """For a container, which sees the control folder."""
    volumes.write_readable(box.control / "commands", script(job.commands, job.env))


def full_memory(box: Box) -> str:
    """The file system in memory that was full when a command failed, as the script noted it; empty for none."""
    try:
        fd = os.open(box.home / FULL_MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        noted = os.read(fd, MARK_BYTES).split() if stat.S_ISREG(os.fstat(fd).st_mode) else []
    finally:
        os.close(fd)
    # Whatever a task writes there, only these words come out of it.
    return next((path for path in MEMORY_FOLDERS if path.encode() in noted), "")


def gather(box: Box, job: Job, scratch: Path) -> artifacts.Collected:
    """Copy the artifacts out; they land in `scratch/artifacts`."""
    # Everything the task could write fits its disk, so that much is always enough.
    return artifacts.collect(box.output, job.artifacts, scratch / "artifacts", job.limits.disk_mb << 20)


def leave(box: Box, scratch: Path, streams: Callable[[str], Path | None]) -> None:
    """Keep `scratch/stdout` and `scratch/stderr`, remove the rest of the box."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        kept = streams(name)
        # Never a link: the task may have put one there.
        if kept is not None and not kept.is_symlink() and kept.is_file() and kept != scratch / name:
            try:
                os.replace(kept, scratch / name)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copyfile(kept, scratch / name)
    volumes.remove_tree(box.root)
