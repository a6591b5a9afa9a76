"""ping: 32 random bytes there and back, `/ipfs/ping/1.0.0` (spec/wire.md 10)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.errors import ChorusError, PeerError
from chorus.protocols.stream import Stream
from chorus.protocols.streamio import StreamIO

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

PROTOCOL = "/ipfs/ping/1.0.0"
SIZE = 32
TIMEOUT = 10.0
"""Seconds for one round trip."""
MAX_INBOUND = 2
"""Ping streams that a peer may hold open at a time; a third is reset (py-libp2p #1414)."""


class PingMismatch(PeerError):
    """The peer sent other bytes back than it was given."""

    code = "ping_mismatch"


class PingResponder:
    """`StreamReceiver` that echoes whole pings. Holds less than one ping; reads no faster than the peer does."""

    __slots__ = ("_partial", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._partial = b""
        stream.set_receiver(self)

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        whole = len(data) - len(data) % SIZE
        self._partial = data[whole:]
        if whole:
            self._stream.write(data[:whole])

    def eof_received(self) -> None:
        self._stream.close()

    def stream_closed(self, error: ChorusError | None) -> None:
        self._partial = b""

    def pause_writing(self) -> None:
        self._stream.pause_reading()

    def resume_writing(self) -> None:
        self._stream.resume_reading()


async def ping(stream: StreamIO, clock: IReactorTime, random: Callable[[int], bytes]) -> float:
    """One round trip in seconds. Raises `PingMismatch` (the stream is reset), or what `StreamIO` raises."""
    sent = random(SIZE)
    started = clock.seconds()
    await stream.write(sent, timeout=TIMEOUT)
    received = await stream.read_exactly(SIZE, timeout=TIMEOUT)
    elapsed = clock.seconds() - started
    if not hmac.compare_digest(sent, received):
        error = PingMismatch("the peer sent other bytes back")
        stream.reset(error)
        raise error
    return elapsed
