"""yamux on the wire (spec/wire.md 7): header, types, flags, errors, and the limits of a session."""

from __future__ import annotations

import struct

import attrs

from chorus.errors import LimitExceeded, LocalError, PeerError
from chorus.protocols.stream import StreamClosed

DATA = 0
WINDOW_UPDATE = 1
PING = 2
GO_AWAY = 3

SYN = 1
ACK = 2
FIN = 4
RST = 8

GO_AWAY_NORMAL = 0
GO_AWAY_PROTOCOL_ERROR = 1
GO_AWAY_INTERNAL_ERROR = 2

HEADER_SIZE = 12
HEADER = struct.Struct(">HHII")
"""Version and type in one field (version 0, so the field is the type), flags, stream id, length."""

INITIAL_WINDOW = 256 * 1024
"""Both directions of every stream start with it; fixed by the specification."""
MAX_WINDOW = 2**32 - 1
MAX_STREAM_ID = 2**32 - 1


class YamuxError(PeerError):
    """The peer broke the multiplexer's rules; the session ends with GoAway 1."""

    code = "yamux_protocol_error"


class YamuxStreamError(YamuxError):
    """The peer broke the rules of one stream, which is reset; the session goes on."""

    code = "yamux_stream_error"


class StreamLimitReached(LocalError):
    """Opening one more stream here would pass a limit of this connection."""

    code = "stream_limit"


class SendQueueFull(LocalError):
    """A writer went on writing in spite of `pause_writing`; its stream was reset."""

    code = "send_queue_full"


class SessionEnded(StreamClosed):
    """The connection under a stream has ended, or is ending and takes no new streams."""

    code = "connection_ended"


@attrs.frozen
class YamuxLimits:
    """Bytes, counts and rates (per `period_s`) of one session; spec/security.md 1.4."""

    max_streams: int = 1024
    """Live streams of both sides together; inbound ones beyond are reset, outbound ones fail here. Memory is
    streams times window, and yamux itself knows no limit."""
    max_unaccepted: int = 256
    """Inbound streams whose protocol is not agreed yet; go-yamux and rust-yamux have the same backlog."""
    max_unacknowledged: int = 256
    """Own streams that the peer has not answered; peers reset what is beyond their backlog of 256."""
    max_receive_window: int = 512 * 1024
    """A stream's receive window grows to it once half of the initial one was used. Chosen by measurement: over
    loopback, bulk went at 615 MB/s with 256 KiB, 1,120 with 512 KiB and 610 with 1 MiB, where what is in flight no
    longer fits the processor's cache (`benchmarks/wire_core.py --sockets`, medians of 9 rounds on a shared machine)."""
    growth_budget: int = 12 * 1024 * 1024
    """Growth of receive windows in use over all streams of the connection; a stream that finds it spent keeps the
    initial window."""
    receive_budget: int = 16 * 1024 * 1024
    """Bytes received and not yet taken by paused receivers; together with `send_budget` the 32 MiB that go-libp2p
    allows a connection. At half of it the socket is no longer read, so only a reader that goes on can pass it: that
    ends the session."""
    send_budget: int = 16 * 1024 * 1024
    """Bytes queued by writers that ignore `pause_writing`; the write that passes it resets its stream."""
    write_high_water: int = 256 * 1024
    """Bytes queued on a stream above which its receiver hears `pause_writing`: one initial window."""
    write_low_water: int = 64 * 1024
    """Bytes left in the queue at which it hears `resume_writing`."""
    max_frame_body: int = 256 * 1024
    """Body of one Data frame sent: never more than the initial window, which every peer must take."""
    max_output: int = 256 * 1024
    """Data bytes handed to the cipher in one drain; the rest stays in the streams' queues, so that a reset or a
    newer stream need not wait behind it."""
    max_control: int = 64 * 1024
    """Bytes of undrained replies and other control frames (5,461 frames): a peer that never reads but makes us
    answer (CVE-2024-32984) is disconnected here."""
    max_resets: int = 200
    """Inbound streams opened and then reset by the peer (CVE-2023-44487, rapid reset)."""
    max_refusals: int = 1000
    """Inbound streams refused for the limits above: a peer that does not take the hint."""
    max_pings: int = 1000
    """Ping requests; a live implementation sends one at a time, every few seconds."""
    max_useless: int = 1000
    """Frames that carry nothing: empty Data or a delta of 0, without flags."""
    period_s: float = 10.0
    """The period of the rates above, in seconds."""


class RateLimit:
    """Counts events in consecutive periods; `hit` raises `LimitExceeded` beyond `maximum` in one of them."""

    __slots__ = ("_count", "_maximum", "_name", "_period", "_since")

    def __init__(self, name: str, maximum: int, period_s: float) -> None:
        self._name = name
        self._maximum = maximum
        self._period = period_s
        self._since = 0.0
        self._count = 0

    def hit(self, now: float) -> None:
        if now - self._since >= self._period:
            self._since = now
            self._count = 0
        self._count += 1
        if self._count > self._maximum:
            raise LimitExceeded(self._name, self._count, self._maximum)
