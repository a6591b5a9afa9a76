"""Bytes kept beside the database for the time when its disk is full.

The write-ahead log is emptied by moving its pages into the database, which grows by them first: on a full disk it could
never be emptied, and whoever frees less than its size would find the store still full, also after a restart.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SIZE = 6 * 1024 * 1024
"""The log is moved at 4 MiB; one group of writes may come on top of that."""
SHARE = 4
"""It is kept where so many times its size are free: a very small disk is better used for what it is for."""
SUFFIX = "-reserve"


class Ballast:
    """The file beside the database at `path`. Trouble with it is no trouble of the store: then it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + SUFFIX)

    def keep(self, *, again: bool = False) -> None:
        """Take the bytes from the disk. `again`: they were given a moment ago, so they are the store's in any case."""
        with contextlib.suppress(OSError):
            if self._path.exists():
                return
            disk = os.statvfs(self._path.parent)
            if not again and disk.f_bavail * disk.f_frsize < SHARE * SIZE:
                return
            try:
                self._allocate()
            except OSError:
                self._path.unlink(missing_ok=True)

    def give(self) -> bool:
        """Give the bytes to the disk; whether there were any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        finally:
            os.close(descriptor)
