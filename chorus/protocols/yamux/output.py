"""Output of a yamux session (spec/wire.md 7): frames in their order, and the turns of streams that send data.

Control frames always go out, up to a limit that only a peer which does not read can pass. Data goes out as the drain
has room for it; the rest waits in the streams' queues, and streams take turns, a frame each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.errors import LimitExceeded
from chorus.protocols.yamux.frames import DATA, FIN, HEADER, HEADER_SIZE, RST, WINDOW_UPDATE, YamuxLimits

if TYPE_CHECKING:
    from chorus.protocols.yamux.budgets import Budgets
    from chorus.protocols.yamux.stream import YamuxStream

_pack = HEADER.pack


class YamuxOutput:
    """`waiting` is called when there is something to send, once until it is drained, and not while `receiving`."""

    def __init__(self, limits: YamuxLimits, budgets: Budgets, waiting: Callable[[], None]) -> None:
        self.room = limits.max_output
        """Data bytes that may still go out before the next drain; 0 or less while the socket is slow."""
        self.receiving = False
        """The owner receives, and drains at the end of that anyway."""
        self.closed = False
        """The session has ended, and its last word is said: streams have no more to say."""
        self._limits = limits
        self._budgets = budgets
        self._output_waiting = waiting
        self._announced = False
        self._writable = True
        self._out: list[bytes | memoryview] = []
        self._control = 0
        """Bytes of undrained control frames."""
        self._waiting: dict[YamuxStream, None] = {}
        """Streams with queued bytes and window, in the order of their turn."""

    # Calls of streams

    def send_data(self, stream: YamuxStream, data: bytes, size: int) -> None:
        """`data` fits the stream's window, which the caller has charged, and `room`."""
        out = self._out
        out.append(_pack(DATA, stream.flags, stream.stream_id, size))
        out.append(data)
        stream.flags = 0
        self.room -= size
        if not (self.receiving or self._announced):
            self._announced = True
            self._output_waiting()

    def send_opening(self, stream: YamuxStream, data: bytes) -> None:
        """The first bytes of an own stream, with its SYN; a control frame, so that ids leave in order even when the
        socket is slow."""
        stream.send_window -= len(data)
        self.control_frame(DATA, 0, stream.stream_id, len(data), stream)
        self._out.append(data)
        self._control += len(data)

    def announce(self, stream: YamuxStream) -> None:
        """Send the SYN (or ACK) of a stream that has no data to send it with."""
        self.control_frame(WINDOW_UPDATE, 0, stream.stream_id, 0, stream)

    def send_fin(self, stream: YamuxStream) -> None:
        if not self.closed:
            self.control_frame(WINDOW_UPDATE, FIN, stream.stream_id, 0, stream)
            stream.fin_left()

    def send_reset(self, stream: YamuxStream) -> None:
        if not self.closed:
            self.control_frame(WINDOW_UPDATE, RST, stream.stream_id, 0, stream)

    def send_window_update(self, stream: YamuxStream, delta: int) -> None:
        if not self.closed:
            self.control_frame(WINDOW_UPDATE, 0, stream.stream_id, delta, stream)

    def flush_stream(self, stream: YamuxStream) -> None:
        """The stream has queued bytes; send what its window and `room` allow, in turn with others."""
        if stream.send_window:
            self._waiting[stream] = None
            if self.room > 0:
                self._flush()

    # Calls of the session

    def control_frame(
        self, kind: int, flags: int, stream_id: int, value: int, stream: YamuxStream | None = None
    ) -> None:
        if stream is not None:
            flags |= stream.flags
            stream.flags = 0
        self._out.append(_pack(kind, flags, stream_id, value))
        self._control += HEADER_SIZE
        if not (self.receiving or self._announced):
            self._announced = True
            self._output_waiting()

    def check_control(self) -> None:
        """Raises `LimitExceeded` for a peer that makes us answer and does not read."""
        if self._control > self._limits.max_control:
            raise LimitExceeded("yamux_control_queue", self._control, self._limits.max_control)

    def forget(self, stream: YamuxStream) -> None:
        """The stream has ended: it takes no more turns."""
        self._waiting.pop(stream, None)

    def close(self) -> None:
        """Frames made so far are still drained; nothing follows them: without room, streams only queue what they
        write, until each is told of its end."""
        self.closed = True
        self.pause()
        self._waiting.clear()

    # Calls of the owner

    def data_to_send(self) -> list[bytes | memoryview]:
        """The parts to send, in order; empty when there is nothing. Queued bytes are moved up behind them: call
        again until it is empty, or `pause`."""
        out = self._out
        if out:
            self._out = []
            self._control = 0
            self._announced = False
            if self._writable:
                self.room = self._limits.max_output
                if self._waiting:
                    self._announced = True
                    self._flush()
                    self._announced = bool(self._out)
        return out

    def pause(self) -> None:
        """The socket is slow: data stays in the streams' queues, control frames are kept up to their limit."""
        self._writable = False
        self.room = 0

    def resume(self) -> None:
        if self.closed:
            return
        self._writable = True
        self.room = self._limits.max_output
        if self._waiting:
            self._flush()

    # Turns

    def _flush(self) -> None:
        """Move queued bytes to the output, a frame of each stream in turn, until `room` is used up."""
        waiting = self._waiting
        while waiting and self.room > 0:
            stream = next(iter(waiting))
            del waiting[stream]
            if stream.queued:
                self._send_queued(stream)
                if stream.queued and stream.send_window:
                    waiting[stream] = None
                elif stream.wants_fin and not stream.ended:
                    self.send_fin(stream)
                stream.flushed()

    def _send_queued(self, stream: YamuxStream) -> None:
        """One Data frame of the head of the queue."""
        size = min(stream.queued, stream.send_window, self.room, self._limits.max_frame_body)
        queue = stream.queue
        assert queue is not None
        stream.queued -= size
        stream.send_window -= size
        self._budgets.queued -= size
        self.room -= size
        out = self._out
        out.append(_pack(DATA, stream.flags, stream.stream_id, size))
        stream.flags = 0
        while size:
            part = queue[0]
            if len(part) <= size:
                out.append(part)
                size -= len(part)
                queue.popleft()
            else:
                view = memoryview(part)
                out.append(view[:size])
                queue[0] = view[size:]
                size = 0
        if not (self.receiving or self._announced):
            self._announced = True
            self._output_waiting()
