"""Index of the blobs that are here. Functions for `Store.write` and `Store.read`; ids are lower-case hexadecimal."""

from __future__ import annotations

import sqlite3

import attrs


@attrs.frozen
class BlobRow:
    sha256: str
    size: int
    manifest: str
    """SHA-256 of the manifest's bytes."""
    created_at: float
    used_at: float


_COLUMNS = "sha256, size, manifest, created_at, used_at"


def insert(connection: sqlite3.Connection, sha256: str, size: int, manifest: str, now: float) -> bool:
    """False when the blob was known; it counts as used now then."""
    cursor = connection.execute(
        f"INSERT OR IGNORE INTO blobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
        (bytes.fromhex(sha256), size, bytes.fromhex(manifest), now, now),
    )
    if cursor.rowcount == 0:
        touch(connection, sha256, now)
    return cursor.rowcount == 1


def get(connection: sqlite3.Connection, sha256: str) -> BlobRow | None:
    found = connection.execute(f"SELECT {_COLUMNS} FROM blobs WHERE sha256 = ?", (bytes.fromhex(sha256),))
    return next(map(_row, found), None)


def every(connection: sqlite3.Connection) -> list[BlobRow]:
    """All of them, the longest unused first."""
    return [_row(each) for each in connection.execute(f"SELECT {_COLUMNS} FROM blobs ORDER BY used_at, sha256")]


def touch(connection: sqlite3.Connection, sha256: str, now: float) -> None:
    connection.execute("UPDATE blobs SET used_at = ? WHERE sha256 = ?", (now, bytes.fromhex(sha256)))


def forget(connection: sqlite3.Connection, sha256: str) -> bool:
    return connection.execute("DELETE FROM blobs WHERE sha256 = ?", (bytes.fromhex(sha256),)).rowcount == 1


def _row(columns: tuple[bytes, int, bytes, float, float]) -> BlobRow:
    return BlobRow(columns[0].hex(), columns[1], columns[2].hex(), columns[3], columns[4])
