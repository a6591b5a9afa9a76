"""The task document of the HTTP API, from the state machine's task (pure). The shape is `http/openapi.py`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from chorus.tasks.state import OWN_FAILURES, State, TaskState

if TYPE_CHECKING:
    from chorus.http.ports import Document
    from chorus.seams import JSON

_MESSAGES = {
    State.QUEUED: "kept on this node until the cluster can take it; it is durable on this node only",
    State.SUBMITTED: "accepted and waiting for an agent",
    State.ASSIGNED: "an agent has taken it and prepares the sandbox",
    State.RUNNING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.REFUSED: "refused",
}


def document(
    task: TaskState,
    *,
    waiting: str | None = None,
    received: Mapping[str, int] | None = None,
    agent_id: Callable[[str], str | None] = lambda _: None,
    absent: Callable[[str], bool] = lambda _: False,
) -> Document:
    """`waiting` says why no agent has it; `received` is the output that has arrived from the current attempt; `absent`
    tells blobs that are not at this node."""
    result = task.result or {}
    skipped = cast("list[JSON]", result.get("artifacts_skipped") or [])
    agent = task.agent or _text(result.get("agent"))
    # A result of an earlier attempt stays visible until a later one replaces it, but it is not where the task is now.
    current = result if task.terminal else {}
    output: Document = {
        stream: _stream(result.get("output"), stream, (received or {}).get(stream)) for stream in ("stdout", "stderr")
    }
    return {
        "id": task.id,
        "state": str(task.state),
        "reason": task.reason if task.terminal else None,
        "detail": waiting if task.state is State.SUBMITTED and waiting else task.detail,
        "message": _message(task),
        "durable": "node",
        "title": _text(task.spec.get("title")) or "",
        "description": _text(task.spec.get("description")) or "",
        "project": task.spec.get("project"),
        "submitter": task.submitter,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "started_at": current.get("started_at") or task.started_at,
        "ended_at": task.ended_at,
        "attempt": task.attempt,
        "agent": agent,
        "agent_id": _text(current.get("agent_id")) or (agent_id(agent) if agent is not None else None),
        "fence": str(task.fence) if task.fence is not None else None,
        "sandbox": current.get("sandbox") or task.sandbox,
        "image": current.get("image") or task.image,
        "exit_code": result.get("exit_code"),
        "truncated": result.get("truncated") or [],
        "caveats": result.get("caveats") or [],
        "disk_enforcement": result.get("disk_enforcement"),
        "artifacts": result.get("artifacts") or [],
        "entries": result.get("entries") or [],
        "artifacts_skipped": skipped,
        # Results of older versions have the list alone.
        "artifacts_skipped_total": result.get("artifacts_skipped_total") or len(skipped),
        "artifacts_absent": sum(absent(sha256) for sha256, _ in blobs_of(result)),
        "output": output,
        "depends_on": cast("JSON", list(task.depends_on)),
        "spec": dict(task.spec),
    }


def _message(task: TaskState) -> str:
    if task.state is State.SUBMITTED and task.waiting_for:
        return f"waits for {len(task.waiting_for)} other task{'s' if len(task.waiting_for) > 1 else ''} to complete"
    if (retry := task.retry) is not None:
        what = "failed" if task.reason in OWN_FAILURES else "lost its agent"
        return f"{what}, trying again ({retry[0]} of {retry[1]})"
    return _MESSAGES[task.state]


def _stream(output: JSON, stream: str, received: int | None) -> Document:
    if received is not None:
        return {"bytes": received, "sha256": None}
    found = output.get(stream) if isinstance(output, dict) else None
    return dict(found) if isinstance(found, dict) else {"bytes": 0, "sha256": None}


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


def blobs_of(result: Mapping[str, JSON] | None) -> list[tuple[str, int]]:
    """(sha256, size) of everything a result names: artifacts and whole outputs."""
    found: list[tuple[str, int]] = []
    rows: list[JSON] = []
    artifacts = (result or {}).get("artifacts")
    if isinstance(artifacts, list):
        rows += artifacts
    output = (result or {}).get("output")
    if isinstance(output, dict):
        rows += [{**row, "size": row.get("bytes")} for row in output.values() if isinstance(row, dict)]
    for row in rows:
        if isinstance(row, dict):
            sha256, size = row.get("sha256"), row.get("size")
            if isinstance(sha256, str) and isinstance(size, int):
                found.append((sha256, size))
    return found


def input_of(spec: Mapping[str, JSON]) -> str | None:
    """The SHA-256 of the input archive a specification names."""
    given = spec.get("input")
    return _text(given.get("sha256")) if isinstance(given, dict) else None
