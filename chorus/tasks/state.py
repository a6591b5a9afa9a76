"""One task as the journal's entries have made it: a frozen value, and its JSON for snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

import attrs

from chorus.tasks.journal import Fence
from chorus.tasks.terms import INFRASTRUCTURE, Reason

if TYPE_CHECKING:
    from chorus.seams import JSON


class State(StrEnum):
    QUEUED = "queued"
    SUBMITTED = "submitted"
    ASSIGNED = "assigned"
    PREPARING = "preparing"
    """The agent fetches or unpacks the task's input."""
    RUNNING = "running"
    MOVED = "moved"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.REFUSED})
OWNED = frozenset({State.ASSIGNED, State.PREPARING, State.RUNNING})
"""An agent holds the task under `fence`."""

OWN_FAILURES = frozenset({Reason.EXIT, Reason.TIMEOUT, Reason.OOM, Reason.PIDS, Reason.DISK, Reason.OUTPUT})
"""Failures of the task itself: they end it unless `retries` asks for more."""
DRAINING = "draining"
"""Why an agent that is shutting down hands a task back: nobody's failure, not counted."""
MOVES = frozenset({*map(str, INFRASTRUCTURE), DRAINING})
"""Reasons with which a task leaves its agent and goes on elsewhere."""


@attrs.frozen
class TaskState:
    id: str
    state: State
    spec: Mapping[str, JSON]
    """As `TaskSpec.to_json` wrote it."""
    submitter: str
    created_at: float
    """Unix seconds, as are all times here; from the entries."""
    created_index: int
    updated_at: float
    max_attempts: int
    """How many failures of infrastructure end the task."""
    attempt: int = 0
    """Assignments so far; the number of the one under way when there is one."""
    moves: int = 0
    """Failures of infrastructure so far."""
    retried: int = 0
    """Failures of its own that were tried again."""
    fence: Fence | None = None
    """Of the current owner; in a terminal state that of the last one."""
    agent: str | None = None
    lease_s: float = 0.0
    assigned_at: float | None = None
    started_at: float | None = None
    """Of the current or last attempt."""
    ended_at: float | None = None
    sandbox: str | None = None
    image: str | None = None
    not_before: float = 0.0
    """No assignment before this time (back-off)."""
    waiting_for: frozenset[str] = frozenset()
    """Dependencies that have not completed."""
    tried: tuple[str, ...] = ()
    """Agents that lost or gave back this task, oldest first; each once."""
    reason: str | None = None
    """Why it ended, or why it came back."""
    detail: str | None = None
    result: Mapping[str, JSON] | None = None
    scheduler: str | None = None
    """The member that the task was handed to, and that answers for it."""
    handed_by: str | None = None
    """The member that handed it to this node; it is not handed on."""

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def retry(self) -> tuple[int, int] | None:
        """(which, of how many) the coming try is, of a task that came back: of its own tries after a failure of its
        own, else of the attempts that infrastructure may spoil. None when nothing is tried again, or nothing counts."""
        if self.state is not State.SUBMITTED or self.reason is None or self.reason == DRAINING:
            return None
        if self.reason in OWN_FAILURES:
            return self.retried + 1, self.retries + 1
        return self.moves + 1, self.max_attempts

    @property
    def priority(self) -> int:
        value = self.spec.get("priority")
        return value if type(value) is int else 0

    @property
    def retries(self) -> int:
        value = self.spec.get("retries")
        return value if type(value) is int else 0

    @property
    def depends_on(self) -> tuple[str, ...]:
        value = self.spec.get("depends_on")
        return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()

    def to_json(self) -> dict[str, Any]:
        document = {name: getattr(self, name) for name in _NAMES}
        document["fence"] = None if self.fence is None else str(self.fence)
        document["waiting_for"] = sorted(self.waiting_for)
        document["spec"] = dict(self.spec)
        document["result"] = None if self.result is None else dict(self.result)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TaskState:
        """Inverse of `to_json`; only for what this program wrote itself."""
        values = dict(document)
        values["state"] = State(values["state"])
        values["fence"] = None if values["fence"] is None else Fence.parse(cast("str", values["fence"]))
        values["waiting_for"] = frozenset(values["waiting_for"])
        values["tried"] = tuple(values["tried"])
        return cls(**values)


_NAMES = tuple(field.name for field in attrs.fields(TaskState))
