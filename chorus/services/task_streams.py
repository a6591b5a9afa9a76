"""Shells around the cores of `/chorus/tasks/1.0.0`: a channel a conversation, one registration a node.

A stream that comes in begins with `offer` (this node is asked to execute) or `resume` (this node is the scheduler);
`TaskStreams` reads that first message and gives the channel to the side it concerns. A conversation with this very
node runs over a loopback stream through the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError, LocalError, PeerError
from chorus.protocols.stream import ProtocolOptions, StreamClosed
from chorus.protocols.task_messages import PROTOCOL, FrameBuffer, Message, Offer, Resume, TaskProtocolError, decode
from chorus.protocols.tasks import ExecutorSession, SchedulerSession
from chorus.services.loopback import loopback
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Host, Stream
    from chorus.seams import Roles

FIRST_MESSAGE_S = 10.0
"""Seconds an inbound stream has for its first message (an offer may carry a long specification)."""
MAX_STREAMS_PER_PEER = 64
"""Conversations one peer may have open with us: more than any agent runs at once, offers included."""

ASSIGN = "task.assign"
"""The action that `Roles` is asked about for a peer that offers a task."""


class NotTaking(LocalError):
    """This side of the protocol is not started yet, or has stopped; the peer asks again."""

    code = "not_taking"


_Session = TypeVar("_Session", SchedulerSession, ExecutorSession)


class TaskChannel(Generic[_Session]):
    """One conversation over one stream: a `StreamReceiver` around a core.

    `heard` gets each message, `closed` is called exactly once, whichever end ended it and why (None: as it should);
    `drained` is called when writing may go on after `writable` was false.
    """

    def __init__(self, stream: Stream, session: _Session, errors: Counter[str]) -> None:
        self.stream = stream
        self.session: _Session = session
        self.peer: PeerId = stream.connection.peer_id
        self.heard: Callable[[Message], None] = lambda _: None
        self.closed: Callable[[ChorusError | None], None] = lambda _: None
        self.drained: Callable[[], None] = lambda: None
        self.writable = True
        self.is_closed = False
        self._errors = errors

    def send(self, message: Message) -> bool:
        """Send it. False when the stream has ended meanwhile (`closed` is called, or was)."""
        if self.is_closed:
            return False
        self.session.send(message)
        try:
            self.stream.write(self.session.data_to_send())
        except StreamClosed:
            return False
        if self.session.ended:
            self.finish()
        return True

    def may_send(self, message: type[Message]) -> bool:
        return not self.is_closed and self.session.may_send(message)

    def finish(self) -> None:
        """Close the stream after what was said has gone, and report nothing more."""
        if not self.is_closed:
            self.is_closed = True
            self.stream.close()
            self.closed(None)

    def reset(self, error: ChorusError | None = None) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.stream.reset(error)
            self.closed(error)

    def pause(self) -> None:
        """Stop reading: the peer's output waits at the peer."""
        self.stream.pause_reading()

    def resume(self) -> None:
        if not self.is_closed:
            self.stream.resume_reading()

    # StreamReceiver

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        try:
            messages = self.session.receive_data(data)
        except PeerError as error:
            self._errors[error.code] += 1
            self.reset(error)
            return
        for message in messages:
            if self.is_closed:
                return
            self.heard(message)
        if self.session.ended:
            self.finish()

    def eof_received(self) -> None:
        if self.is_closed:
            return
        if self.session.partial:
            error = TaskProtocolError("the stream ended inside a message")
            self._errors[error.code] += 1
            self.reset(error)
        else:
            self.is_closed = True
            self.stream.close()
            self.closed(None if self.session.ended else StreamClosed("the peer ended the conversation"))

    def stream_closed(self, error: ChorusError | None) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.closed(error or StreamClosed("the stream ended"))

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if not self.is_closed:
            self.drained()


SchedulerChannel = TaskChannel[SchedulerSession]
ExecutorChannel = TaskChannel[ExecutorSession]


class TaskStreams:
    """The node's one speaker of `/chorus/tasks/1.0.0`. `offered` and `resumed` are set by the two services.

    Both are called with a channel whose first message is the one given; they set `heard` and `closed` before they
    return.
    """

    _log = Logger()

    def __init__(self, host: Host, clock: IReactorTime, roles: Roles) -> None:
        self._host = host
        self._clock = clock
        self._roles = roles
        self._waiting: set[_FirstMessage] = set()
        self.offered: Callable[[ExecutorChannel, Offer], None] | None = None
        self.resumed: Callable[[SchedulerChannel, Resume], None] | None = None
        self.errors: Counter[str] = Counter()
        """Peers' errors by code."""

    @property
    def peer_id(self) -> PeerId:
        return self._host.peer_id

    @property
    def clock(self) -> IReactorTime:
        return self._clock

    def start(self) -> None:
        self._host.register(PROTOCOL, self._opened, ProtocolOptions(max_inbound_per_peer=MAX_STREAMS_PER_PEER))

    def stop(self) -> None:
        """Take no new conversations; those under way belong to the services."""
        self._host.unregister(PROTOCOL)
        for waiting in list(self._waiting):
            waiting.stop(StreamClosed("this node stops"))

    def offer_to(self, peer: PeerId) -> Deferred[SchedulerChannel]:
        """A channel on which to offer a task to `peer` (which may be this node)."""
        return Deferred.fromCoroutine(self._open(peer, SchedulerSession()))

    def resume_at(self, peer: PeerId) -> Deferred[ExecutorChannel]:
        """A channel on which to resume a task that `peer` (which may be this node) gave."""
        return Deferred.fromCoroutine(self._open(peer, ExecutorSession()))

    async def _open(self, peer: PeerId, session: _Session) -> TaskChannel[_Session]:
        stream: Stream
        if peer == self._host.peer_id:
            stream, inbound = loopback(peer, PROTOCOL, self._clock)
            self._opened(inbound)
        else:
            stream = await self._host.open_stream(peer, [PROTOCOL])
            if stream.connection.peer_id != peer:
                # All that is said here counts as the word of this one peer (docs/architecture.md, "Who may say what").
                stream.reset()
                raise TaskProtocolError("another peer answers")
        channel = TaskChannel(stream, session, self.errors)
        stream.set_receiver(channel)
        return channel

    def _opened(self, stream: Stream) -> None:
        self._waiting.add(waiting := _FirstMessage(stream, self))
        stream.set_receiver(waiting)

    def _first(self, stream: Stream, message: Message, data: bytes) -> TaskChannel[SchedulerSession] | ExecutorChannel:
        """The channel for a stream that began with `message`; `data` is every byte of it so far."""
        channel: SchedulerChannel | ExecutorChannel
        if isinstance(message, Offer):
            if (offered := self.offered) is None:
                raise NotTaking("this node takes no offers now")
            if not self._roles.may(str(stream.connection.peer_id), ASSIGN):
                raise TaskProtocolError("this peer may not assign tasks")
            channel = execute = TaskChannel(stream, ExecutorSession(), self.errors)
            channel.heard = lambda first: offered(execute, first) if isinstance(first, Offer) else None
        elif isinstance(message, Resume):
            if (resumed := self.resumed) is None:
                raise NotTaking("this node schedules nothing now")
            channel = schedule = TaskChannel(stream, SchedulerSession(), self.errors)
            channel.heard = lambda first: resumed(schedule, first) if isinstance(first, Resume) else None
        else:
            raise TaskProtocolError(f"a conversation cannot begin with {message.TYPE} here")
        channel.data_received(data)
        return channel


class _FirstMessage:
    """Receiver of an inbound stream until its first message is whole; then the channel takes its place."""

    def __init__(self, stream: Stream, owner: TaskStreams) -> None:
        self._stream = stream
        self._owner = owner
        self._frames = FrameBuffer()
        self._data: list[bytes] = []
        self._channel: TaskChannel[SchedulerSession] | ExecutorChannel | None = None
        self._limit = Timer(owner.clock, self._late)
        self._limit.arm(FIRST_MESSAGE_S)

    def data_received(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.data_received(data)
            return
        if not self._limit.armed:
            return
        self._data.append(data)
        try:
            frames = self._frames.receive_data(data)
            if frames:
                message = decode(frames[0])
                self._done()
                self._channel = self._owner._first(self._stream, message, b"".join(self._data))
                self._data.clear()
        except PeerError as error:
            self._owner.errors[error.code] += 1
            self.stop(error)
        except NotTaking as error:
            self.stop(error)

    def eof_received(self) -> None:
        if self._channel is not None:
            self._channel.eof_received()
        else:
            self.stop(StreamClosed("the peer said nothing"))

    def stream_closed(self, error: ChorusError | None) -> None:
        self._done()
        if self._channel is not None:
            self._channel.stream_closed(error)

    def pause_writing(self) -> None:
        if self._channel is not None:
            self._channel.pause_writing()

    def resume_writing(self) -> None:
        if self._channel is not None:
            self._channel.resume_writing()

    def stop(self, error: ChorusError) -> None:
        self._done()
        self._stream.reset(error)

    def _late(self) -> None:
        error = TaskProtocolError("no first message in time")
        self._owner.errors[error.code] += 1
        self.stop(error)

    def _done(self) -> None:
        self._owner._waiting.discard(self)
        self._limit.cancel()
