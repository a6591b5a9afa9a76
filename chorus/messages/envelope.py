"""The envelope that every message travels in, to bytes and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from chorus import strictjson
from chorus.messages.errors import BadEnvelope, ForeignSender, UnknownType
from chorus.messages.fields import ID, NAME, NAMES, TIME, Integer, Word, field, members_of
from chorus.messages.types import PAYLOADS

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.messages.payload import Payload
    from chorus.seams import JSON

MAX_MESSAGE: Final = 32 * 1024
"""Bytes of one envelope: half of what the smallest deployed limit lets through, and enough for every type."""

MAX_DEPTH: Final = 8
"""Arrays and objects inside one another, the envelope included."""

MAX_CONTAINERS: Final = 256
"""Arrays and objects in all; the types of today have no more than a dozen. Thousands at a time would set off Python's
collector, which then goes through all that the node holds."""

_TYPE: Final = Word("a type: a letter, then up to 63 letters, digits and . _", "[A-Za-z][A-Za-z0-9_.]*", 64)
_ID: Final = Word("8 to 64 letters, digits and - _", "[0-9A-Za-z_-]+", 64, 8)


@attrs.frozen(kw_only=True)
class Envelope:
    """One message. `sender` travels as `from`, the payload as `data`."""

    type: str = field(_TYPE, "Type of the payload; one that a node does not know is passed on all the same.")
    id: str = field(_ID, "Chosen by the sender, another for each message.")
    sender: str
    from_role: str | None = field(NAME, "The role in which the sender speaks.", default=None)
    to_roles: tuple[str, ...] = field(NAMES, "Roles that it is meant for; none: everybody on the topic.", default=())
    required_expertise: tuple[str, ...] = field(NAMES, "What those should know that it is meant for.", default=())
    project: str | None = field(NAME, "The project that it is about.", default=None)
    thread: str | None = field(ID, "The thread that it belongs to.", default=None)
    priority: int = field(Integer(0, 9), "9 is first.", default=5)
    timestamp: int = field(TIME, "When it was sent, by the sender's clock.")
    data: Payload


def encode(envelope: Envelope) -> bytes:
    """Canonical JSON. Raises `BadEnvelope` for what every other node would refuse."""
    members = _members(envelope)
    members["from"] = envelope.sender
    members["data"] = _members(envelope.data)
    try:
        raw = strictjson.canonical(cast("JSON", members))
    except ValueError as error:
        raise BadEnvelope(str(error)) from None
    decode(raw, envelope.sender)
    return raw


def decode(raw: bytes, sender: PeerId | str) -> Envelope:
    """Read the message that `sender` signed.

    Raises `UnknownType` for a well-formed envelope of another version, `ForeignSender` when it speaks in another
    node's name, else `BadEnvelope`.
    """
    whole = strictjson.loads(
        raw, max_bytes=MAX_MESSAGE, max_depth=MAX_DEPTH, max_containers=MAX_CONTAINERS, error=BadEnvelope
    )
    if not isinstance(whole, dict):
        raise BadEnvelope("an envelope is a JSON object")
    arguments = _arguments(Envelope, whole, "")
    name, data = str(arguments["type"]), whole.get("data")
    if whole.get("from") != str(sender):
        raise ForeignSender(f"from must be {sender}, who signed the message")
    if not isinstance(data, dict):
        raise BadEnvelope("data must be an object")
    cls = PAYLOADS.get(name)
    if cls is None:
        raise UnknownType(name, cast("int", arguments["timestamp"]))
    payload = cast("Callable[..., Payload]", cls)(**_arguments(cls, data, "data."))
    if getattr(payload, "node_id", whole["from"]) != whole["from"]:
        raise ForeignSender("data.node_id must be the sender")
    return cast("Callable[..., Envelope]", Envelope)(sender=str(sender), data=payload, **arguments)


def _arguments(cls: type[Any], members: Mapping[str, JSON], where: str) -> dict[str, object]:
    """What `cls` is built from; a member that is missing or null may only be one that has a default."""
    arguments: dict[str, object] = {}
    for member in members_of(cls):
        value = members.get(member.name)
        if value is None and not member.needed:
            continue
        try:
            arguments[member.name] = member.read(value)
        except BadEnvelope as error:
            raise BadEnvelope(f"{where}{member.name} {error}") from None
    return arguments


def _members(value: Any) -> dict[str, object]:
    """The JSON members of a value: absent ones (None) are left out."""
    members: dict[str, object] = {}
    for member in members_of(type(value)):
        item = getattr(value, member.name)
        if item is not None:
            members[member.name] = list(item) if isinstance(item, tuple) else item
    return members
