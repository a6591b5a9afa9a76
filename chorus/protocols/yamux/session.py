"""The yamux session: many streams over one ordered byte stream (spec/wire.md 7, spec/security.md 1.4).

Pure: plaintext in (`receive_data`), parts to send out (`output.data_to_send`), what happened through `SessionEvents`,
called synchronously (an event object a frame would cost more than the frame). Nothing here reads a clock.

Reading frames and what they do to streams is one machine, and all here: whether a body is legal, and whose it is, is
known by the stream alone. Output (`output`), ids (`ids`) and memory (`budgets`) are beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from chorus.errors import ChorusError, LimitExceeded
from chorus.protocols.stream import StreamReset
from chorus.protocols.yamux.budgets import Budgets
from chorus.protocols.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_NORMAL,
    HEADER,
    HEADER_SIZE,
    INITIAL_WINDOW,
    MAX_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    RateLimit,
    SessionEnded,
    StreamLimitReached,
    YamuxError,
    YamuxLimits,
    YamuxStreamError,
)
from chorus.protocols.yamux.ids import StreamIds
from chorus.protocols.yamux.output import YamuxOutput
from chorus.protocols.yamux.stream import YamuxStream

PROTOCOL = "/yamux/1.0.0"

_unpack = HEADER.unpack_from


class SessionEvents(Protocol):
    """Calls of a session to its owner, within `receive_data` and within the calls of streams."""

    def stream_arrived(self, stream: YamuxStream) -> None:
        """The peer opened a stream; set a receiver, or it counts as paused."""

    def output_waiting(self) -> None:
        """There is something to send, and it is not `receive_data` that made it."""

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        """A receiver raised; called in the `except` clause. The stream is reset next."""

    def stream_ended(self, stream: YamuxStream) -> None:
        """The stream has left the session."""

    def pong_received(self, value: int) -> None:
        """The answer to `ping(value)`, or an unasked one."""

    def peer_going_away(self, code: int) -> None:
        """The peer takes no new streams."""

    def read_again(self) -> None:
        """`starved` was set, and receivers have taken enough."""


class YamuxSession:
    """`initiator` is the side that dialled. Streams use `output` and `budgets` themselves."""

    def __init__(
        self,
        events: SessionEvents,
        *,
        initiator: bool,
        limits: YamuxLimits | None = None,
        stream_type: type[YamuxStream] = YamuxStream,
    ) -> None:
        limits = limits or YamuxLimits()
        self.limits = limits
        self.streams: dict[int, YamuxStream] = {}
        self.closed = False
        self.going_away = False
        """We sent GoAway: no new inbound streams."""
        self.peer_gone: int | None = None
        """The code of the peer's GoAway: no new outbound streams."""
        self.budgets = Budgets(limits, events.read_again)
        self.output = YamuxOutput(limits, self.budgets, events.output_waiting)

        self._events = events
        self._stream_type = stream_type
        self._ids = StreamIds(initiator)
        self._unaccepted = 0
        self._unacknowledged = 0

        self._now = 0.0
        self._partial = b""
        self._body = 0
        """Bytes of the current Data frame's body still to come, …"""
        self._body_stream: YamuxStream | None = None
        """… their stream (None: drained unread), …"""
        self._body_fin = False
        """… and whether FIN follows them."""
        self._arrived: list[YamuxStream] = []
        """Inbound streams whose ACK has found no other frame to ride on."""

        period = limits.period_s
        self._resets = RateLimit("yamux_resets", limits.max_resets, period)
        self._refusals = RateLimit("yamux_refusals", limits.max_refusals, period)
        self._pings = RateLimit("yamux_pings", limits.max_pings, period)
        self._useless = RateLimit("yamux_useless_frames", limits.max_useless, period)

    # Opening and ending

    def open_stream(self) -> YamuxStream:
        """A new outbound stream; its SYN goes with the first frame, which the caller must send at once (ids must
        appear on the wire in order). Raises `StreamLimitReached` or `SessionEnded`."""
        if self.closed or self.going_away or self.peer_gone is not None:
            raise SessionEnded("the connection takes no new streams")
        limits = self.limits
        if len(self.streams) >= limits.max_streams:
            raise StreamLimitReached(f"{len(self.streams)} streams are open on the connection")
        if self._unacknowledged >= limits.max_unacknowledged:
            raise StreamLimitReached(f"{self._unacknowledged} streams await the peer's answer")
        stream_id = self._ids.next()
        stream = self._stream_type(self, stream_id, False)
        stream.flags = SYN
        self.streams[stream_id] = stream
        self._unacknowledged += 1
        return stream

    def accept(self, stream: YamuxStream) -> None:
        """The protocol of an inbound stream is agreed: it leaves the backlog."""
        if not stream.accepted:
            stream.accepted = True
            self._unaccepted -= 1

    def go_away(self, code: int = GO_AWAY_NORMAL) -> None:
        """Take no new streams; those that live go on. Idempotent."""
        if not self.going_away and not self.closed:
            self.going_away = True
            self.output.control_frame(GO_AWAY, 0, 0, code)

    def close(self, error: ChorusError, code: int | None = None) -> None:
        """End every stream with `error`; with a code, GoAway is what is sent last."""
        if self.closed:
            return
        if code is not None:
            self.go_away(code)
        self.closed = True
        self.output.close()
        for stream in list(self.streams.values()):
            stream.finish(error)

    def ping(self, value: int) -> None:
        """Send a ping request with an opaque value of 32 bits."""
        self.output.control_frame(PING, SYN, 0, value)

    @property
    def held(self) -> int:
        """Bytes received that receivers have not taken."""
        return self.budgets.held

    @property
    def queued(self) -> int:
        """Bytes in the streams' send queues."""
        return self.budgets.queued

    @property
    def incomplete(self) -> bool:
        """True if the end of the byte stream, now, would be in the middle of a frame."""
        return bool(self._partial or self._body)

    # Receiving

    def receive_data(self, chunks: Iterable[bytes], now: float) -> None:
        """Raises `YamuxError` or `LimitExceeded`, after which only `close` may be called."""
        self._now = now
        output = self.output
        output.receiving = True
        try:
            for data in chunks:
                if self.closed:
                    return
                self._parse(data)
            if self._arrived:
                self._acknowledge()
            output.check_control()
            if self.budgets.held > self.limits.receive_budget:
                raise LimitExceeded("yamux_receive_buffer", self.budgets.held, self.limits.receive_budget)
        finally:
            output.receiving = False

    def _parse(self, data: bytes) -> None:
        position = 0
        end = len(data)
        if self._body:
            position = self._continue_body(data, end)
            if self.closed:
                return
        elif self._partial:
            position = HEADER_SIZE - len(self._partial)
            header = self._partial + data[:position]
            if len(header) < HEADER_SIZE:
                self._partial = header
                return
            self._partial = b""
            kind, flags, stream_id, length = _unpack(header, 0)
            position = self._frame(kind, flags, stream_id, length, data, position, end)
        streams = self.streams
        while end - position >= HEADER_SIZE:
            if self.closed:
                return
            kind, flags, stream_id, length = _unpack(data, position)
            position += HEADER_SIZE
            if kind == DATA and not flags and 0 < length <= end - position:
                stream = streams.get(stream_id)
                if stream is not None and length <= stream.receive_window and not stream.fin_received:
                    # The hot path: a whole body for a live stream.
                    if stream.unacknowledged:
                        self._answered(stream)
                    stream.receive_window -= length
                    body_end = position + length
                    stream.deliver(data[position:body_end])
                    position = body_end
                    continue
            position = self._frame(kind, flags, stream_id, length, data, position, end)
        if position < end and not self.closed:
            self._partial = data[position:]

    def _frame(self, kind: int, flags: int, stream_id: int, length: int, data: bytes, position: int, end: int) -> int:
        """Process a frame whose header has been read; returns the position after what it used of `data`."""
        if kind > GO_AWAY:
            raise YamuxError(f"version {kind >> 8} and type {kind & 255}")
        if kind >= PING:
            self._session_frame(kind, flags, stream_id, length)
            return position
        if not stream_id:
            raise YamuxError("a stream's frame with id 0")
        stream = self.streams.get(stream_id)
        if flags & SYN:
            stream = self._syn(stream, stream_id, flags, length if kind == DATA else 0)
        elif stream is not None and stream.unacknowledged:
            self._answered(stream)
        if kind == WINDOW_UPDATE:
            self._window_update(stream, flags, length)
            return position
        if stream is None:
            if length > max(INITIAL_WINDOW, self.limits.max_receive_window):
                raise YamuxError(f"a body of {length} bytes for a stream that is gone")
        elif length > stream.receive_window:
            raise YamuxError(f"a body of {length} bytes, over the window of {stream.receive_window}")
        elif flags & RST:
            self._reset_by_peer(stream)
            stream = None
        elif length and stream.fin_received:
            stream.reset(YamuxStreamError("data after FIN"))
            stream = None
        elif not length and not flags:
            self._useless.hit(self._now)
        else:
            stream.receive_window -= length
        self._body = length
        self._body_stream = stream
        self._body_fin = bool(flags & FIN)
        if not length:
            self._end_body()
            return position
        if position == end:
            return position
        rest = data[position:] if length >= end - position else data[position : position + length]
        return position + self._continue_body(rest, len(rest))

    def _continue_body(self, data: bytes, end: int) -> int:
        """Deliver what `data` has of the current body, as it comes; returns how much that was."""
        size = self._body
        size = min(size, end)
        self._body -= size
        stream = self._body_stream
        if stream is not None and not stream.ended:
            stream.deliver(data if size == end else data[:size])
        if not self._body and not self.closed:
            self._end_body()
        return size

    def _end_body(self) -> None:
        stream = self._body_stream
        self._body_stream = None
        if self._body_fin and stream is not None and not stream.ended:
            stream.deliver_eof()

    def _session_frame(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if stream_id:
            raise YamuxError("a session frame with a stream id")
        if kind == GO_AWAY:
            if self.peer_gone is not None:
                self._useless.hit(self._now)
            self.peer_gone = value
            self._events.peer_going_away(value)
        elif flags & SYN:
            self._pings.hit(self._now)
            self.output.control_frame(PING, ACK, 0, value)
        elif flags & ACK:
            self._events.pong_received(value)
        else:
            self._useless.hit(self._now)

    def _syn(self, stream: YamuxStream | None, stream_id: int, flags: int, body: int) -> YamuxStream | None:
        """Register an inbound stream, or refuse it and return None."""
        if stream is not None:
            raise YamuxError(f"SYN on the live stream {stream_id}")
        self._ids.check_parity(stream_id)
        if body > INITIAL_WINDOW:
            raise YamuxError(f"a body of {body} bytes, over the window of {INITIAL_WINDOW}")
        self._ids.take(stream_id)
        self.output.check_control()
        if flags & RST:
            self._resets.hit(self._now)
            return None
        if self.going_away:
            self.output.control_frame(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        if len(self.streams) >= self.limits.max_streams or self._unaccepted >= self.limits.max_unaccepted:
            self.output.control_frame(WINDOW_UPDATE, RST, stream_id, 0)
            self._refusals.hit(self._now)
            return None
        stream = self._stream_type(self, stream_id, True)
        stream.flags = ACK
        self.streams[stream_id] = stream
        self._unaccepted += 1
        self._arrived.append(stream)
        self._events.stream_arrived(stream)
        return None if stream.ended else stream

    def _window_update(self, stream: YamuxStream | None, flags: int, delta: int) -> None:
        if stream is None:
            return
        if flags & RST:
            # go-yamux puts an error code where the delta would be.
            self._reset_by_peer(stream)
            return
        if delta:
            if stream.send_window + delta > MAX_WINDOW:
                raise YamuxError(f"a window of {stream.send_window + delta} bytes")
            stream.send_window += delta
            if stream.queued:
                self.output.flush_stream(stream)
        elif not flags:
            self._useless.hit(self._now)
        if flags & FIN:
            stream.deliver_eof()

    def _reset_by_peer(self, stream: YamuxStream) -> None:
        if stream.inbound:
            self._resets.hit(self._now)
        stream.finish(StreamReset("reset by the peer"))

    def _answered(self, stream: YamuxStream) -> None:
        stream.unacknowledged = False
        self._unacknowledged -= 1

    def _acknowledge(self) -> None:
        arrived, self._arrived = self._arrived, []
        for stream in arrived:
            if stream.flags & ACK and not stream.ended:
                self.output.announce(stream)

    # Calls of streams

    def forget(self, stream: YamuxStream) -> None:
        """The stream has ended: its id is gone, late frames for it are drained."""
        self.streams.pop(stream.stream_id, None)
        self.output.forget(stream)
        self.accept(stream)
        if stream.unacknowledged:
            self._answered(stream)
        self.budgets.give_back_window(stream.window_size)
        self._events.stream_ended(stream)

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        self._events.receiver_failed(stream, error)
