"""Pure cores of `/chorus/tasks/1.0.0`: one conversation about one attempt at one task (docs/architecture.md).

A scheduler opens a stream to offer a task; an executor opens one to resume a task it holds. Both ends keep the same
table of states; what a peer says out of turn is a `TaskProtocolError`, what we would say out of turn is a
`WrongTurn` (a bug here, never sent). Bytes in, messages out; bytes to send are drained separately. No clock: leases
are counted by the services.

    scheduler                       executor
    offer ------------------------>
          <------------------------ accept | decline
    assign ----------------------->
          <------------------------ started, output*, progress*, renew*
    renewed*, cancel ------------->
          <------------------------ result | released
    ack | stale ------------------>

          <------------------------ resume
    continue | cancel | ack | stale ->          (then as after assign)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

from chorus.errors import LimitExceeded, LocalError
from chorus.protocols.task_messages import (
    Accept,
    Ack,
    Assign,
    Cancel,
    Continue,
    Decline,
    FrameBuffer,
    Message,
    Offer,
    Output,
    Progress,
    Released,
    Renew,
    Renewed,
    Result,
    Resume,
    Stale,
    Started,
    TaskProtocolError,
    decode,
    encode,
)

if TYPE_CHECKING:
    from chorus.tasks.terms import StreamName

MAX_PENDING_RENEWALS = 8
"""Renewals that a peer may have unanswered: more than a lease holds at one every third of it."""


class WrongTurn(LocalError):
    """This node tried to say something the conversation has no place for."""

    code = "task_wrong_turn"


class SessionState(Enum):
    START = auto()
    OFFERED = auto()
    ACCEPTED = auto()
    RESUMED = auto()
    """The executor asked to go on and waits for where."""
    ACTIVE = auto()
    REPORTED = auto()
    """A result or a release is said and not yet answered."""
    STALE = auto()
    """The scheduler took the task away; what the executor had already sent is passed over."""
    ENDED = auto()


Table = Mapping[tuple[SessionState, type[Message]], SessionState]

_EXECUTOR_SAYS: Table = {
    (SessionState.START, Resume): SessionState.RESUMED,
    (SessionState.OFFERED, Accept): SessionState.ACCEPTED,
    (SessionState.OFFERED, Decline): SessionState.ENDED,
    (SessionState.ACTIVE, Started): SessionState.ACTIVE,
    (SessionState.ACTIVE, Output): SessionState.ACTIVE,
    (SessionState.ACTIVE, Progress): SessionState.ACTIVE,
    (SessionState.ACTIVE, Renew): SessionState.ACTIVE,
    (SessionState.ACTIVE, Result): SessionState.REPORTED,
    (SessionState.ACTIVE, Released): SessionState.REPORTED,
}
_SCHEDULER_SAYS: Table = {
    (SessionState.START, Offer): SessionState.OFFERED,
    (SessionState.ACCEPTED, Assign): SessionState.ACTIVE,
    (SessionState.RESUMED, Continue): SessionState.ACTIVE,
    (SessionState.RESUMED, Cancel): SessionState.ACTIVE,
    (SessionState.RESUMED, Ack): SessionState.ENDED,
    (SessionState.RESUMED, Stale): SessionState.ENDED,
    (SessionState.ACTIVE, Renewed): SessionState.ACTIVE,
    (SessionState.ACTIVE, Cancel): SessionState.ACTIVE,
    (SessionState.ACTIVE, Stale): SessionState.STALE,
    (SessionState.REPORTED, Ack): SessionState.ENDED,
    (SessionState.REPORTED, Stale): SessionState.ENDED,
}
# Messages that may still arrive when the receiver's own message crossed them on the way.
_CROSSING_FROM_EXECUTOR: Table = {
    (SessionState.STALE, message): SessionState.STALE
    for message in (Started, Output, Progress, Renew, Result, Released)
}
_CROSSING_FROM_SCHEDULER: Table = {
    (SessionState.REPORTED, Renewed): SessionState.REPORTED,
    (SessionState.REPORTED, Cancel): SessionState.REPORTED,
}


class _Session:
    """Shared by both ends: framing, the table walk, bytes to send."""

    _says: Table
    _hears: Table
    _crossing: Table

    def __init__(self) -> None:
        self.state = SessionState.START
        self._frames = FrameBuffer()
        self._out: deque[bytes] = deque()

    @property
    def ended(self) -> bool:
        """True if nothing more is to be said by either end."""
        return self.state in {SessionState.ENDED, SessionState.STALE}

    @property
    def partial(self) -> bool:
        return self._frames.partial

    def may_send(self, message: type[Message]) -> bool:
        return (self.state, message) in self._says

    def send(self, message: Message) -> None:
        """Queue a message. Raises `WrongTurn`, or `LimitExceeded` when it is too large; the state is kept then."""
        following = self._says.get((self.state, type(message)))
        if following is None:
            raise WrongTurn(f"{message.TYPE} has no place in state {self.state.name}")
        self._check_sent(message)
        self._out.append(encode(message))
        self.state = following

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes) -> list[Message]:
        """Messages that are complete and in turn. Raises `TaskProtocolError` or `LimitExceeded`: reset the stream."""
        messages: list[Message] = []
        for frame in self._frames.receive_data(data):
            message = decode(frame)
            key = (self.state, type(message))
            following = self._hears.get(key)
            if following is None:
                if key not in self._crossing:
                    raise TaskProtocolError(f"{message.TYPE} has no place in state {self.state.name}")
                continue
            self._check_heard(message)
            self.state = following
            messages.append(message)
        return messages

    def _check_sent(self, message: Message) -> None:
        pass

    def _check_heard(self, message: Message) -> None:
        pass


class SchedulerSession(_Session):
    """The scheduler's end. `max_output` bounds the bytes of each output stream, whatever the peer says its cap is."""

    _says = _SCHEDULER_SAYS
    _hears = _EXECUTOR_SAYS
    _crossing = _CROSSING_FROM_EXECUTOR

    def __init__(self, max_output: int | None = None) -> None:
        super().__init__()
        self.max_output = max_output
        self._offsets: dict[StreamName, int] | None = None
        self._renewals = 0

    def _check_sent(self, message: Message) -> None:
        if isinstance(message, Assign):
            self._offsets = {"stdout": 0, "stderr": 0}
        elif isinstance(message, Continue):
            self._offsets = {"stdout": message.stdout_from, "stderr": message.stderr_from}
        elif isinstance(message, Renewed):
            self._renewals -= 1

    def _check_heard(self, message: Message) -> None:
        if isinstance(message, Output):
            self._check_output(message)
        elif isinstance(message, Renew):
            self._renewals += 1
            if self._renewals > MAX_PENDING_RENEWALS:
                raise LimitExceeded("tasks.renewals", self._renewals, MAX_PENDING_RENEWALS)

    def _check_output(self, message: Output) -> None:
        if self._offsets is None:
            raise TaskProtocolError("output before its offsets were named")
        expected = self._offsets[message.stream]
        if message.offset != expected:
            raise TaskProtocolError(f"output of {message.stream} at {message.offset}, expected at {expected}")
        end = expected + len(message.data)
        if self.max_output is not None and end > self.max_output:
            raise LimitExceeded(f"tasks.{message.stream}", end, self.max_output)
        self._offsets[message.stream] = end


class ExecutorSession(_Session):
    """The executor's end. A `renewed` for a tag that is not outstanding is the peer's error."""

    _says = _EXECUTOR_SAYS
    _hears = _SCHEDULER_SAYS
    _crossing = _CROSSING_FROM_SCHEDULER

    def __init__(self) -> None:
        super().__init__()
        self._tags: set[int] = set()

    def _check_sent(self, message: Message) -> None:
        if isinstance(message, Renew):
            if len(self._tags) >= MAX_PENDING_RENEWALS:
                raise WrongTurn("too many renewals are unanswered")
            self._tags.add(message.tag)

    def _check_heard(self, message: Message) -> None:
        if isinstance(message, Renewed):
            if message.tag not in self._tags:
                raise TaskProtocolError("an answer to a renewal that was never sent")
            self._tags.discard(message.tag)
