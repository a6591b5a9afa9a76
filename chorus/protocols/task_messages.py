"""Messages of `/chorus/tasks/1.0.0` and their bytes.

A frame is an unsigned varint length (minimal, at most `MAX_FRAME`) and that many bytes. A frame that starts with `{`
is one JSON object in canonical form (RFC 8785) with a `type`; a frame that starts with 0x01 (stdout) or 0x02 (stderr)
is output: the unsigned varint offset of its first byte in that stream, then the bytes themselves, so that output is
neither escaped nor parsed. Fields that this version does not know are passed over; missing, mistyped and oversized ones
are `TaskProtocolError`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import attrs

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.fields import (
    AnyObject,
    Integer,
    ListOf,
    Nullable,
    Number,
    Object,
    OneOf,
    Refusal,
    Schema,
    Shape,
    Tagged,
    Text,
    Variants,
    field,
)
from chorus.multiformats import varint
from chorus.protocols.delimited import delimit, locate
from chorus.tasks.journal import Fence
from chorus.tasks.spec import SHA256, TASK_ID

if TYPE_CHECKING:
    from chorus.seams import JSON
    from chorus.tasks.terms import StreamName

PROTOCOL = "/chorus/tasks/1.0.0"

MAX_FRAME = 1024 * 1024
"""Bytes of one frame: an offer carries a whole specification, a result up to `MAX_ARTIFACTS` rows."""
MAX_OUTPUT = 64 * 1024
"""Bytes of output in one frame: what one yamux frame and one line of an event stream can hold comfortably."""
MAX_ARTIFACTS = 1000
"""Rows of a result, and as many for links and empty folders; what a sandbox may collect."""
MAX_MODE = 0o777
"""The bits of a deliverable's rights: none that lends a file its owner's."""
MAX_NOTES = 100
"""Items of a result's lists of words (caveats, artifacts passed over)."""
MAX_WORD = 64
"""Characters of a reason, a phase, a sandbox's name."""
MAX_TEXT = 2048
"""Characters of a detail, a path, an image reference."""
MAX_PROGRESS = 4096
"""Bytes of the canonical JSON of one progress message's data."""
MAX_NUMBER = 2**53 - 1
"""The largest integer that canonical JSON carries exactly."""
MAX_PUBLICATION = 4 * 1024 * 1024
"""Bytes of a publication: a decision that names `MAX_ARTIFACTS` artifacts with long names, encrypted and in base64."""
MAX_LEASE_S = 3600.0
"""A lease longer than this would keep a dead agent's task for an hour."""
FETCHING, PREPARING = "fetching_input", "preparing"
"""Phases of `progress` with which an executor says that it fetches the input, and that it unpacks it."""

_OUTPUT_KINDS: dict[int, StreamName] = {1: "stdout", 2: "stderr"}
_KIND_OF_STREAM = {"stdout": b"\x01", "stderr": b"\x02"}


class TaskProtocolError(PeerError):
    """The peer broke `/chorus/tasks/1.0.0`: malformed, oversized, or out of turn."""

    code = "task_protocol"


Message: TypeAlias = Tagged


class _FenceText(Shape):
    """A fence: the program holds a `Fence`."""

    expected = "a fence"
    _text = Text(None, 0, "[0-9]{1,18}[.][0-9]{1,18}[.][0-9]{1,18}", expected)

    def read(self, value: object) -> Fence:
        return Fence.parse(self._text.read(value))

    def write(self, value: Fence) -> JSON:
        return str(value)

    def schema(self) -> Schema:
        return self._text.schema()


def _text(maximum: int, minimum: int = 0) -> Text:
    return Text(maximum, minimum, unit="characters")


_WORD = _text(MAX_WORD, 1)
_TEXT = _text(MAX_TEXT)
_PATH = _text(MAX_TEXT, 1)
_FENCE = _FenceText()
_STREAM = OneOf(("stdout", "stderr"))
_NATURAL = Integer(0, MAX_NUMBER)
_TIME = Number(0, 2.0**40)
_LEASE = Number(0, MAX_LEASE_S)
_MODE = Nullable(Integer(0, MAX_MODE))
_MTIME = Nullable(_TIME)
_NOTES = ListOf(_TEXT, MAX_NOTES)


@attrs.frozen
class InputBlob:
    sha256: str = field(SHA256)
    size: int = field(_NATURAL)


@attrs.frozen
class ResultArtifact:
    """A deliverable, already durable at the executor: its path under `/workspace/output` and its blob. Older executors
    do not say `mode` and `mtime`."""

    path: str = field(_PATH)
    sha256: str = field(SHA256)
    size: int = field(_NATURAL)
    mode: int | None = field(_MODE, default=None)
    mtime: float | None = field(_MTIME, default=None)


@attrs.frozen
class ResultEntry:
    """A deliverable without a blob: a link to `target`, or where that is None an empty folder."""

    path: str = field(_PATH)
    target: str | None = field(Nullable(_PATH), default=None)
    mode: int | None = field(_MODE, default=None)
    mtime: float | None = field(_MTIME, default=None)


@attrs.frozen
class DecisionRef:
    """The signed record of an attempt: its UCXL address and its content hash."""

    address: str = field(_text(MAX_TEXT, 1))
    hash: str = field(SHA256)


@attrs.frozen
class PublicationBlob:
    """The exact signed bytes of a decision (`services/ucxl/bundle.py`), which whoever holds them can publish."""

    sha256: str = field(SHA256)
    size: int = field(Integer(1, MAX_PUBLICATION))


@attrs.frozen
class Offer(Message):
    """Scheduler: will you run this? `spec` is `TaskSpec.to_json()`; the input is fetched from the scheduler."""

    TYPE = "offer"
    task_id: str = field(TASK_ID)
    attempt: int = field(Integer(0, 1000))
    spec: Mapping[str, JSON] = field(AnyObject())
    input: InputBlob | None = field(Nullable(Object(InputBlob, nulls=True)), default=None)


@attrs.frozen
class Accept(Message):
    """Executor: yes, and the place is kept for a while."""

    TYPE = "accept"


@attrs.frozen
class Decline(Message):
    """Executor: no. `reason` is a word (`full`, `draining`, `image_missing`, …), `detail` a line for a person."""

    TYPE = "decline"
    reason: str = field(_WORD)
    detail: str = field(_TEXT, default="")


@attrs.frozen
class Assign(Message):
    """Scheduler: it is yours under this fence, for `lease_s` seconds from each acknowledged renewal."""

    TYPE = "assign"
    fence: Fence = field(_FENCE)
    lease_s: float = field(_LEASE)


@attrs.frozen
class Started(Message):
    TYPE = "started"
    sandbox: str = field(_WORD)
    image: str | None = field(Nullable(_TEXT), default=None)
    time: float = field(_TIME, default=0.0)


@attrs.frozen
class Output(Message):
    """Executor: bytes of one stream; `offset` continues exactly where the last message (or `continue`) ended."""

    TYPE = "output"
    stream: StreamName = field(_STREAM)
    offset: int = field(_NATURAL)
    data: bytes = b""


@attrs.frozen
class Progress(Message):
    TYPE = "progress"
    phase: str = field(_WORD)
    data: Mapping[str, JSON] = field(AnyObject(MAX_PROGRESS), factory=dict)


@attrs.frozen
class Renew(Message):
    """Executor: I still run it. `tag` is local to the sender, which keeps the send time under it."""

    TYPE = "renew"
    tag: int = field(_NATURAL)


@attrs.frozen
class Renewed(Message):
    TYPE = "renewed"
    tag: int = field(_NATURAL)


@attrs.frozen
class Cancel(Message):
    """Scheduler: kill it; a result with what there is follows."""

    TYPE = "cancel"
    reason: str = field(_TEXT, default="")


@attrs.frozen
class Result(Message):
    """Executor: what the attempt came to; everything it names is durable there. Answered by `ack` or `stale`."""

    TYPE = "result"
    reason: str = field(_WORD)
    exit_code: int | None = field(Nullable(Integer(-MAX_NUMBER, MAX_NUMBER)))
    detail: str = field(_TEXT)
    sandbox: str = field(_text(MAX_WORD))
    image: str | None = field(Nullable(_TEXT))
    started_at: float = field(_TIME)
    ended_at: float = field(_TIME)
    stdout_bytes: int = field(_NATURAL, default=0)
    stderr_bytes: int = field(_NATURAL, default=0)
    stdout_sha256: str | None = field(Nullable(SHA256), default=None)
    stderr_sha256: str | None = field(Nullable(SHA256), default=None)
    truncated: tuple[StreamName, ...] = field(ListOf(_STREAM, 2), default=())
    artifacts: tuple[ResultArtifact, ...] = field(ListOf(Object(ResultArtifact, nulls=True), MAX_ARTIFACTS), default=())
    artifacts_skipped: tuple[str, ...] = field(_NOTES, default=())
    caveats: tuple[str, ...] = field(_NOTES, default=())
    disk_enforcement: str = field(_WORD, default="none")
    agent_id: str | None = field(Nullable(_TEXT), default=None)
    """The executor's name for itself: its scheduler may have started anew and not know it yet."""
    entries: tuple[ResultEntry, ...] = field(ListOf(Object(ResultEntry, nulls=True), MAX_ARTIFACTS), default=())
    artifacts_skipped_total: int = field(_NATURAL, default=0)
    """How many deliverables were left out; older executors say no more than `artifacts_skipped` lists."""
    decision: DecisionRef | None = field(Nullable(Object(DecisionRef, nulls=True)), default=None)
    publication: PublicationBlob | None = field(Nullable(Object(PublicationBlob, nulls=True)), default=None)
    """Of the decision, for a scheduler whose executor dies; older executors name neither."""


@attrs.frozen
class Released(Message):
    """Executor: I hand it back unfinished. Answered by `ack` or `stale`."""

    TYPE = "released"
    reason: str = field(_WORD)
    detail: str = field(_TEXT, default="")


@attrs.frozen
class Resume(Message):
    """Executor, first on a stream of its own: this task was given to me under this fence; where were we?"""

    TYPE = "resume"
    task_id: str = field(TASK_ID)
    fence: Fence = field(_FENCE)


@attrs.frozen
class Continue(Message):
    """Scheduler: still yours; the lease starts anew; send output from these offsets."""

    TYPE = "continue"
    stdout_from: int = field(_NATURAL)
    stderr_from: int = field(_NATURAL)
    lease_s: float = field(_LEASE)


@attrs.frozen
class Ack(Message):
    """Scheduler: the result is recorded; forget the run."""

    TYPE = "ack"


@attrs.frozen
class Stale(Message):
    """Scheduler: not yours any more; kill it and forget it."""

    TYPE = "stale"


MESSAGES: tuple[type[Message], ...] = (
    Offer,
    Accept,
    Decline,
    Assign,
    Started,
    Output,
    Progress,
    Renew,
    Renewed,
    Cancel,
    Result,
    Released,
    Resume,
    Continue,
    Ack,
    Stale,
)
_VARIANTS = Variants(tuple(message for message in MESSAGES if message is not Output), nulls=True)


def to_json(message: Message) -> dict[str, JSON]:
    """The message as JSON-ready values, with its `type`; not for `Output`."""
    return _VARIANTS.write(message)


def from_json(body: JSON) -> Message:
    """Inverse of `to_json`. Raises `TaskProtocolError` or `LimitExceeded`."""
    try:
        return _VARIANTS.read(body)
    except Refusal as refusal:
        if refusal.over is not None:
            raise LimitExceeded(f"tasks.{refusal.path}", *refusal.over) from None
        raise TaskProtocolError(refusal.rule("a message")) from None


def encode(message: Message) -> bytes:
    """One whole frame. Raises `LimitExceeded` when it would pass `MAX_FRAME` (the receiver would refuse it)."""
    if isinstance(message, Output):
        payload = _KIND_OF_STREAM[message.stream] + varint.encode(message.offset) + message.data
    else:
        payload = strictjson.canonical(to_json(message))
    if len(payload) > MAX_FRAME:
        raise LimitExceeded("tasks.frame", len(payload), MAX_FRAME)
    return delimit(payload)


def decode(payload: bytes) -> Message:
    """One frame without its length. Raises `TaskProtocolError` or `LimitExceeded`."""
    if not payload:
        raise TaskProtocolError("an empty frame")
    stream = _OUTPUT_KINDS.get(payload[0])
    if stream is None:
        return from_json(strictjson.loads(payload, max_bytes=MAX_FRAME, error=TaskProtocolError))
    if len(payload) > MAX_OUTPUT + 16:
        raise LimitExceeded("tasks.output", len(payload), MAX_OUTPUT)
    found = varint.peek(payload, 1, MAX_NUMBER)
    if found is None:
        raise TaskProtocolError("output without an offset")
    offset, start = found
    if start == len(payload):
        raise TaskProtocolError("output without bytes")
    return Output(stream, offset, payload[start:])


class FrameBuffer:
    """Cuts a byte stream into frames; every byte is copied at most twice however it is cut."""

    def __init__(self, maximum: int = MAX_FRAME) -> None:
        self._maximum = maximum
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[bytes]:
        """Every frame that is complete now, without lengths. Raises before a frame over the maximum is buffered."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        while found := locate(buffer, start, self._maximum):
            begin, end = found
            if end > len(buffer):
                break
            frames.append(bytes(buffer[begin:end]))
            start = end
        if start:
            del buffer[:start]
        return frames

    @property
    def partial(self) -> bool:
        """True if a frame has begun and not ended: the end of the stream now is a truncation."""
        return bool(self._buffer)
