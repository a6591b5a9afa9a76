"""JSON schemas (2020-12) of what the API takes and gives."""

from __future__ import annotations

from typing import Any

from chorus.fields import Schema, nullable
from chorus.http.tasks import STATES
from chorus.sandbox.contract import Reason
from chorus.tasks import spec

TASK_ID: Schema = spec.TASK_ID.schema()
SHA256: Schema = spec.SHA256.schema()


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Schema], required: list[str] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


def _output() -> Schema:
    return _object({"bytes": {"type": "integer", "minimum": 0}, "sha256": nullable(SHA256)}, required=["bytes"])


def task() -> Schema:
    """A task document."""
    text: Schema = {"type": ["string", "null"]}
    moment: Schema = {"type": ["number", "null"], "description": "Unix seconds."}
    words: Schema = {"type": "array", "items": {"type": "string"}}
    count: Schema = {"type": "integer", "minimum": 0}
    return _object(
        {
            "id": TASK_ID,
            "state": {"type": "string", "enum": list(STATES)},
            "reason": {**text, "description": f"Why it ended ({', '.join(map(str, Reason))}); null before."},
            "detail": {**text, "description": "One line for a person: why it waits, why it ended."},
            "title": text,
            "description": text,
            "project": text,
            "created_at": {"type": "number"},
            "updated_at": {"type": "number"},
            "attempt": {"type": "integer", "minimum": 0},
            "agent": {**text, "description": "Peer id of the agent that runs or ran it."},
            "agent_id": text,
            "fence": text,
            "scheduler": {**text, "description": "Peer id of the member that the task was handed to, if it was."},
            "sandbox": text,
            "image": text,
            "exit_code": {"type": ["integer", "null"]},
            "started_at": moment,
            "ended_at": moment,
            "truncated": words,
            "caveats": {**words, "description": "What the sandbox could not hold of its contract, by name."},
            "disk_enforcement": text,
            "artifacts": {"type": "array", "items": ref("Artifact")},
            "output": {
                "anyOf": [_object({"stdout": _output(), "stderr": _output()}), {"type": "null"}],
                "description": "Size of each stream, and the blob that holds it once the task has ended.",
            },
            "entries": {"type": "array", "items": ref("OutputEntry")},
            "artifacts_skipped": {
                **words,
                "description": "What was left out of the deliverables, and why: the first reasons. A reason may stand "
                "for many files, for a pattern that matched nothing, or for an output stream that could not be kept.",
            },
            "artifacts_skipped_total": {**count, "description": "How many deliverables were left out."},
            "artifacts_absent": {
                **count,
                "description": "How many blobs of the result this node could not get from its agent yet; it goes on "
                "trying, and tries at once when one is asked for.",
            },
            "depends_on": {"type": "array", "items": TASK_ID},
            "submitter": text,
            "spec": {"type": "object", "description": "The specification with every default written out."},
            "durable": {"type": "string", "enum": ["node", "cluster"]},
            "message": text,
        },
        required=[
            *("id", "state", "reason", "detail", "title", "created_at", "updated_at", "attempt", "agent", "agent_id"),
            *("fence", "sandbox", "image", "exit_code", "started_at", "ended_at", "artifacts", "output", "depends_on"),
            *("spec", "durable", "message"),
        ],
    )


def task_summary() -> Schema:
    """A task in a list."""
    text: Schema = {"type": ["string", "null"]}
    moment: Schema = {"type": ["number", "null"], "description": "Unix seconds."}
    return _object(
        {
            "id": TASK_ID,
            "state": {"type": "string", "enum": list(STATES)},
            "reason": {**text, "description": f"Why it ended ({', '.join(map(str, Reason))}); null before."},
            "detail": {**text, "description": "Why it waits, or why it ended; cut when it is long."},
            "title": {**text, "description": "Cut when it is long."},
            "command": {**text, "description": "The first command of a task without a title; cut when it is long."},
            "project": text,
            "created_at": {"type": "number"},
            "updated_at": {"type": "number"},
            "started_at": moment,
            "ended_at": moment,
            "attempt": {"type": "integer", "minimum": 0},
            "agent": {**text, "description": "Peer id of the agent that runs or ran it."},
            "agent_id": text,
            "exit_code": {"type": ["integer", "null"]},
        },
    )


def task_event() -> Schema:
    """The `data` of one server-sent event."""
    return _object(
        {
            "id": {"type": "integer", "minimum": 1, "description": "Grows by one per task; survives restarts."},
            "type": {"type": "string", "enum": ["state", "output", "progress", "note"]},
            "time": {"type": "number"},
            "data": {
                "type": "object",
                "description": "state: {state, reason?, detail?, agent?, attempt?, fence?, sandbox?, retry?: {number, "
                "of}}; output: {stream, offset, text} or {stream, offset, base64} where the bytes are no UTF-8 or hold "
                "many control characters; progress: {phase, …}; note: {text}. Each with source?: its number at the "
                "member that schedules the task, where that is another one.",
            },
        }
    )


def peer() -> Schema:
    text: Schema = {"type": ["string", "null"]}
    return _object(
        {
            "peer_id": {"type": "string"},
            "agent_id": text,
            "role": text,
            "address": text,
            "direction": {"enum": ["inbound", "outbound", None]},
            "connected_since": {"type": ["number", "null"]},
            "latency_ms": {"type": ["number", "null"]},
            "score": {"type": ["number", "null"], "description": "In pub/sub; below 0 it is in no mesh."},
            "direct": {"type": "boolean", "description": "CHORUS_GOSSIP_DIRECT_PEERS names it."},
            "availability": {"type": ["object", "null"]},
            "capabilities": {"type": ["object", "null"]},
        }
    )


def pubsub() -> Schema:
    number: Schema = {"type": "number"}
    whole: Schema = {"type": "integer", "minimum": 0}
    direct: Schema = {"type": "boolean", "description": "CHORUS_GOSSIP_DIRECT_PEERS names it: in no mesh, gets all."}
    topic_score = _object(
        {
            "in_mesh": {"type": "boolean"},
            "time_in_mesh": {"type": "number", "description": "P1: seconds."},
            "first_deliveries": {"type": "number", "description": "P2."},
            "mesh_deliveries": {"type": "number", "description": "P3."},
            "mesh_deliveries_wanted": {"type": "number", "description": "P3's threshold at present."},
            "mesh_failure": {"type": "number", "description": "P3b."},
            "invalid": {"type": "number", "description": "P4."},
            "score": {"type": "number", "description": "Of this topic, before its weight."},
        }
    )
    return _object(
        {
            "topics": {
                "type": "array",
                "items": _object(
                    {
                        "topic": {"type": "string"},
                        "mesh": {"type": "array", "items": {"type": "string"}, "description": "Peer ids."},
                        "subscribers": whole,
                    }
                ),
            },
            "peers": {
                "type": "array",
                "items": _object(
                    {
                        "peer_id": {"type": "string"},
                        "direct": direct,
                        "score": number,
                        "application": {"type": "number", "description": "P5."},
                        "group_size": {**whole, "description": "P6: peers of its public network."},
                        "behaviour": {"type": "number", "description": "P7."},
                        "topics": {"type": "object", "additionalProperties": topic_score},
                    }
                ),
            },
            "thresholds": {"type": "object", "additionalProperties": number},
            "counters": {"type": "object", "additionalProperties": whole},
        }
    )


def status() -> Schema:
    text: Schema = {"type": ["string", "null"]}
    return _object(
        {
            "agent_id": {"type": "string"},
            "peer_id": {"type": "string"},
            "cluster_id": text,
            "version": {"type": "string"},
            "role": text,
            "state": {"type": "string"},
            "uptime_s": {"type": "number", "minimum": 0},
            "addresses": {"type": "array", "items": {"type": "string"}},
            "peers": {"type": "integer", "minimum": 0},
            "alone": {
                **text,
                "description": "Why no member is connected, where one should be: whether this node has joined, and "
                "what became of the last dial.",
            },
            "tasks": {"type": "object"},
            "sandbox": {"type": "object"},
            "clocks": {
                **text,
                "description": "Whose messages are ignored since its clock and this node's are more than 15 minutes "
                "apart, how many, and by how much; null while nobody's are.",
            },
        },
        required=[
            *("agent_id", "peer_id", "cluster_id", "version", "role", "state", "uptime_s", "addresses", "peers"),
            "alone",
        ],
    )


def problem() -> Schema:
    """RFC 9457."""
    return _object(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "code": {"type": "string", "description": "Stable."},
            "field": {"type": "string", "description": "Path of the field of the body that is wrong."},
        },
        required=["type", "title", "status", "detail", "code"],
    )


def _rights() -> Schema:
    """Of a deliverable, where its agent says them."""
    return {
        "mode": {"type": "integer", "minimum": 0, "maximum": 0o777, "description": "Rights, as of `stat`."},
        "mtime": {"type": "number", "description": "Last change, in Unix seconds."},
    }


def all_schemas(policy: spec.LimitPolicy) -> dict[str, Schema]:
    """Every component, by name."""
    return {
        "Artifact": _object(
            {"path": {"type": "string"}, "sha256": SHA256, "size": {"type": "integer", "minimum": 0}, **_rights()},
            required=["path", "sha256", "size"],
        ),
        "OutputEntry": _object(
            {
                "path": {"type": "string"},
                "target": {"type": "string", "description": "Where the link leads; an empty folder has none."},
                **_rights(),
            },
            required=["path"],
        ),
        "Blob": _object({"sha256": SHA256, "size": {"type": "integer", "minimum": 0}}),
        "Peer": peer(),
        "PeerList": _object({"peers": {"type": "array", "items": ref("Peer")}}),
        "Problem": problem(),
        "PubSub": pubsub(),
        "ServerSentEvent": _object(
            {
                "id": {"type": "string"},
                "event": {"type": "string"},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": ref("TaskEvent"),
                },
            },
            required=["data"],
        ),
        "Status": status(),
        "Task": task(),
        "TaskEvent": task_event(),
        "TaskList": _object(
            {
                "tasks": {"type": "array", "items": ref("TaskSummary")},
                "next": {"type": ["string", "null"], "description": "`after` of the next page; null at the end."},
            }
        ),
        "TaskSpec": spec.specification(policy).schema(),
        "TaskSummary": task_summary(),
    }
