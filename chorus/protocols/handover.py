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

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import attrs

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.fields import (
    AnyObject,
    Base64,
    Integer,
    Nullable,
    Number,
    Object,
    OneOf,
    Refusal,
    Shape,
    Tagged,
    Text,
    Variants,
    field,
)
from chorus.fields.members import FLAG, MAX_SERIAL, MAX_TEXT, MAX_TIME, NAME, PEER, PEERS, SERIAL, TEXT
from chorus.tasks.spec import TASK_ID
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


Message: TypeAlias = Tagged

_STATE = OneOf(tuple(state for state in State if state not in {State.QUEUED, State.MOVED, State.REFUSED}))
_FENCE = Text(None, 0, r"\d{1,18}\.\d{1,18}\.\d{1,18}", "a fence")
_EVENTS = OneOf(("state", "output", "progress", "note"))
_WORD = Text(64)
_REFERENCE = Text(MAX_TEXT)
_ANY_TEXT = Text(None)
_TIME = Number(0, MAX_TIME)


@attrs.frozen
class Seek(Message):
    """Asks for those of these agents that are connected to the receiver."""

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
    task: str = field(TASK_ID)
    spec: Mapping[str, JSON] = field(AnyObject(MAX_DOCUMENT))
    submitter: str = field(NAME)
    after: int = field(SERIAL)
    known: bool = field(FLAG)
    """It was taken before: whoever does not know it then has lost or forgotten it, and must not run it again."""


@attrs.frozen
class Taken(Message):
    """The task is durable here, and this node schedules it from now on."""

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
    data: Mapping[str, JSON] = field(AnyObject(MAX_EVENT))


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
    result: Mapping[str, JSON] | None = field(AnyObject(MAX_DOCUMENT), default=None)

    @property
    def final(self) -> bool:
        return State(self.state) in FINAL


@attrs.frozen
class CancelTaken(Message):
    """Asks for the end of a task that was handed over."""

    TYPE = "cancel"
    task: str = field(TASK_ID)
    by: str = field(NAME)
    reason: str = field(TEXT)


_ANY_INTEGER = Integer(-MAX_SERIAL, MAX_SERIAL)


@attrs.frozen
class _Retry:
    number: int = field(_ANY_INTEGER)
    of: int = field(_ANY_INTEGER)


@attrs.frozen
class _StateData:
    state: str = field(OneOf(tuple(State)))
    attempt: int = field(_ANY_INTEGER, default=0)
    reason: str | None = field(_ANY_TEXT, default=None)
    detail: str | None = field(_ANY_TEXT, default=None)
    agent: str | None = field(_ANY_TEXT, default=None)
    agent_id: str | None = field(_ANY_TEXT, default=None)
    fence: str | None = field(_ANY_TEXT, default=None)
    sandbox: str | None = field(_ANY_TEXT, default=None)
    image: str | None = field(_ANY_TEXT, default=None)
    exit_code: int | None = field(_ANY_INTEGER, default=None)
    retry: _Retry | None = field(Nullable(Object(_Retry, nulls=True)), default=None)


@attrs.frozen
class _OutputData:
    """Text, or bytes that are none."""

    stream: str = field(OneOf(("stdout", "stderr")))
    offset: int = field(SERIAL)
    text: str | None = field(Nullable(_ANY_TEXT), default=None)
    base64: bytes | None = field(Nullable(Base64(MAX_EVENT)), default=None)


@attrs.frozen
class _ProgressData:
    phase: str = field(_ANY_TEXT)


@attrs.frozen
class _NoteData:
    text: str = field(_ANY_TEXT)


_EVENT_DATA: Mapping[str, tuple[Shape, ...]] = {
    "state": (Object(_StateData, nulls=True),),
    "output": (Object(_OutputData, nulls=True),),
    "progress": (Object(_ProgressData), AnyObject(MAX_PROGRESS)),
    "note": (Object(_NoteData),),
}
"""Shapes that the data of each kind of event has, since whoever shows them relies on it; they are kept as they came."""


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
"""States in which a task that was handed over is over."""
MESSAGES: tuple[type[Message], ...] = (Seek, Seen, Take, Taken, Declined, Event, View, CancelTaken)
_VARIANTS = Variants(MESSAGES)


def encode(message: Message) -> bytes:
    """One frame without its length. Raises `LimitExceeded` when the receiver would refuse it."""
    payload = strictjson.canonical(_VARIANTS.write(message))
    if len(payload) > MAX_FRAME:
        raise LimitExceeded("handover.frame", len(payload), MAX_FRAME)
    return payload


def decode(payload: bytes) -> Message:
    """Raises `HandoverError`."""
    body = strictjson.loads(payload, max_bytes=MAX_FRAME, error=HandoverError)
    try:
        message = _VARIANTS.read(body)
        if isinstance(message, Event):
            _check_data(message)
    except Refusal as refusal:
        raise HandoverError(refusal.rule("a message")) from None
    return message


def _check_data(event: Event) -> None:
    try:
        for shape in _EVENT_DATA[event.kind]:
            found = shape.read(event.data)
            if isinstance(found, _OutputData) and (found.text is None) == (found.base64 is None):
                raise Refusal("either text or base64", None)
    except Refusal as refusal:
        raise refusal.under("event.data") from None
