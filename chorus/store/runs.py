"""The executor's attempts, until their results are acknowledged. Functions for `Store.write` and `Store.read`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from chorus.store import rows

if TYPE_CHECKING:
    from chorus.seams import JSON


@attrs.frozen
class StoredRun:
    """`state` and the shapes of `spec` and `result` are the executor's own; times are Unix seconds."""

    task_id: str
    fence: str
    attempt: int
    scheduler: str
    """Peer id of the node that assigned it."""
    spec: Mapping[str, JSON]
    state: str
    result: Mapping[str, JSON] | None
    created_at: float
    updated_at: float


_COLUMNS = "task_id, fence, attempt, scheduler, spec, state, result, created_at, updated_at"


def insert(
    connection: sqlite3.Connection,
    *,
    task_id: str,
    fence: str,
    attempt: int,
    scheduler: str,
    spec: Mapping[str, JSON],
    state: str,
    now: float,
) -> bool:
    """False when this run is known already (a repeated assignment), and nothing is changed then."""
    values = (task_id, fence, attempt, scheduler, rows.dump(dict(spec)), state, None, now, now)
    cursor = connection.execute(f"INSERT OR IGNORE INTO runs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    return cursor.rowcount == 1


def update(
    connection: sqlite3.Connection,
    task_id: str,
    fence: str,
    state: str,
    now: float,
    result: Mapping[str, JSON] | None = None,
) -> bool:
    """Set the state, and the result when one is given; False when there is no such run."""
    text = None if result is None else rows.dump(dict(result))
    cursor = connection.execute(
        "UPDATE runs SET state = ?, result = coalesce(?, result), updated_at = ? WHERE task_id = ? AND fence = ?",
        (state, text, now, task_id, fence),
    )
    return cursor.rowcount == 1


def get(connection: sqlite3.Connection, task_id: str, fence: str) -> StoredRun | None:
    found = connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE task_id = ? AND fence = ?", (task_id, fence))
    return next(map(_row, found), None)


def unfinished(connection: sqlite3.Connection) -> list[StoredRun]:
    """Every run that is not forgotten, oldest first."""
    return [_row(each) for each in connection.execute(f"SELECT {_COLUMNS} FROM runs ORDER BY created_at, task_id")]


def forget(connection: sqlite3.Connection, task_id: str, fence: str) -> bool:
    """Drop an acknowledged run; False when there is none."""
    return connection.execute("DELETE FROM runs WHERE task_id = ? AND fence = ?", (task_id, fence)).rowcount == 1


def _row(columns: tuple[str, str, int, str, str, str, str | None, float, float]) -> StoredRun:
    task_id, fence, attempt, scheduler, spec, state, result, *times = columns
    ended = None if result is None else rows.load(result)
    return StoredRun(task_id, fence, attempt, scheduler, rows.load(spec), state, ended, *times)
