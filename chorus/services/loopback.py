"""A stream from a node to itself: a scheduler gives a task to the executor in its own process over it.

Same contract as a stream over the network (`protocols/stream.py`): delivery is never in the caller's turn, a reader
that pauses stops the writer, a reset drops what is in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.errors import ChorusError
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.stream import StreamClosed, StreamReset
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Connection, Stream, StreamReceiver

HIGH_WATER = 256 * 1024
"""Bytes on their way above which the writer is paused: one yamux window, as on the network."""


class LoopbackConnection:
    """The `Connection` both ends of a loopback stream belong to."""

    inbound = False
    handshake_hash = bytes(32)
    admitted = True

    def __init__(self, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.remote_address = Multiaddr.tcp("127.0.0.1", 0)

    def open_stream(self, protocols: Sequence[str]) -> Deferred[Stream]:
        raise NotImplementedError("loopback streams are opened in pairs")

    def close(self, error: ChorusError | None = None) -> None:
        """There is nothing to close."""


def loopback(peer_id: PeerId, protocol: str, clock: IReactorTime) -> tuple[LoopbackStream, LoopbackStream]:
    """Two ends of one stream from a node to itself: (outbound, inbound)."""
    connection = LoopbackConnection(peer_id)
    return join(
        LoopbackStream(connection, protocol, False, clock),
        LoopbackStream(connection, protocol, True, clock),
    )


def join(outbound: LoopbackStream, inbound: LoopbackStream) -> tuple[LoopbackStream, LoopbackStream]:
    """Make two fresh ends one stream; each shows its own connection (simulated networks have one per end)."""
    outbound._peer, inbound._peer = inbound, outbound
    return outbound, inbound


class LoopbackStream:
    """One end; made by `loopback`."""

    stream_id = 0
    _peer: LoopbackStream

    def __init__(self, connection: Connection, protocol: str, inbound: bool, clock: IReactorTime) -> None:
        self._connection = connection
        self.protocol = protocol
        self.inbound = inbound
        self._receiver: StreamReceiver | None = None
        self._arrived: deque[bytes] = deque()
        self._size = 0
        self._eof_arrived = False
        self._eof_delivered = False
        self._eof_sent = False
        self._dropping = False
        self._paused = False
        self._writer_paused = False
        self._closed = False
        self._error: ChorusError | None = None
        self._turn = Timer(clock, self._deliver)

    @property
    def connection(self) -> Connection:
        return self._connection

    def set_receiver(self, receiver: StreamReceiver) -> None:
        self._receiver = receiver
        self._deliver()

    def write(self, data: bytes) -> None:
        if self._eof_sent or self._closed:
            raise StreamClosed("the stream takes no more")
        peer = self._peer
        if peer._dropping or not data:
            return
        peer._arrived.append(data)
        peer._size += len(data)
        if peer._size > HIGH_WATER and not self._writer_paused:
            self._writer_paused = True
            if self._receiver is not None:
                self._receiver.pause_writing()
        peer._schedule()

    def write_eof(self) -> None:
        if not self._eof_sent and not self._closed:
            self._eof_sent = True
            self._peer._eof_arrived = True
            self._peer._schedule()
            self._schedule()

    def close(self) -> None:
        self.write_eof()
        self._dropping = True
        self._arrived.clear()
        self._drained()
        self._schedule()

    def reset(self, error: ChorusError | None = None) -> None:
        self._break(error or StreamReset(remote=False))
        self._peer._break(StreamReset(remote=True))

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._schedule()

    def _break(self, error: ChorusError) -> None:
        if self._closed:
            return
        self._closed = True
        self._error = error
        self._arrived.clear()
        self._schedule()

    def _schedule(self) -> None:
        if not self._turn.armed:
            self._turn.arm(0)

    def _deliver(self) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        while self._arrived and not self._paused and not self._closed:
            data = self._arrived.popleft()
            self._size -= len(data)
            receiver.data_received(data)
            self._drained()
        if self._eof_arrived and not self._arrived and not self._eof_delivered and not self._closed:
            self._eof_delivered = True
            if not self._dropping:
                receiver.eof_received()
        if self._eof_delivered and self._eof_sent and not self._closed:
            self._closed = True
        if self._closed:
            self._receiver = None
            receiver.stream_closed(self._error)

    def _drained(self) -> None:
        if not self._arrived:
            self._size = 0
        writer = self._peer
        if writer._writer_paused and self._size <= HIGH_WATER // 2:
            writer._writer_paused = False
            if writer._receiver is not None:
                writer._receiver.resume_writing()
