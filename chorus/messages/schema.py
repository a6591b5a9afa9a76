"""JSON Schema (draft 2020-12) of the messages, made from their declarations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chorus.fields import Object, Schema
from chorus.fields.members import PEER
from chorus.messages.envelope import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE, Envelope
from chorus.messages.types import PAYLOADS

if TYPE_CHECKING:
    from chorus.messages.payload import Payload

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def payload_schema(payload: type[Payload]) -> Schema:
    """Schema of the `data` of an envelope of this type."""
    return {
        "$schema": DIALECT,
        "title": payload.TYPE,
        "description": description(payload),
        "x-topics": list(payload.TOPICS),
        **Object(payload).schema(),
    }


def envelope_schema() -> Schema:
    """Schema of a whole message, its payload included. A type that is not here may have any object as `data`."""
    members = Object(Envelope).schema()
    sender = {"description": "Peer id of the sender, who signed the message.", **PEER.schema()}
    members["properties"] |= {"from": sender, "data": {"type": "object", "description": "The payload."}}
    members["required"] += ["from", "data"]
    return {
        "$schema": DIALECT,
        "title": "Envelope",
        "description": f"One message: at most {MAX_MESSAGE} bytes, arrays and objects at most {MAX_DEPTH} deep and "
        f"{MAX_CONTAINERS} in all.",
        **members,
        "allOf": [_rule(name) for name in PAYLOADS],
        "$defs": {name: _without_dialect(payload_schema(payload)) for name, payload in PAYLOADS.items()},
    }


def description(cls: type[Any]) -> str:
    """The docstring in one line."""
    return " ".join((cls.__doc__ or "").split())


def _rule(name: str) -> Schema:
    return {
        "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
        "then": {"properties": {"data": {"$ref": f"#/$defs/{name}"}}},
    }


def _without_dialect(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name != "$schema"}
