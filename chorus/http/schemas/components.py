"""Every JSON Schema (2020-12) of the API, by name."""

from __future__ import annotations

from chorus.fields import Schema
from chorus.http.schemas import memory, node, tasks
from chorus.http.schemas.words import COUNT, SHA256, STRING, document, ref
from chorus.tasks.spec import LimitPolicy


def problem() -> Schema:
    """RFC 9457."""
    return document(
        {
            "type": STRING,
            "title": STRING,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": STRING,
            "code": {"type": "string", "description": "Stable."},
            "field": {"type": "string", "description": "Path of the field of the body that is wrong."},
            "decision": ref("FoundDecision"),
        },
        required=["type", "title", "status", "detail", "code"],
    )


def all_schemas(policy: LimitPolicy) -> dict[str, Schema]:
    """Every component, by name."""
    return {
        "Blob": document({"sha256": SHA256, "size": COUNT}),
        "Problem": problem(),
        **tasks.schemas(policy),
        **node.schemas(),
        **memory.schemas(),
    }
