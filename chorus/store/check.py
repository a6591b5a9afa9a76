"""Checks that a database is whole: when it is opened, and to the end in the background when it is large."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from chorus.store.connection import open_reader
from chorus.store.errors import StoreRefused, StoreUnavailable, is_damage

CHECK_S = 10.0
"""Seconds that a start waits for the check: some gigabytes. It goes on beside the node after that."""
_HEADER = 100
_PAGE_SIZE = slice(16, 18)
"""Of the page in the file's header, big-endian; 1 stands for 65,536."""


def damaged(path: Path, detail: str) -> StoreRefused:
    return StoreRefused(
        f"{path} is damaged ({detail}): restore the file from a backup; "
        "or, to go on without its tasks, move the data directory away and join again"
    )


def refuse_cut(path: Path) -> None:
    """Raise `StoreRefused` when the file ends in the middle of a page: SQLite reads what is missing as zeros.

    Only where no write-ahead log is left: after a crash the log holds whatever was on its way into the file.
    """
    try:
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            return
        with path.open("rb") as file:
            header, size = file.read(_HEADER), path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as problem:
        raise StoreUnavailable(f"{path} cannot be opened: {problem.strerror}") from None
    page = int.from_bytes(header[_PAGE_SIZE])
    page = 65536 if page == 1 else page
    if header.startswith(b"SQLite format 3\0") and (page < 512 or size % page):
        raise damaged(path, "it ends in the middle of a page")


def trouble(path: Path) -> str | None:
    """Read every page: one line on the first that is wrong, None when all is well. Raises what a disk raises."""
    connection = open_reader(path)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as problem:
        if is_damage(problem):
            return str(problem)
        raise
    finally:
        connection.close()
    return None if found == "ok" else " ".join(str(found).split())[:200]


class Check:
    """`trouble` on a thread of its own, since SQLite gives no way to end it before its end."""

    def __init__(self, path: Path, late: Callable[[str], None]) -> None:
        """`late` hears, on that thread, of damage that is found after `wait` gave up."""
        self._path = path
        self._late = late
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._waiting = True
        self._found: str | None = None
        threading.Thread(target=self._run, name="store-check", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """True if the check is over. Raises `StoreRefused` for a damaged file."""
        self._over.wait(seconds)
        with self._lock:
            self._waiting = False
            if self._found is not None:
                raise damaged(self._path, self._found)
            return self._over.is_set()

    def _run(self) -> None:
        try:
            found = trouble(self._path)
        except sqlite3.Error:
            # Trouble of the disk that is no damage of the file: whoever uses the store next will meet it.
            found = None
        with self._lock:
            self._found = found
            self._over.set()
            late = not self._waiting
        if late and found is not None:
            self._late(found)
