"""Pins of blobs, and marks of sealed ones. Functions for `Store.write` and `Store.read`; ids are hexadecimal."""

from __future__ import annotations

import sqlite3

import attrs


@attrs.frozen
class Pin:
    """A reason to keep a blob, which need not be here yet."""

    sha256: str
    reason: str
    by: str
    """Text of the peer id that pushed it; empty for this node."""
    size: int
    """Bytes, as far as they are known."""
    until: float | None = None
    """Unix seconds; None: until it is taken away."""


@attrs.frozen
class PinQuota:
    """Of one peer."""

    bytes: int
    pins: int


def every(connection: sqlite3.Connection, now: float) -> list[Pin]:
    """All, without this node's own that have ended, which are removed: a member's goes with its blob."""
    connection.execute("DELETE FROM pins WHERE until <= ? AND by_peer = ''", (now,))
    rows = connection.execute("SELECT sha256, reason, by_peer, size, until FROM pins")
    return [Pin(row[0].hex(), *row[1:]) for row in rows]


def put(connection: sqlite3.Connection, pin: Pin, now: float, quota: PinQuota | None = None) -> bool:
    """False, and nothing is changed, where the peer's pins that have not ended would pass its quota."""
    sha256 = bytes.fromhex(pin.sha256)
    if quota is not None:
        pins, size = connection.execute(
            "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM pins "
            "WHERE by_peer = ? AND sha256 != ? AND (until IS NULL OR until > ?)",
            (pin.by, sha256, now),
        ).fetchone()
        if size + pin.size > quota.bytes or pins >= quota.pins:
            return False
    connection.execute(
        "INSERT OR REPLACE INTO pins (sha256, reason, by_peer, size, until) VALUES (?, ?, ?, ?, ?)",
        (sha256, pin.reason, pin.by, pin.size, pin.until),
    )
    return True


def end(connection: sqlite3.Connection, sha256: str, reason: str, by: str, until: float) -> None:
    connection.execute(
        "UPDATE pins SET until = ? WHERE sha256 = ? AND reason = ? AND by_peer = ?",
        (until, bytes.fromhex(sha256), reason, by),
    )


def drop(connection: sqlite3.Connection, sha256: str, reason: str, by: str | None = None) -> None:
    """Whoever asked for it, or only the one `by` that peer."""
    connection.execute(
        "DELETE FROM pins WHERE sha256 = ? AND reason = ? AND (? IS NULL OR by_peer = ?)",
        (bytes.fromhex(sha256), reason, by, by),
    )


def mark_sealed(connection: sqlite3.Connection, sha256: str) -> None:
    connection.execute("INSERT OR IGNORE INTO sealed (sha256) VALUES (?)", (bytes.fromhex(sha256),))


def forget_sealed(connection: sqlite3.Connection, sha256: str) -> None:
    connection.execute("DELETE FROM sealed WHERE sha256 = ?", (bytes.fromhex(sha256),))


def sealed(connection: sqlite3.Connection) -> list[str]:
    return [row[0].hex() for row in connection.execute("SELECT sha256 FROM sealed")]
