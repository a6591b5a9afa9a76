"""The two one-way streams between a node and one pub/sub peer: ours only writes, the peer's is only read."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from twisted.logger import Logger

from chorus.backoff import Backoff
from chorus.errors import ChorusError, LimitExceeded, PeerError
from chorus.protocols.delimited import DelimitedDecoder
from chorus.protocols.gossipsub.events import Send
from chorus.protocols.gossipsub.params import MAX_RPC
from chorus.protocols.gossipsub.queue import SendQueue
from chorus.protocols.stream import ProtocolNotSupported, StreamClosed
from chorus.services.pubsub.turns import TurnQueue
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from chorus.protocols.stream import Connection, Stream

WRITE_BATCH: Final = 64 * 1024
"""Bytes joined into one write when a queue drains."""

TURN_BUDGET: Final = 0.002
"""Seconds that one peer's RPCs may hold the reactor; the rest waits for a later turn, with reading paused. Two dozen
first copies fit: shorter turns cost nothing in messages a second, and everything else on the reactor is on time
(docs/benchmarks.md)."""

READ_LIMIT: Final = 60.0
"""Seconds an RPC may take from its first byte to its last."""

STEADY: Final = 10.0
"""Seconds after which an outbound stream counts as good: its end is answered without delay."""

REOPEN: Final = Backoff(0.25, 60.0, low=0.75, high=1.25)
"""Before the outbound stream is opened again."""

GoOn = Callable[[float], bool]
"""The next part of an RPC; the argument is the time. False when nothing is left."""


class Owner(Protocol):
    """The service that the streams belong to; `raw` is the peer's id."""

    def greet(self, raw: bytes) -> None:
        """A stream replaces one that was lost: send everything that the peer must know again."""

    def drop(self, raw: bytes) -> None:
        """The peer turns out not to speak the protocol."""

    def drained(self) -> None:
        """A peer has caught up."""

    def receive(self, raw: bytes, rpc: bytes, now: float) -> GoOn | None:
        """Process an RPC; of a large one a part, and return the function for the next part."""

    def transmit(self) -> None:
        """The turn of a peer has ended."""

    def reader_closed(self, raw: bytes, reader: RpcReader) -> None:
        """The reader delivers nothing more."""

    def reader_refused(self, raw: bytes, error: PeerError) -> None:
        """The stream is reset because of what it carried."""


class RpcWriter:
    """Our stream to one peer: opened again when it ends, with a bounded queue while it is slow or away."""

    _log = Logger()

    def __init__(
        self,
        connection: Connection,
        protocol: str,
        owner: Owner,
        *,
        clock: IReactorTime,
        rng: random.Random,
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self.queue = SendQueue()
        self.reopened = 0
        self._clock = clock
        self._rng = rng
        self._owner = owner
        self._attempt: _Attempt | None = None
        self._stream: Stream | None = None
        self._writable = False
        self._opened_at = 0.0
        self._failures = 0
        self._retry = Timer(clock, self.open)
        self._stopped = False
        self._lost = False
        """True if something that was sent or queued is gone, so that the next stream must begin anew."""

    def open(self) -> None:
        """Open the stream if there is none."""
        if self._stopped or self._attempt is not None:
            return
        self._retry.cancel()
        attempt = self._attempt = _Attempt(self)
        opening = self.connection.open_stream([self.protocol])
        opening.addCallbacks(self._opened, self._refused, callbackArgs=(attempt,), errbackArgs=(attempt,))
        opening.addErrback(
            lambda failure: self._log.failure(
                "internal error in the pub/sub stream to {peer}", failure, peer=self._peer
            )
        )

    def move(self, connection: Connection) -> None:
        """The peer is now reached over another connection."""
        self.connection = connection
        stream = self._forget()
        self._lost = True
        if stream is not None:
            stream.reset()
        self.open()

    def stop(self) -> None:
        """Close our direction once what was written has gone; nothing is sent after this."""
        self._stopped = True
        self.queue.clear()
        self._retry.cancel()
        stream = self._forget()
        if stream is not None:
            stream.close()

    def send(self, sends: Sequence[Send]) -> None:
        if self._writable and len(sends) == 1 and not self.queue:
            self._write(sends[0][1])
            return
        try:
            for item in sends:
                self.queue.push(item)
        except LimitExceeded as error:
            # Nothing but control is waiting: the peer has not read for long. A new stream begins with all of it.
            self.queue.clear()
            self._lost = True
            if self._stream is not None:
                self._stream.reset(error)
            return
        self._drain()

    def _opened(self, stream: Stream, attempt: _Attempt) -> None:
        if attempt is not self._attempt:
            stream.reset()
            return
        self._stream = stream
        self._writable = True
        self._opened_at = self._clock.seconds()
        stream.set_receiver(attempt)
        if attempt is not self._attempt:
            return
        if self._lost:
            self._lost = False
            self.reopened += 1
            self._owner.greet(self.connection.peer_id.raw)
        self._drain()

    def _refused(self, failure: Failure, attempt: _Attempt) -> None:
        self.ended(attempt, failure.value)

    def ended(self, attempt: _Attempt, error: BaseException | None) -> None:
        if attempt is not self._attempt:
            return
        if self._stream is not None and self._clock.seconds() - self._opened_at >= STEADY:
            self._failures = 0
        self._forget()
        self._lost = True
        if isinstance(error, ProtocolNotSupported):
            self._owner.drop(self.connection.peer_id.raw)
            return
        self._log.debug("pub/sub stream to {peer} ended: {reason}", peer=self._peer, reason=error)
        self._failures += 1
        self._retry.arm(REOPEN.delay(self._failures, self._rng))

    def writable(self, attempt: _Attempt, writable: bool) -> None:
        if attempt is self._attempt and self._stream is not None:
            self._writable = writable
            if writable:
                self._drain()
                self._owner.drained()

    def _forget(self) -> Stream | None:
        stream, self._stream = self._stream, None
        self._attempt = None
        self._writable = False
        return stream

    def _write(self, data: bytes) -> None:
        assert self._stream is not None
        try:
            self._stream.write(data)
        except StreamClosed:
            self._writable = False

    def _drain(self) -> None:
        while self._writable and self.queue:
            self._write(self.queue.take(WRITE_BATCH))

    @property
    def _peer(self) -> str:
        return str(self.connection.peer_id)


class _Attempt:
    """Receiver of one outbound stream; late calls of a stream that was given up are told apart by it.

    The peer has nothing to say on this stream (spec/wire.md 16, trap 19), so what it sends is dropped.
    """

    __slots__ = ("_link",)

    def __init__(self, link: RpcWriter) -> None:
        self._link = link

    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> None:
        pass

    def stream_closed(self, error: ChorusError | None) -> None:
        self._link.ended(self, error)

    def pause_writing(self) -> None:
        self._link.writable(self, False)

    def resume_writing(self) -> None:
        self._link.writable(self, True)


class RpcReader:
    """The peer's stream: its owner receives the RPCs in order, for at most `TURN_BUDGET` seconds a turn; a large RPC
    part by part, so that a turn is never longer than the budget and the cost of one message.

    Held, with reading paused, until `release`: a peer's first bytes can come before the host has announced it. A peer
    that has used up its turn waits in `turns` for the next one, with all others that have; a peer that sends little is
    read at once.
    """

    _log = Logger()

    def __init__(
        self,
        stream: Stream,
        owner: Owner,
        *,
        clock: IReactorTime,
        turns: TurnQueue,
    ) -> None:
        self.stream = stream
        self._clock = clock
        self._raw = stream.connection.peer_id.raw
        self._owner = owner
        self._held = True
        self._paused = False
        self._decoder = DelimitedDecoder(MAX_RPC)
        self._partial_since: float | None = None
        self._go_on: GoOn | None = None
        """Of the RPC that is not done yet."""
        self._turns = turns
        self._waits = False
        """For its next turn."""
        self._used = 0.0
        """Seconds of its turn that are used up; given back while others have theirs."""
        self._ended_at = 0.0
        self.over = False
        """Nothing more is handed on."""
        self._ended = False
        """The stream has closed; what it brought before may still wait for a turn."""
        stream.set_receiver(self)
        if not self.over:
            self._pause()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._turn()

    def stop(self) -> None:
        self._finish()
        self.stream.reset()

    def check(self, now: float) -> None:
        """Reset the stream when an RPC that has begun does not end (called by the heartbeat)."""
        if self._partial_since is not None and now - self._partial_since > READ_LIMIT:
            self._refuse(LimitExceeded("seconds for one RPC", now - self._partial_since, READ_LIMIT))

    def data_received(self, data: bytes) -> None:
        if self.over:
            return
        self._decoder.feed(data)
        if not self._held and not self._waits:
            self._turn()

    def eof_received(self) -> None:
        self.stream.close()

    def stream_closed(self, error: ChorusError | None) -> None:
        self._ended = True
        if error is not None or not self._waits:
            self._finish()

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def _next_turn(self) -> None:
        self._used = 0.0
        self._turn()

    def _turn(self) -> None:
        self._waits = False
        began = now = self._clock.seconds()
        # One read brings many pieces, and each comes here by itself: they share the turn.
        self._used = max(0.0, self._used - (began - self._ended_at))
        end = began + TURN_BUDGET - self._used
        try:
            while not self.over and self._step(now):
                now = self._clock.seconds()
                if now > end:
                    self._pause()
                    self._waits = True
                    self._turns.add(self._next_turn)
                    break
            else:
                self._caught_up(now)
        except PeerError as error:
            self._refuse(error)
        except Exception:
            self._log.failure(
                "internal error in the pub/sub stream of {peer}", peer=str(self.stream.connection.peer_id)
            )
            self.stop()
        self._ended_at = self._clock.seconds()
        self._used += self._ended_at - began
        self._owner.transmit()

    def _step(self, now: float) -> bool:
        """A small RPC, or some of a large one; false when there is nothing to do."""
        if self._go_on is not None:
            if not self._go_on(now):
                self._go_on = None
            return True
        rpc = self._decoder.next_message()
        if rpc is None:
            return False
        self._partial_since = None
        self._go_on = self._owner.receive(self._raw, rpc, now)
        return True

    def _caught_up(self, now: float) -> None:
        if self._ended:
            self._finish()
            return
        if self._decoder.partial and self._partial_since is None:
            self._partial_since = now
        if self._paused and not self.over:
            self._paused = False
            self.stream.resume_reading()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.stream.pause_reading()

    def _refuse(self, error: PeerError) -> None:
        self._owner.reader_refused(self._raw, error)
        self._finish()
        self.stream.reset(error)

    def _finish(self) -> None:
        self._waits = False
        self._go_on = None
        self._turns.remove(self._next_turn)
        if not self.over:
            self.over = True
            self._owner.reader_closed(self._raw, self)
