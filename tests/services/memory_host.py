"""Hosts joined in memory on a fake clock: just enough of `protocols/stream.py` for services on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.stream import (
    Connection,
    ProtocolNotSupported,
    ProtocolOptions,
    StreamClosed,
    StreamOpened,
    StreamReceiver,
    StreamReset,
)

HIGH_WATER = 64 * 1024


class MemoryStream:
    """One end. Bytes arrive a turn later; `stalled` keeps them, and past `HIGH_WATER` the writer is told to wait."""

    def __init__(self, connection: MemoryConnection, protocol: str, *, inbound: bool) -> None:
        self.connection = connection
        self.protocol = protocol
        self.inbound = inbound
        self.stream_id = 0
        self.other: MemoryStream
        self.receiver: StreamReceiver | None = None
        self.written = bytearray()
        """Everything ever written here."""
        self.paused = False
        self.closed = False
        self.error: ChorusError | None = None
        self.stalled = False
        self._incoming: list[bytes | None] = []
        self._outgoing = 0
        self._writer_paused = False
        self._eof_sent = False
        self._eof_seen = False

    def set_receiver(self, receiver: StreamReceiver) -> None:
        self.receiver = receiver
        self.deliver()

    def write(self, data: bytes) -> None:
        if self.closed or self._eof_sent:
            raise StreamClosed("closed")
        self.written += data
        self._outgoing += len(data)
        self.other._incoming.append(data)
        self.connection.host.clock.callLater(0, self.other.deliver)
        if self._outgoing > HIGH_WATER and not self._writer_paused:
            self._writer_paused = True
            if self.receiver is not None:
                self.receiver.pause_writing()

    def write_eof(self) -> None:
        if not self._eof_sent and not self.closed:
            self._eof_sent = True
            self.other._incoming.append(None)
            self.connection.host.clock.callLater(0, self.other.deliver)
            self._both_ended()

    def close(self) -> None:
        self.write_eof()

    def reset(self, error: ChorusError | None = None) -> None:
        if not self.closed:
            self._close(error or StreamReset("reset", remote=False))
            self.connection.host.clock.callLater(0, self.other._close, StreamReset())

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self.connection.host.clock.callLater(0, self.deliver)

    def deliver(self) -> None:
        while self._incoming and self.receiver is not None and not self.paused and not self.stalled and not self.closed:
            data = self._incoming.pop(0)
            if data is None:
                self._eof_seen = True
                self.receiver.eof_received()
                self._both_ended()
            else:
                self.other._taken(len(data))
                self.receiver.data_received(data)

    def _taken(self, count: int) -> None:
        self._outgoing -= count
        if self._writer_paused and self._outgoing <= HIGH_WATER // 2:
            self._writer_paused = False
            if self.receiver is not None and not self.closed:
                self.receiver.resume_writing()

    def _both_ended(self) -> None:
        if self._eof_sent and self._eof_seen:
            self._close(None)

    def _close(self, error: ChorusError | None) -> None:
        if self.closed:
            return
        self.closed = True
        self.error = error
        if self.receiver is not None:
            self.receiver.stream_closed(error)


class MemoryConnection:
    admitted = True
    handshake_hash = bytes(32)

    def __init__(self, host: MemoryHost, other: MemoryHost, *, inbound: bool) -> None:
        self.host = host
        self.peer = other
        self.peer_id = other.peer_id
        self.remote_address = Multiaddr.tcp("127.0.0.1", 1)
        self.inbound = inbound
        self.streams: list[MemoryStream] = []
        self.reverse: MemoryConnection
        self.closed = False

    def open_stream(self, protocols: Sequence[str]) -> Deferred[MemoryStream]:
        if self.closed:
            return fail(StreamClosed("connection closed"))
        for protocol in protocols:
            opened = self.peer.served.get(protocol)
            if opened is not None:
                ours = MemoryStream(self, protocol, inbound=False)
                theirs = MemoryStream(self.reverse, protocol, inbound=True)
                ours.other, theirs.other = theirs, ours
                self.streams.append(ours)
                self.reverse.streams.append(theirs)
                self.host.clock.callLater(0, opened, theirs)
                return succeed(ours)
        return fail(ProtocolNotSupported(str(list(protocols))))

    def close(self, error: ChorusError | None = None) -> None:
        for end in (self, self.reverse):
            if not end.closed:
                end.closed = True
                for stream in end.streams:
                    stream._close(StreamReset("connection lost"))
                end.host.lost(end)


class MemoryHost:
    def __init__(self, peer_id: PeerId, clock: Clock) -> None:
        self.peer_id = peer_id
        self.clock = clock
        self.served: dict[str, StreamOpened] = {}
        self.options: dict[str, ProtocolOptions] = {}
        self.identified = True
        """Whether `protocols_of` knows what the others serve."""
        self._watchers: list[tuple[Callable[[Connection], None], Callable[[Connection], None]]] = []
        self._connections: dict[PeerId, MemoryConnection] = {}

    def listen_addresses(self) -> list[Multiaddr]:
        return []

    def register(self, protocol: str, opened: StreamOpened, options: ProtocolOptions) -> None:
        self.served[protocol] = opened
        self.options[protocol] = options

    def unregister(self, protocol: str) -> None:
        self.served.pop(protocol, None)

    def protocols(self) -> list[str]:
        return list(self.served)

    def connections(self) -> list[Connection]:
        return list(self._connections.values())

    def connection(self, peer: PeerId) -> Connection | None:
        return self._connections.get(peer)

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        found = self._connections.get(peer)
        return frozenset(found.peer.served) if found is not None and self.identified else frozenset()

    def addresses_of(self, peer: PeerId) -> list[Multiaddr]:
        return []

    def dial(self, peer: PeerId | None, addresses: Sequence[Multiaddr]) -> Deferred[Connection]:
        raise NotImplementedError

    def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> Deferred[MemoryStream]:
        found = self._connections.get(peer)
        return found.open_stream(protocols) if found is not None else fail(StreamClosed("not connected"))

    def watch_peers(self, joined: Callable[[Connection], None], left: Callable[[Connection], None]) -> None:
        self._watchers.append((joined, left))

    def add(self, connection: MemoryConnection) -> None:
        self._connections[connection.peer_id] = connection

    def tell(self, connection: MemoryConnection) -> None:
        for joined, _ in self._watchers:
            joined(connection)

    def lost(self, connection: MemoryConnection) -> None:
        if self._connections.get(connection.peer_id) is connection:
            del self._connections[connection.peer_id]
        for _, left in self._watchers:
            left(connection)


def connect(
    dialer: MemoryHost, listener: MemoryHost, *, tell: bool = True
) -> tuple[MemoryConnection, MemoryConnection]:
    """Connect two hosts; without `tell` their watchers have not heard of it yet."""
    out = MemoryConnection(dialer, listener, inbound=False)
    back = MemoryConnection(listener, dialer, inbound=True)
    out.reverse, back.reverse = back, out
    dialer.add(out)
    listener.add(back)
    if tell:
        dialer.tell(out)
        listener.tell(back)
    return out, back
