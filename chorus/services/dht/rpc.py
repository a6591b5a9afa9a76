"""Requests to servers of the DHT: a few streams kept per peer, one request on each at a time (spec/wire.md 13)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from chorus.errors import ChorusError, LimitExceeded, PeerError
from chorus.protocols.delimited import DelimitedDecoder, delimit
from chorus.protocols.kad.params import MAX_MESSAGE
from chorus.protocols.stream import StreamClosed
from chorus.protocols.streamio import EndOfStream, StreamTimeout
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.multiformats.multiaddr import Multiaddr
    from chorus.protocols.stream import Connection, Host, Stream

REQUEST_TIMEOUT_S = 2.0
"""For one answer; a server that takes longer holds up a walk for nothing."""
DIAL_TIMEOUT_S = 2.0
"""For the connection before it: entries of the table may be long gone."""
IDLE_S = 45.0
"""After which a stream without requests is closed; less than the 60 s after which servers close it themselves."""
MAX_STREAMS = 8
"""To one peer at the same time; half of what it takes by default."""
MAX_WAITING = 256
"""Requests to one peer that wait for a stream."""


class AskingStream:
    """Receiver of one stream that we opened: a request, its reply, the next one."""

    def __init__(self, stream: Stream, clock: IReactorTime) -> None:
        self.over = False
        self.used_at = 0.0
        self.answers = 0
        self._stream = stream
        self._decoder = DelimitedDecoder(MAX_MESSAGE)
        self._waiting: Deferred[bytes] | None = None
        self._timer = Timer(clock, self._expired)
        stream.set_receiver(self)

    def ask(self, message: bytes) -> Deferred[bytes]:
        """Fails with `StreamTimeout`, `LimitExceeded`, `EndOfStream`, or what ended the stream."""
        waiting: Deferred[bytes] = Deferred(lambda _: self.reset(StreamTimeout("given up")))
        self._waiting = waiting
        self._timer.arm(REQUEST_TIMEOUT_S)
        try:
            self._stream.write(delimit(message))
        except ChorusError as error:
            self._fail(error)
        return waiting

    def tell(self, message: bytes) -> Deferred[bytes]:
        """Send a request and our end. Servers that do not reply to it end theirs once it is done: `EndOfStream`."""
        reply = self.ask(message)
        if not self.over:
            self._stream.write_eof()
        return reply

    def close(self) -> None:
        self.over = True
        self._stream.close()

    def reset(self, error: ChorusError) -> None:
        self.over = True
        self._stream.reset(error)
        self._fail(error)

    def _expired(self) -> None:
        self.reset(StreamTimeout(f"no reply within {REQUEST_TIMEOUT_S:g} s"))

    # StreamReceiver

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            message = self._decoder.next_message()
        except PeerError as error:
            self.reset(error)
            return
        if message is None:
            return
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self.reset(PeerError("a reply that nobody asked for"))
            return
        self._timer.cancel()
        self.answers += 1
        waiting.callback(message)

    def eof_received(self) -> None:
        self.close()
        self._fail(EndOfStream("the server closed the stream"))

    def stream_closed(self, error: ChorusError | None) -> None:
        self.over = True
        self._fail(error or EndOfStream("the server closed the stream"))

    def pause_writing(self) -> None:
        """Requests are small and wait for their replies: nothing piles up."""

    def resume_writing(self) -> None:
        pass

    def _fail(self, error: ChorusError) -> None:
        self.over = True
        self._timer.cancel()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(error)


class Lane:
    """Streams to one peer over one connection; a request takes one to itself."""

    def __init__(self, connection: Connection, clock: IReactorTime, protocols: Sequence[str]) -> None:
        self.connection = connection
        self._clock = clock
        self._protocols = protocols
        self._idle: list[AskingStream] = []
        self._taken = 0
        self._waiting: deque[Deferred[None]] = deque()

    async def take(self) -> AskingStream:
        """A kept stream or a new one. Waits for one where all are taken; fails with `LimitExceeded` or
        `StreamTimeout`."""
        while self._taken >= MAX_STREAMS:
            if len(self._waiting) >= MAX_WAITING:
                raise LimitExceeded("requests to one server", len(self._waiting) + 1, MAX_WAITING)
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn.addTimeout(REQUEST_TIMEOUT_S, self._clock, _no_turn)
        self._taken += 1
        stale = self._clock.seconds() - IDLE_S
        while self._idle:
            stream = self._idle.pop()
            if not stream.over and stream.used_at > stale:
                return stream
            stream.close()
        try:
            return AskingStream(await self.connection.open_stream(self._protocols), self._clock)
        except BaseException:
            self._next()
            raise

    def give_back(self, stream: AskingStream) -> None:
        if not stream.over:
            stream.used_at = self._clock.seconds()
            self._idle.append(stream)
        self._next()

    def _next(self) -> None:
        self._taken -= 1
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.called:
                turn.callback(None)
                return

    def trim(self) -> None:
        """Close streams that have been idle."""
        stale = self._clock.seconds() - IDLE_S
        for stream in self._idle:
            if stream.used_at <= stale:
                stream.close()
        self._idle = [stream for stream in self._idle if not stream.over]

    def close(self) -> None:
        for stream in self._idle:
            stream.close()
        self._idle.clear()


def _no_turn(result: object, seconds: float) -> None:
    raise StreamTimeout(f"no stream was free for {seconds:g} s")


def _no_connection(result: object, seconds: float) -> None:
    raise StreamTimeout(f"no connection within {seconds:g} s")


class KadRequests:
    """Asks servers for replies to encoded messages; dials them first where they are not connected."""

    def __init__(self, host: Host, clock: IReactorTime, protocol: str) -> None:
        self._host = host
        self._clock = clock
        self._protocols = (protocol,)
        self._lanes: dict[PeerId, Lane] = {}

    async def ask(self, peer: PeerId, addresses: Sequence[Multiaddr], message: bytes) -> bytes:
        """One reply. Fails with `DialError`, `StreamTimeout`, `ProtocolNotSupported`, … within some 4 s; a stream kept
        from earlier that turns out closed is replaced."""
        lane = await self._lane(peer, addresses)
        while True:
            stream = await lane.take()
            kept = stream.answers > 0
            try:
                return await stream.ask(message)
            except StreamClosed:
                if not kept or self._host.connection(peer) is not lane.connection:
                    raise
            finally:
                lane.give_back(stream)

    async def tell(self, peer: PeerId, addresses: Sequence[Multiaddr], message: bytes) -> None:
        """Have a message processed that need not have a reply (ADD_PROVIDER). Fails as `ask`."""
        lane = await self._lane(peer, addresses)
        stream = AskingStream(await lane.connection.open_stream(self._protocols), self._clock)
        with suppress(EndOfStream):
            await stream.tell(message)
        stream.close()

    async def _lane(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> Lane:
        connection = self._host.connection(peer)
        if connection is None:
            dial = self._host.dial(peer, addresses)
            dial.addTimeout(DIAL_TIMEOUT_S, self._clock, _no_connection)
            connection = await dial
        lane = self._lanes.get(peer)
        if lane is None or lane.connection is not connection:
            self.left(peer)
            lane = self._lanes[peer] = Lane(connection, self._clock, self._protocols)
        return lane

    def left(self, peer: PeerId) -> None:
        """Its connection is gone."""
        lane = self._lanes.pop(peer, None)
        if lane is not None:
            lane.close()

    def trim(self) -> None:
        """Close streams that have been idle; call it every few seconds."""
        for lane in self._lanes.values():
            lane.trim()

    def stop(self) -> None:
        for peer in list(self._lanes):
            self.left(peer)
