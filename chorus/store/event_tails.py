"""The ends of task histories, from which a scheduler goes on after a restart. Functions for `Store.read`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from chorus.store import rows

if TYPE_CHECKING:
    from chorus.seams import JSON


def last_states(connection: sqlite3.Connection, task_ids: Iterable[str]) -> dict[str, Mapping[str, JSON]]:
    """The data of each task's newest `state` event; tasks without one are left out."""
    found: dict[str, Mapping[str, JSON]] = {}
    for task_id in task_ids:
        row = connection.execute(
            "SELECT data FROM task_events WHERE task_id = ? AND type = 'state' ORDER BY id DESC LIMIT 1", (task_id,)
        ).fetchone()
        if row is not None:
            found[task_id] = rows.load(row[0])
    return found


def output_of_attempt(connection: sqlite3.Connection, task_id: str) -> list[Mapping[str, JSON]]:
    """Data of the newest `output` event of each stream since the task was last assigned; at most one a stream."""
    found: dict[JSON, Mapping[str, JSON]] = {}
    events = connection.execute(
        "SELECT type, data FROM task_events WHERE task_id = ? AND type IN ('output', 'state') ORDER BY id DESC",
        (task_id,),
    )
    for kind, text in events:
        data = rows.load(text)
        if kind == "state":
            if data.get("state") == "assigned":
                break
        elif data.get("stream") not in found:
            found[data.get("stream")] = data
            if len(found) == 2:
                break
    return list(found.values())


def known_tasks(connection: sqlite3.Connection) -> list[str]:
    """Ids of all tasks that have a history."""
    return [row[0] for row in connection.execute("SELECT DISTINCT task_id FROM task_events")]
