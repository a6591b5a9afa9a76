"""The envelope of every message, to bytes and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from chorus import strictjson
from chorus.fields import Integer, Object, Refusal, Text, field
from chorus.fields.members import ID, NAME, NAMES, TIME
from chorus.messages.errors import BadEnvelope, ForeignSender, UnknownType
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

_TYPE: Final = Text(64, 1, "[A-Za-z][A-Za-z0-9_.]*", "a type: a letter, then up to 63 letters, digits and . _")
_ID: Final = Text(64, 8, "[0-9A-Za-z_-]+", "8 to 64 letters, digits and - _")


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


_ENVELOPE: Final = Object(Envelope)
_PAYLOADS: Final = {name: Object(payload) for name, payload in PAYLOADS.items()}


def encode(envelope: Envelope) -> bytes:
    """Canonical JSON. Raises `BadEnvelope` for what every other node would refuse."""
    members = _ENVELOPE.write(envelope)
    members["from"] = envelope.sender
    members["data"] = Object(type(envelope.data)).write(envelope.data)
    try:
        raw = strictjson.canonical(members)
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
    return read(whole, str(sender))


def read(whole: JSON, sender: str) -> Envelope:
    """The same of a document that is parsed."""
    try:
        return _read(whole, sender)
    except Refusal as refusal:
        raise BadEnvelope(refusal.rule("an envelope")) from None


def _read(whole: JSON, sender: str) -> Envelope:
    arguments = _ENVELOPE.arguments(whole)
    assert isinstance(whole, dict)
    if whole.get("from") != sender:
        raise ForeignSender(f"from must be {sender}, who signed the message")
    name, data = arguments["type"], whole.get("data")
    if not isinstance(data, dict):
        raise Refusal("an object", data).under("data")
    if name not in _PAYLOADS:
        raise UnknownType(name, arguments["timestamp"])
    try:
        payload = _PAYLOADS[name].read(data)
    except Refusal as refusal:
        raise refusal.under("data") from None
    if getattr(payload, "node_id", sender) != sender:
        raise ForeignSender("data.node_id must be the sender")
    return Envelope(sender=sender, data=payload, **arguments)
