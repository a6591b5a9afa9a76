"""The folder of one sandbox on the host: what is mounted into it, and what is left when it is gone.

    box/input     the input, read-only inside
    box/fs/       the task's disk: data (a copy of the input), output, home
    box/control/  the commands' script, and what is kept of stdout and stderr
    box/disk.img  the disk's file system, where it is a loop mount

Blocking; called in a thread.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs

from chorus.sandbox import archives, artifacts, volumes
from chorus.sandbox.commands import script
from chorus.sandbox.contract import Job
from chorus.sandbox.duplicate import duplicate
from chorus.sandbox.volumes import Volume

INPUT_FACTOR = 1
"""Unpacked input may be this many times the task's disk: it is there once more, read-only, outside of the limit."""


@attrs.frozen
class Box:
    """The paths of one sandbox."""

    root: Path

    @property
    def input(self) -> Path:
        return self.root / "input"

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
    box.root.parent.mkdir(parents=True, exist_ok=True)
    volumes.make_folder(box.root, 0o711, exist_ok=True)
    volumes.make_folder(box.input, 0o755)
    volumes.make_folder(box.control, 0o755)
    volume = volumes.mount_volume(box.image, box.fs, disk_mb, owner, loop=loop)
    for folder in (box.data, box.output, box.home):
        volumes.make_folder(folder, 0o755)
        if owner:
            os.chown(folder, *owner)
    if owner:
        os.chown(box.fs, *owner)
    return volume


def fill(box: Box, job: Job, owner: tuple[int, int] | None, stop: Callable[[], bool]) -> None:
    """Unpack the input, make a copy of it to work on, and write the script.

    Raises `archives.BadArchive`, `archives.Interrupted`, and `archives.NoSpace` when it does not fit the task's disk.
    """
    if job.input_archive is not None:
        bounds = archives.Bounds(max_bytes=job.limits.disk_mb * INPUT_FACTOR << 20)
        archives.unpack(job.input_archive, box.input, bounds, owner=owner, stop=stop)
        duplicate(box.input, box.data, stop)
    write_script(box, job)


def write_script(box: Box, job: Job) -> None:
    volumes.write_readable(box.control / "commands", script(job.commands))


def gather(box: Box, job: Job, scratch: Path) -> artifacts.Collected:
    """Copy the artifacts out; they land in `scratch/artifacts`."""
    # Everything the task could write fits its disk, so that much is always enough.
    return artifacts.collect(box.output, job.artifacts, scratch / "artifacts", job.limits.disk_mb << 20)


def leave(box: Box, scratch: Path, streams: Callable[[str], Path | None]) -> None:
    """Keep `scratch/stdout` and `scratch/stderr`, remove the rest of the box."""
    scratch.mkdir(parents=True, exist_ok=True)
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
