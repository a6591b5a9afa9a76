"""JSON schemas (2020-12) of what the API takes and gives."""

from __future__ import annotations

import re
from typing import Any

from chorus.http.tasks import STATES
from chorus.tasks import ids, languages, spec
from chorus.tasks.terms import Limits, Reason

Schema = dict[str, Any]

TASK_ID: Schema = {"type": "string", "pattern": f"^{ids.PATTERN}$"}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
ONE_LINE = "^[^\\x00-\\x1f\\x7f]*$"
NO_NUL = "^[^\\x00]*$"
GLOB = r"^(?!/)(?!(?:.*/)?\.\.(?:/|$))(?!.*//)[^\x00-\x1f\x7f\\]+$"
"""Relative, without `..` and empty folder names."""
WORD: Schema = {"type": "string", "minLength": 1, "maxLength": spec.MAX_WORD, "pattern": f"^{spec.WORD.pattern}$"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: dict[str, Schema], required: list[str] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


def _text(maximum: int, pattern: str = NO_NUL, **more: Any) -> Schema:
    # Limits are in bytes of UTF-8; a schema counts characters, so it can only bound them from above.
    return {"type": "string", "maxLength": maximum, "pattern": pattern, **more}


def _limit(name: str, policy: spec.LimitPolicy) -> Schema:
    kind = "integer" if isinstance(getattr(Limits(), name), int) else "number"
    least, most = getattr(spec.MINIMUM_LIMITS, name), getattr(policy.maximum, name)
    return {"type": [kind, "null"], "minimum": least, "maximum": most, "default": getattr(policy.default, name)}


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^({pattern.pattern})$"


def task_spec(policy: spec.LimitPolicy) -> Schema:
    """The body of a submission under a node's policy. Fields that are null count as absent."""
    command = _text(spec.MAX_COMMAND, minLength=1)
    fields: dict[str, Schema] = {
        "commands": {
            "type": ["array", "null"],
            "maxItems": spec.MAX_COMMANDS,
            "items": {
                "anyOf": [
                    {**command, "pattern": "^[^\\x00]*[^\\x00\\s][^\\x00]*$"},
                    {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": spec.MAX_ARGUMENTS,
                        "prefixItems": [command],
                        "items": _text(spec.MAX_COMMAND),
                    },
                ]
            },
            "description": "Run in order until one fails: a string by `shell`, a list as an argv.",
        },
        "title": nullable(_text(spec.MAX_TITLE, ONE_LINE)),
        "description": nullable(_text(spec.MAX_DESCRIPTION)),
        "project": nullable(_text(spec.MAX_PROJECT, _whole(spec._PROJECT), minLength=1)),
        "repository": nullable(
            _text(
                spec.MAX_REPOSITORY,
                f"^(?!{spec._CREDENTIALS.pattern})({spec._REPOSITORY.pattern})$",
                minLength=1,
                description="Where the sources come from. Not cloned yet: give them as `input`.",
            )
        ),
        "input": {
            "anyOf": [
                _object({"sha256": SHA256}, additionalProperties=False),
                _object(
                    {
                        "inline": {
                            "type": "string",
                            "contentEncoding": "base64",
                            "contentMediaType": "application/x-tar",
                            "minLength": 4,
                            "maxLength": (spec.MAX_INLINE + 2) // 3 * 4,
                            "pattern": "^([A-Za-z0-9+/]{4})+$",
                        }
                    },
                    additionalProperties=False,
                ),
                {"type": "null"},
            ],
            "description": "The source: a tar archive uploaded before, or inline (at most 256 KiB).",
        },
        "language": nullable(
            {
                **WORD,
                "description": f"One of {', '.join(languages.LANGUAGES)}, or another name for one; anything else needs "
                "an `image`.",
            }
        ),
        "shell": {
            "enum": [*spec.SHELLS, None],
            "description": "Runs the commands that are strings; `sh`, the default, is the one that every sandbox has.",
        },
        "image": nullable(_text(spec.MAX_IMAGE, _whole(spec._IMAGE), minLength=1)),
        "env": {
            "type": ["object", "null"],
            "maxProperties": spec.MAX_ENV,
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": spec.MAX_ENV_NAME},
            "additionalProperties": _text(spec.MAX_ENV_VALUE),
            "description": "Given to the commands as it is and kept with the task, so no place for secrets.",
        },
        "limits": nullable(
            _object(
                {
                    name: _limit(name, policy)
                    for name in ("cpu", "memory_mb", "pids", "disk_mb", "timeout_s", "output_mb")
                },
                required=[],
                additionalProperties=False,
            )
        ),
        "artifacts": {
            "type": ["array", "null"],
            "maxItems": spec.MAX_ARTIFACTS,
            "uniqueItems": True,
            "items": _text(spec.MAX_ARTIFACT, GLOB, minLength=1),
            "default": list(spec.ALL_ARTIFACTS),
            "description": "Globs under /workspace/output; what matches is kept. Absent means everything there, an "
            "empty list nothing.",
        },
        "required": nullable(
            _object(
                {
                    "role": nullable(WORD),
                    "expertise": {
                        "type": ["array", "null"],
                        "maxItems": spec.MAX_REQUIRED,
                        "uniqueItems": True,
                        "items": WORD,
                    },
                    "capabilities": {
                        "type": ["array", "null"],
                        "maxItems": spec.MAX_REQUIRED,
                        "uniqueItems": True,
                        "items": WORD,
                    },
                },
                required=[],
                additionalProperties=False,
            )
        ),
        "priority": {
            "type": ["integer", "null"],
            "minimum": spec.LOWEST_PRIORITY,
            "maximum": spec.HIGHEST_PRIORITY,
            "default": spec.DEFAULT_PRIORITY,
        },
        "depends_on": {
            "type": ["array", "null"],
            "maxItems": spec.MAX_DEPENDS_ON,
            "uniqueItems": True,
            "items": TASK_ID,
        },
        "retries": {"type": ["integer", "null"], "minimum": 0, "maximum": spec.MAX_RETRIES, "default": 0},
        "idempotency_key": nullable(_text(spec.MAX_IDEMPOTENCY_KEY, "^[!-~]+$", minLength=1)),
        "ai": nullable(
            _object(
                {
                    "provider": nullable(WORD),
                    "model": nullable(_text(spec.MAX_AI_NAME, "^[!-~]+$", minLength=1)),
                    "max_iterations": {"type": ["integer", "null"], "minimum": 1, "maximum": spec.MAX_AI_ITERATIONS},
                },
                required=[],
                additionalProperties=False,
            )
        ),
    }
    return _object(
        fields,
        required=[],
        additionalProperties=False,
        anyOf=[
            {"required": ["commands"], "properties": {"commands": {"type": "array", "minItems": 1}}},
            {"required": ["ai"], "properties": {"ai": {"type": "object"}}},
        ],
    )


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
        "TaskSpec": task_spec(policy),
        "TaskSummary": task_summary(),
    }
