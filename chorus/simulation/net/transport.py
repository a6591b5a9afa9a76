"""One end of a TCP connection in the simulated network.

Written bytes wait in a buffer until the window has room, travel in segments of drawn sizes (wire.py), arrive in order,
and lie at the receiver until it reads them. Closing with unread bytes is a reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from chorus.simulation.net.network import ListeningPort, SimHost, SimMachine
from chorus.simulation.net.wire import FIN, Segment, Wire, WriteBuffer
from chorus.simulation.world import MILLISECOND

if TYPE_CHECKING:
    from twisted.internet.base import BaseConnector
    from twisted.internet.interfaces import IProtocol

HIGH_WATER: Final = 64 * 1024
"""Bytes waiting for the window above which a producer is paused: Twisted's own."""

WINDOW: Final = 256 * 1024
"""Bytes of one direction that are under way or lie unread at the receiver."""

HELD_MAX: Final = 2 * MILLISECOND
"""Nanoseconds that a write waits for others to join it, at most."""

SOON: Final = 1_000
"""Nanoseconds until what a turn decided is carried out."""

ACK: Final = b""
"""First segment of a client: the listener may accept."""


@implementer(ITCPTransport, IPushProducer, IConsumer)
class SimTransport:
    """`connector` is there at the client's end. `other` is the peer's end, once the connection is set up."""

    disconnecting = False
    """As Twisted's transports have it: closing has begun."""

    def __init__(
        self,
        host: SimHost,
        reactor: SimMachine,
        number: int,
        peer: IPv4Address,
        connector: BaseConnector | None = None,
    ) -> None:
        self.protocol: Any = None
        self.other: SimTransport
        self.connecting = connector is not None
        self.connected = False
        self.host = host
        self.reactor = reactor
        self.rng = host.net.world.rng("tcp", host.lane, number, peer.host, peer.port)
        self.closed = False
        """This end's socket is gone: what comes is answered by a reset."""
        self._net = host.net
        self._number = number
        self._peer = peer
        self._connector = connector
        self._wire: Wire
        """To the other end, once the connection is set up."""
        self._port: ListeningPort | None = None
        # Sending
        self._buffer = WriteBuffer()
        self._fin_sent = False
        self._write_ended = False
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False
        # Receiving
        self._received: deque[Segment] = deque()
        self._reading = True

    def __repr__(self) -> str:
        return f"<tcp {self.host.ip}:{self._number} to {self._peer.host}:{self._peer.port}>"

    # Setting up

    def connected_to(self, target: SimHost, port: ListeningPort) -> None:
        """Client: the listener has answered. Its end is made now, and opened when our ACK gets there."""
        if not self.connecting or self._connector is None:
            return
        far = SimTransport(target, port.reactor, self._peer.port, self.getHost())
        far._port = port
        far.other, self.other = self, far
        self._wire, far._wire = Wire(self, far), Wire(far, self)
        self.connecting = False
        self._net.counters.connected += 1
        self._net.record(self.host.lane, "connect")
        self._send(ACK)
        protocol = self._connector.buildProtocol(self._peer)
        if protocol is None:
            self.abort_unused()
        else:
            self.open(protocol)

    def open(self, protocol: IProtocol) -> None:
        self.connected = True
        self.host.transports[self] = None
        self.protocol = protocol
        protocol.makeConnection(self)
        self._read()

    def abort_unused(self) -> None:
        """Nobody wants this connection."""
        self._close_socket(reset=True)
        if self._connector is not None:
            self._connector.connectionLost(Failure(ConnectionLost()))  # type: ignore[no-untyped-call]

    def failIfNotConnected(self, error: Exception) -> None:
        """As in Twisted: called by the connector's timeout and by `stopConnecting`."""
        if self.connecting and self._connector is not None:
            self.connecting = False
            self._connector.connectionFailed(Failure(error))  # type: ignore[no-untyped-call]

    # Writing

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"a transport takes bytes, not {type(data).__name__}")
        if not data or not self.connected or self._write_ended or self.closed:
            return
        self._buffer.append(data)
        hold = self._net.cutting.hold
        if hold and self.rng.random() < hold:
            self._net.world.after(self.rng.randrange(HELD_MAX), self._pump, self.host.lane)
        else:
            self._pump()
        if (
            len(self._buffer) > HIGH_WATER
            and self._producer is not None
            and self._streaming
            and not self._producer_paused
        ):
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def _pump(self) -> None:
        """Send what the window has room for."""
        if self.closed:
            return
        while self._buffer and self._wire.unread < WINDOW:
            room = min(len(self._buffer), WINDOW - self._wire.unread)
            self._send(self._buffer.take(self._net.cutting.size(self.rng, room)))
            if self.closed:
                return
        if not self._buffer and (self._write_ended or self.disconnecting) and not self._fin_sent:
            self._fin_sent = True
            if self.disconnecting:
                self.soon(self._flushed)
            else:
                self._send(FIN)
                self.soon(self._write_lost)

    def _write_lost(self) -> None:
        if self.connected and IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()

    def _send(self, segment: Segment) -> None:
        if not self._wire.send(segment):
            self._buffer.clear()
            self._write_ended = self._fin_sent = True
            self.soon(self.give_up)

    def give_up(self) -> None:
        self._net.counters.given_up += 1
        self._net.record(self.host.lane, "give up")
        self._forget()
        self.soon(lambda: self._lost(ConnectionLost()))

    def waits_for_room(self) -> bool:
        return len(self._buffer) > 0 or self._producer_paused

    def acknowledged(self) -> None:
        """The window may have room again."""
        if self.closed or not self.connected:
            return
        self._pump()
        if not self._buffer and self._producer_paused and self._producer is not None:
            self._producer_paused = False
            self.reactor.enter(self._resume_producer)

    def _resume_producer(self) -> None:
        if self._producer is not None and self.connected:
            self._producer.resumeProducing()

    # Reading

    def receive(self, segment: Segment) -> None:
        lane = self.host.lane
        if not self.reactor.alive:
            self.closed = True
        if self._port is not None and not self.closed:
            port, self._port = self._port, None
            self._net.record(lane, "accept")
            self.reactor.enter(lambda: port.accept(self))
            return
        if self.closed:
            if segment is not FIN:
                self._wire.reset()
            return
        self._net.record(lane, "data" if segment else "fin", segment or b"")
        self._received.append(segment)
        if self._reading and self.protocol is not None:
            self.reactor.enter(self._read)

    def _read(self) -> None:
        """Hand on what has come: in one piece, however many segments it came in."""
        received = self._received
        while received and self._reading and self.connected and not self.disconnecting:
            if received[0] is FIN:
                received.popleft()
                self._read_eof()
                return
            data = received.popleft() or b""
            if received and received[0] is not FIN:
                parts = [data]
                while received and received[0] is not FIN:
                    parts.append(received.popleft() or b"")
                data = b"".join(parts)
            self.other._wire.acknowledge(len(data))
            self.protocol.dataReceived(data)

    def _read_eof(self) -> None:
        if IHalfCloseableProtocol.providedBy(self.protocol):
            if self._fin_sent:
                self._lose(ConnectionDone())
            else:
                self.protocol.readConnectionLost()
        else:
            self._lose(ConnectionDone())

    # Closing

    def loseConnection(self, _connDone: object = None) -> None:
        """Send what waits, then close. Nothing is read any more."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            if self._fin_sent:
                self.soon(self._flushed)
            else:
                self._pump()

    def loseWriteConnection(self) -> None:
        if self.connected and not self._write_ended:
            self._write_ended = True
            self._pump()

    def abortConnection(self) -> None:
        if self.connected and not self.closed:
            self._close_socket(reset=True)
            self.soon(lambda: self._lost(ConnectionAborted()))

    def process_died(self, *, silently: bool) -> None:
        """The kernel closes the socket of a process that is gone; the protocol is told nothing."""
        self.connected = False
        if silently:
            self.closed = True
        elif not self.closed:
            self._close_socket(reset=bool(self._received))

    def _flushed(self) -> None:
        self._lose(ConnectionDone())

    def _lose(self, error: Exception) -> None:
        if not self.closed:
            # Bytes that were never read make the kernel reset the connection.
            self._close_socket(reset=any(self._received))
        self.soon(lambda: self._lost(error))

    def _close_socket(self, *, reset: bool) -> None:
        self.closed = True
        self._buffer.clear()
        self.host.transports.pop(self, None)
        self._received.clear()
        if reset:
            self._wire.drop()
            self._wire.reset()
        elif not self._write_ended:
            self._write_ended = True
            self._send(FIN)

    def reset_both(self) -> None:
        self._wire.reset()
        self._net.world.after(MILLISECOND, self.reset)

    def reset(self) -> None:
        """The peer's reset is there."""
        if self.closed:
            return
        self._net.record(self.host.lane, "reset")
        self._forget()
        self.reactor.enter(lambda: self._lost(ConnectionLost()))

    def _forget(self) -> None:
        """The socket is gone, and nobody is told."""
        self.closed = True
        self._wire.drop()
        self._received.clear()
        self._buffer.clear()
        self.host.transports.pop(self, None)

    def soon(self, call: Callable[[], object]) -> None:
        self._net.world.after(SOON, lambda: self.reactor.enter(call), self.host.lane)

    def _lost(self, error: Exception) -> None:
        """Once, last."""
        if not self.connected:
            return
        self.connected = False
        self.closed = True
        self.host.transports.pop(self, None)
        reason = Failure(error)  # type: ignore[no-untyped-call]
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(reason)
        if self._connector is not None:
            self._connector.connectionLost(reason)

    # IPushProducer

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting and not self._reading:
            self._reading = True
            if self._received:
                self.soon(self._read)

    def stopProducing(self) -> None:
        self.loseConnection()

    # IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError(f"{self} has a producer already")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        self._producer_paused = False

    # ITCPTransport

    def getHost(self) -> IPv4Address:
        return self.host.address(self._number)

    def getPeer(self) -> IPv4Address:
        return self._peer

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Segments are never held back here."""

    def getTcpKeepAlive(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """A silent peer is found out by the multiplexer's pings, as with the real sockets."""
