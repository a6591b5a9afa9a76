"""Pieces that all schemas of the API are made of."""

from __future__ import annotations

from typing import Any

from chorus.fields import Schema
from chorus.tasks import spec

TASK_ID: Schema = spec.TASK_ID.schema()
SHA256: Schema = spec.SHA256.schema()
STRING: Schema = {"type": "string"}
TEXT: Schema = {"type": ["string", "null"]}
STRINGS: Schema = {"type": "array", "items": STRING}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MOMENT: Schema = {"type": ["number", "null"], "description": "Unix seconds."}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def nullable_ref(name: str) -> Schema:
    return {"anyOf": [ref(name), {"type": "null"}]}


def document(properties: dict[str, Schema], required: list[str] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }
