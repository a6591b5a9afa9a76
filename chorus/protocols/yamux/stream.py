"""One yamux stream: windows, queues and half-closes of one stream id (spec/wire.md 7). Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from chorus.errors import ChorusError
from chorus.protocols.stream import StreamClosed, StreamReceiver, StreamReset
from chorus.protocols.yamux.budgets import Budgets
from chorus.protocols.yamux.frames import INITIAL_WINDOW, SendQueueFull, YamuxLimits


class StreamOutput(Protocol):
    """Calls of a stream to its session's output."""

    room: int

    def send_data(self, stream: YamuxStream, data: bytes, size: int) -> None: ...

    def send_opening(self, stream: YamuxStream, data: bytes) -> None: ...

    def send_fin(self, stream: YamuxStream) -> None: ...

    def send_reset(self, stream: YamuxStream) -> None: ...

    def send_window_update(self, stream: YamuxStream, delta: int) -> None: ...

    def flush_stream(self, stream: YamuxStream) -> None: ...


class StreamSession(Protocol):
    """Calls of a stream to its session."""

    limits: YamuxLimits
    budgets: Budgets

    @property
    def output(self) -> StreamOutput: ...

    def forget(self, stream: YamuxStream) -> None: ...

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None: ...


class YamuxStream:
    """The bytes of `protocols.stream.Stream`, without protocol negotiation.

    Starts without a receiver, which counts as paused: what arrives is kept, at most a window of it.
    """

    __slots__ = (
        "_buffer",
        "_consumed",
        "_delivering",
        "_discard",
        "_eof_told",
        "_error",
        "_told",
        "_write_blocked",
        "_write_closed",
        "accepted",
        "ended",
        "fin_received",
        "fin_sent",
        "flags",
        "inbound",
        "paused",
        "queue",
        "queued",
        "receive_window",
        "receiver",
        "send_window",
        "session",
        "stream_id",
        "unacknowledged",
        "window_size",
    )

    def __init__(self, session: StreamSession, stream_id: int, inbound: bool) -> None:
        self.session = session
        self.stream_id = stream_id
        self.inbound = inbound
        self.receiver: StreamReceiver | None = None
        self.flags = 0
        """To be sent with the next frame: SYN or ACK."""
        self.send_window = INITIAL_WINDOW
        self.receive_window = INITIAL_WINDOW
        """Bytes that the peer may still send."""
        self.window_size = INITIAL_WINDOW
        self.queue: deque[bytes | memoryview] | None = None
        self.queued = 0
        self.paused = True
        self.unacknowledged = not inbound
        self.accepted = not inbound
        self.fin_sent = False
        self.fin_received = False
        self.ended = False
        """No longer in the session: both directions closed, reset, or dropped by `close`."""
        self._buffer: deque[bytes] | None = None
        self._consumed = 0
        self._delivering = False
        self._discard = False
        self._write_blocked = False
        self._write_closed = False
        self._eof_told = False
        self._told = False
        self._error: ChorusError | None = None

    # Calls of a protocol

    def set_receiver(self, receiver: StreamReceiver) -> None:
        self.receiver = receiver
        if self._write_blocked and not self.ended:
            self._tell(receiver.pause_writing)
        self.resume_reading()

    def write(self, data: bytes) -> None:
        if self._write_closed or self.ended:
            raise StreamClosed("write after the end of the stream") from self._error
        size = len(data)
        output = self.session.output
        if not self.queued and size <= self.send_window and size <= output.room:
            if size:
                self.send_window -= size
                output.send_data(self, data, size)
        else:
            self._enqueue(data, size)

    def _enqueue(self, data: bytes, size: int) -> None:
        session = self.session
        budgets = session.budgets
        if budgets.queued + size > session.limits.send_budget:
            self.reset(SendQueueFull(f"{budgets.queued + size} bytes queued on the connection"))
            return
        if self.queue is None:
            self.queue = deque()
        self.queue.append(data)
        self.queued += size
        budgets.queued += size
        session.output.flush_stream(self)
        if self.queued > session.limits.write_high_water and not self._write_blocked:
            self._write_blocked = True
            if self.receiver is not None:
                self._tell(self.receiver.pause_writing)

    def write_eof(self) -> None:
        if self._write_closed or self.ended:
            return
        self._write_closed = True
        if self.wants_fin:
            self.session.output.send_fin(self)

    def close(self) -> None:
        if self.ended or self._discard:
            return
        self._discard = True
        self._drop_buffer()
        self.write_eof()
        if self.fin_sent and not self.ended:
            self.finish(None)

    def reset(self, error: ChorusError | None = None) -> None:
        if self.ended:
            if not self._told:
                # Both directions had ended, but the receiver had not taken everything yet.
                self.finish(error or StreamReset("reset here", remote=False))
            return
        self.session.output.send_reset(self)
        self.finish(error or StreamReset("reset here", remote=False))

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        if self.receiver is None:
            return
        self.paused = False
        if self._delivering:
            return
        buffer = self._buffer
        while buffer and not self.paused:
            data = buffer.popleft()
            self.session.budgets.release(len(data))
            self._hand_over(data)
        if self.paused or self._told:
            return
        if self.fin_received and not self._eof_told and self._error is None:
            self._tell_eof()
        if self.ended:
            self.finish(self._error)
        elif not self.fin_received and self._consumed >= self.window_size >> 1:
            self._give_credit()

    # Calls of the session

    def deliver(self, data: bytes) -> None:
        """Some bytes of the peer's, within the window."""
        if self.paused:
            if self._discard or self.ended:
                return
            if self._buffer is None:
                self._buffer = deque()
            self._buffer.append(data)
            self.session.budgets.hold(len(data))
            return
        self._hand_over(data)
        if self._buffer and not self.paused:
            self.resume_reading()
        elif self._consumed >= self.window_size >> 1 and not self.paused:
            self._give_credit()

    def unread(self, data: bytes) -> None:
        """Called by a receiver within `data_received`: `data`, the end of what it got, is for its successor."""
        if self._buffer is None:
            self._buffer = deque()
        self._buffer.appendleft(data)
        self._consumed -= len(data)
        self.session.budgets.hold(len(data))

    def _hand_over(self, data: bytes) -> None:
        if self._discard:
            return
        self._delivering = True
        try:
            self.receiver.data_received(data)  # type: ignore[union-attr]
        except Exception as error:
            self._receiver_failed(error)
        self._delivering = False
        self._consumed += len(data)

    def deliver_eof(self) -> None:
        if self.fin_received:
            return
        self.fin_received = True
        if not self.paused and not self._buffer:
            self._tell_eof()
        if self.fin_sent and not self.ended:
            self.finish(None)

    def _tell_eof(self) -> None:
        self._eof_told = True
        if not self._discard and self.receiver is not None:
            self._tell(self.receiver.eof_received)

    def finish(self, error: ChorusError | None) -> None:
        """Both directions have ended. Tells the receiver, unless what came before still waits for it."""
        if not self.ended:
            self.ended = True
            self._error = error
            self.session.forget(self)
            if self.queued:
                self.session.budgets.queued -= self.queued
                self.queued = 0
                self.queue = None
        if error is not None:
            self._error = error
            self._drop_buffer()
        elif not self._discard and (self.paused or self._buffer or self._delivering):
            return
        if self._told or self.receiver is None:
            return
        self._told = True
        try:
            self.receiver.stream_closed(self._error)
        except Exception as failure:
            self.session.receiver_failed(self, failure)

    def flushed(self) -> None:
        """Queued bytes have left: the writer may go on."""
        if self._write_blocked and not self.ended and self.queued <= self.session.limits.write_low_water:
            self._write_blocked = False
            if self.receiver is not None:
                self._tell(self.receiver.resume_writing)

    @property
    def wants_fin(self) -> bool:
        return self._write_closed and not self.fin_sent and not self.queued

    def fin_left(self) -> None:
        """Our FIN has been sent."""
        self.fin_sent = True
        if self.fin_received or self._discard:
            self.finish(None)

    def _give_credit(self) -> None:
        if self.fin_received or self.ended:
            return
        growth = self.session.budgets.grow_window(self.window_size)
        self.window_size += growth
        delta = self._consumed + growth
        self._consumed = 0
        self.receive_window += delta
        self.session.output.send_window_update(self, delta)

    def _drop_buffer(self) -> None:
        if self._buffer:
            self.session.budgets.release(sum(map(len, self._buffer)))
            self._buffer.clear()

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._receiver_failed(error)

    def _receiver_failed(self, error: Exception) -> None:
        self.session.receiver_failed(self, error)
        self.reset(StreamReset("the receiver failed", remote=False))
