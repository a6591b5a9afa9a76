"""Checks that the files of an open database still have their names, and are as its one writer left them.

SQLite goes on writing to a file that was removed or replaced, without an error, until its last user ends: all that was
acknowledged since goes with it. One that was cut or overwritten is written on as well, and what the log held is not
missed before a restart, if ever. Blocking, by some microseconds: `Writer` asks on its thread.

Neither file changes between two transactions of the writer: readers and backups only read, and the log is moved into
the database at the end of a commit. In a transaction both may change, in bounds (`settle`): a cut is noticed there as
well; not so a copy over the database that begins and ends while the log is being moved, and is no shorter.
"""

from __future__ import annotations

import bisect
import os
from pathlib import Path

import attrs

from chorus.store.connection import CHECKPOINT_FRAMES, WAL_SIZE_LIMIT

_LOG_HEADER = 32
_FRAME_HEADER = 24


@attrs.frozen
class _Look:
    identity: tuple[int, int]
    """Device and inode."""
    size: int
    modified: int | None
    """In ns; None where a change is no wonder."""
    whole: int = attrs.field(eq=False)
    """Of the log: bytes up to its first hole. Writing on behind a cut leaves one."""


class Whereabouts:
    """Of the database at `path` and the write-ahead log beside it; `-shm` can be made again.

    The database is never opened for this: closing it would drop the locks that SQLite holds on it for this process.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._log = self._path + "-wal"
        self._known: dict[str, _Look] = {}

    def trouble(self) -> str | None:
        """Between two transactions: one line on the first file that is not what it was, else None."""
        for path, known in self._known.items():
            found = _look(path)
            if found is None or found.identity != known.identity:
                return _gone(path, found)
            if found.size < known.size or (known.modified is not None and found != known):
                return _changed(path)
        return None

    def settle(self) -> str | None:
        """After the writer's own work, whatever became of it: one line when a file changed by more than that can have
        done, else None and both are known as they are now. The log is there once something was written or read."""
        found = {path: look for path in (self._path, self._log) if (look := _look(path, holes=path == self._log))}
        for path, known in self._known.items():
            now = found.get(path)
            if now is None or now.identity != known.identity:
                return _gone(path, now)
            if not (self._log_is_own(known, now) if path == self._log else self._database_is_own(known, now)):
                return _changed(path)
        self._known.update(found)
        return None

    def expect_move(self) -> None:
        """The log is about to be emptied, or the writer closes the database (whoever is the last to do so moves the log
        into it and removes it), or there were transactions without a `settle` between them. Until the next `settle`
        only the database is looked at: whether it was replaced or cut."""
        self._known.pop(self._log, None)
        if self._path in self._known:
            self._known[self._path] = attrs.evolve(self._known[self._path], modified=None)

    @staticmethod
    def _log_is_own(known: _Look, now: _Look) -> bool:
        """It is written on, or anew from its beginning, and only shortened to its limit."""
        return now.whole >= min(known.whole, WAL_SIZE_LIMIT)

    def _database_is_own(self, known: _Look, now: _Look) -> bool:
        """It never shrinks, since nothing vacuums it."""
        if now == known:
            return True
        return now.size >= known.size and (known.modified is None or _frames(self._log) >= CHECKPOINT_FRAMES)


def _look(path: str, *, holes: bool = False) -> _Look | None:
    """None for what is not there, or cannot be looked at."""
    try:
        found = os.stat(path)
        whole = _without_hole(path, found.st_size) if holes else found.st_size
    except OSError:
        return None
    return _Look((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns, whole)


def _without_hole(log: str, size: int) -> int:
    """Bytes before the first hole; `size` where the file system does not tell."""
    if not size:
        return 0
    descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE)
    except OSError:
        return size
    finally:
        os.close(descriptor)


def _frames(log: str) -> int:
    """Pages that the log holds since it was last begun anew: those at its beginning with the salts of its header."""
    with open(log, "rb", buffering=0) as file:
        descriptor = file.fileno()
        header = os.pread(descriptor, _LOG_HEADER, 0)
        page, salts = int.from_bytes(header[8:12]), header[16:24]
        if not page:
            return 0
        length = _FRAME_HEADER + page

        def stale(frame: int) -> bool:
            return os.pread(descriptor, 8, _LOG_HEADER + frame * length + 8) != salts

        return bisect.bisect_left(range(max(0, os.fstat(descriptor).st_size - _LOG_HEADER) // length), True, key=stale)


def _gone(path: str, found: _Look | None) -> str:
    what = "removed" if found is None else "replaced"
    return (
        f"{path} was {what} while the node ran, and what it writes now would be lost: "
        "stop the node, and put the file back or restore it from a backup"
    )


def _changed(path: str) -> str:
    database = path.removesuffix("-wal")
    return (
        f"{path} was changed by another program while the node ran, and what was written may be lost: "
        f"stop the node, and restore {database} from a backup"
    )
