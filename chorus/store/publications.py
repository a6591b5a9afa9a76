"""Decisions on their way to their holders: the exact signed bytes, until they are safe. Functions for `Store.write` and
`Store.read`."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from typing import Final

import attrs

MAX_DROPPED: Final = 100_000
"""Numbers of dropped attempts that are kept; of more the oldest go: their tasks ended long ago."""


class PublicationState(StrEnum):
    WAITING = "waiting"
    """The executor's, until its result is acknowledged: nobody else may see it."""
    DUE = "due"
    """This node publishes it now."""
    KEPT = "kept"
    """The scheduler's, until the result is recorded."""
    COPY = "copy"
    """The scheduler's: it publishes the same bytes where the executor does not."""
    SAFE = "safe"
    """Kept without its bytes, for the document of a task."""


@attrs.frozen
class PublicationRow:
    """`content` is the raw content hash; times are Unix seconds."""

    content: bytes
    address: str
    bundle: bytes
    """Empty where the bytes are not here (yet), or not needed any more."""
    state: PublicationState
    created_at: float
    task_id: str | None = None
    """The task of this node's scheduler that it belongs to."""
    holders: int = 0
    wanted: int = 0
    seq: int = 0
    """Number in its chain, where this node wrote it."""


_COLUMNS = "content, address, bundle, state, created_at, task_id, holders, wanted, seq"


def insert(connection: sqlite3.Connection, row: PublicationRow) -> None:
    """A row that is there already keeps its state: it takes the bytes and the task that it lacks."""
    connection.execute(
        f"INSERT INTO publications ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (content) DO UPDATE SET "
        "task_id = coalesce(task_id, excluded.task_id), "
        "bundle = CASE WHEN bundle = x'' AND state <> 'safe' THEN excluded.bundle ELSE bundle END",
        attrs.astuple(row),
    )


def release(connection: sqlite3.Connection, content: bytes) -> bool:
    """The result that names it is acknowledged: it may be published."""
    return _change(connection, "state = 'due' WHERE content = ? AND state = 'waiting'", content)


def recorded(connection: sqlite3.Connection, content: bytes) -> bool:
    """The result that names it is recorded here."""
    return _change(connection, "state = 'copy' WHERE content = ? AND state = 'kept'", content)


def drop_waiting(connection: sqlite3.Connection, content: bytes) -> None:
    """The attempt is stale: it publishes nothing, and its number stays taken."""
    cursor = connection.execute(
        "INSERT INTO dropped_numbers (address, seq)"
        " SELECT address, seq FROM publications WHERE content = ? AND state = 'waiting'",
        (content,),
    )
    if cursor.rowcount:
        connection.execute("DELETE FROM publications WHERE content = ?", (content,))
        connection.execute(
            "DELETE FROM dropped_numbers WHERE id <= (SELECT max(id) FROM dropped_numbers) - ?", (MAX_DROPPED,)
        )


def dropped(connection: sqlite3.Connection, address: str) -> int:
    """The highest number under an address that an attempt had when it was dropped; 0 where none was."""
    row = connection.execute("SELECT max(seq) FROM dropped_numbers WHERE address = ?", (address,)).fetchone()
    return row[0] or 0


def record(connection: sqlite3.Connection, content: bytes, holders: int, wanted: int) -> bool:
    """How many have it now, and how many should."""
    return _change(connection, "holders = ?, wanted = ? WHERE content = ?", holders, wanted, content)


def renew(connection: sqlite3.Connection, content: bytes, bundle: bytes) -> bool:
    """Encrypted anew: these bytes are published from now on."""
    return _change(connection, "bundle = ? WHERE content = ? AND bundle <> x''", bundle, content)


def settle(connection: sqlite3.Connection, content: bytes) -> None:
    """It is safe: the bytes go, and so does the row of which no task's document speaks."""
    _change(connection, "state = 'safe', bundle = x'' WHERE content = ?", content)
    connection.execute("DELETE FROM publications WHERE content = ? AND task_id IS NULL", (content,))


def forget_task(connection: sqlite3.Connection, task_id: str) -> list[bytes]:
    """The task is gone, and its rows (their content hashes) with it; what this node's executor publishes goes on."""
    connection.execute(
        "UPDATE publications SET task_id = NULL WHERE task_id = ? AND state IN ('waiting', 'due')", (task_id,)
    )
    found = connection.execute("DELETE FROM publications WHERE task_id = ? RETURNING content", (task_id,))
    return [content for (content,) in found]


def sweep(connection: sqlite3.Connection, named: frozenset[bytes]) -> list[bytes]:
    """Drop copies whose results were never recorded, and what is safe and shown by no task; their content hashes."""
    found = connection.execute("SELECT content FROM publications WHERE state IN ('kept', 'safe')").fetchall()
    gone = [content for (content,) in found if content not in named]
    connection.executemany("DELETE FROM publications WHERE content = ?", [(content,) for content in gone])
    return gone


def every(connection: sqlite3.Connection) -> list[PublicationRow]:
    """All of them without their bytes, the oldest first."""
    columns = _COLUMNS.replace("bundle", "x''")
    found = connection.execute(f"SELECT {columns} FROM publications ORDER BY created_at")
    return [_row(each) for each in found]


def get(connection: sqlite3.Connection, content: bytes) -> PublicationRow | None:
    found = connection.execute(f"SELECT {_COLUMNS} FROM publications WHERE content = ?", (content,))
    return next(map(_row, found), None)


def of_address(connection: sqlite3.Connection, address: str) -> list[PublicationRow]:
    """Those of one address that are not safe yet, as far as their bytes are here."""
    found = connection.execute(f"SELECT {_COLUMNS} FROM publications WHERE address = ? AND bundle <> x''", (address,))
    return [_row(each) for each in found]


def _change(connection: sqlite3.Connection, change: str, *values: object) -> bool:
    return connection.execute(f"UPDATE publications SET {change}", values).rowcount == 1


def _row(columns: tuple[bytes, str, bytes, str, float, str | None, int, int, int]) -> PublicationRow:
    content, address, bundle, state, created_at, task_id, holders, wanted, seq = columns
    return PublicationRow(content, address, bundle, PublicationState(state), created_at, task_id, holders, wanted, seq)
