"""JSON Schemas (2020-12) of the API's documents."""

from __future__ import annotations

from typing import Any

from chorus.fields import Schema, nullable
from chorus.http.ports import STATES
from chorus.tasks import spec
from chorus.tasks.terms import Reason
from chorus.ucxl import record, signed

TASK_ID: Schema = spec.TASK_ID.schema()
SHA256: Schema = spec.SHA256.schema()
_STRING: Schema = {"type": "string"}
_TEXT: Schema = {"type": ["string", "null"]}
_STRINGS: Schema = {"type": "array", "items": _STRING}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MOMENT: Schema = {"type": ["number", "null"], "description": "Unix seconds."}


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
    return _object({"bytes": _COUNT, "sha256": nullable(SHA256)}, required=["bytes"])


def task() -> Schema:
    """A task document."""
    return _object(
        {
            "id": TASK_ID,
            "state": {"type": "string", "enum": list(STATES)},
            "reason": {**_TEXT, "description": f"Why it ended ({', '.join(map(str, Reason))}); null before."},
            "detail": {**_TEXT, "description": "One line for a person: why it waits, why it ended."},
            "title": _TEXT,
            "description": _TEXT,
            "project": _TEXT,
            "created_at": _NUMBER,
            "updated_at": _NUMBER,
            "attempt": _COUNT,
            "agent": {**_TEXT, "description": "Peer id of the agent that runs or ran it."},
            "agent_id": _TEXT,
            "fence": _TEXT,
            "scheduler": {**_TEXT, "description": "Peer id of the member that the task was handed to, if it was."},
            "sandbox": _TEXT,
            "image": _TEXT,
            "exit_code": {"type": ["integer", "null"]},
            "started_at": _MOMENT,
            "ended_at": _MOMENT,
            "truncated": _STRINGS,
            "caveats": {**_STRINGS, "description": "What the sandbox could not hold of its contract, by name."},
            "disk_enforcement": _TEXT,
            "artifacts": {"type": "array", "items": ref("Artifact")},
            "output": {
                "anyOf": [_object({"stdout": _output(), "stderr": _output()}), {"type": "null"}],
                "description": "Size of each stream, and the blob that holds it once the task has ended.",
            },
            "entries": {"type": "array", "items": ref("OutputEntry")},
            "artifacts_skipped": {
                **_STRINGS,
                "description": "What was left out of the deliverables, and why: the first reasons. A reason may stand "
                "for many files, for a pattern that matched nothing, or for an output stream that could not be kept.",
            },
            "artifacts_skipped_total": {**_COUNT, "description": "How many deliverables were left out."},
            "artifacts_absent": {
                **_COUNT,
                "description": "How many blobs of the result this node could not get from its agent yet; it goes on "
                "trying, and tries at once when one is asked for.",
            },
            "decision": {
                "anyOf": [ref("TaskDecision"), {"type": "null"}],
                "description": "The signed record of the result; null where its agent made none.",
            },
            "depends_on": {"type": "array", "items": TASK_ID},
            "submitter": _TEXT,
            "spec": {"type": "object", "description": "The specification with every default written out."},
            "durable": {"type": "string", "enum": ["node", "cluster"]},
            "message": _TEXT,
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
        "detail": {**_TEXT, "description": "Why it waits, or why it ended; cut when it is long."},
        "title": {**_TEXT, "description": "Cut when it is long."},
        "command": {**_TEXT, "description": "The first command of a task without a title; cut when it is long."},
    }
    names = ("id", "state", "reason", *own, "project", "created_at", "updated_at", "started_at", "ended_at", "attempt")
    properties = {**task()["properties"], **own}
    return _object({name: properties[name] for name in (*names, "agent", "agent_id", "exit_code")})


def task_event() -> Schema:
    """The `data` of one server-sent event."""
    return _object(
        {
            "id": {"type": "integer", "minimum": 1, "description": "Grows by one per task; survives restarts."},
            "type": {"type": "string", "enum": ["state", "output", "progress", "note"]},
            "time": _NUMBER,
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
    return _object(
        {
            "peer_id": _STRING,
            "agent_id": _TEXT,
            "role": _TEXT,
            "address": _TEXT,
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
                        "topic": _STRING,
                        "mesh": {"type": "array", "items": _STRING, "description": "Peer ids."},
                        "subscribers": _COUNT,
                    }
                ),
            },
            "peers": {
                "type": "array",
                "items": _object(
                    {
                        "peer_id": _STRING,
                        "direct": direct,
                        "score": _NUMBER,
                        "application": {"type": "number", "description": "P5."},
                        "group_size": {**_COUNT, "description": "P6: peers of its public network."},
                        "behaviour": {"type": "number", "description": "P7."},
                        "topics": {"type": "object", "additionalProperties": topic_score},
                    }
                ),
            },
            "thresholds": {"type": "object", "additionalProperties": _NUMBER},
            "counters": {"type": "object", "additionalProperties": _COUNT},
        }
    )


def status() -> Schema:
    return _object(
        {
            "agent_id": _STRING,
            "peer_id": _STRING,
            "cluster_id": _TEXT,
            "version": _STRING,
            "role": _TEXT,
            "state": _STRING,
            "uptime_s": {"type": "number", "minimum": 0},
            "addresses": _STRINGS,
            "peers": _COUNT,
            "alone": {
                **_TEXT,
                "description": "Why no member is connected, where one should be: whether this node has joined, and "
                "what became of the last dial.",
            },
            "tasks": {"type": "object"},
            "sandbox": {"type": "object"},
            "clocks": {
                **_TEXT,
                "description": "Whose messages are ignored since its clock and this node's are more than 15 minutes "
                "apart, how many, and by how much; null while nobody's are.",
            },
        },
        required=[
            *("agent_id", "peer_id", "cluster_id", "version", "role", "state", "uptime_s", "addresses", "peers"),
            "alone",
        ],
    )


def keys() -> Schema:
    """Roles, and who holds them."""
    return _object(
        {
            "founder": {
                **_TEXT,
                "description": "Peer id of the founder, who alone changes roles; null while this node "
                "has no roles yet.",
            },
            "serial": {**_COUNT, "description": "Of the newest roles; grows by one with each change."},
            "epoch": {**_COUNT, "description": "Grows by one with each rotation."},
            "peer_id": _STRING,
            "role": {"type": "string", "description": "The role that this node writes under."},
            "roles": {
                "type": "array",
                "items": _object(
                    {
                        "name": _STRING,
                        "reads": {**_STRINGS, "description": "Other roles whose records it reads."},
                        "recipient": {"type": "string", "description": "age recipient of this epoch."},
                        "readable": {"type": "boolean", "description": "True if this node has the role's key."},
                    }
                ),
            },
            "members": {
                "type": "array",
                "items": _object(
                    {
                        "peer_id": _STRING,
                        "roles": _STRINGS,
                        "recipient": {"type": "string", "description": "age recipient that its keys are sealed to."},
                    }
                ),
            },
        }
    )


def problem() -> Schema:
    """RFC 9457."""
    return _object(
        {
            "type": _STRING,
            "title": _STRING,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": _STRING,
            "code": {"type": "string", "description": "Stable."},
            "field": {"type": "string", "description": "Path of the field of the body that is wrong."},
            "decision": ref("FoundDecision"),
        },
        required=["type", "title", "status", "detail", "code"],
    )


def found_decision() -> Schema:
    return _object(
        {
            "address": {**_STRING, "description": "Without the version."},
            "seq": _COUNT,
            "content": {**SHA256, "description": "Content hash: SHA-256 of the record without its signature."},
            "time": {**_COUNT, "description": "When it was made, else when this node learned of it; Unix seconds."},
            "readable": {"type": "boolean"},
            "record": nullable_ref("Decision"),
            "head": nullable_ref("DecisionHead"),
            "version": nullable_ref("DecisionVersion"),
        }
    )


def _indexed_decision() -> Schema:
    found = found_decision()["properties"]
    words = {
        "kind": {**_TEXT, "description": "null where this node may not read it."},
        "summary": {**_TEXT, "description": "null where this node may not read it."},
    }
    return _object({**{name: found[name] for name in ("address", "seq", "content", "time")}, **words})


def decision_schemas() -> dict[str, Schema]:
    """Components of `/ucxi/v1`, by name."""
    after: Schema = {"type": ["string", "null"], "description": "`after` of the next page; null at the end."}
    missing: Schema = {
        "type": ["string", "null"],
        "description": "Content hash that the last version names, and that cannot be had now: the history ends there.",
    }
    signature = _object({"keyid": {**_STRING, "description": "Peer id; holds the key."}, "sig": _STRING})
    return {
        "Decision": record.RECORD.schema(),
        "DecisionDraft": record.DRAFT.schema(),
        "DecisionHead": signed.HEAD.schema(),
        "DecisionHistory": _object(
            {
                "address": _STRING,
                "versions": {"type": "array", "items": ref("FoundDecision")},
                "heads": {"type": "array", "items": ref("DecisionHead")},
                "next": after,
                "missing": missing,
            }
        ),
        "DecisionPage": _object({"decisions": {"type": "array", "items": _indexed_decision()}, "next": after}),
        "DecisionVersion": signed.VERSION.schema(),
        "FoundDecision": found_decision(),
        "MemoryStatus": _object(
            {
                "role": {**_STRING, "description": "That this node writes under."},
                **dict.fromkeys(("epoch", "decisions", "readable", "pending", "servers"), _COUNT),
                "serving": {"type": "boolean", "description": "True if `servers` counts this node."},
            }
        ),
        "PlacedDecision": _object(
            {
                "address": _STRING,
                "seq": _COUNT,
                "content": SHA256,
                "state": {"type": "string", "enum": ["pending", "stored", "safe"]},
            }
        ),
        "ProvenanceEnvelope": _object(
            {
                "payloadType": _STRING,
                "payload": {**_STRING, "contentEncoding": "base64", "contentMediaType": "application/vnd.in-toto+json"},
                "signatures": {"type": "array", "items": signature},
            }
        ),
    }


def nullable_ref(name: str) -> Schema:
    return {"anyOf": [ref(name), {"type": "null"}]}


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
            {"path": _STRING, "sha256": SHA256, "size": _COUNT, **_rights()},
            required=["path", "sha256", "size"],
        ),
        "OutputEntry": _object(
            {
                "path": _STRING,
                "target": {"type": "string", "description": "Where the link leads; an empty folder has none."},
                **_rights(),
            },
            required=["path"],
        ),
        "Blob": _object({"sha256": SHA256, "size": _COUNT}),
        "Keys": keys(),
        "Peer": peer(),
        "PeerList": _object({"peers": {"type": "array", "items": ref("Peer")}}),
        "Problem": problem(),
        "PubSub": pubsub(),
        "ServerSentEvent": _object(
            {
                "id": _STRING,
                "event": _STRING,
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
        "TaskDecision": _object(
            {
                "address": {**_STRING, "description": "Its UCXL address: `chorus ucxl get ADDRESS`."},
                "hash": {**SHA256, "description": "Its content hash."},
                "state": {
                    "type": "string",
                    "enum": ["pending", "stored", "safe"],
                    "description": "stored: at least one machine has all of it; safe: as many as wanted, and more than "
                    "one. A task does not wait for that.",
                },
                "holders": {**_COUNT, "description": "Machines that have all of it, as far as this node knows."},
                "wanted": _COUNT,
            }
        ),
        "TaskEvent": task_event(),
        "TaskList": _object(
            {
                "tasks": {"type": "array", "items": ref("TaskSummary")},
                "next": {"type": ["string", "null"], "description": "`after` of the next page; null at the end."},
            }
        ),
        "TaskSpec": spec.specification(policy).schema(),
        "TaskSummary": task_summary(),
        **decision_schemas(),
    }
