"""Tasks, their events and deliverables."""

from __future__ import annotations

from chorus.fields import Schema, nullable
from chorus.http.ports import STATES
from chorus.http.schemas.words import COUNT, MOMENT, NUMBER, SHA256, STRING, STRINGS, TASK_ID, TEXT, document, ref
from chorus.tasks import spec
from chorus.tasks.terms import Reason


def _output() -> Schema:
    return document({"bytes": COUNT, "sha256": nullable(SHA256)}, required=["bytes"])


def task() -> Schema:
    """A task document."""
    return document(
        {
            "id": TASK_ID,
            "state": {"type": "string", "enum": list(STATES)},
            "reason": {**TEXT, "description": f"Why it ended ({', '.join(map(str, Reason))}); null before."},
            "detail": {**TEXT, "description": "One line for a person: why it waits, why it ended."},
            "title": TEXT,
            "description": TEXT,
            "project": TEXT,
            "created_at": NUMBER,
            "updated_at": NUMBER,
            "attempt": COUNT,
            "agent": {**TEXT, "description": "Peer id of the agent that runs or ran it."},
            "agent_id": TEXT,
            "fence": TEXT,
            "scheduler": {**TEXT, "description": "Peer id of the member that the task was handed to, if it was."},
            "sandbox": TEXT,
            "image": TEXT,
            "exit_code": {"type": ["integer", "null"]},
            "started_at": MOMENT,
            "ended_at": MOMENT,
            "truncated": STRINGS,
            "caveats": {**STRINGS, "description": "What the sandbox could not hold of its contract, by name."},
            "disk_enforcement": TEXT,
            "artifacts": {"type": "array", "items": ref("Artifact")},
            "output": {
                "anyOf": [document({"stdout": _output(), "stderr": _output()}), {"type": "null"}],
                "description": "Size of each stream, and the blob that holds it once the task has ended.",
            },
            "entries": {"type": "array", "items": ref("OutputEntry")},
            "artifacts_skipped": {
                **STRINGS,
                "description": "What was left out of the deliverables, and why: the first reasons. A reason may stand "
                "for many files, for a pattern that matched nothing, or for an output stream that could not be kept.",
            },
            "artifacts_skipped_total": {**COUNT, "description": "How many deliverables were left out."},
            "artifacts_absent": {
                **COUNT,
                "description": "How many blobs of the result this node could not get from its agent yet; it goes on "
                "trying, and tries at once when one is asked for.",
            },
            "decision": {
                "anyOf": [ref("TaskDecision"), {"type": "null"}],
                "description": "The signed record of the result; null where its agent made none.",
            },
            "depends_on": {"type": "array", "items": TASK_ID},
            "submitter": TEXT,
            "spec": {"type": "object", "description": "The specification with every default written out."},
            "durable": {"type": "string", "enum": ["node", "cluster"]},
            "message": TEXT,
        },
        required=[
            *("id", "state", "reason", "detail", "title", "created_at", "updated_at", "attempt", "agent", "agent_id"),
            *("fence", "sandbox", "image", "exit_code", "started_at", "ended_at", "artifacts", "output", "depends_on"),
            *("spec", "durable", "message"),
        ],
    )


def task_summary() -> Schema:
    """A task in a list."""
    own = {
        "detail": {**TEXT, "description": "Why it waits, or why it ended; cut when it is long."},
        "title": {**TEXT, "description": "Cut when it is long."},
        "command": {**TEXT, "description": "The first command of a task without a title; cut when it is long."},
    }
    names = ("id", "state", "reason", *own, "project", "created_at", "updated_at", "started_at", "ended_at", "attempt")
    properties = {**task()["properties"], **own}
    return document({name: properties[name] for name in (*names, "agent", "agent_id", "exit_code")})


def task_event() -> Schema:
    """The `data` of one server-sent event."""
    return document(
        {
            "id": {"type": "integer", "minimum": 1, "description": "Grows by one per task; survives restarts."},
            "type": {"type": "string", "enum": ["state", "output", "progress", "note"]},
            "time": NUMBER,
            "data": {
                "type": "object",
                "description": "state: {state, reason?, detail?, agent?, attempt?, fence?, sandbox?, retry?: {number, "
                "of}}; output: {stream, offset, text} or {stream, offset, base64} where the bytes are no UTF-8 or hold "
                "many control characters; progress: {phase, …}; note: {text}. Each with source?: its number at the "
                "member that schedules the task, where that is another one.",
            },
        }
    )


def _rights() -> Schema:
    """Of a deliverable, where its agent says them."""
    return {
        "mode": {"type": "integer", "minimum": 0, "maximum": 0o777, "description": "Rights, as of `stat`."},
        "mtime": {"type": "number", "description": "Last change, in Unix seconds."},
    }


def _decision() -> Schema:
    return document(
        {
            "address": {**STRING, "description": "Its UCXL address: `chorus ucxl get ADDRESS`."},
            "hash": {**SHA256, "description": "Its content hash."},
            "state": {
                "type": "string",
                "enum": ["pending", "stored", "safe"],
                "description": "stored: at least one machine has all of it; safe: as many as wanted, and more than "
                "one. A task does not wait for that.",
            },
            "holders": {**COUNT, "description": "Machines that have all of it, as far as this node knows."},
            "wanted": COUNT,
        }
    )


def schemas(policy: spec.LimitPolicy) -> dict[str, Schema]:
    """Components of `/v1/tasks`, by name."""
    return {
        "Artifact": document(
            {"path": STRING, "sha256": SHA256, "size": COUNT, **_rights()},
            required=["path", "sha256", "size"],
        ),
        "OutputEntry": document(
            {
                "path": STRING,
                "target": {"type": "string", "description": "Where the link leads; an empty folder has none."},
                **_rights(),
            },
            required=["path"],
        ),
        "ServerSentEvent": document(
            {
                "id": STRING,
                "event": STRING,
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": ref("TaskEvent"),
                },
            },
            required=["data"],
        ),
        "Task": task(),
        "TaskDecision": _decision(),
        "TaskEvent": task_event(),
        "TaskList": document(
            {
                "tasks": {"type": "array", "items": ref("TaskSummary")},
                "next": {"type": ["string", "null"], "description": "`after` of the next page; null at the end."},
            }
        ),
        "TaskSpec": spec.specification(policy).schema(),
        "TaskSummary": task_summary(),
    }
