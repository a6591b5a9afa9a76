"""Reading and writing a stream with `await`, for protocols that speak in turns (requests, handshakes, transfers).

Protocols on the hot path attach a `StreamReceiver` of their own instead. Every wait here has a time limit in
seconds; one that runs out resets the stream, since nobody knows any more where in the conversation it stands.
"""

# ruff: noqa: ASYNC109 (asyncio.timeout cannot bound a wait on Twisted's clock)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred

from chorus.errors import ChorusError, LimitExceeded, PeerError
from chorus.multiformats.varint import MAX_VALUE
from chorus.protocols.delimited import delimit, locate
from chorus.protocols.stream import Stream, StreamClosed

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

DEFAULT_TIMEOUT = 10.0
"""Seconds that one read or write may wait for the peer."""

READ_HIGH_WATER = 64 * 1024
"""Bytes buffered here, unread, above which the stream is asked to keep its window credit back."""

_T = TypeVar("_T")


class EndOfStream(StreamClosed):
    """The peer closed its direction cleanly, between two messages."""

    code = "end_of_stream"


class IncompleteRead(PeerError):
    """The peer closed its direction in the middle of what was being read."""

    code = "incomplete_read"


class StreamTimeout(PeerError):
    """The peer took longer than the time limit of an operation; the stream has been reset."""

    code = "stream_timeout"


class StreamIO:
    """`StreamReceiver` of `stream` with awaitable operations; one reader and one writer at a time.

    `timeout` is in seconds: the constructor's is the default of every operation, `math.inf` waits for ever (cancel
    the Deferred of the coroutine to stop it). Reads raise `EndOfStream`, `IncompleteRead`, `LimitExceeded`,
    `StreamTimeout`, or what ended the stream (`StreamReset`, `ProtocolNotSupported`, …).
    """

    __slots__ = (
        "_buffer",
        "_clock",
        "_discarding",
        "_ended",
        "_eof",
        "_error",
        "_paused_reading",
        "_paused_writing",
        "_reader",
        "_timeout",
        "_watchers",
        "_writer",
        "stream",
    )

    def __init__(self, stream: Stream, clock: IReactorTime, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.stream = stream
        self._clock = clock
        self._timeout = timeout
        self._buffer = bytearray()
        self._eof = False
        self._ended = False
        self._error: ChorusError | None = None
        self._discarding = False
        self._paused_reading = False
        self._paused_writing = False
        self._reader: Deferred[None] | None = None
        self._writer: Deferred[None] | None = None
        self._watchers: list[Deferred[None]] = []
        stream.set_receiver(self)

    # StreamReceiver

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._buffer += data
        if len(self._buffer) > READ_HIGH_WATER and not self._paused_reading:
            self._paused_reading = True
            self.stream.pause_reading()
        self._wake_reader()

    def eof_received(self) -> None:
        self._eof = True
        self._wake_reader()

    def stream_closed(self, error: ChorusError | None) -> None:
        self._ended = True
        self._eof = True
        self._error = error
        if error is not None:
            self._buffer.clear()
        self._paused_writing = False
        self._wake_reader()
        self.resume_writing()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            _fire(watcher)

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        writer, self._writer = self._writer, None
        if writer is not None:
            _fire(writer)

    # Reading

    async def read_exactly(self, size: int, *, timeout: float | None = None) -> bytes:
        """Exactly `size` bytes. `EndOfStream` when the peer closed before the first, `IncompleteRead` after it."""
        return await self._read(lambda: self._take(size), timeout)

    async def read_some(self, limit: int, *, timeout: float | None = None) -> bytes:
        """Between 1 and `limit` bytes as they come; `b""` once the peer has closed its direction."""

        def take() -> bytes | None:
            if not self._buffer:
                return b"" if self._eof else None
            return self._cut(0, min(limit, len(self._buffer)))

        return await self._read(take, timeout)

    async def read_delimited(self, limit: int, *, timeout: float | None = None) -> bytes:
        """One message preceded by its length as an unsigned varint; a length over `limit` raises `LimitExceeded`
        before any of the body is awaited. `EndOfStream` when the peer closed between messages."""
        return await self._read(lambda: self._take_delimited(limit), timeout)

    async def read_all(self, limit: int, *, timeout: float | None = None) -> bytes:
        """Everything until the peer closes its direction; more than `limit` bytes raise `LimitExceeded`. The time
        limit is for all of it."""
        chunks: list[bytes] = []
        size = 0

        def take() -> bytes | None:
            nonlocal size
            size += len(self._buffer)
            if size > limit:
                raise LimitExceeded("stream_bytes", size, limit)
            if self._buffer:
                chunks.append(self._cut(0, len(self._buffer)))
            return b"".join(chunks) if self._eof else None

        return await self._read(take, timeout)

    # Writing and ending

    async def write(self, data: bytes, *, timeout: float | None = None) -> None:
        """Queue `data`, then wait until less than the stream's high-water mark is waiting for the peer."""
        self._check_writable()
        self.stream.write(data)
        if self._paused_writing:
            await self._drained(timeout)

    async def write_delimited(self, data: bytes, *, timeout: float | None = None) -> None:
        """`write`, preceded by the length as an unsigned varint."""
        await self.write(delimit(data), timeout=timeout)

    def write_eof(self) -> None:
        """Close the sending direction; reading goes on."""
        self.stream.write_eof()

    def close(self) -> None:
        """Close the sending direction once everything queued has gone, and drop what else comes. Does not wait."""
        self.stream.close()

    async def finish(self, *, timeout: float | None = None) -> None:
        """Close the sending direction and wait until the peer has closed too, dropping what else comes; raises what
        broke the stream if it broke."""
        self._discarding = True
        self._buffer.clear()
        if not self._ended:
            self.stream.write_eof()
            self._want_more()
        await self.closed(timeout=timeout)
        if self._error is not None:
            raise self._error

    async def closed(self, *, timeout: float | None = None) -> None:
        """Wait until the stream has ended, however it ended."""
        if self._ended:
            return
        watcher: Deferred[None] = Deferred()
        self._watchers.append(watcher)
        try:
            await self._limited(watcher, timeout)
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def reset(self, error: ChorusError | None = None) -> None:
        """Abort both directions."""
        self.stream.reset(error)

    # Inside

    def _take(self, size: int) -> bytes | None:
        if len(self._buffer) >= size:
            return self._cut(0, size)
        if self._eof:
            self._raise_ended(partial=bool(self._buffer))
        return None

    def _take_delimited(self, limit: int) -> bytes | None:
        found = locate(self._buffer, 0, MAX_VALUE)
        if found is not None:
            start, stop = found
            if stop - start > limit:
                raise LimitExceeded("message_bytes", stop - start, limit)
            if len(self._buffer) >= stop:
                return self._cut(start, stop)
        if self._eof:
            self._raise_ended(partial=bool(self._buffer))
        return None

    def _cut(self, start: int, end: int) -> bytes:
        with memoryview(self._buffer) as view:
            data = bytes(view[start:end])
        del self._buffer[:end]
        return data

    def _raise_ended(self, *, partial: bool) -> None:
        if self._error is not None:
            raise self._error
        if partial:
            raise IncompleteRead("the peer closed the stream in the middle of a message")
        raise EndOfStream("the peer closed the stream")

    async def _read(self, take: Callable[[], _T | None], timeout: float | None) -> _T:
        """Call `take` until it returns something, waiting for more bytes in between.

        `take` runs again after each arrival; it has the buffer to itself.
        """
        if self._reader is not None:
            raise RuntimeError("two reads of one stream at a time")
        deadline = self._deadline(timeout)
        try:
            while True:
                if self._error is not None:
                    raise self._error
                result = take()
                if result is not None:
                    if len(self._buffer) <= READ_HIGH_WATER:
                        self._want_more()
                    return result
                if self._want_more():
                    continue
                waiter: Deferred[None] = Deferred()
                self._reader = waiter
                try:
                    await self._until(waiter, deadline)
                finally:
                    self._reader = None
        except PeerError as error:
            self.stream.reset(error)
            raise

    def _want_more(self) -> bool:
        """Let the stream go on if it was held back; true when it was, since bytes may have come during the call."""
        if not self._paused_reading:
            return False
        self._paused_reading = False
        self.stream.resume_reading()
        return True

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            _fire(reader)

    def _check_writable(self) -> None:
        if self._ended:
            raise self._error or StreamClosed("the stream has ended")

    async def _drained(self, timeout: float | None) -> None:
        if self._writer is not None:
            raise RuntimeError("two writes to one stream at a time")
        waiter: Deferred[None] = Deferred()
        self._writer = waiter
        try:
            await self._limited(waiter, timeout)
        finally:
            self._writer = None
        if self._error is not None:
            raise self._error

    def _deadline(self, timeout: float | None) -> float | None:
        seconds = self._timeout if timeout is None else timeout
        return None if seconds == math.inf else self._clock.seconds() + seconds

    async def _limited(self, waiter: Deferred[None], timeout: float | None) -> None:
        try:
            await self._until(waiter, self._deadline(timeout))
        except StreamTimeout as error:
            self.stream.reset(error)
            raise

    async def _until(self, waiter: Deferred[None], deadline: float | None) -> None:
        if deadline is None:
            await waiter
            return

        def expire() -> None:
            if not waiter.called:
                waiter.errback(StreamTimeout("the peer took too long"))

        timer = self._clock.callLater(max(0.0, deadline - self._clock.seconds()), expire)
        try:
            await waiter
        finally:
            if timer.active():
                timer.cancel()


def _fire(waiter: Deferred[None]) -> None:
    if not waiter.called:
        waiter.callback(None)
