"""One end of a TCP connection in the simulated network.

What is written waits in a buffer until the window has room, travels in segments of drawn sizes, arrives in order, and
lies at the receiver until it is read. A segment that meets a cut link is repeated, 200 ms doubling; after `GIVE_UP` the
sender's end is lost and the other end learns of it when it next sends. Closing with unread bytes is a reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from chorus.simulation.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol

    from chorus.simulation.net.connecting import Port, SimConnector
    from chorus.simulation.net.network import Link, SimHost
    from chorus.simulation.net.reactor import SimReactor

HIGH_WATER: Final = 64 * 1024
"""Bytes waiting for the window above which a producer is paused: Twisted's own."""

RTO: Final = 200 * MILLISECOND
"""Nanoseconds until a lost segment is sent again, doubling: Linux's minimum."""

GIVE_UP: Final = 60 * SECOND
"""How long a sender tries before its connection is lost. Linux tries for a quarter of an hour; nothing here waits so
long, and a run of a minute shall see it happen."""

WINDOW: Final = 256 * 1024
"""Bytes of one direction that are under way or lie unread at the receiver."""

HELD_MAX: Final = 2 * MILLISECOND
"""What a write that waits for others to join it waits at most."""

SOON: Final = 1_000
"""Nanoseconds until what a turn decided is carried out."""

_ACK = b""
"""First segment of a client: the listener may accept."""
_FIN = None
"""Nothing follows."""


@implementer(ITCPTransport, IPushProducer, IConsumer)
class SimTransport:
    """`connector` is there at the client's end. `other` is the peer's end, once the connection is set up."""

    disconnecting = False
    """As Twisted's transports have it: closing has begun."""

    def __init__(
        self,
        host: SimHost,
        reactor: SimReactor,
        number: int,
        peer: IPv4Address,
        connector: SimConnector | None = None,
    ) -> None:
        self.protocol: Any = None
        self.other: SimTransport
        self.connecting = connector is not None
        self.connected = False
        self.host = host
        self.reactor = reactor
        self.rng = host.net.world.rng("tcp", host.lane, number, peer.host, peer.port)
        self._net = host.net
        self._number = number
        self._peer = peer
        self._connector = connector
        self._link: Link
        self._port: Port | None = None
        # Sending
        self._buffer: deque[bytes] = deque()
        self._waiting = 0
        self._under_way: deque[bytes | None] = deque()
        self._unread = 0
        """Bytes under way or unread at the other end."""
        self._last_arrival = 0
        self._overdue = 0
        """Segments that met a cut link."""
        self._late_acks = 0
        self._stalled_since = -1
        self._wait = 0
        self._fin_sent = False
        self._write_ended = False
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False
        # Receiving
        self._received: deque[bytes | None] = deque()
        self._reading = True
        self._closed = False
        """This end's socket is gone: what comes is answered by a reset."""

    def __repr__(self) -> str:
        return f"<tcp {self.host.ip}:{self._number} to {self._peer.host}:{self._peer.port}>"

    # Setting up

    def connected_to(self, target: SimHost, port: Port) -> None:
        """Client: the listener has answered. Its end is made now, and opened when our ACK gets there."""
        if not self.connecting or self._connector is None:
            return
        far = SimTransport(target, port.reactor, self._peer.port, self.getHost())
        far._port = port
        far.other, self.other = self, far
        self._link = self._net.link(self.host.lane, target.lane)
        far._link = self._net.link(target.lane, self.host.lane)
        self.connecting = False
        self._net.counters.connected += 1
        self._net.record(self.host.lane, "connect")
        self._send(_ACK)
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
        if not data or not self.connected or self._write_ended or self._closed:
            return
        self._buffer.append(data)
        self._waiting += len(data)
        hold = self._net.cutting.hold
        if hold and self.rng.random() < hold:
            self._net.world.after(self.rng.randrange(HELD_MAX), self._pump, self.host.lane)
        else:
            self._pump()
        if self._waiting > HIGH_WATER and self._producer is not None and self._streaming and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def _pump(self) -> None:
        """Send what the window has room for."""
        if self._closed:
            return
        while self._waiting and self._unread < WINDOW:
            room = min(self._waiting, WINDOW - self._unread)
            self._send(self._take(self._net.cutting.size(self.rng, room)))
            if self._closed:
                return
        if not self._waiting and (self._write_ended or self.disconnecting) and not self._fin_sent:
            self._fin_sent = True
            if self.disconnecting:
                self._soon(self._flushed)
            else:
                self._send(_FIN)
                self._soon(self._tell_write_ended)

    def _tell_write_ended(self) -> None:
        if self.connected and IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()

    def _take(self, size: int) -> bytes:
        buffer = self._buffer
        first = buffer[0]
        self._waiting -= size
        if len(first) == size:
            return buffer.popleft()
        if len(first) > size:
            buffer[0] = first[size:]
            return first[:size]
        parts, left = [], size
        while left:
            part = buffer.popleft()
            if len(part) > left:
                buffer.appendleft(part[left:])
                part = part[:left]
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _send(self, segment: bytes | None) -> None:
        world = self._net.world
        size = len(segment) if segment else 0
        at = self._link.arrival(world.now_ns, size)
        if at is None:
            # Nothing after it may arrive.
            self._buffer.clear()
            self._waiting = 0
            self._write_ended = self._fin_sent = True
            self._soon(self._give_up)
            return
        self._unread += size
        self._last_arrival = at = max(at, self._last_arrival)
        self._under_way.append(segment)
        world.at(at, self._arrive, self.other.host.lane)

    # On the way

    def _arrive(self) -> None:
        """A segment has come to the end of the link."""
        if self._link.cuts or self._overdue or self.other.host.down:
            self._overdue += 1
            self._stall()
        elif self._under_way:
            self._hand_over(self._under_way.popleft())

    def _hand_over(self, segment: bytes | None) -> None:
        if segment and self._link.tamper is not None:
            segment = self._link.tamper(segment)
        counters = self._net.counters
        counters.segments += 1
        counters.bytes += len(segment) if segment else 0
        self.other._take_in(segment)

    def _stall(self) -> None:
        """Something does not get through: try again, less and less often."""
        if self._stalled_since < 0:
            self._stalled_since = self._net.world.now_ns
            self._wait = RTO
            self._net.world.after(RTO, self._retry, self.host.lane)

    def _retry(self) -> None:
        if self._stalled_since < 0 or (self._closed and not self._under_way):
            return
        world = self._net.world
        if self._link.cuts or self.other._link.cuts or self.other.host.down:
            if world.now_ns - self._stalled_since > GIVE_UP:
                self._give_up()
                return
            self._wait *= 2
            world.after(self._wait, self._retry, self.host.lane)
            if not self._link.cuts and not self.other.host.down:
                self._deliver_overdue()
            return
        self._stalled_since = -1
        self._deliver_overdue()
        self._unread -= self._late_acks
        self._late_acks = 0
        self._soon(self._acked)

    def _deliver_overdue(self) -> None:
        overdue, self._overdue = self._overdue, 0
        for _ in range(overdue):
            if self._under_way:
                self._hand_over(self._under_way.popleft())

    def _give_up(self) -> None:
        self._net.counters.given_up += 1
        self._net.record(self.host.lane, "give up")
        self._forget()
        self._soon(lambda: self._tell_lost(ConnectionLost()))

    # Reading

    def _take_in(self, segment: bytes | None) -> None:
        lane = self.host.lane
        if not self.reactor.alive:
            self._closed = True
        if self._port is not None and not self._closed:
            port, self._port = self._port, None
            self._net.record(lane, "accept")
            self.reactor.enter(lambda: port.accept(self))
            return
        if self._closed:
            if segment is not _FIN:
                self._send_reset()
            return
        self._net.record(lane, "data" if segment else "fin", segment or b"")
        self._received.append(segment)
        if self._reading and self.protocol is not None:
            self.reactor.enter(self._read)

    def _read(self) -> None:
        """Hand on what has come: in one piece, however many segments it came in."""
        received = self._received
        while received and self._reading and self.connected and not self.disconnecting:
            if received[0] is _FIN:
                received.popleft()
                self._read_eof()
                return
            data = received.popleft() or b""
            if received and received[0] is not _FIN:
                parts = [data]
                while received and received[0] is not _FIN:
                    parts.append(received.popleft() or b"")
                data = b"".join(parts)
            self._acknowledge(len(data))
            self.protocol.dataReceived(data)

    def _acknowledge(self, size: int) -> None:
        sender = self.other
        if self._link.cuts:
            sender._late_acks += size
            sender._stall()
            return
        sender._unread -= size
        if sender._waiting or sender._producer_paused:
            self._net.world.after(self._link.delay(), sender._acked, sender.host.lane)

    def _acked(self) -> None:
        """Sender: the window may have room again."""
        if self._closed or not self.connected:
            return
        self._pump()
        if not self._waiting and self._producer_paused and self._producer is not None:
            self._producer_paused = False
            self.reactor.enter(self._resume_producer)

    def _resume_producer(self) -> None:
        if self._producer is not None and self.connected:
            self._producer.resumeProducing()

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
                self._soon(self._flushed)
            else:
                self._pump()

    def loseWriteConnection(self) -> None:
        if self.connected and not self._write_ended:
            self._write_ended = True
            self._pump()

    def abortConnection(self) -> None:
        if self.connected and not self._closed:
            self._close_socket(reset=True)
            self._soon(lambda: self._tell_lost(ConnectionAborted()))

    def process_died(self, *, silently: bool) -> None:
        """The kernel closes the socket of a process that is gone; the protocol is told nothing."""
        self.connected = False
        if silently:
            self._closed = True
        elif not self._closed:
            self._close_socket(reset=bool(self._received))

    def _flushed(self) -> None:
        self._lose(ConnectionDone())

    def _lose(self, error: Exception) -> None:
        if not self._closed:
            # Bytes that were never read make the kernel reset the connection.
            self._close_socket(reset=any(self._received))
        self._soon(lambda: self._tell_lost(error))

    def _close_socket(self, *, reset: bool) -> None:
        self._closed = True
        self._buffer.clear()
        self._waiting = 0
        self.host.transports.pop(self, None)
        self._received.clear()
        if reset:
            self._under_way.clear()
            self._send_reset()
        elif not self._write_ended:
            self._write_ended = True
            self._send(_FIN)

    def _send_reset(self) -> None:
        """A reset is sent once; when it is lost, what the peer sends next is answered by another."""
        world = self._net.world
        self._net.counters.resets += 1
        at = max(world.now_ns + self._link.delay(), self._last_arrival)
        world.at(at, self._reset_arrives, self.other.host.lane)

    def _reset_arrives(self) -> None:
        if not self._link.cuts:
            self.other._reset()

    def _reset(self) -> None:
        if self._closed:
            return
        self._net.record(self.host.lane, "reset")
        self._forget()
        self.reactor.enter(lambda: self._tell_lost(ConnectionLost()))

    def _forget(self) -> None:
        """The socket is gone, and nobody is told."""
        self._closed = True
        self._under_way.clear()
        self._received.clear()
        self._waiting = 0
        self._buffer.clear()
        self.host.transports.pop(self, None)

    def _soon(self, call: Any) -> None:
        self._net.world.after(SOON, lambda: self.reactor.enter(call), self.host.lane)

    def _tell_lost(self, error: Exception) -> None:
        """Once, last."""
        if not self.connected:
            return
        self.connected = False
        self._closed = True
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
                self._soon(self._read)

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
