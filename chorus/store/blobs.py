"""Index of the blobs that are here. Functions for `Store.write` and `Store.read`; ids are lower-case hexadecimal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import attrs


@attrs.frozen
class BlobRow:
    sha256: str
    size: int
    created_at: float
    used_at: float


_COLUMNS = "sha256, size, created_at, used_at"


def insert(connection: sqlite3.Connection, sha256: str, size: int, manifest: bytes, now: float) -> bool:
    """`manifest` as canonical JSON. False when the blob was known; it counts as used now then."""
    cursor = connection.execute(
        "INSERT OR IGNORE INTO blobs (sha256, size, manifest, created_at, used_at) VALUES (?, ?, ?, ?, ?)",
        (bytes.fromhex(sha256), size, manifest, now, now),
    )
    if cursor.rowcount == 0:
        touch(connection, sha256, now)
    return cursor.rowcount == 1


def get(connection: sqlite3.Connection, sha256: str) -> BlobRow | None:
    found = connection.execute(f"SELECT {_COLUMNS} FROM blobs WHERE sha256 = ?", (bytes.fromhex(sha256),))
    return next(map(_row, found), None)


def manifest(connection: sqlite3.Connection, sha256: str) -> bytes | None:
    row = connection.execute("SELECT manifest FROM blobs WHERE sha256 = ?", (bytes.fromhex(sha256),)).fetchone()
    return None if row is None else bytes(row[0])


def every(connection: sqlite3.Connection) -> list[BlobRow]:
    """All of them, the longest unused first."""
    return [_row(each) for each in connection.execute(f"SELECT {_COLUMNS} FROM blobs ORDER BY used_at, sha256")]


def touch(connection: sqlite3.Connection, sha256: str, now: float) -> None:
    connection.execute("UPDATE blobs SET used_at = ? WHERE sha256 = ?", (now, bytes.fromhex(sha256)))


def forget(connection: sqlite3.Connection, sha256: str) -> bool:
    return connection.execute("DELETE FROM blobs WHERE sha256 = ?", (bytes.fromhex(sha256),)).rowcount == 1


def forget_all(connection: sqlite3.Connection, blobs: Iterable[str]) -> None:
    connection.executemany("DELETE FROM blobs WHERE sha256 = ?", [(bytes.fromhex(each),) for each in blobs])


def _row(columns: tuple[bytes, int, float, float]) -> BlobRow:
    return BlobRow(columns[0].hex(), *columns[1:])
