"""The start of a bubblewrap sandbox: the place of its box, and the files that bwrap inherits."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from chorus.sandbox.bubblewrap.arguments import Descriptors, Folders, Mode
from chorus.sandbox.files import volumes
from chorus.sandbox.files.workspace import Box


def expose(box: Box, place: Path, mode: Mode) -> Folders:
    """Shows the box to bwrap. One that runs as another user cannot pass through the agent's private folders, so the
    box is mounted at `place` too. Raises OSError and VolumeError."""
    if mode != "drop":
        return Folders(box.input, box.fs)
    volumes.make_folder(place.parent, 0o711, exist_ok=True)
    # The box comes with a mode of its own, which lets nobody but the task's user pass.
    volumes.make_folder(place, 0o700)
    volumes.bind(box.root, place)
    return Folders(place / box.input.relative_to(box.root), place / box.fs.relative_to(box.root))


def conceal(place: Path) -> None:
    """Inverse of `expose`. Raises OSError."""
    volumes.release(place)
    with contextlib.suppress(FileNotFoundError):
        place.rmdir()


def dismantle(place: Path, box: Path) -> None:
    """Remove a sandbox that is over, from both places. Raises OSError when something remains."""
    conceal(place)
    volumes.remove_tree(box)


MOUNT_TABLE = Path("/proc/self/mountinfo")


def in_chroot(table: Path = MOUNT_TABLE) -> bool:
    """The root is no mount point: the table shows none at `/`."""
    try:
        return not any(line.split(" ")[4] == "/" for line in table.read_text("utf-8", "surrogateescape").splitlines())
    except OSError:
        return False


def can_reroot(folder: Path, table: Path = MOUNT_TABLE) -> bool:
    """True if the file system around this chroot keeps mounts to itself. If it shares them, mounting the root anew in a
    namespace of its own would show outside; a first mount, taken back at once, tells. Blocking."""
    try:
        volumes.make_folder(folder, 0o711, exist_ok=True)
        volumes.bind(folder, folder, private=False)
        try:
            fields = [line.split(" ") for line in table.read_text("utf-8", "surrogateescape").splitlines()]
            return not any(field.startswith("shared:") for line in fields if line[4] == str(folder) for field in line)
        finally:
            volumes.release(folder)
    except (OSError, volumes.VolumeError):
        return False


REPORT_BYTES = 64 * 1024
"""Most that is read of bwrap's own report."""


class Inherited:
    """The files that bwrap inherits, in memory: those that are made for the sandbox (path inside to content), its
    options (made by `options`, which gets the descriptors of the former; a command line would be public), the filter,
    and the pipe it reports to."""

    def __init__(
        self, files: Mapping[str, str], options: Callable[[Mapping[str, int]], list[str]], program: bytes | None
    ) -> None:
        self._report = self._status = self._options = -1
        self._reported = b""
        self._filter: int | None = None
        self._files: dict[str, int] = {}
        try:
            for path, text in files.items():
                self._files[path] = self._filled(text.encode(errors="surrogateescape"))
            self._options = self._filled(b"".join(os.fsencode(option) + b"\0" for option in options(self._files)))
            self._filter = self._filled(program) if program is not None else None
            self._report, self._status = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self.close()
            raise

    @staticmethod
    def _filled(data: bytes) -> int:
        fd = os.memfd_create("chorus-sandbox", os.MFD_CLOEXEC)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            os.lseek(fd, 0, os.SEEK_SET)
        except OSError:
            os.close(fd)
            raise
        return fd

    @property
    def descriptors(self) -> Descriptors:
        return Descriptors(self._options, self._status, self._filter)

    @property
    def all(self) -> tuple[int, ...]:
        found = (*self._files.values(), self._options, self._status, self._filter)
        return tuple(fd for fd in found if fd is not None)

    def reported(self, field: str) -> int | None:
        """A number of bwrap's report, as far as that has come: `child-pid`, `exit-code`."""
        with contextlib.suppress(OSError):
            while len(self._reported) < REPORT_BYTES and (data := os.read(self._report, 4096)):
                self._reported += data
        for line in self._reported.splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and isinstance(document.get(field), int):
                    return int(document[field])
        return None

    def close_theirs(self) -> None:
        """After the start: the child has its own."""
        for fd in self.all:
            if fd >= 0:
                os.close(fd)
        self._options = self._status = -1
        self._filter = None
        self._files.clear()

    def close(self) -> None:
        self.close_theirs()
        if self._report >= 0:
            os.close(self._report)
            self._report = -1

    def __enter__(self) -> Inherited:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
