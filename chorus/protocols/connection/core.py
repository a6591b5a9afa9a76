"""One connection without its socket: its upgrade, then its streams, time and end (spec/wire.md 5, 17). Pure.

Bytes in (`receive_data`), bytes out (`data_to_send`), events through `CoreEvents`. Time comes in as `now`;
`next_timer` says when `handle_timer` wants to be called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from chorus.errors import ChorusError, LocalError
from chorus.identity import Identity, PeerId
from chorus.protocols import multistream
from chorus.protocols.connection.deadlines import Deadlines
from chorus.protocols.connection.keepalive import Answered, Keepalive
from chorus.protocols.connection.limits import (
    ConnectionLimits,
    HandshakeTimeout,
    LingerTimeout,
    NegotiationTimeout,
    ReadStalled,
)
from chorus.protocols.connection.streams import InboundAnswer, LazyOffer, MuxedStream, Opened, Proposals
from chorus.protocols.connection.upgrade import Upgrade
from chorus.protocols.noise.handshake import HandshakeResult, NoiseHandshake, NoiseSession
from chorus.protocols.stream import Connection
from chorus.protocols.yamux import session as yamux
from chorus.protocols.yamux.frames import GO_AWAY_NORMAL, GO_AWAY_PROTOCOL_ERROR, SessionEnded
from chorus.protocols.yamux.session import YamuxSession
from chorus.protocols.yamux.stream import YamuxStream

MAX_KNOWN_OFFERS = 64
"""Offers of supported protocols that are recognised without parsing them."""


class Truncated(SessionEnded):
    """The byte stream ended without the end of what it carried: the network, or somebody in it, cut it."""

    code = "truncated"


class CoreEvents(Protocol):
    """Calls of a core to its shell, within its own methods and those of its streams."""

    def handshake_finished(self, result: HandshakeResult) -> None:
        """The peer is authenticated, streams can be opened."""

    def protocol_supported(self, protocol: str) -> bool:
        """True if an inbound stream may speak `protocol`, now."""

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


MakeHandshake = Callable[..., NoiseHandshake]
"""`NoiseHandshake`, or one with the same parameters."""


@attrs.frozen
class Ends:
    """Our identity, whether we dialled, and the peer that must answer; None takes any."""

    identity: Identity
    initiator: bool
    expected_peer: PeerId | None = None


class ConnectionCore:
    """`connection` is what the streams give as theirs."""

    def __init__(
        self,
        events: CoreEvents,
        connection: Connection,
        ends: Ends,
        *,
        limits: ConnectionLimits,
        now: float,
        make_handshake: MakeHandshake = NoiseHandshake,
    ) -> None:
        self.connection = connection
        self.limits = limits
        self.yamux: YamuxSession | None = None
        """Once streams can be opened."""
        self.closed = False
        self.known_offers: dict[bytes, str] = {}
        self.protocol_supported = events.protocol_supported
        self.stream_failed = events.count
        # Passed on to the shell as the session reports them.
        self.receiver_failed = events.receiver_failed
        self.output_waiting = events.output_waiting
        self.peer_going_away = events.peer_going_away
        self.read_again = events.read_again

        self._events = events
        self._initiator = ends.initiator
        self._now = now
        self._handshake_until = now + limits.handshake_s
        self._stalled_until = float("inf")
        self._deadline = self._handshake_until
        self._negotiating = Deadlines(limits.negotiation_s)
        self._lingering = Deadlines(limits.linger_s)
        self._keepalive = Keepalive(limits, now)
        self._noise: NoiseSession
        self._upgrade = Upgrade(
            make_handshake(
                ends.identity, initiator=ends.initiator, expected_peer=ends.expected_peer, muxers=(yamux.PROTOCOL,)
            ),
            initiator=ends.initiator,
        )
        self._receive = self._receive_upgrade

    @property
    def result(self) -> HandshakeResult | None:
        """Once the peer is authenticated."""
        return self._upgrade.result

    @property
    def stage(self) -> int:
        """Steps of the upgrade so far."""
        return self._upgrade.stage

    # Bytes

    def receive_data(self, data: bytes, now: float) -> None:
        """Raises `PeerError`; then only `close` and `data_to_send` may be called."""
        self._now = self._keepalive.heard = now
        if not self.closed:
            self._receive(data)

    def data_to_send(self) -> bytes:
        """Bytes for the socket; ask again until it is empty, or `pause_output`."""
        session = self.yamux
        sealed = b""
        if session is not None and (parts := session.output.data_to_send()):
            sealed = self._noise.seal(parts)
        if self._upgrade.out:
            return self._upgrade.data_to_send() + sealed
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

    # The upgrade

    def _receive_upgrade(self, data: bytes) -> None:
        upgrade = self._upgrade
        upgrade.receive_data(data)
        if not upgrade.finished:
            return
        session = self._start_streams()
        sealed, plaintexts = upgrade.take_rest()
        if plaintexts:
            session.receive_data(plaintexts, self._now)
        elif sealed and not self.closed:
            self._receive_sealed(sealed)

    def _start_streams(self) -> YamuxSession:
        assert self.result is not None
        self._noise = self.result.session
        self._receive = self._receive_sealed
        session = YamuxSession(self, initiator=self._initiator, limits=self.limits.yamux, stream_type=MuxedStream)
        self.yamux = session
        self._handshake_until = float("inf")
        self._events.handshake_finished(self.result)
        return session

    # Streams

    def _receive_sealed(self, data: bytes) -> None:
        plaintexts = self._noise.open(data)
        if plaintexts:
            self.yamux.receive_data(plaintexts, self._now)  # type: ignore[union-attr]

    def open_stream(self, protocol: str, now: float) -> MuxedStream:
        """A stream that offers one protocol lazily. Raises `SessionEnded` or `StreamLimitReached`."""
        stream = self._open(now)
        LazyOffer(stream, protocol)
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
        InboundAnswer(stream)

    def stream_ended(self, stream: YamuxStream) -> None:
        assert isinstance(stream, MuxedStream)
        self._negotiating.discard(stream)
        self._lingering.discard(stream)

    def pong_received(self, value: int) -> None:
        self._keepalive.pong_received(value, self._now)

    # Time

    def measure_rtt(self, answered: Answered, now: float) -> None:
        """Ping the peer; `answered` is called once, with seconds or with why there is no answer (`PingTimeout`, the end
        of the connection). Raises `SessionEnded` or `PingLimitReached`."""
        if self.yamux is None or self.closed:
            raise SessionEnded("the connection is not open")
        self._expect(self._keepalive.measure_rtt(answered, now, self.yamux.ping))

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
        if not self._stalled:
            self._keepalive.expire(now)
        if self.closed:
            # By one of those who heard that.
            return
        self._deadline = min(
            self._handshake_until,
            self._stalled_until,
            self._negotiating.first,
            self._lingering.first,
            self._keep_alive(now),
        )

    def _keep_alive(self, now: float) -> float:
        """Ask a silent peer; returns when to look again."""
        if self.yamux is None or self._stalled:
            return float("inf")
        return min(self._keepalive.check(now, self.yamux.ping), self._keepalive.first)

    @property
    def _stalled(self) -> bool:
        """True if the socket is not read: silence is ours then."""
        return self._stalled_until != float("inf")

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
        self._expect(self._keepalive.reading_resumed(now))

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
        self._keepalive.end(error)
