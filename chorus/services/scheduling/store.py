"""The services' ports to the store: task events and runs, over the tables of `chorus/store`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.identity import PeerId
from chorus.protocols.task_messages import InputBlob, from_json, to_json
from chorus.services.execution.row import RunRecord
from chorus.services.scheduling.events import NewEvent
from chorus.store import blobs, event_tails, events, runs
from chorus.tasks.events import TaskEvent
from chorus.tasks.journal import Fence
from chorus.tasks.spec import TaskSpec

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
        """Where each stream of the current attempt ends, as far as it is durable."""

        def work(connection: sqlite3.Connection) -> dict[StreamName, int]:
            return dict(_end(data) for data in event_tails.output_of_attempt(connection, task_id))

        return self._store.read(work)

    def known_tasks(self) -> Deferred[list[str]]:
        return self._store.read(event_tails.known_tasks)

    def blobs_unused_since(self, before: float) -> Deferred[list[str]]:
        """Blobs that were brought, or brought again, last before `before` (Unix seconds)."""

        def work(connection: sqlite3.Connection) -> list[str]:
            return [row.sha256 for row in blobs.every(connection) if row.used_at < before]

        return self._store.read(work)

    def forget(self, task_id: str) -> Deferred[int]:
        return self._store.write(lambda connection: events.forget(connection, task_id))


def _end(data: Mapping[str, JSON]) -> tuple[StreamName, int]:
    text, encoded = data.get("text"), data.get("base64")
    size = len(text.encode()) if isinstance(text, str) else len(base64.b64decode(cast("str", encoded)))
    return cast("StreamName", data["stream"]), cast("int", data["offset"]) + size


class StoredRuns:
    """`RunStore` over the table `runs`. A row that cannot be read (another version's) is logged and left alone."""

    _log = Logger()

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall

    def save(self, record: RunRecord) -> Deferred[None]:
        now = self._wall()
        state, outcome = _state(record), None if record.outcome is None else to_json(record.outcome)

        def work(connection: sqlite3.Connection) -> None:
            runs.insert(
                connection,
                task_id=record.task_id,
                fence=str(record.fence),
                attempt=record.attempt,
                scheduler=str(record.scheduler),
                spec=_spec(record),
                state=state,
                now=now,
            )
            runs.update(connection, record.task_id, str(record.fence), state, now, outcome)

        return self._store.write(work)

    def renewed(self, record: RunRecord) -> Deferred[None]:
        now, state = self._wall(), _state(record)

        def work(connection: sqlite3.Connection) -> None:
            runs.update(connection, record.task_id, str(record.fence), state, now)

        return self._store.write(work)

    def delete(self, task_id: str, fence: Fence) -> Deferred[None]:
        def work(connection: sqlite3.Connection) -> None:
            runs.forget(connection, task_id, str(fence))

        return self._store.write(work)

    def all(self) -> Deferred[list[RunRecord]]:
        def work(connection: sqlite3.Connection) -> list[RunRecord]:
            found: list[RunRecord] = []
            for row in runs.unfinished(connection):
                try:
                    found.append(_record(row))
                except Exception:
                    self._log.failure("the run of {task} cannot be read", task=row.task_id)
            return found

        return self._store.read(work)


_MOVING = ("lease_until", "language", "sandbox", "image", "started_at")


def _state(record: RunRecord) -> str:
    return json.dumps({name: getattr(record, name) for name in _MOVING})


def _spec(record: RunRecord) -> dict[str, JSON]:
    blob = None if record.input is None else cast("dict[str, JSON]", attrs.asdict(record.input))
    return {"spec": record.spec.to_json(), "input": blob, "lease_s": record.lease_s}


def _record(row: runs.StoredRun) -> RunRecord:
    fixed = cast("dict[str, Any]", row.spec)
    moving = json.loads(row.state)
    return RunRecord(
        task_id=row.task_id,
        fence=Fence.parse(row.fence),
        attempt=row.attempt,
        scheduler=PeerId.parse(row.scheduler),
        spec=TaskSpec.from_json(fixed["spec"]),
        input=None if fixed["input"] is None else InputBlob(**fixed["input"]),
        lease_s=fixed["lease_s"],
        outcome=None if row.result is None else from_json(dict(row.result)),
        **{name: moving[name] for name in _MOVING},
    )
