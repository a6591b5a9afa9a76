"""One connection without its socket: multistream, Noise, muxer, streams (spec/wire.md 5, 17). Pure.

Bytes in (`receive_data`), bytes out (`data_to_send`), what happened through `CoreEvents`. Time comes in as `now`;
`next_timer` says when `handle_timer` wants to be called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from chorus.errors import ChorusError, LocalError, PeerError
from chorus.identity import Identity, PeerId
from chorus.protocols import multistream, noise, yamux
from chorus.protocols.multistream import MultistreamError
from chorus.protocols.muxed_stream import Answer, MuxedStream, Offer, Opened, Proposals
from chorus.protocols.noise import HandshakeResult, NoiseHandshake, NoiseSession
from chorus.protocols.stream import Connection
from chorus.protocols.yamux import YamuxSession
from chorus.protocols.yamux_frames import (
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    SessionEnded,
    StreamLimitReached,
    YamuxLimits,
)
from chorus.protocols.yamux_stream import YamuxStream

MAX_KNOWN_OFFERS = 64
"""Offers of supported protocols that are recognised without parsing them."""


class HandshakeTimeout(PeerError):
    """The peer took too long until streams could be opened."""

    code = "handshake_timeout"


class NegotiationTimeout(PeerError):
    """The protocol of a stream was not agreed in time; the stream is reset."""

    code = "negotiation_timeout"


class LingerTimeout(PeerError):
    """A closed stream's queued bytes were not taken in time; the stream is reset."""

    code = "linger_timeout"


class KeepaliveTimeout(PeerError):
    """The peer did not answer a ping."""

    code = "keepalive_timeout"


class ReadStalled(LocalError):
    """Receivers here left so much unread, for so long, that the connection cannot go on."""

    code = "read_stalled"


class Truncated(SessionEnded):
    """The byte stream ended without the end of what it carried: the network, or somebody in it, cut it."""

    code = "truncated"


@attrs.frozen
class ConnectionLimits:
    """Times of one connection, in seconds, and the multiplexer's limits."""

    handshake_s: float = 10.0
    """From the TCP connection until streams can be opened (spec/security.md 1.3)."""
    negotiation_s: float = 10.0
    """Until the protocol of a stream is agreed (spec/security.md 1.2)."""
    keepalive_idle_s: float = 30.0
    """Silence of the peer before it is asked, as go-yamux does."""
    keepalive_reply_s: float = 10.0
    """Until it must have answered."""
    linger_s: float = 30.0
    """For the bytes still queued on a stream that was closed here: nobody else looks after it any more."""
    read_stall_s: float = 30.0
    """How long the socket may stay unread because receivers are paused on half of `receive_budget`."""
    close_s: float = 5.0
    """From `close` until the connection is aborted: a peer that never reads (CVE-2026-21435) cannot hold it."""
    max_pings: int = 16
    """Own pings without an answer; one more fails here."""
    yamux: YamuxLimits = attrs.field(factory=YamuxLimits)


class CoreEvents(Protocol):
    """What a core tells its shell."""

    def handshake_finished(self, result: HandshakeResult) -> None:
        """The peer is authenticated, streams can be opened."""

    def protocol_supported(self, protocol: str) -> bool:
        """Whether an inbound stream may speak `protocol`, now."""

    def stream_opened(self, stream: MuxedStream) -> None:
        """The protocol of an inbound stream is agreed; sets its receiver before it returns."""

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        """A receiver raised; called in the `except` clause."""

    def count(self, error: ChorusError) -> None:
        """A peer's error that ended a stream, not the connection."""

    def output_waiting(self) -> None:
        """There is something to send, outside `receive_data`."""

    def timer_sooner(self) -> None:
        """`next_timer` is earlier than it was."""

    def peer_going_away(self, code: int) -> None:
        """The peer takes no new streams."""

    def read_again(self) -> None:
        """After `reading_paused`: receivers have taken enough."""


class _Deadlines:
    """Streams that must have done something by a time; all wait equally long, so they expire in their order."""

    __slots__ = ("_streams", "wait")

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self._streams: dict[MuxedStream, float] = {}

    def add(self, stream: MuxedStream, now: float) -> float:
        self._streams[stream] = at = now + self.wait
        return at

    def discard(self, stream: MuxedStream) -> None:
        self._streams.pop(stream, None)

    @property
    def first(self) -> float:
        return next(iter(self._streams.values()), float("inf"))

    def expire(self, now: float) -> list[MuxedStream]:
        expired = []
        for stream, at in self._streams.items():
            if at > now:
                break
            expired.append(stream)
        for stream in expired:
            del self._streams[stream]
        return expired

    def __len__(self) -> int:
        return len(self._streams)


MakeHandshake = Callable[..., NoiseHandshake]
"""`NoiseHandshake`, or one with the same parameters."""


class ConnectionCore:
    """`connection` is what the streams give as theirs."""

    def __init__(
        self,
        events: CoreEvents,
        connection: Connection,
        *,
        identity: Identity,
        initiator: bool,
        expected_peer: PeerId | None,
        limits: ConnectionLimits,
        now: float,
        make_handshake: MakeHandshake = NoiseHandshake,
    ) -> None:
        self.connection = connection
        self.limits = limits
        self.initiator = initiator
        self.result: HandshakeResult | None = None
        self.yamux: YamuxSession | None = None
        """Once streams can be opened."""
        self.closed = False
        self.known_offers: dict[bytes, str] = {}
        self.protocol_supported = events.protocol_supported

        self._events = events
        self._now = now
        self._heard = now
        self._handshake_until = now + limits.handshake_s
        self._stalled_until = float("inf")
        self._deadline = self._handshake_until
        self._negotiating = _Deadlines(limits.negotiation_s)
        self._lingering = _Deadlines(limits.linger_s)
        self._pings: dict[int, tuple[float, Callable[[float | ChorusError], None]]] = {}
        self._next_ping = 0
        self._asked: float | None = None
        """When the keepalive ping without an answer was sent."""

        self._raw: list[bytes] = []
        """Sealed, or of before there was a seal: goes out before the multiplexer's."""
        self._noise: NoiseSession
        self._negotiation: multistream.Dialer | multistream.Listener
        self._receive = self._receive_security
        self._handshake = make_handshake(
            identity, initiator=initiator, expected_peer=expected_peer, muxers=(yamux.PROTOCOL,)
        )
        if initiator:
            # Message 1 does not wait for the listener's word on /noise: one flight less.
            self._negotiation = multistream.Dialer((noise.PROTOCOL,))
            self._raw.append(self._negotiation.data_to_send() + self._handshake.data_to_send())
        else:
            self._negotiation = multistream.Listener(lambda protocol: protocol == noise.PROTOCOL)

    # Bytes

    def receive_data(self, data: bytes, now: float) -> None:
        """Raises `PeerError`; then only `close` and `data_to_send` may be called."""
        self._now = self._heard = now
        if not self.closed:
            self._receive(data)

    def data_to_send(self) -> bytes:
        """What is to be written to the socket; ask again until it is empty, or `pause_output`."""
        session = self.yamux
        sealed = b""
        if session is not None and (parts := session.output.data_to_send()):
            sealed = self._noise.seal(parts)
        if self._raw:
            sealed = b"".join(self._raw) + sealed
            self._raw.clear()
        return sealed

    def receive_eof(self) -> ChorusError | None:
        """The peer closed the byte stream: ends every stream, and says whether something was cut off."""
        error: SessionEnded | None = None
        session = self.yamux
        if session is None:
            error = Truncated("the peer closed the connection during the handshake")
        elif self._noise.partial or session.incomplete:
            error = Truncated("the connection ended in the middle of a frame")
        elif session.streams and session.peer_gone is None and not self.closed:
            error = Truncated(f"the connection ended with {len(session.streams)} open streams")
        self._end(error or SessionEnded("the peer closed the connection"), None)
        return error

    # The handshake

    def _receive_security(self, data: bytes) -> None:
        negotiation = self._negotiation
        self._negotiate(negotiation, data, noise.PROTOCOL)
        if answer := negotiation.data_to_send():
            self._raw.append(answer)
        if negotiation.selected is not None:
            self._receive = self._receive_handshake
            if negotiation.leftover:
                self._receive_handshake(negotiation.leftover)

    def _receive_handshake(self, data: bytes) -> None:
        handshake = self._handshake
        handshake.receive_data(data)
        if answer := handshake.data_to_send():
            self._raw.append(answer)
        result = handshake.result
        if result is None:
            return
        del self._handshake
        self.result = result
        self._noise = result.session
        if result.muxer == yamux.PROTOCOL:
            self._start_streams()
        else:
            self._start_muxer_negotiation()
        if result.leftover and not self.closed:
            self._receive(result.leftover)

    def _start_muxer_negotiation(self) -> None:
        """The peer chose no muxer in the handshake (rust, py): multistream, inside Noise."""
        self._receive = self._receive_muxer
        if self.initiator:
            self._negotiation = multistream.Dialer((yamux.PROTOCOL,))
            self._raw.append(self._noise.seal([self._negotiation.data_to_send()]))
        else:
            self._negotiation = multistream.Listener(lambda protocol: protocol == yamux.PROTOCOL)

    def _receive_muxer(self, data: bytes) -> None:
        negotiation = self._negotiation
        plaintexts = self._noise.open(data)
        for number, plaintext in enumerate(plaintexts, 1):
            self._negotiate(negotiation, plaintext, yamux.PROTOCOL)
            if answer := negotiation.data_to_send():
                self._raw.append(self._noise.seal([answer]))
            if negotiation.selected is not None:
                self._start_streams()
                self._receive_frames([negotiation.leftover, *plaintexts[number:]])
                return

    def _negotiate(self, negotiation: multistream.Dialer | multistream.Listener, data: bytes, protocol: str) -> None:
        negotiation.receive_data(data)
        if isinstance(negotiation, multistream.Dialer) and negotiation.failed:
            raise MultistreamError(f"the peer does not speak {protocol}")

    def _start_streams(self) -> None:
        assert self.result is not None
        self._receive = self._receive_sealed
        self.yamux = YamuxSession(self, initiator=self.initiator, limits=self.limits.yamux, stream_type=MuxedStream)
        self._handshake_until = float("inf")
        self._events.handshake_finished(self.result)

    # Streams

    def _receive_sealed(self, data: bytes) -> None:
        plaintexts = self._noise.open(data)
        if plaintexts:
            self.yamux.receive_data(plaintexts, self._now)  # type: ignore[union-attr]

    def _receive_frames(self, plaintexts: Sequence[bytes]) -> None:
        session = self.yamux
        if session is not None:
            session.receive_data(plaintexts, self._now)

    def open_stream(self, protocol: str, now: float) -> MuxedStream:
        """A stream that offers one protocol lazily. Raises `SessionEnded` or `StreamLimitReached`."""
        stream = self._open(now)
        Offer(stream, protocol)
        return stream

    def propose_stream(self, protocols: Sequence[str], opened: Opened, now: float) -> MuxedStream:
        """A stream for the first of `protocols` that the peer takes; `opened` is called once. Raises as `open_stream`,
        and `ValueError` for more than `multistream.MAX_PROPOSALS`."""
        stream = self._open(now)
        Proposals(stream, protocols, opened)
        return stream

    def _open(self, now: float) -> MuxedStream:
        if self.yamux is None:
            raise SessionEnded("the connection is not set up")
        stream = self.yamux.open_stream()
        assert isinstance(stream, MuxedStream)
        stream.core = self
        self._expect(self._negotiating.add(stream, now))
        return stream

    def stream_agreed(self, stream: MuxedStream) -> None:
        """Called by a stream whose protocol has just been agreed."""
        self._negotiating.discard(stream)
        if not stream.inbound:
            return
        assert self.yamux is not None
        self.yamux.accept(stream)
        try:
            self._events.stream_opened(stream)
            if stream.receiver is None and not stream.ended:
                raise LocalError(f"nobody receives {stream.protocol}")
        except Exception as error:
            self._events.receiver_failed(stream, error)
            stream.reset()

    def stream_failed(self, error: ChorusError) -> None:
        self._events.count(error)

    def stream_lingers(self, stream: MuxedStream) -> None:
        """Called by a stream that was closed with bytes queued."""
        self._expect(self._lingering.add(stream, self._now))

    def remember_offer(self, protocol: str) -> None:
        if len(self.known_offers) < MAX_KNOWN_OFFERS:
            self.known_offers[multistream.lazy_offer(protocol)] = protocol

    # SessionEvents

    def stream_arrived(self, stream: YamuxStream) -> None:
        assert isinstance(stream, MuxedStream)
        stream.core = self
        self._expect(self._negotiating.add(stream, self._now))
        Answer(stream)

    def stream_ended(self, stream: YamuxStream) -> None:
        assert isinstance(stream, MuxedStream)
        self._negotiating.discard(stream)
        self._lingering.discard(stream)

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        self._events.receiver_failed(stream, error)

    def output_waiting(self) -> None:
        self._events.output_waiting()

    def peer_going_away(self, code: int) -> None:
        self._events.peer_going_away(code)

    def read_again(self) -> None:
        self._events.read_again()

    def pong_received(self, value: int) -> None:
        ping = self._pings.pop(value, None)
        if ping is not None:
            sent, answered = ping
            answered(self._now - sent)

    # Time

    def measure_rtt(self, answered: Callable[[float | ChorusError], None], now: float) -> None:
        """Ping the peer; `answered` is called once, with seconds or with why there is no answer."""
        if self.yamux is None or self.closed:
            raise SessionEnded("the connection is not open")
        if len(self._pings) >= self.limits.max_pings:
            raise StreamLimitReached(f"{len(self._pings)} pings await their answer")
        value = self._next_ping
        self._next_ping = (value + 1) & 0xFFFFFFFF
        self._pings[value] = (now, answered)
        self.yamux.ping(value)

    def next_timer(self) -> float:
        """When `handle_timer` is to be called; calling it earlier does no harm."""
        return self._deadline

    def _expect(self, at: float) -> None:
        if at < self._deadline:
            self._deadline = at
            self._events.timer_sooner()

    def handle_timer(self, now: float) -> None:
        """Raises `HandshakeTimeout`, `KeepaliveTimeout` or `ReadStalled`, after which only `close` may be called."""
        if self.closed:
            self._deadline = float("inf")
            return
        self._now = now
        if now >= self._handshake_until:
            raise HandshakeTimeout(f"no multiplexer after {self.limits.handshake_s:g} s")
        if now >= self._stalled_until:
            raise ReadStalled(f"receivers left their streams unread for {self.limits.read_stall_s:g} s")
        for stream in self._negotiating.expire(now):
            timeout = NegotiationTimeout(f"no protocol was agreed in {self.limits.negotiation_s:g} s")
            self._events.count(timeout)
            stream.reset(timeout)
        for stream in self._lingering.expire(now):
            stream.reset(LingerTimeout(f"{stream.queued} bytes were not taken in {self.limits.linger_s:g} s"))
        self._deadline = min(
            self._handshake_until,
            self._stalled_until,
            self._negotiating.first,
            self._lingering.first,
            self._keep_alive(now),
        )

    def _keep_alive(self, now: float) -> float:
        """Ask a silent peer; returns when to look again."""
        if self.yamux is None or self._stalled_until != float("inf"):
            return float("inf")
        limits = self.limits
        if self._asked is not None and self._heard >= self._asked:
            self._asked = None  # any bytes are an answer
        if self._asked is not None:
            if now >= self._asked + limits.keepalive_reply_s:
                raise KeepaliveTimeout(f"silent for {now - self._heard:.0f} s")
            return self._asked + limits.keepalive_reply_s
        if now < self._heard + limits.keepalive_idle_s:
            return self._heard + limits.keepalive_idle_s
        self._asked = now
        self._pings.pop(self._next_ping, None)
        self.yamux.ping(self._next_ping)
        self._next_ping = (self._next_ping + 1) & 0xFFFFFFFF
        return now + limits.keepalive_reply_s

    # Back-pressure

    def pause_output(self) -> None:
        if self.yamux is not None:
            self.yamux.output.pause()

    def resume_output(self) -> None:
        if self.yamux is not None:
            self.yamux.output.resume()

    @property
    def overfull(self) -> bool:
        """Receivers are paused on so much that the socket should not be read."""
        return self.yamux is not None and self.yamux.budgets.overfull

    def reading_paused(self, now: float) -> None:
        """The socket is not read: silence is ours, not the peer's."""
        if self.yamux is not None:
            self.yamux.budgets.starved = True
        self._stalled_until = now + self.limits.read_stall_s
        self._expect(self._stalled_until)

    def reading_resumed(self, now: float) -> None:
        self._stalled_until = float("inf")
        self._heard = now
        self._asked = None
        self._expect(now + self.limits.keepalive_idle_s)

    # The end

    def close(self, error: ChorusError | None = None) -> None:
        """End every stream; GoAway is the last to be sent. Idempotent."""
        ended = SessionEnded("the connection was closed" if error is None else f"the connection failed: {error}")
        ended.__cause__ = error
        self._end(ended, GO_AWAY_NORMAL if error is None else GO_AWAY_PROTOCOL_ERROR)

    def go_away(self) -> None:
        """Take no new inbound streams; those that live go on."""
        if self.yamux is not None:
            self.yamux.go_away()

    def _end(self, error: ChorusError, code: int | None) -> None:
        if self.closed:
            return
        self.closed = True
        self._deadline = float("inf")
        if self.yamux is not None:
            self.yamux.close(error, code)
        pings, self._pings = self._pings, {}
        for _, answered in pings.values():
            answered(error)
