"""The scheduler's port to the store: task events, over the table `task_events`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred

from chorus.services.scheduling.events import NewEvent
from chorus.store import blobs, event_tails, events
from chorus.tasks.events import TaskEvent

if TYPE_CHECKING:
    import sqlite3

    from chorus.seams import JSON
    from chorus.store.database import Store
    from chorus.tasks.terms import StreamName


class StoredEvents:
    """`EventStore` over the table `task_events`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def append(self, new: Sequence[NewEvent]) -> Deferred[list[TaskEvent]]:
        def work(connection: sqlite3.Connection) -> list[TaskEvent]:
            places: dict[str, list[int]] = {}
            for place, event in enumerate(new):
                places.setdefault(event.task_id, []).append(place)
            numbered: list[TaskEvent | None] = [None] * len(new)
            for task_id, own in places.items():
                added = events.append(connection, task_id, [(new[n].type, new[n].time, new[n].data) for n in own])
                for place, row in zip(own, added, strict=True):
                    numbered[place] = TaskEvent(row.id, row.type, row.time, dict(row.data))
            return cast("list[TaskEvent]", numbered)

        return self._store.write(work)

    def read(self, task_id: str, after: int, limit: int) -> Deferred[list[TaskEvent]]:
        def work(connection: sqlite3.Connection) -> list[TaskEvent]:
            found = events.after(connection, task_id, after, limit)
            return [TaskEvent(row.id, row.type, row.time, dict(row.data)) for row in found]

        return self._store.read(work)

    def last_states(self, task_ids: Sequence[str]) -> Deferred[dict[str, Mapping[str, JSON]]]:
        return self._store.read(lambda connection: event_tails.last_states(connection, task_ids))

    def received(self, task_id: str) -> Deferred[dict[StreamName, int]]:
        """The end of each stream of the current attempt, as far as it is durable."""

        def work(connection: sqlite3.Connection) -> dict[StreamName, int]:
            return dict(_end(data) for data in event_tails.output_of_attempt(connection, task_id))

        return self._store.read(work)

    def known_tasks(self) -> Deferred[list[str]]:
        return self._store.read(event_tails.known_tasks)

    def blobs_unused_since(self, before: float) -> Deferred[list[str]]:
        """Blobs that were stored, or stored again, last before `before` (Unix seconds)."""

        def work(connection: sqlite3.Connection) -> list[str]:
            return [row.sha256 for row in blobs.every(connection) if row.used_at < before]

        return self._store.read(work)

    def forget(self, task_id: str) -> Deferred[int]:
        return self._store.write(lambda connection: events.forget(connection, task_id))


def _end(data: Mapping[str, JSON]) -> tuple[StreamName, int]:
    text, encoded = data.get("text"), data.get("base64")
    size = len(text.encode()) if isinstance(text, str) else len(base64.b64decode(cast("str", encoded)))
    return cast("StreamName", data["stream"]), cast("int", data["offset"]) + size
