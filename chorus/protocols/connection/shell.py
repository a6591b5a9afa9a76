"""A connection on its socket: the thin Twisted shell of `ConnectionCore`, and `Connection` to everybody else.

Small writes of one reactor turn leave as one Noise frame and one send. Output written while bytes are being received
leaves in the same turn, at its end; anything else one turn later, with whatever else that turn wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, IReactorTime, ITCPTransport, IWriteDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from chorus.errors import ChorusError, LimitExceeded, LocalError, PeerError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.core import ConnectionCore, Ends, MakeHandshake
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.connection.streams import MuxedStream
from chorus.protocols.noise.handshake import HandshakeResult, NoiseHandshake
from chorus.protocols.stream import Stream
from chorus.protocols.yamux.stream import YamuxStream
from chorus.timer import Timer

T = TypeVar("T")

READ_SIZE = 128 * 1024
"""Bytes asked of the socket at once: two full Noise frames for a bulk transfer, and a bound for the work of one turn
(the worst bytes we found, streams opened and closed, cost 0.2 µs each)."""


class ConnectionLost(ChorusError):
    """The socket broke under the connection."""

    code = "connection_lost"


class ConnectionDelegate(Interface):
    """Calls of a connection to the host, all from the reactor."""

    def protocol_supported(self, connection: ConnectionProtocol, protocol: str) -> bool:
        """True if an inbound stream may speak `protocol` on this connection now."""

    def stream_opened(self, stream: Stream) -> None:
        """An inbound stream whose protocol is agreed; set its receiver, or reset it."""

    def connection_made(self, connection: ConnectionProtocol) -> None:
        """It has its socket."""

    def connection_progressed(self, connection: ConnectionProtocol) -> None:
        """Its set-up came a step further; bytes alone are none."""

    def connection_secured(self, connection: ConnectionProtocol) -> None:
        """The peer is authenticated and streams can be opened."""

    def connection_closed(self, connection: ConnectionProtocol, error: ChorusError | None) -> None:
        """Once, last, also when the handshake failed; not for one that was never made."""


@implementer(IPushProducer)
class ConnectionProtocol(Protocol):
    """One connection. `counters` counts the errors of peers by code (limits by name too), and `receiver_failed`."""

    _log = Logger()

    def __init__(
        self,
        ends: Ends,
        *,
        remote_address: Multiaddr,
        clock: IReactorTime,
        delegate: ConnectionDelegate,
        limits: ConnectionLimits | None = None,
        security: MakeHandshake = NoiseHandshake,
        counters: Counter[str] | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.closed = False
        """Closing has begun here, or the connection has ended."""
        self.admitted = False
        self._ends = ends
        self._remote_address = remote_address
        self._clock = clock
        self._seconds = clock.seconds
        self._delegate = delegate
        self._limits = limits or ConnectionLimits()
        self._security = security
        self._core: ConnectionCore
        self._result: HandshakeResult | None = None
        self._error: ChorusError | None = None
        self._lost = False
        self._timer = Timer(clock, self._expired)
        self._turn = Timer(clock, self._drain)
        """The next turn of the reactor, in which what was written outside of `dataReceived` leaves."""
        self._busy = False
        """Bytes are being received or drained: output leaves at the end of it."""
        self._paused = False
        """The transport has more than it can send."""
        self._reading = True
        self._stage = 0
        self._send_now: Any = None
        self._transport: Any

    def __repr__(self) -> str:
        peer = self._result.peer_id if self._result is not None else self._ends.expected_peer
        return f"<connection {'from' if self.inbound else 'to'} {peer or 'unknown'} at {self._remote_address}>"

    # Connection

    @property
    def peer_id(self) -> PeerId:
        return self._secured().peer_id

    @property
    def remote_address(self) -> Multiaddr:
        return self._remote_address

    @property
    def inbound(self) -> bool:
        return not self._ends.initiator

    @property
    def handshake_hash(self) -> bytes:
        return self._secured().handshake_hash

    @property
    def secured(self) -> bool:
        return self._result is not None

    @property
    def streams(self) -> int:
        """How many streams live."""
        session = self._core.yamux
        return len(session.streams) if session is not None else 0

    @property
    def unsent(self) -> int:
        """Bytes that streams have queued and the peer has not taken."""
        session = self._core.yamux
        return sum(stream.queued for stream in session.streams.values()) if session is not None else 0

    @property
    def buffered(self) -> int:
        """Bytes held here: received and not taken by their receivers, or queued and not taken by the peer."""
        session = self._core.yamux
        return session.held + session.queued if session is not None else 0

    def mark_admitted(self) -> None:
        self.admitted = True

    def _secured(self) -> HandshakeResult:
        if self._result is None:
            raise RuntimeError("the peer is not authenticated yet")
        return self._result

    def open_stream(self, protocols: Sequence[str]) -> Deferred[Stream]:
        try:
            if len(protocols) == 1:
                return succeed(self._core.open_stream(protocols[0], self._seconds()))
            return self._propose_stream(protocols)
        except ChorusError as error:
            return fail(error)

    def _propose_stream(self, protocols: Sequence[str]) -> Deferred[Stream]:
        waiting: Deferred[Stream] = Deferred(lambda _: stream.reset())
        opened: Callable[[Stream | ChorusError], None] = _answer(waiting)
        stream = self._core.propose_stream(protocols, opened, self._seconds())
        return waiting

    def measure_rtt(self) -> Deferred[float]:
        """One ping of the multiplexer, in seconds; fails with `PingTimeout`, `PingLimitReached` or the end of the
        connection."""
        waiting: Deferred[float] = Deferred(lambda _: None)
        try:
            self._core.measure_rtt(_answer(waiting), self._seconds())
        except ChorusError as error:
            return fail(error)
        return waiting

    def go_away(self) -> None:
        """Take no new streams; those that live go on."""
        self._core.go_away()

    def close(self, error: ChorusError | None = None) -> None:
        if self.closed:
            return
        self.closed = True
        self._error = error
        self._core.close(error)
        if error is None:
            self._lose()
        else:
            self._transport.abortConnection()

    # Twisted

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._transport = transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if IWriteDescriptor.providedBy(transport):
            self._send_now = transport.doWrite
            self._transport.bufferSize = READ_SIZE
        transport.registerProducer(self, True)
        self._core = ConnectionCore(
            self,
            cast("Any", self),
            self._ends,
            limits=self._limits,
            now=self._seconds(),
            make_handshake=self._security,
        )
        self._delegate.connection_made(self)
        self._arm()
        self._drain()

    def dataReceived(self, data: bytes) -> None:
        if self.closed:
            return
        self._busy = True
        try:
            self._core.receive_data(data, self._seconds())
        except ChorusError as error:
            self._fail(error)
        except Exception:
            self._log.failure("a bug ended {connection}", connection=self)
            self._fail(LocalError("an internal error"))
        self._busy = False
        if not self.admitted and not self.closed and self._core.stage != self._stage:
            self._stage = self._core.stage
            self._delegate.connection_progressed(self)
        if not self._paused:
            self._drain()
        if self._reading and self._core.overfull:
            self._reading = False
            self._core.reading_paused(self._seconds())
            self._transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lost:
            return
        self._lost = True
        self._send_now = None
        if not self.closed:
            self.closed = True
            if isinstance(reason.value, ConnectionDone):
                self._error = self._core.receive_eof()
            else:
                self._error = ConnectionLost(f"the connection was lost: {reason.getErrorMessage()}")
                self._core.close(self._error)
            if self._error is not None:
                self.count(self._error)
        self._timer.cancel()
        self._turn.cancel()
        try:
            self._delegate.connection_closed(self, self._error)
        except Exception:
            self._log.failure("the end of {connection} was not taken", connection=self)

    # Output

    def _drain(self) -> None:
        """Write until there is nothing left, or the transport has enough."""
        if self._busy or self.closed:
            return
        self._busy = True
        core, transport = self._core, self._transport
        try:
            while not self._paused and (data := core.data_to_send()):
                transport.write(data)
                if self._send_now is not None:
                    # Saves a turn of the reactor. An error shows again when the reactor itself tries.
                    self._send_now()
        except ChorusError as error:
            self._fail(error)
        finally:
            self._busy = False

    def output_waiting(self) -> None:
        if not (self._busy or self._turn.armed or self.closed):
            self._turn.arm(0)

    def pauseProducing(self) -> None:
        self._paused = True
        self._core.pause_output()

    def resumeProducing(self) -> None:
        self._paused = False
        if not self.closed:
            busy, self._busy = self._busy, True
            self._core.resume_output()
            self._busy = busy
            self._drain()

    def stopProducing(self) -> None:
        """The transport ends; `connectionLost` follows."""

    # Time

    def timer_sooner(self) -> None:
        self._arm()

    def _arm(self) -> None:
        if not self.closed:
            self._timer.arm(self._core.next_timer() - self._seconds())

    def _expired(self) -> None:
        if self.closed:
            self._transport.abortConnection()
            return
        self._busy = True
        try:
            self._core.handle_timer(self._seconds())
        except ChorusError as error:
            self._fail(error)
        finally:
            self._busy = False
        self._drain()
        self._arm()

    # The end

    def _fail(self, error: ChorusError) -> None:
        """The peer broke a rule, or something broke here: say GoAway where there is a multiplexer, and go."""
        if self.closed:
            return
        self.count(error)
        if isinstance(error, PeerError):
            self._log.debug("{connection} ends: {error}", connection=self, error=str(error))
        else:
            self._log.error("{connection} ends: {error}", connection=self, error=str(error))
        self.closed = True
        self._error = error
        self._core.close(error)
        self._lose()

    def _lose(self) -> None:
        """Send what is left and close; abort when the peer does not take it."""
        transport = self._transport
        transport.unregisterProducer()
        try:
            while data := self._core.data_to_send():
                transport.write(data)
        except ChorusError as error:
            self._log.debug("{connection} ends without a word: {error}", connection=self, error=str(error))
        self._timer.arm(self._limits.close_s)
        transport.loseConnection()

    # CoreEvents

    def handshake_finished(self, result: HandshakeResult) -> None:
        self._result = result
        self._delegate.connection_secured(self)

    def protocol_supported(self, protocol: str) -> bool:
        return self._delegate.protocol_supported(self, protocol)

    def stream_opened(self, stream: MuxedStream) -> None:
        self._delegate.stream_opened(stream)

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        self.counters["receiver_failed"] += 1
        self._log.failure("a bug ended {stream} of {connection}", stream=stream, connection=self)

    def count(self, error: ChorusError) -> None:
        name = f"{error.code}.{error.limit}" if isinstance(error, LimitExceeded) else error.code
        self.counters[name] += 1

    def peer_going_away(self, code: int) -> None:
        if code:
            self.counters["peer_went_away_with_error"] += 1
            self._log.debug("the peer of {connection} goes away with code {code}", connection=self, code=code)

    def read_again(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._core.reading_resumed(self._seconds())
            self._transport.resumeProducing()


def _answer(waiting: Deferred[T]) -> Callable[[T | ChorusError], None]:
    """Fires it with an outcome, unless it was cancelled."""

    def fire(outcome: T | ChorusError) -> None:
        if waiting.called:
            return
        if isinstance(outcome, ChorusError):
            waiting.errback(outcome)
        else:
            waiting.callback(outcome)

    return fire
