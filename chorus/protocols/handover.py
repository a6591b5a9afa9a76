"""Messages of `/chorus/handover/1.0.0` and their bytes: a task that nobody within reach can run goes, whole and under
its id, to a member that sees an agent for it. That member is its scheduler from then on; the node that took the task in
follows it there (docs/architecture.md, "A task that is handed over").

A frame is an unsigned varint length and one JSON object in canonical form with a `type`. Members that this version does
not know are passed over; missing, mistyped and oversized ones are `HandoverError`s. One stream carries one of:

    from                            to
    seek ------------------------->         which of these agents are connected to you?
          <------------------------ seen
    take ------------------------->         the same again is answered the same again
          <------------------------ taken | declined
          <------------------------ (view, event*)*, the last view one of a final state

    cancel ----------------------->
          <------------------------ view | declined
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import attrs

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.messages.errors import BadEnvelope
from chorus.messages.fields import FLAG, MAX_TEXT, NAME, PEER, PEERS, SERIAL, TEXT, OneOf, Text, Word, field, members_of
from chorus.tasks import ids
from chorus.tasks.state import State

if TYPE_CHECKING:
    from chorus.seams import JSON

PROTOCOL = "/chorus/handover/1.0.0"

MAX_FRAME = 2 * 1024 * 1024
"""Bytes of one frame: a whole specification, or a result with all its artifacts; each came in a frame of 1 MiB, with
other words around it."""
MAX_EVENT = 128 * 1024
"""Bytes of an event's data: 64 KiB of output in base64, and a few words."""
MAX_DOCUMENT = 3 * MAX_FRAME // 4
"""Bytes of a specification, or of a result."""
MAX_PROGRESS = 8 * 1024
"""Bytes of a progress event's data: twice what an agent may say, with its phase."""


class HandoverError(PeerError):
    """The peer broke `/chorus/handover/1.0.0`: malformed, oversized, or out of turn."""

    code = "handover_protocol"


@attrs.frozen
class _Object:
    """A JSON object of at most `maximum` bytes in canonical form."""

    maximum: int
    written: bool = False

    @property
    def told(self) -> str:
        return f"an object of at most {self.maximum} bytes"

    def __call__(self, value: object) -> object:
        if not isinstance(value, dict) or len(strictjson.canonical(cast("JSON", value))) > self.maximum:
            raise BadEnvelope(f"must be {self.told}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "object"}


@attrs.frozen
class _Time:
    """Unix seconds, with fractions."""

    told: str = "a time in Unix seconds"
    written: bool = False

    def __call__(self, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2.0**40:
            raise BadEnvelope(f"must be {self.told}")
        return float(value)

    def schema(self) -> dict[str, JSON]:
        return {"type": "number"}


_TASK = Word("a task id", ids.PATTERN, 64)
_STATE = OneOf(tuple(state for state in State if state not in {State.QUEUED, State.MOVED, State.REFUSED}))
_FENCE = Word("a fence", r"\d{1,18}\.\d{1,18}\.\d{1,18}", 64)
_EVENTS = OneOf(("state", "output", "progress", "note"))
_WORD = Text(64)
_REFERENCE = Text(MAX_TEXT)
_TIME = _Time()


class Message:
    """One message. `TYPE` is its word on the wire."""

    __slots__ = ()
    TYPE: ClassVar[str]


@attrs.frozen
class Seek(Message):
    """Which of these agents are connected to you?"""

    TYPE = "seek"
    agents: tuple[str, ...] = field(PEERS)


@attrs.frozen
class Seen(Message):
    """Those of them that are."""

    TYPE = "seen"
    agents: tuple[str, ...] = field(PEERS)


@attrs.frozen
class Take(Message):
    """Be the scheduler of this task; then tell its events after `after`. Its input is fetched from the sender."""

    TYPE = "take"
    task: str = field(_TASK)
    spec: Mapping[str, JSON] = field(_Object(MAX_DOCUMENT))
    submitter: str = field(NAME)
    after: int = field(SERIAL)
    known: bool = field(FLAG)
    """It was taken before: whoever does not know it then has lost or forgotten it, and must not run it again."""


@attrs.frozen
class Taken(Message):
    """It is durable here, and this node answers for it."""

    TYPE = "taken"


@attrs.frozen
class Declined(Message):
    """No. `reason` is a word, `detail` a line for a person."""

    TYPE = "declined"
    reason: str = field(_WORD)
    detail: str = field(TEXT)


@attrs.frozen
class Event(Message):
    """One event of the task; `id` counts from 1."""

    TYPE = "event"
    id: int = field(SERIAL)
    kind: str = field(_EVENTS)
    data: Mapping[str, JSON] = field(_Object(MAX_EVENT))

    def check(self) -> None:
        """Raises `HandoverError` for data that no event of this kind has: whoever shows them relies on it."""
        if not _EVENT_DATA[self.kind](self.data):
            raise HandoverError(f"event.data is not that of {self.kind}")


@attrs.frozen(kw_only=True)
class View(Message):
    """Where the task is now. `result` is the journal's."""

    TYPE = "view"
    state: str = field(_STATE)
    attempt: int = field(SERIAL)
    updated_at: float = field(_TIME)
    reason: str | None = field(_WORD, default=None)
    detail: str | None = field(Text(4 * MAX_TEXT), default=None)
    agent: str | None = field(PEER, default=None)
    agent_id: str | None = field(NAME, default=None)
    fence: str | None = field(_FENCE, default=None)
    sandbox: str | None = field(_WORD, default=None)
    image: str | None = field(_REFERENCE, default=None)
    started_at: float | None = field(_TIME, default=None)
    ended_at: float | None = field(_TIME, default=None)
    result: Mapping[str, JSON] | None = field(_Object(MAX_DOCUMENT), default=None)

    @property
    def final(self) -> bool:
        return State(self.state) in FINAL


@attrs.frozen
class Cancel(Message):
    """End it."""

    TYPE = "cancel"
    task: str = field(_TASK)
    by: str = field(NAME)
    reason: str = field(TEXT)


def _is_state(data: Mapping[str, JSON]) -> bool:
    texts = ("reason", "detail", "agent", "agent_id", "fence", "sandbox", "image")
    retry = data.get("retry")
    return (
        data.get("state") in tuple(State)  # a tuple, since it need not be hashable
        and _is_number(data.get("attempt", 0))
        and all(isinstance(data[name], str) for name in texts if name in data)
        and ("exit_code" not in data or _is_number(data["exit_code"]))
        and (
            retry is None or (isinstance(retry, dict) and all(_is_number(retry.get(name)) for name in ("number", "of")))
        )
    )


def _is_output(data: Mapping[str, JSON]) -> bool:
    offset = data.get("offset")
    return (
        data.get("stream") in ("stdout", "stderr")
        and _is_number(offset)
        and cast("int", offset) >= 0
        and isinstance(data.get("text"), str) != _is_base64(data.get("base64"))
    )


def _is_number(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_base64(value: JSON) -> bool:
    if not isinstance(value, str):
        return False
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        return False
    return True


_EVENT_DATA: Mapping[str, Callable[[Mapping[str, JSON]], bool]] = {
    "state": _is_state,
    "output": _is_output,
    "progress": lambda data: (
        isinstance(data.get("phase"), str) and len(strictjson.canonical(dict(data))) <= MAX_PROGRESS
    ),
    "note": lambda data: isinstance(data.get("text"), str),
}

FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
"""States in which a task that was handed over is over."""
MESSAGES: tuple[type[Message], ...] = (Seek, Seen, Take, Taken, Declined, Event, View, Cancel)
_BY_TYPE = {message.TYPE: message for message in MESSAGES}


def encode(message: Message) -> bytes:
    """One frame without its length. Raises `LimitExceeded` when the receiver would refuse it."""
    body: dict[str, JSON] = {"type": message.TYPE}
    for member in members_of(type(message)):
        value = getattr(message, member.name)
        if value is not None:
            body[member.name] = list(value) if isinstance(value, tuple) else value
    payload = strictjson.canonical(body)
    if len(payload) > MAX_FRAME:
        raise LimitExceeded("handover.frame", len(payload), MAX_FRAME)
    return payload


def decode(payload: bytes) -> Message:
    """Raises `HandoverError`."""
    body = strictjson.loads(payload, max_bytes=MAX_FRAME, error=HandoverError)
    kind = body.get("type") if isinstance(body, dict) else None
    message = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if message is None:
        raise HandoverError("a message of unknown type")
    values: dict[str, Any] = {}
    for member in members_of(message):
        given = cast("dict[str, JSON]", body).get(member.name)
        if given is None and not member.needed:
            continue
        try:
            values[member.name] = member.read(given)
        except BadEnvelope as problem:
            raise HandoverError(f"{message.TYPE}.{member.name} {problem}") from None
    made = cast("Message", cast("Any", message)(**values))
    if isinstance(made, Event):
        made.check()
    return made
