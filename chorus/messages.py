"""What nodes say to each other over pub/sub: one JSON envelope, and a frozen typed value for each type (spec/system.md
2 and 6).

Every quantity is bounded while it is read. Unknown fields are passed over, so that a newer node can say more; an
unknown type is no error either (`UnknownType`): it is forwarded, counted and not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

import attrs

from chorus import strictjson
from chorus.errors import PeerError

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.seams import JSON

COORDINATION: Final = "chorus/coordination/v1"
TASKS: Final = "chorus/tasks"

MAX_MESSAGE: Final = 32 * 1024
"""Bytes of one envelope: half of what the smallest deployed limit lets through, and enough for every type."""

MAX_DEPTH: Final = 8
"""Arrays and objects inside one another, the envelope included."""

MAX_NAME: Final = 128
"""Bytes of a name: an agent id, a role, a field of expertise."""

MAX_NAMES: Final = 64
"""Names in one list."""

MAX_TITLE: Final = 256
MAX_TEXT: Final = 2048
"""Bytes of a sentence or two for a person; longer ones are cut by their sender."""

MAX_TIME: Final = 2**40
"""Unix seconds: the year 36812. Later times would not fit where they are shown."""

MAX_COUNT: Final = 1_000_000

_ID = re.compile(r"[0-9A-Za-z_-]{8,64}")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}")
_READ = "read"


class BadEnvelope(PeerError):
    """A message that is no envelope, or whose payload is not what its type says."""

    code = "bad_envelope"


class ForeignSender(BadEnvelope):
    """The envelope names another node than the one that signed the message."""

    code = "foreign_sender"


class UnknownType(BadEnvelope):
    """A well-formed envelope of a type that this version does not know."""

    code = "unknown_type"

    def __init__(self, name: str) -> None:
        super().__init__(f"type {name} is not known here")
        self.type = name


Read = Callable[[object], object]


def _text(maximum: int, minimum: int = 0) -> Read:
    def read(value: object) -> object:
        if not isinstance(value, str) or not minimum <= len(value.encode()) <= maximum:
            raise BadEnvelope(f"must be text of {minimum} to {maximum} bytes")
        return value

    return read


def _integer(minimum: int, maximum: int) -> Read:
    def read(value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise BadEnvelope(f"must be an integer from {minimum} to {maximum}")
        return value

    return read


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise BadEnvelope("must be true or false")
    return value


def _one_of(*words: str) -> Read:
    def read(value: object) -> object:
        if value not in words:
            raise BadEnvelope(f"must be one of {', '.join(words)}")
        return value

    return read


def _names(value: object) -> object:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise BadEnvelope(f"must be a list of at most {MAX_NAMES} names")
    return tuple(cast("str", _name(item)) for item in value)


def _optional(read: Read) -> Read:
    return lambda value: None if value is None else read(value)


_name = _text(MAX_NAME, 1)
_time = _integer(0, MAX_TIME)
_count = _integer(0, MAX_COUNT)


def _field(read: Read, **arguments: Any) -> Any:
    """An attribute read from the JSON member of the same name by `read`."""
    return attrs.field(metadata={_READ: read}, **arguments)


class Payload(Protocol):
    """A typed value of `PAYLOADS`. `TYPE` is its name on the wire, `TOPIC` where it is said."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str]
    __attrs_attrs__: ClassVar[Any]


@attrs.frozen(kw_only=True)
class AvailabilityBcast:
    """How much a node has to do. Sent every 30 s and when it changes."""

    TYPE: ClassVar[str] = "AvailabilityBcast"
    TOPIC: ClassVar[str] = COORDINATION

    node_id: str = _field(_name)
    """Peer id of the sender, as in every payload."""
    available_for_work: bool = _field(_flag)
    current_tasks: int = _field(_count)
    max_tasks: int = _field(_count)
    last_activity: int = _field(_time)
    status: str = _field(_one_of("ready", "working", "busy"))
    timestamp: int = _field(_time)


@attrs.frozen(kw_only=True)
class CapabilityBcast:
    """What a node can do."""

    TYPE: ClassVar[str] = "CapabilityBcast"
    TOPIC: ClassVar[str] = COORDINATION

    agent_id: str = _field(_name)
    node_id: str = _field(_name)
    version: str = _field(_text(MAX_NAME))
    capabilities: tuple[str, ...] = _field(_names)
    expertise: tuple[str, ...] = _field(_names)
    models: tuple[str, ...] = _field(_names)
    specialization: str = _field(_text(MAX_NAME))
    max_tasks: int = _field(_count)
    current_tasks: int = _field(_count)
    timestamp: int = _field(_time)
    availability: str = _field(_one_of("ready", "working", "busy"))


@attrs.frozen(kw_only=True)
class RoleAnnouncement:
    """The role a node takes."""

    TYPE: ClassVar[str] = "RoleAnnouncement"
    TOPIC: ClassVar[str] = COORDINATION

    agent_id: str = _field(_name)
    node_id: str = _field(_name)
    role: str = _field(_name)
    expertise: tuple[str, ...] = _field(_names)
    capabilities: tuple[str, ...] = _field(_names)
    reports_to: str | None = _field(_optional(_name), default=None)
    specialization: str = _field(_text(MAX_NAME))
    timestamp: int = _field(_time)


@attrs.frozen(kw_only=True)
class TaskUpdate:
    """A task changed its state, says its scheduler. News, not truth: the journal decides."""

    TYPE: ClassVar[str] = "TaskUpdate"
    TOPIC: ClassVar[str] = TASKS

    task_id: str = _field(_name)
    state: str = _field(
        _one_of("queued", "submitted", "assigned", "running", "completed", "failed", "cancelled", "refused")
    )
    attempt: int = _field(_count)
    title: str = _field(_text(MAX_TITLE), default="")
    reason: str | None = _field(_optional(_name), default=None)
    detail: str | None = _field(_optional(_text(MAX_TEXT)), default=None)
    agent: str | None = _field(_optional(_name), default=None)
    """Peer id of the agent."""
    agent_id: str | None = _field(_optional(_name), default=None)
    fence: str | None = _field(_optional(_name), default=None)
    sandbox: str | None = _field(_optional(_name), default=None)
    image: str | None = _field(_optional(_text(512)), default=None)
    exit_code: int | None = _field(_optional(_integer(-(2**31), 2**32)), default=None)
    timestamp: int = _field(_time)


PAYLOADS: Final[Mapping[str, type[Payload]]] = {
    payload.TYPE: payload for payload in (AvailabilityBcast, CapabilityBcast, RoleAnnouncement, TaskUpdate)
}


@attrs.frozen(kw_only=True)
class Envelope:
    """One message. `sender` travels as `from`, the payload as `data`."""

    type: str = _field(_text(64, 1))
    id: str = _field(_text(64, 8))
    """Chosen by the sender; 8 to 64 characters of the URL-safe alphabet."""
    sender: str
    from_role: str | None = _field(_optional(_name), default=None)
    to_roles: tuple[str, ...] = _field(_names, default=())
    required_expertise: tuple[str, ...] = _field(_names, default=())
    project: str | None = _field(_optional(_name), default=None)
    thread: str | None = _field(_optional(_name), default=None)
    priority: int = _field(_integer(0, 9), default=5)
    timestamp: int = _field(_time)
    data: Payload


def _arguments(cls: type[Any], members: Mapping[str, JSON], where: str) -> dict[str, object]:
    """What `cls` is built from; a member that is missing or null may only be one that has a default."""
    arguments: dict[str, object] = {}
    for attribute in attrs.fields(cls):
        read = attribute.metadata.get(_READ)
        if read is None:
            continue
        value = members.get(attribute.name)
        if value is None and attribute.default is not attrs.NOTHING:
            continue
        try:
            arguments[attribute.name] = read(value)
        except BadEnvelope as error:
            raise BadEnvelope(f"{where}{attribute.name} {error}") from None
    return arguments


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
    whole = strictjson.loads(raw, max_bytes=MAX_MESSAGE, max_depth=MAX_DEPTH, error=BadEnvelope)
    if not isinstance(whole, dict):
        raise BadEnvelope("an envelope is a JSON object")
    arguments = _arguments(Envelope, whole, "")
    name, data = str(arguments["type"]), whole.get("data")
    if not _TYPE.fullmatch(name) or not _ID.fullmatch(str(arguments["id"])):
        raise BadEnvelope("type and id are words")
    if whole.get("from") != str(sender):
        raise ForeignSender(f"from must be {sender}, who signed the message")
    if not isinstance(data, dict):
        raise BadEnvelope("data must be an object")
    cls = PAYLOADS.get(name)
    if cls is None:
        raise UnknownType(name)
    payload = cast("Callable[..., Payload]", cls)(**_arguments(cls, data, "data."))
    if getattr(payload, "node_id", whole["from"]) != whole["from"]:
        raise ForeignSender("data.node_id must be the sender")
    return cast("Callable[..., Envelope]", Envelope)(sender=str(sender), data=payload, **arguments)


def _members(value: Any) -> dict[str, object]:
    """The JSON members of a value: absent ones (None) are left out."""
    members: dict[str, object] = {}
    for attribute in attrs.fields(type(value)):
        item = getattr(value, attribute.name)
        if _READ in attribute.metadata and item is not None:
            members[attribute.name] = list(item) if isinstance(item, tuple) else item
    return members


def redacted(envelope: Envelope, redact: Callable[[str], str]) -> Envelope:
    """`envelope` with every text that a person may have written passed through `redact`."""
    payload = attrs.evolve(cast("Any", envelope.data), **_redactions(envelope.data, redact))
    return attrs.evolve(envelope, data=payload, **_redactions(envelope, redact))


def _redactions(value: Any, redact: Callable[[str], str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for attribute in attrs.fields(type(value)):
        item = getattr(value, attribute.name)
        if attribute.name in _NOT_REDACTED or _READ not in attribute.metadata:
            continue
        if isinstance(item, str):
            changes[attribute.name] = redact(item)
        elif isinstance(item, tuple):
            changes[attribute.name] = tuple(redact(each) for each in item)
    return changes


_NOT_REDACTED = frozenset({"type", "id", "node_id", "status", "availability", "state", "fence", "agent"})
"""Words of a fixed set, peer ids and fences: nobody wrote them, and a changed one would mean something else."""


def cut(text: str, maximum: int) -> str:
    """`text` in at most `maximum` bytes of UTF-8, never in the middle of a character."""
    raw = text.encode()
    if len(raw) <= maximum:
        return text
    return raw[: maximum - 3].decode(errors="ignore") + "…"
