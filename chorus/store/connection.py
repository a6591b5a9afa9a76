"""Opens connections to the node's database, and migrates its schema (migrations/0001_….sql on)."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import attrs

from chorus.store.errors import StoreRefused, StoreUnavailable, primary_code

BUSY_TIMEOUT_MS = 5000
"""Nobody else writes while the data directory is locked; this covers an operator's `sqlite3` shell."""
CHECKPOINT_FRAMES = 1000
"""Pages of the write-ahead log above which a commit moves it into the database; below, a commit leaves that file alone.
SQLite's default, said again since `whereabouts` counts on it."""
WAL_SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes that the write-ahead log keeps of the disk after a checkpoint."""
APPLICATION_ID = 0x43484F52
"""`CHOR`, in the file's header."""

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@attrs.frozen
class Migration:
    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Those of the package, in order."""
    found = []
    for file in resources.files("chorus.store").joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            found.append(Migration(int(match[1]), file.name, file.read_text("utf-8")))
    found.sort(key=lambda each: each.version)
    if [each.version for each in found] != list(range(1, len(found) + 1)):
        raise AssertionError("migrations must be numbered 0001, 0002, … without a gap")
    return found


def refuse_lost(path: Path) -> None:
    """Raise `StoreRefused` when nothing is at `path`. Ask before SQLite opens it: it drops the log of an empty file."""
    try:
        empty = path.stat().st_size == 0
    except FileNotFoundError:
        empty = True
    except OSError as problem:
        raise StoreUnavailable(f"{path} cannot be opened: {problem.strerror}") from None
    if empty:
        raise _lost(path)


def _lost(path: Path) -> StoreRefused:
    return StoreRefused(
        f"{path} is missing or empty, but this node has run here before: restore the file from a backup; "
        "or, to go on without its tasks, move the data directory away and join again"
    )


def open_writer(path: Path) -> sqlite3.Connection:
    """A connection for the one writer: WAL, every commit synced. Creates the file (0600) when there is none.

    Raises `StoreUnavailable` when the file cannot be opened, `StoreRefused` when it is no database.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as problem:
        raise StoreUnavailable(f"{path} cannot be opened: {problem.strerror}") from None
    connection = _connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_FRAMES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_SIZE_LIMIT}")
    except sqlite3.DatabaseError as problem:
        connection.close()
        if primary_code(problem) == sqlite3.SQLITE_NOTADB:
            raise StoreRefused(f"{path} is not a database") from None
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # A file that is gone is not made anew by who only wants to read it.
    name = path.absolute().as_uri() + "?mode=rw"
    connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(
    connection: sqlite3.Connection, path: Path, known: list[Migration] | None = None, *, expected: bool = False
) -> int:
    """Bring the schema to the newest version and return it; each migration and its number are one transaction.

    Raises `StoreRefused` for another program's file, for one that a newer version wrote, and for one without a schema
    where one is `expected`.
    """
    known = migrations() if known is None else known
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application not in (0, APPLICATION_ID):
        raise StoreRefused(f"{path} is another program's database; name another data directory")
    if application == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreRefused(f"{path} is a database, but not of CHORUS; name another data directory")
    if expected and not version:
        raise _lost(path)
    newest = known[-1].version if known else 0
    if version > newest:
        raise StoreRefused(
            f"{path} was written by a newer version (schema {version}, this one knows {newest}); upgrade this node"
        )
    for migration in known[version:]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {migration.version}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return newest


def _statements(sql: str) -> Iterator[str]:
    """Cut a script into statements (`executescript` would commit by itself)."""
    *pieces, rest = sql.split(";")
    pending = ""
    for piece in pieces:
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending or re.sub(r"--.*", "", rest).strip():
        raise AssertionError(f"a migration ends in the middle of a statement: {(pending + rest).strip()[:60]}")
