"""Messages of `/chorus/tasks/1.0.0` and their bytes.

A frame is an unsigned varint length (minimal, at most `MAX_FRAME`) and that many bytes. A frame that starts with `{`
is one JSON object in canonical form (RFC 8785) with a `type`; a frame that starts with 0x01 (stdout) or 0x02 (stderr)
is output: the unsigned varint offset of its first byte in that stream, then the bytes themselves, so that output is
neither escaped nor parsed. Fields that this version does not know are passed over; missing, mistyped and oversized ones
are `TaskProtocolError`s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import attrs

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.multiformats import varint
from chorus.tasks import ids
from chorus.tasks.journal import Fence

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
"""What canonical JSON can carry exactly."""
MAX_LEASE_S = 3600.0
"""A lease longer than this would keep a dead agent's task for an hour."""
FETCHING, PREPARING = "fetching_input", "preparing"
"""Phases of `progress` with which an executor says that it fetches the input, and that it unpacks it."""

_TASK_ID = re.compile(ids.PATTERN)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OUTPUT_KINDS: dict[int, StreamName] = {1: "stdout", 2: "stderr"}
_KIND_OF_STREAM = {"stdout": b"\x01", "stderr": b"\x02"}


class TaskProtocolError(PeerError):
    """The peer broke `/chorus/tasks/1.0.0`: malformed, oversized, or out of turn."""

    code = "task_protocol"


# --- checks of single fields -----------------------------------------------------------------------------------------

Check = Callable[[str, "JSON"], Any]


def _text(maximum: int, *, empty: bool = True) -> Check:
    def check(name: str, value: JSON) -> str:
        if not isinstance(value, str) or (not value and not empty):
            raise TaskProtocolError(f"{name}: not a text")
        if len(value) > maximum:
            raise LimitExceeded(f"tasks.{name}", len(value), maximum)
        return value

    return check


def _pattern(pattern: re.Pattern[str]) -> Check:
    def check(name: str, value: JSON) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise TaskProtocolError(f"{name}: not of its form")
        return value

    return check


def _natural(maximum: int = MAX_NUMBER) -> Check:
    def check(name: str, value: JSON) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise TaskProtocolError(f"{name}: not a natural number")
        if value > maximum:
            raise LimitExceeded(f"tasks.{name}", value, maximum)
        return value

    return check


def _integer(name: str, value: JSON) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_NUMBER:
        raise TaskProtocolError(f"{name}: not an integer in range")
    return value


def _seconds(maximum: float) -> Check:
    def check(name: str, value: JSON) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise TaskProtocolError(f"{name}: not a number of seconds in range")
        return float(value)

    return check


def _optional(inner: Check) -> Check:
    def check(name: str, value: JSON) -> Any:
        return None if value is None else inner(name, value)

    return check


def _list(inner: Check, maximum: int) -> Check:
    def check(name: str, value: JSON) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TaskProtocolError(f"{name}: not a list")
        if len(value) > maximum:
            raise LimitExceeded(f"tasks.{name}", len(value), maximum)
        return tuple(inner(name, item) for item in value)

    return check


def _object(name: str, value: JSON) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise TaskProtocolError(f"{name}: not an object")
    return value


def _progress(name: str, value: JSON) -> dict[str, JSON]:
    found = _object(name, value)
    size = len(strictjson.canonical(found))
    if size > MAX_PROGRESS:
        raise LimitExceeded(f"tasks.{name}", size, MAX_PROGRESS)
    return found


def _stream(name: str, value: JSON) -> StreamName:
    # A tuple: what a peer sends need not be hashable.
    if value not in ("stdout", "stderr"):
        raise TaskProtocolError(f"{name}: neither stdout nor stderr")
    return cast("StreamName", value)


def _fence(name: str, value: JSON) -> Fence:
    if isinstance(value, str) and len(value) <= MAX_WORD and re.fullmatch(r"\d{1,18}\.\d{1,18}\.\d{1,18}", value, re.A):
        return Fence.parse(value)
    raise TaskProtocolError(f"{name}: not a fence")


# ruff: noqa: RUF009 - `_field` is `attrs.field` with the check of what comes from the wire.
def _field(check: Check, default: Any = attrs.NOTHING) -> Any:
    return attrs.field(default=default, metadata={"check": check})


_word = _text(MAX_WORD, empty=False)
_detail = _text(MAX_TEXT)
_task_id = _pattern(_TASK_ID)
_sha256 = _pattern(_SHA256)
_TIME = _seconds(2.0**40)
_mode = _optional(_natural(MAX_MODE))
_mtime = _optional(_TIME)


# --- messages --------------------------------------------------------------------------------------------------------


class Message:
    """One message. `TYPE` is its word on the wire."""

    __slots__ = ()
    TYPE: ClassVar[str]


@attrs.frozen
class InputBlob:
    sha256: str
    size: int


@attrs.frozen
class ResultArtifact:
    """A deliverable, already durable at the executor: its path under `/workspace/output` and its blob. Older executors
    do not say `mode` and `mtime`."""

    path: str
    sha256: str
    size: int
    mode: int | None = None
    mtime: float | None = None


@attrs.frozen
class ResultEntry:
    """A deliverable without a blob: a link to `target`, or where that is None an empty folder."""

    path: str
    target: str | None = None
    mode: int | None = None
    mtime: float | None = None


def _input(name: str, value: JSON) -> InputBlob:
    found = _object(name, value)
    return InputBlob(_sha256(f"{name}.sha256", found.get("sha256")), _natural()(f"{name}.size", found.get("size")))


def _artifact(name: str, value: JSON) -> ResultArtifact:
    found = _object(name, value)
    return ResultArtifact(
        _text(MAX_TEXT, empty=False)(f"{name}.path", found.get("path")),
        _sha256(f"{name}.sha256", found.get("sha256")),
        _natural()(f"{name}.size", found.get("size")),
        _mode(f"{name}.mode", found.get("mode")),
        _mtime(f"{name}.mtime", found.get("mtime")),
    )


def _entry(name: str, value: JSON) -> ResultEntry:
    found = _object(name, value)
    return ResultEntry(
        _text(MAX_TEXT, empty=False)(f"{name}.path", found.get("path")),
        _optional(_text(MAX_TEXT, empty=False))(f"{name}.target", found.get("target")),
        _mode(f"{name}.mode", found.get("mode")),
        _mtime(f"{name}.mtime", found.get("mtime")),
    )


@attrs.frozen
class Offer(Message):
    """Scheduler: will you run this? `spec` is `TaskSpec.to_json()`; the input is fetched from the scheduler."""

    TYPE = "offer"
    task_id: str = _field(_task_id)
    attempt: int = _field(_natural(1000))
    spec: Mapping[str, JSON] = _field(_object)
    input: InputBlob | None = _field(_optional(_input), None)


@attrs.frozen
class Accept(Message):
    """Executor: yes, and the place is kept for a while."""

    TYPE = "accept"


@attrs.frozen
class Decline(Message):
    """Executor: no. `reason` is a word (`full`, `draining`, `image_missing`, …), `detail` a line for a person."""

    TYPE = "decline"
    reason: str = _field(_word)
    detail: str = _field(_detail, "")


@attrs.frozen
class Assign(Message):
    """Scheduler: it is yours under this fence, for `lease_s` seconds from each acknowledged renewal."""

    TYPE = "assign"
    fence: Fence = _field(_fence)
    lease_s: float = _field(_seconds(MAX_LEASE_S))


@attrs.frozen
class Started(Message):
    TYPE = "started"
    sandbox: str = _field(_word)
    image: str | None = _field(_optional(_text(MAX_TEXT)), None)
    time: float = _field(_TIME, 0.0)


@attrs.frozen
class Output(Message):
    """Executor: bytes of one stream; `offset` continues exactly where the last message (or `continue`) ended."""

    TYPE = "output"
    stream: StreamName = _field(_stream)
    offset: int = _field(_natural())
    data: bytes = b""


@attrs.frozen
class Progress(Message):
    TYPE = "progress"
    phase: str = _field(_word)
    data: Mapping[str, JSON] = _field(_progress, attrs.Factory(dict))


@attrs.frozen
class Renew(Message):
    """Executor: I still run it. `tag` is local to the sender, which keeps the send time under it."""

    TYPE = "renew"
    tag: int = _field(_natural())


@attrs.frozen
class Renewed(Message):
    TYPE = "renewed"
    tag: int = _field(_natural())


@attrs.frozen
class Cancel(Message):
    """Scheduler: kill it; a result with what there is follows."""

    TYPE = "cancel"
    reason: str = _field(_detail, "")


@attrs.frozen
class Result(Message):
    """Executor: what the attempt came to; everything it names is durable there. Answered by `ack` or `stale`."""

    TYPE = "result"
    reason: str = _field(_word)
    exit_code: int | None = _field(_optional(_integer))
    detail: str = _field(_detail)
    sandbox: str = _field(_text(MAX_WORD))
    image: str | None = _field(_optional(_text(MAX_TEXT)))
    started_at: float = _field(_TIME)
    ended_at: float = _field(_TIME)
    stdout_bytes: int = _field(_natural(), 0)
    stderr_bytes: int = _field(_natural(), 0)
    stdout_sha256: str | None = _field(_optional(_sha256), None)
    stderr_sha256: str | None = _field(_optional(_sha256), None)
    truncated: tuple[StreamName, ...] = _field(_list(_stream, 2), ())
    artifacts: tuple[ResultArtifact, ...] = _field(_list(_artifact, MAX_ARTIFACTS), ())
    artifacts_skipped: tuple[str, ...] = _field(_list(_detail, MAX_NOTES), ())
    caveats: tuple[str, ...] = _field(_list(_detail, MAX_NOTES), ())
    disk_enforcement: str = _field(_word, "none")
    agent_id: str | None = _field(_optional(_text(MAX_TEXT)), None)
    """The executor's name for itself: its scheduler may have started anew and not know it yet."""
    entries: tuple[ResultEntry, ...] = _field(_list(_entry, MAX_ARTIFACTS), ())
    artifacts_skipped_total: int = _field(_natural(), 0)
    """How many deliverables were left out; older executors say no more than `artifacts_skipped` lists."""


@attrs.frozen
class Released(Message):
    """Executor: I hand it back unfinished. Answered by `ack` or `stale`."""

    TYPE = "released"
    reason: str = _field(_word)
    detail: str = _field(_detail, "")


@attrs.frozen
class Resume(Message):
    """Executor, first on a stream of its own: this task was given to me under this fence; where were we?"""

    TYPE = "resume"
    task_id: str = _field(_task_id)
    fence: Fence = _field(_fence)


@attrs.frozen
class Continue(Message):
    """Scheduler: still yours; the lease starts anew; send output from these offsets."""

    TYPE = "continue"
    stdout_from: int = _field(_natural())
    stderr_from: int = _field(_natural())
    lease_s: float = _field(_seconds(MAX_LEASE_S))


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
_BY_TYPE = {message.TYPE: message for message in MESSAGES if message is not Output}
_FIELDS: dict[type[Message], tuple[tuple[str, Check, Any], ...]] = {
    message: tuple(
        (field.name, field.metadata["check"], field.default)
        for field in attrs.fields(cast("Any", message))
        if "check" in field.metadata
    )
    for message in MESSAGES
}


def to_json(message: Message) -> dict[str, JSON]:
    """The message as JSON-ready values, with its `type`; not for `Output`."""

    def value(found: Any) -> JSON:
        if isinstance(found, Fence):
            return str(found)
        if attrs.has(type(found)):
            return {field.name: value(getattr(found, field.name)) for field in attrs.fields(type(found))}
        if isinstance(found, tuple):
            return [value(item) for item in found]
        return cast("JSON", found)

    body: dict[str, JSON] = {name: value(getattr(message, name)) for name, _, _ in _FIELDS[type(message)]}
    body["type"] = message.TYPE
    return body


def from_json(body: JSON) -> Message:
    """Inverse of `to_json`. Raises `TaskProtocolError` or `LimitExceeded`."""
    found = _object("message", body)
    kind = found.get("type")
    message = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if message is None:
        raise TaskProtocolError("a message of unknown type")
    values: dict[str, Any] = {}
    for name, check, default in _FIELDS[message]:
        if name in found:
            values[name] = check(f"{message.TYPE}.{name}", found[name])
        elif default is attrs.NOTHING:
            raise TaskProtocolError(f"{message.TYPE}.{name}: missing")
    return cast("Message", cast("Any", message)(**values))


def encode(message: Message) -> bytes:
    """One whole frame. Raises `LimitExceeded` when it would pass `MAX_FRAME` (the receiver would refuse it)."""
    if isinstance(message, Output):
        payload = _KIND_OF_STREAM[message.stream] + varint.encode(message.offset) + message.data
    else:
        payload = strictjson.canonical(to_json(message))
    if len(payload) > MAX_FRAME:
        raise LimitExceeded("tasks.frame", len(payload), MAX_FRAME)
    return varint.encode(len(payload)) + payload


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
        while found := varint.peek(buffer, start, self._maximum):
            length, begin = found
            if len(buffer) - begin < length:
                break
            frames.append(bytes(buffer[begin : begin + length]))
            start = begin + length
        if start:
            del buffer[:start]
        return frames

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended: the end of the stream now is a truncation."""
        return bool(self._buffer)
