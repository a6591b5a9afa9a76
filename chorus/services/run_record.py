"""The durable row of an attempt at its executor, and the store of such rows.

It is there before anything starts and stays until the scheduler has acknowledged the outcome, so that a later process
knows what it has to take back, to hand back or to deliver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import attrs

from chorus.protocols.task_messages import from_json, to_json

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.identity import PeerId
    from chorus.protocols.task_messages import InputBlob, Message
    from chorus.seams import JSON
    from chorus.tasks.journal import Fence
    from chorus.tasks.spec import TaskSpec


@attrs.frozen
class RunRecord:
    """The durable row of an attempt."""

    task_id: str
    fence: Fence
    attempt: int
    scheduler: PeerId
    spec: TaskSpec
    input: InputBlob | None
    lease_s: float
    lease_until: float
    """Unix seconds after which the sandbox must be gone: the kill time, for a restart to judge by."""
    language: str | None = None
    """Known, as are the next three, once the sandbox may have been started."""
    sandbox: str | None = None
    image: str | None = None
    started_at: float | None = None
    outcome: Message | None = None
    """`Result` or `Released`, once there is one."""

    def outcome_json(self) -> dict[str, JSON] | None:
        return None if self.outcome is None else to_json(self.outcome)


def outcome_from_json(document: Mapping[str, JSON] | None) -> Message | None:
    """Inverse of `RunRecord.outcome_json`."""
    return None if document is None else from_json(dict(document))


class RunStore(Protocol):
    """Rows of attempts. A row is gone only after `delete`."""

    def save(self, record: RunRecord) -> Deferred[None]:
        """Insert or replace the row of (task, fence)."""

    def renewed(self, record: RunRecord) -> Deferred[None]:
        """Only `lease_until` (and what else moves) has changed."""

    def delete(self, task_id: str, fence: Fence) -> Deferred[None]: ...

    def all(self) -> Deferred[list[RunRecord]]: ...
