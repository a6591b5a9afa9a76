"""perf: throughput of one stream, `/perf/1.0.0` (spec/wire.md 14). Served in open mode only.

The client sends the number of bytes it wants (u64, big endian), then any number of bytes, then closes its direction;
the server answers with as many bytes as were asked for.
"""

from __future__ import annotations

import struct

from chorus.errors import ChorusError, PeerError
from chorus.protocols.stream import Stream
from chorus.protocols.streamio import StreamIO

PROTOCOL = "/perf/1.0.0"
CHUNK = 64 * 1024
MAX_INBOUND = 16
TIMEOUT = 60.0
"""Seconds without progress, as a client."""

_HEADER = struct.Struct(">Q")
_ZEROS = bytes(CHUNK)


class PerfError(PeerError):
    """The client closed before it had said how much it wants."""

    code = "bad_perf"


class PerfResponder:
    """`StreamReceiver` that counts what comes and answers with what was asked for; it holds neither."""

    __slots__ = ("_header", "_paused", "_replying", "_stream", "_wanted", "received")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._header: bytes | None = b""
        self._wanted = 0
        self._paused = False
        self._replying = False
        self.received = 0
        stream.set_receiver(self)

    def data_received(self, data: bytes) -> None:
        if self._header is not None:
            missing = _HEADER.size - len(self._header)
            self._header += data[:missing]
            if len(data) < missing:
                return
            (self._wanted,) = _HEADER.unpack(self._header)
            self._header = None
            data = data[missing:]
        self.received += len(data)

    def eof_received(self) -> None:
        if self._header is not None:
            self._stream.reset(PerfError("the client closed before it said how much it wants"))
            return
        self._replying = True
        self._reply()

    def stream_closed(self, error: ChorusError | None) -> None:
        self._replying = False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._reply()

    def _reply(self) -> None:
        while self._replying and not self._paused:
            if not self._wanted:
                self._replying = False
                self._stream.close()
                return
            size = min(self._wanted, CHUNK)
            self._wanted -= size
            self._stream.write(_ZEROS[:size])


async def upload(stream: StreamIO, size: int, chunk: bytes, *, reply: int = 8) -> bytes:
    """Send `size` bytes, repeating `chunk`, and return the `reply` bytes that show their arrival."""
    await stream.write(_HEADER.pack(reply), timeout=TIMEOUT)
    left = size
    while left > 0:
        await stream.write(chunk if left >= len(chunk) else chunk[:left], timeout=TIMEOUT)
        left -= len(chunk)
    stream.write_eof()
    return await stream.read_exactly(reply, timeout=TIMEOUT)
