"""JSON Schema (draft 2020-12) of the messages, made from the readers themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chorus.messages.envelope import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE, Envelope
from chorus.messages.fields import PEER, Member, members_of
from chorus.messages.types import PAYLOADS

if TYPE_CHECKING:
    from chorus.messages.payload import Payload
    from chorus.seams import JSON

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def payload_schema(payload: type[Payload]) -> dict[str, JSON]:
    """What the `data` of an envelope of this type must be."""
    return {
        "$schema": DIALECT,
        "title": payload.TYPE,
        "description": description(payload),
        "x-topics": list(payload.TOPICS),
        **_object(payload),
    }


def envelope_schema() -> dict[str, JSON]:
    """What a whole message must be, its payload included. A type that is not here may have any object as `data`."""
    properties = _object(Envelope)
    assert isinstance(properties["properties"], dict) and isinstance(properties["required"], list)
    sender: dict[str, JSON] = {"description": "Peer id of the sender, who signed the message.", **PEER.schema()}
    properties["properties"] |= {"from": sender, "data": {"type": "object", "description": "The payload."}}
    properties["required"] += ["from", "data"]
    rules: list[JSON] = [_rule(name) for name in PAYLOADS]
    return {
        "$schema": DIALECT,
        "title": "Envelope",
        "description": f"One message: at most {MAX_MESSAGE} bytes, arrays and objects at most {MAX_DEPTH} deep and "
        f"{MAX_CONTAINERS} in all.",
        **properties,
        "allOf": rules,
        "$defs": {name: _without_dialect(payload_schema(payload)) for name, payload in PAYLOADS.items()},
    }


def description(cls: type[Any]) -> str:
    """The docstring in one line."""
    return " ".join((cls.__doc__ or "").split())


def _object(cls: Any) -> dict[str, JSON]:
    """An object of the members of `cls`; further ones are passed over."""
    members = members_of(cls)
    required: list[JSON] = [member.name for member in members if member.needed]
    return {
        "type": "object",
        "properties": {member.name: _property(member) for member in members},
        "required": required,
    }


def _property(member: Member) -> JSON:
    read = member.read.schema()
    told = f"{member.meaning} {read.pop('description', '')}".strip()
    if member.needed:
        return {"description": told, **read}
    default: JSON = list(member.default) if isinstance(member.default, tuple) else member.default
    return {"description": told, "anyOf": [read, {"type": "null"}], "default": default}


def _rule(name: str) -> JSON:
    return {
        "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
        "then": {"properties": {"data": {"$ref": f"#/$defs/{name}"}}},
    }


def _without_dialect(schema: dict[str, JSON]) -> JSON:
    return {name: value for name, value in schema.items() if name != "$schema"}
