"""The entries that the task machine reads: how to write each, and how their bodies are read back.

The constructors are what the scheduler appends; the readers raise `IllegalEntry`, since a journal may hold what another
version wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chorus.tasks.errors import IllegalEntry
from chorus.tasks.journal import Entry, Fence

if TYPE_CHECKING:
    from chorus.seams import JSON

IDEMPOTENCY_DAYS = 7.0
"""How long a key stands for its task (spec/tasks.md)."""


def submitted(
    time: float,
    task_id: str,
    spec: Mapping[str, JSON],
    submitter: str,
    *,
    max_attempts: int,
    idempotency: tuple[str, str] | None = None,
    idempotency_days: float = IDEMPOTENCY_DAYS,
    queued: bool = False,
    handed_by: str | None = None,
) -> Entry:
    """`spec` as `TaskSpec.to_json`; `idempotency` is the key and the digest of the body; `queued` makes the outbox's
    entry; `handed_by` is the member that took the task in, where that was another one."""
    body: dict[str, JSON] = {"spec": dict(spec), "submitter": submitter, "max_attempts": max_attempts}
    if handed_by is not None:
        body["handed_by"] = handed_by
    if idempotency is not None:
        key, digest = idempotency
        body["idempotency"] = {"key": key, "digest": digest, "expires_at": time + idempotency_days * 86400.0}
    return Entry("task.queued" if queued else "task.submitted", task_id, body, time)


def refused(time: float, task_id: str, reason: str, detail: str) -> Entry:
    return Entry("task.refused", task_id, {"reason": reason, "detail": detail}, time)


def assigned(time: float, task_id: str, *, agent: str, attempt: int, lease_s: float) -> Entry:
    return Entry("task.assigned", task_id, {"agent": agent, "attempt": attempt, "lease_s": lease_s}, time)


def preparing(time: float, task_id: str, fence: Fence) -> Entry:
    """The agent has begun to fetch or unpack the input."""
    return Entry("task.preparing", task_id, {"fence": str(fence)}, time)


def started(time: float, task_id: str, fence: Fence, *, sandbox: str | None = None, image: str | None = None) -> Entry:
    return Entry("task.started", task_id, {"fence": str(fence), "sandbox": sandbox, "image": image}, time)


def lease_expired(time: float, task_id: str, fence: Fence, agent_id: str | None = None) -> Entry:
    """`agent_id` is the name of the task's agent, where it is known."""
    return Entry("task.lease_expired", task_id, {"fence": str(fence), "agent_id": agent_id}, time)


def released(time: float, task_id: str, fence: Fence, reason: str, detail: str | None = None) -> Entry:
    """`reason` is one of `state.MOVES`."""
    return Entry("task.released", task_id, {"fence": str(fence), "reason": reason, "detail": detail}, time)


def completed(time: float, task_id: str, fence: Fence, result: Mapping[str, JSON], detail: str | None = None) -> Entry:
    return Entry("task.completed", task_id, {"fence": str(fence), "result": dict(result), "detail": detail}, time)


def failed(
    time: float,
    task_id: str,
    fence: Fence | None,
    reason: str,
    detail: str | None = None,
    result: Mapping[str, JSON] | None = None,
) -> Entry:
    """Without a fence: the scheduler gives up on a task that nobody holds."""
    body: dict[str, JSON] = {"reason": reason, "detail": detail}
    if fence is not None:
        body["fence"] = str(fence)
    if result is not None:
        body["result"] = dict(result)
    return Entry("task.failed", task_id, body, time)


def cancelled(time: float, task_id: str, by: str, reason: str) -> Entry:
    return Entry("task.cancelled", task_id, {"by": by, "reason": reason}, time)


def collected(time: float, task_id: str, fence: Fence, result: Mapping[str, JSON]) -> Entry:
    """The remains of a run that was killed because its task was cancelled."""
    return Entry("task.collected", task_id, {"fence": str(fence), "result": dict(result)}, time)


def moved(time: float, task_id: str, to: str) -> Entry:
    """The member `to` is asked to be the task's scheduler; it may have become that whatever its answer."""
    return Entry("task.moved", task_id, {"to": to}, time)


def returned(time: float, task_id: str, detail: str) -> Entry:
    """The member that was asked does not have the task, and will not."""
    return Entry("task.returned", task_id, {"detail": detail}, time)


def settled(time: float, task_id: str, state: str, **end: JSON) -> Entry:
    """How the task ended at the member that it was handed to: `reason`, `detail`, `result`, `attempt`, `agent`,
    `sandbox`, `image`, `started_at`, as far as they are known."""
    return Entry("task.settled", task_id, {"state": state, **end}, time)


def forgotten(time: float, task_id: str) -> Entry:
    return Entry("task.forgotten", task_id, {}, time)


def text(body: Mapping[str, JSON], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise IllegalEntry(f"{name} must be a text")
    return value


def optional_text(body: Mapping[str, JSON], name: str) -> str | None:
    return text(body, name) if body.get(name) else None


def spec(body: Mapping[str, JSON]) -> Mapping[str, JSON]:
    value = body.get("spec")
    if not isinstance(value, dict):
        raise IllegalEntry("spec must be an object")
    return value


def dependencies(entry: Entry) -> tuple[str, ...]:
    value = spec(entry.body).get("depends_on") or []
    if not isinstance(value, list):
        raise IllegalEntry("depends_on must be a list of task ids")
    found = [each for each in value if isinstance(each, str)]
    if len(found) != len(value):
        raise IllegalEntry("depends_on must be a list of task ids")
    return tuple(dict.fromkeys(found))


def fence(body: Mapping[str, JSON]) -> Fence:
    try:
        return Fence.parse(text(body, "fence"))
    except ValueError:
        raise IllegalEntry("fence must be epoch.term.index") from None


def result(body: Mapping[str, JSON], *, required: bool = False) -> Mapping[str, JSON] | None:
    value = body.get("result")
    if value is None and not required:
        return None
    if not isinstance(value, dict):
        raise IllegalEntry("result must be an object")
    return value


def idempotency(body: Mapping[str, JSON]) -> tuple[str, str, float] | None:
    value = body.get("idempotency")
    if value is None:
        return None
    expires = value.get("expires_at") if isinstance(value, dict) else None
    if not isinstance(value, dict) or isinstance(expires, bool) or not isinstance(expires, int | float):
        raise IllegalEntry("idempotency must have key, digest and expires_at")
    return text(value, "key"), text(value, "digest"), float(expires)
