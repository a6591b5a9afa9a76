"""The executor's port to the store: rows of attempts, over the table `runs`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.identity import PeerId
from chorus.protocols.task_messages import InputBlob, Result, from_json, to_json
from chorus.services.execution.row import RunRecord
from chorus.store import publications, runs
from chorus.tasks.journal import Fence
from chorus.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import sqlite3

    from chorus.seams import JSON
    from chorus.store.database import Store
    from chorus.store.publications import PublicationRow


class StoredRuns:
    """`RunStore` over the table `runs`. A row that cannot be read (another version's) is logged and left alone."""

    _log = Logger()

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall

    def save(self, record: RunRecord, publication: PublicationRow | None = None) -> Deferred[None]:
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
            if publication is not None:
                publications.insert(connection, publication)

        return self._store.write(work)

    def renewed(self, record: RunRecord) -> Deferred[None]:
        now, state = self._wall(), _state(record)

        def work(connection: sqlite3.Connection) -> None:
            runs.update(connection, record.task_id, str(record.fence), state, now)

        return self._store.write(work)

    def delete(self, record: RunRecord, *, accepted: bool) -> Deferred[None]:
        decision = record.outcome.decision if isinstance(record.outcome, Result) else None
        content = None if decision is None else bytes.fromhex(decision.hash)

        def work(connection: sqlite3.Connection) -> None:
            if content is not None and accepted:
                publications.release(connection, content)
            elif content is not None:
                publications.drop_waiting(connection, content)
            runs.forget(connection, record.task_id, str(record.fence))

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
