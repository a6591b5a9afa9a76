"""A task's documents, from the state machine's task (pure): the HTTP API's, a list's, and its `state` events.

The shapes are those of `http/schemas` and docs/api.md.
"""

from __future__ import annotations

import json
import shlex
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from chorus.tasks.blobs import result_blobs
from chorus.tasks.state import OWN_FAILURES, OWNED, State, TaskState

MAX_SUMMARY_TITLE = 200
MAX_SUMMARY_DETAIL = 200
MAX_SUMMARY_NAME = 64
"""Bytes of JSON that a summary gives of a title (or the command in its place), of the line on how it goes, and of an
agent's name: with the other fields under 1,310, so that a page of 200 stays under 256 KiB whatever members call
themselves."""

if TYPE_CHECKING:
    from chorus.seams import JSON, Document

_MESSAGES = {
    State.QUEUED: "kept on this node until the cluster can take it; it is durable on this node only",
    State.SUBMITTED: "accepted and waiting for an agent",
    State.ASSIGNED: "an agent has taken it",
    State.PREPARING: "its agent fetches and unpacks the input",
    State.RUNNING: "running",
    State.MOVED: "handed to another member, which sees an agent for it and answers for it",
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
    decision: Document | None = None,
) -> Document:
    """`waiting` says why no agent has it; `received` is the output that has arrived from the current attempt; `absent`
    says which blobs are not at this node; `decision` is the signed record of the result."""
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
        "scheduler": task.scheduler,
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
        "artifacts_absent": sum(absent(sha256) for sha256, _ in result_blobs({**result, "publication": None})),
        "output": output,
        "decision": decision,
        "depends_on": cast("JSON", list(task.depends_on)),
        "spec": dict(task.spec),
    }


def summary(task: TaskState, *, waiting: str | None = None, agent_id: str | None = None) -> Document:
    """A task's line in a list; of bounded size, whatever its specification and its result hold."""
    result = task.result if task.result is not None and task.terminal else {}
    agent = task.agent or _text((task.result or {}).get("agent"))
    title = _text(task.spec.get("title")) or ""
    return {
        "id": task.id,
        "state": str(task.state),
        "reason": task.reason if task.terminal else None,
        "detail": clipped(waiting if task.state is State.SUBMITTED and waiting else task.detail, MAX_SUMMARY_DETAIL),
        "title": clipped(title, MAX_SUMMARY_TITLE),
        "command": None if title else clipped(first_command(task.spec), MAX_SUMMARY_TITLE),
        "project": task.spec.get("project"),
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "started_at": result.get("started_at") or task.started_at,
        "ended_at": task.ended_at,
        "attempt": task.attempt,
        "agent": agent,
        "agent_id": clipped(_text(result.get("agent_id")) or agent_id, MAX_SUMMARY_NAME),
        "exit_code": (task.result or {}).get("exit_code"),
    }


def state_event(task: TaskState, agent_id: str | None) -> Document:
    """`agent_id` is the name of the task's agent, where it is known."""
    event: Document = {"state": str(task.state), "attempt": task.attempt}
    owned = task.state in OWNED
    # Waiting again, it is in no sandbox any more.
    placed = task.state is not State.SUBMITTED
    retry = task.retry
    optional: Document = {
        "reason": task.reason,
        "detail": task.detail,
        "agent": task.agent,
        "agent_id": agent_id,
        "fence": str(task.fence) if task.fence is not None else None,
        "sandbox": task.sandbox if placed else None,
        "image": task.image if placed else None,
        "retry": {"number": retry[0], "of": retry[1]} if retry is not None else None,
        "exit_code": (task.result or {}).get("exit_code") if not owned else None,
    }
    event.update({name: value for name, value in optional.items() if value is not None})
    return event


def differs(event: Mapping[str, JSON] | None, task: TaskState) -> bool:
    """True if the newest state event shows another state than the task's."""
    if event is None:
        return True
    fence = str(task.fence) if task.fence is not None else None
    return event.get("state") != task.state or event.get("attempt") != task.attempt or event.get("fence") != fence


def logged(event: Document) -> dict[str, object]:
    """The part of it that is logged: all but the detail, a text of the agent's that no redactor here has seen."""
    return {name: value for name, value in event.items() if name != "detail"}


def clipped(text: str | None, most: int) -> str | None:
    """At most `most` bytes of it as JSON without its quotes, cut with an ellipsis between two characters."""
    if text is None or (len(text) <= most // 2 and text.isascii() and text.isprintable()):
        # Of such characters none takes more than two bytes.
        return text
    if len(_json(text)) <= most:
        return text
    left = most - len(_ELLIPSIS.encode())
    # No character takes less than a byte; a list cuts hundreds of texts, so it does not look at each.
    kept = bisect_right(range(min(len(text), left) + 1), left, key=lambda place: len(_json(text[:place]))) - 1
    return text[:kept] + _ELLIPSIS


_ELLIPSIS = "…"


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")


def first_command(spec: Mapping[str, JSON]) -> str | None:
    """Its first line, as for a shell."""
    commands = spec.get("commands")
    if not isinstance(commands, list) or not commands:
        return None
    first = commands[0]
    words = [each for each in first if isinstance(each, str)] if isinstance(first, list) else []
    text = shlex.join(words) if words else str(first)
    return text[: 4 * MAX_SUMMARY_TITLE].strip().split("\n", 1)[0]


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
