"""Errors of the store; `translate` separates disk failures from bad requests."""

from __future__ import annotations

import sqlite3

from chorus.errors import LocalError


class StoreUnavailable(LocalError):
    """The database could not be written or read: nothing was acknowledged. It is tried again with the next write."""

    code = "store_unavailable"
    http_status = 503


class StoreFull(StoreUnavailable):
    """No space left, or over a quota; it recovers when there is space."""

    http_status = 507


class StoreDamaged(StoreUnavailable):
    """The file does not hold what was written: no later write or read mends that."""

    code = "store_damaged"


class StoreLost(StoreDamaged):
    """The file was removed, replaced or written by others while it was open: what is written into it may be lost."""

    code = "store_lost"


class StoreBusy(StoreUnavailable):
    """Too many writes or reads wait already."""

    code = "store_busy"


class StoreClosed(LocalError):
    """The store is not open (any more)."""

    code = "store_closed"


class StoreRefused(LocalError):
    """The file is not a database that this program may open; one line says why."""

    code = "store_refused"


_OF_THE_DISK = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
_NEEDS_NEW_CONNECTION = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code, -1 for what is no SQLite error."""
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    return -1 if code is None else int(code) & 0xFF


def translate(error: BaseException) -> BaseException:
    """`StoreUnavailable` for a failure of the disk; anything else (a constraint, a bug) as it is."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_FULL or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
        # The second: the index of the write-ahead log, a file beside it, cannot grow.
        return StoreFull("the store is full: free some space on its disk")
    if is_damage(error):
        return StoreDamaged(
            f"the store is damaged: {error} ({getattr(error, 'sqlite_errorname', 'SQLite')}); "
            "stop the node and restore the database from a backup"
        )
    if code in _OF_THE_DISK:
        return StoreUnavailable(f"the store cannot be used: {error} ({getattr(error, 'sqlite_errorname', 'SQLite')})")
    return error


def is_damage(error: BaseException) -> bool:
    """The content of the file is wrong, which is worse than a file that cannot be read or written now."""
    return primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def needs_new_connection(error: BaseException) -> bool:
    """After these, what the connection still holds of the file is not to be trusted."""
    return primary_code(error) in _NEEDS_NEW_CONNECTION
