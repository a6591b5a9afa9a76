"""Whether the files of an open database are still the ones under their names.

A file that was removed or replaced is written on without an error, until its last user ends: everything that was
acknowledged since goes with it. Blocking, by a few microseconds: `Writer` asks on its thread.
"""

from __future__ import annotations

import os
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode."""


class Whereabouts:
    """Of the database at `path` and the write-ahead log beside it; `-shm` can be made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._known: dict[Path, Identity] = {}

    def note(self) -> None:
        """These are the files, while the writer has them open. The log is there once something was written or read."""
        for path in (self._path, self._log):
            if path not in self._known and (found := _identity(path)) is not None:
                self._known[path] = found

    def log_may_change(self) -> None:
        """The writer closes the database: whoever is the last to do so removes the log."""
        self._known.pop(self._log, None)

    def trouble(self) -> str | None:
        """One line on the first file that is not what it was, else None."""
        for path, known in self._known.items():
            found = _identity(path)
            if found != known:
                what = "removed" if found is None else "replaced"
                return (
                    f"{path} was {what} while the node ran, and what it writes now would be lost: "
                    "stop the node, and put the file back or restore it from a backup"
                )
        return None


def _identity(path: Path) -> Identity | None:
    """None for what is not there, or cannot be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
