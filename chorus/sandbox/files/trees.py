"""Folders that a task made: walked, measured and removed by open descriptors.

A task may nest folders deeper than a path can be long (PATH_MAX) and than a function can call itself, and close them
even to their owner. So nothing here names a path below the root, or recurses: each step has one `OpenFolder`, whose
parent is opened as `..` and recognised by its inode. Blocking.

Only the standard library is imported: `measure` also runs as a script, in a user namespace where closed folders can be
read (`volumes.measure`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import NamedTuple

ENTRIES = 200_000
"""Files counted in one measurement; a tree of more is over the limit whatever their size."""

TRIES = 3
"""Walks begun anew because a folder was moved meanwhile, before they are given up."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened here."""


_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a process that is short of descriptors or memory; they say nothing of the tree."""


class Moved(Exception):
    """The folder that a walk was in is no longer where it was entered, or was closed meanwhile."""


class OpenFolder:
    """An open folder below a root, and the way back. Holds one descriptor, two for an instant.

    `insist`: give the owner its rights back where a folder is closed; only once the task is dead, which may have closed
    it on purpose.
    """

    def __init__(self, root: str | os.PathLike[str], *, insist: bool = False) -> None:
        self._insist = insist
        self.fd = self._open(os.fspath(root), None)
        self._identity = _identity(self.fd)
        self._above: list[tuple[int, int]] = []

    def enter(self, name: str) -> None:
        """Raises OSError and stays where it is."""
        fd = self._open(name, self.fd)
        try:
            # A folder that may be listed but not passed through would not let this walk out again.
            os.stat(".", dir_fd=fd)
            identity = _identity(fd)
        except OSError:
            os.close(fd)
            raise
        self._above.append(self._identity)
        self._become(fd, identity)

    def leave(self) -> None:
        """Back to the folder this one was entered from. Raises `Moved`."""
        try:
            fd = os.open("..", FOLDER, dir_fd=self.fd)
        except PermissionError:
            raise Moved from None
        identity = _identity(fd)
        if identity != self._above.pop():
            os.close(fd)
            raise Moved
        self._become(fd, identity)

    def listing(self) -> list[os.DirEntry[str]]:
        """Its entries, which are good while this stays here."""
        with os.scandir(self.fd) as found:
            return list(found)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> OpenFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _become(self, fd: int, identity: tuple[int, int]) -> None:
        os.close(self.fd)
        self.fd, self._identity = fd, identity

    def _open(self, name: str, parent: int | None) -> int:
        try:
            fd = os.open(name, FOLDER, dir_fd=parent)
        except PermissionError:
            if not self._insist:
                raise
            _give_rights(name, parent)
            fd = os.open(name, FOLDER, dir_fd=parent)
        if self._insist and os.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, stat.S_IRWXU)
        return fd


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _give_rights(name: str, parent: int | None) -> None:
    """Of a folder that cannot be opened; never of what a link leads to."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IRWXU)
    finally:
        os.close(fd)


# -- removing


def empty(root: str | os.PathLike[str]) -> None:
    """Delete everything below a folder that nothing else writes to any more. Goes on past what cannot be deleted, and
    then raises the first such OSError; raises `Moved` when something still moves folders."""
    trouble: list[OSError] = []
    with OpenFolder(root, insist=True) as place:
        pending = [_unlink_files(place, trouble)]
        while True:
            if pending[-1]:
                try:
                    place.enter(pending[-1][-1])
                except OSError as error:
                    _note(trouble, error)
                    pending[-1].pop()
                else:
                    pending.append(_unlink_files(place, trouble))
                continue
            pending.pop()
            if not pending:
                break
            place.leave()
            try:
                os.rmdir(pending[-1].pop(), dir_fd=place.fd)
            except OSError as error:
                _note(trouble, error)
    if trouble:
        raise trouble[0]


def _unlink_files(place: OpenFolder, trouble: list[OSError]) -> list[str]:
    """Delete what is no folder; the names of the folders."""
    folders = []
    try:
        entries = place.listing()
    except OSError as error:
        _note(trouble, error)
        return []
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=place.fd)
        except OSError as error:
            _note(trouble, error)
    return folders


def _note(trouble: list[OSError], error: OSError) -> None:
    """Only the first is told of, and what is gone already is none."""
    if not trouble and not isinstance(error, FileNotFoundError):
        trouble.append(error)


# -- measuring


class Measured(NamedTuple):
    """`complete`: every folder could be read. If not, there is more than `allocated`."""

    allocated: int
    """Bytes, as the file system accounts for them."""
    complete: bool


def measure(root: str | os.PathLike[str], stop_at: int) -> Measured:
    """Bytes allocated below a folder that a live task writes to, counting each inode once; ends early above `stop_at`.

    Raises OSError where the root cannot be opened, and when descriptors run out.
    """
    most = 0
    for _ in range(TRIES):
        count = _Count(stop_at)
        try:
            count.walk(root)
        except Moved:
            most = max(most, count.allocated)
            continue
        return Measured(count.allocated, count.complete)
    return Measured(most, False)


class _Count:
    """One walk."""

    def __init__(self, stop_at: int) -> None:
        self._stop_at = stop_at
        self._entries = 0
        self._seen: set[tuple[int, int]] = set()
        self.allocated = 0
        self.complete = True

    def walk(self, root: str | os.PathLike[str]) -> None:
        with OpenFolder(root) as place:
            pending = [self._count(place)]
            while self.allocated <= self._stop_at:
                if pending[-1]:
                    try:
                        place.enter(pending[-1].pop())
                    except PermissionError:
                        self.complete = False
                    except OSError as error:
                        if error.errno in _SHORT:
                            raise
                        # Gone since it was listed, or something else is there now.
                    else:
                        pending.append(self._count(place))
                    continue
                pending.pop()
                if not pending:
                    return
                place.leave()

    def _count(self, place: OpenFolder) -> list[str]:
        """Add up what is in this folder; the names of the folders in it."""
        folders = []
        with os.scandir(place.fd) as found:
            for entry in found:
                self._entries += 1
                if self._entries > ENTRIES:
                    self.allocated = self._stop_at + 1
                    return []
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except PermissionError:
                    self.complete = False
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.name)
                elif status.st_nlink > 1:
                    if (status.st_dev, status.st_ino) in self._seen:
                        continue
                    self._seen.add((status.st_dev, status.st_ino))
                self.allocated += status.st_blocks * 512
        return folders


if __name__ == "__main__":
    _found = measure(sys.argv[1], int(sys.argv[2]))
    print(_found.allocated, int(_found.complete))
