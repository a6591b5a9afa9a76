"""Decisions of this scheduler's tasks: checked and kept before a result is acknowledged, followed until they are safe.

The executor publishes its decision itself. The scheduler keeps the exact signed bytes too, and publishes them where the
executor has not, so that a result outlives the machine that made it (spec/amendments.md 27).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.services.scheduling.context import NamedDecision
from chorus.ucxl.address import Address, AddressError

if TYPE_CHECKING:
    from chorus.seams import JSON, Document
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.tasks.applied import Change
    from chorus.tasks.state import TaskState


class TaskDecisions:
    """Between the journal and the memory. Without a memory it shows the name of a decision, and no more."""

    _log = Logger()

    def __init__(self, context: SchedulerContext) -> None:
        self._machine = context.ledger.machine
        self._copies = context.copies

    def start(self) -> None:
        """Once the machine is replayed."""
        if self._copies is None:
            return
        found = [named for task in self._machine if (named := _named(task.id, task.result or {})) is not None]
        self._copies.sweep([named.content for named in found])
        for named in found:
            self._copies.follow(named)

    def checked(self, task_id: str, result: Document) -> Document:
        """The result, without a decision that cannot be its agent's on this task."""
        found = _named(task_id, result)
        if found is None or (problem := _problem(found)) is None:
            return result
        self._log.warn(
            "decision of {task} refused: {why}", event="decision.refused", task=task_id, why=problem, agent=found.agent
        )
        return {name: value for name, value in result.items() if name not in ("decision", "publication")}

    async def keep(self, task_id: str, result: Mapping[str, JSON]) -> None:
        """Raises errors of the store."""
        found = _named(task_id, result)
        if found is not None and self._copies is not None:
            await self._copies.keep(found)

    def recorded(self, task_id: str, result: Mapping[str, JSON]) -> None:
        found = _named(task_id, result)
        if found is not None and self._copies is not None:
            self._copies.follow(found)

    def changed(self, change: Change) -> None:
        """A task has a result, or is gone."""
        before, task = change.before, change.after
        if self._copies is None:
            return
        if task is not None and task.result is not None and (before is None or before.result is not task.result):
            self.recorded(task.id, task.result)
        elif task is None and before is not None and before.result is not None:
            self._copies.forget(before.id)

    def of(self, task: TaskState) -> Document | None:
        """For the document of a task."""
        found = _named(task.id, task.result or {})
        if found is None:
            return None
        state: Document = {"state": "pending", "holders": 0, "wanted": 0}
        if self._copies is not None:
            state = self._copies.state_of(found.content)
        return {"address": found.address, "hash": found.content, **state}


def _named(task_id: str, result: Mapping[str, JSON]) -> NamedDecision | None:
    named, publication = result.get("decision"), result.get("publication")
    if not isinstance(named, dict):
        return None
    blob = publication.get("sha256") if isinstance(publication, dict) else None
    name, content, agent = named.get("address"), named.get("hash"), result.get("agent")
    blob = blob if isinstance(blob, str) else None
    return NamedDecision(task_id, str(name), str(content), str(agent), blob, tuple(_sizes(result)))


def _sizes(result: Mapping[str, JSON]) -> Iterator[int]:
    artifacts, output = result.get("artifacts"), result.get("output")
    rows = [(each, "size") for each in artifacts] if isinstance(artifacts, list) else []
    rows += [(each, "bytes") for each in output.values()] if isinstance(output, dict) else []
    for row, name in rows:
        if isinstance(row, dict) and row.get("sha256") is not None and isinstance(size := row.get(name), int):
            yield size


def _problem(decision: NamedDecision) -> str | None:
    try:
        address = Address.published(decision.address)
    except AddressError as error:
        return str(error)
    if (address.agent, address.task) != (decision.agent, decision.task_id):
        return "its address names another agent or another task"
    return None
