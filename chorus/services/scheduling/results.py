"""Results of attempts (pure): the document that is kept, the limits that it must keep to, and its journal entry.

An agent may claim anything, and what it names is fetched. The sandbox holds the same limits, so a result of an honest
agent cannot pass them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from chorus.protocols.task_messages import (
    MAX_ARTIFACTS,
    Released,
    Result,
    ResultArtifact,
    ResultEntry,
    TaskProtocolError,
)
from chorus.tasks import entries
from chorus.tasks.deadlines import limit_of
from chorus.tasks.state import State, TaskState
from chorus.tasks.terms import Reason

if TYPE_CHECKING:
    from chorus.seams import JSON
    from chorus.tasks.journal import Entry, Fence

MIB = 1024 * 1024


class ResultOverLimits(TaskProtocolError):
    """A result that names more than its task may leave."""

    code = "result_over_limits"


def excess(spec: Mapping[str, JSON], result: Mapping[str, JSON]) -> str | None:
    """One line that says which limit of `spec` (as `TaskSpec.to_json`) is passed by `result` (a result document); None
    when none is. Sizes count once a row, as the sandbox counts them."""
    artifacts = result.get("artifacts")
    rows = [row for row in artifacts if isinstance(row, dict)] if isinstance(artifacts, list) else []
    if rows and spec.get("artifacts") == []:
        return f"{len(rows)} artifacts, where the task asks for none"
    if len(rows) > MAX_ARTIFACTS:
        return f"{len(rows)} artifacts, the most is {MAX_ARTIFACTS}"
    if (over := _over(sum(_number(row.get("size")) for row in rows), limit_of(spec, "disk_mb"))) is not None:
        return f"artifacts of {over} (disk_mb)"
    output = result.get("output")
    for stream, row in output.items() if isinstance(output, dict) else ():
        size = _number(row.get("bytes")) if isinstance(row, dict) else 0
        if (over := _over(size, limit_of(spec, "output_mb"))) is not None:
            return f"{stream} of {over} (output_mb)"
    return None


def _over(size: int, megabytes: float | None) -> str | None:
    if megabytes is None or size <= megabytes * MIB:
        return None
    return f"{size} bytes, over the limit of {megabytes} MiB"


def _number(value: JSON) -> int:
    return value if isinstance(value, int) else 0


def result_document(message: Result, agent: str, agent_id: str | None) -> dict[str, JSON]:
    """A result as the journal keeps it and the API shows it."""
    return {
        "reason": message.reason,
        "exit_code": message.exit_code,
        "detail": message.detail,
        "agent": agent,
        "agent_id": agent_id,
        "sandbox": message.sandbox,
        "image": message.image,
        "started_at": message.started_at,
        "ended_at": message.ended_at,
        "output": {
            "stdout": {"bytes": message.stdout_bytes, "sha256": message.stdout_sha256},
            "stderr": {"bytes": message.stderr_bytes, "sha256": message.stderr_sha256},
        },
        "truncated": list(message.truncated),
        "artifacts": [_row(row) for row in message.artifacts],
        "entries": [_row(row) for row in message.entries],
        "artifacts_skipped": list(message.artifacts_skipped),
        "artifacts_skipped_total": max(message.artifacts_skipped_total, len(message.artifacts_skipped)),
        "caveats": list(message.caveats),
        "disk_enforcement": message.disk_enforcement,
        **_of_decision(message),
    }


def _of_decision(message: Result) -> dict[str, JSON]:
    """Nothing for an executor without a memory."""
    named = {"decision": message.decision, "publication": message.publication}
    return {name: attrs.asdict(value) for name, value in named.items() if value is not None}


def _row(row: ResultArtifact | ResultEntry) -> dict[str, JSON]:
    """Without what an older executor leaves out."""
    return {name: value for name, value in attrs.asdict(row).items() if value is not None}


def released_entry(task: TaskState, fence: Fence, message: Released, now: float) -> Entry | None:
    """The entry for a task that its agent hands back; None when the task is over."""
    if task.terminal:
        return None
    return entries.released(now, task.id, fence, message.reason, message.detail or None)


def result_entry(
    task: TaskState, fence: Fence, message: Result, document: Mapping[str, JSON], now: float
) -> Entry | None:
    """The entry for a result; None when there is nothing left to record."""
    if task.state is State.CANCELLED:
        return entries.collected(now, task.id, fence, document) if task.fence == fence else None
    if task.terminal:
        return None
    detail = message.detail or None
    if message.reason == Reason.EXIT and message.exit_code == 0:
        return entries.completed(now, task.id, fence, document, detail)
    return entries.failed(now, task.id, fence, message.reason, detail, document)
