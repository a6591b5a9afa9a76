"""Task histories: the rows behind `GET /v1/tasks/{id}/events`. Functions for `Store.write` and `Store.read`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from chorus.store import rows

if TYPE_CHECKING:
    from chorus.seams import JSON

PAGE = 500
"""Events read at once for a watcher who begins far back."""


@attrs.frozen
class EventRow:
    id: int
    type: str
    time: float
    data: Mapping[str, JSON]


def last_id(connection: sqlite3.Connection, task_id: str) -> int:
    """0 for a task without a history."""
    return int(
        connection.execute("SELECT coalesce(max(id), 0) FROM task_events WHERE task_id = ?", (task_id,)).fetchone()[0]
    )


def append(
    connection: sqlite3.Connection, task_id: str, events: Iterable[tuple[str, float, Mapping[str, JSON]]]
) -> list[EventRow]:
    """Add (type, time, data) of each event in order; returns them with their ids."""
    next_id = last_id(connection, task_id) + 1
    added = [EventRow(next_id + n, kind, time, data) for n, (kind, time, data) in enumerate(events)]
    connection.executemany(
        "INSERT INTO task_events (task_id, id, type, time, data) VALUES (?, ?, ?, ?, ?)",
        [(task_id, each.id, each.type, each.time, rows.dump(dict(each.data))) for each in added],
    )
    return added


def after(connection: sqlite3.Connection, task_id: str, after: int, limit: int = PAGE) -> list[EventRow]:
    """At most `limit` events with an id over `after`, in order."""
    found = connection.execute(
        "SELECT id, type, time, data FROM task_events WHERE task_id = ? AND id > ? ORDER BY id LIMIT ?",
        (task_id, after, limit),
    )
    return [EventRow(i, kind, time, rows.load(data)) for i, kind, time, data in found]


def forget(connection: sqlite3.Connection, task_id: str) -> int:
    """Drop a task's history; returns how many events went."""
    return connection.execute("DELETE FROM task_events WHERE task_id = ?", (task_id,)).rowcount
