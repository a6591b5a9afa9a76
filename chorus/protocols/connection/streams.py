"""The streams of a connection: a yamux stream that agrees on its protocol first (spec/wire.md 4, 5). Pure.

Implements `protocols.stream.Stream`. While the protocol is not agreed, a negotiation is the yamux stream's receiver;
then the protocol's own receiver takes its place, so that negotiating costs nothing afterwards.

Data follows a lazy offer at once, but FIN waits for the answer: js-libp2p 3.3 loses a request whose FIN comes while it
still negotiates, and a refusal can then be told even of a stream that was closed right away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from chorus.errors import ChorusError, PeerError
from chorus.protocols import multistream
from chorus.protocols.multistream import MultistreamError
from chorus.protocols.stream import ProtocolNotSupported, StreamReceiver
from chorus.protocols.yamux.stream import StreamSession, YamuxStream

if TYPE_CHECKING:
    from chorus.protocols.stream import Connection

Opened = Callable[["MuxedStream | ChorusError"], None]


class StreamOwner(Protocol):
    """Calls of a stream to its connection."""

    connection: Connection
    known_offers: dict[bytes, str]

    def protocol_supported(self, protocol: str) -> bool: ...

    def stream_agreed(self, stream: MuxedStream) -> None: ...

    def stream_failed(self, error: ChorusError) -> None: ...

    def stream_lingers(self, stream: MuxedStream) -> None: ...

    def remember_offer(self, protocol: str) -> None: ...


class MuxedStream(YamuxStream):
    """One stream of a connection."""

    __slots__ = ("_application", "_application_paused", "_close_waits", "_negotiation", "core", "protocol")

    core: StreamOwner
    protocol: str

    def __init__(self, session: StreamSession, stream_id: int, inbound: bool) -> None:
        super().__init__(session, stream_id, inbound)
        self._negotiation: _StreamNegotiation | None = None
        self._application: StreamReceiver | None = None
        self._application_paused = False
        self._close_waits = False
        """`close` was called before the peer had answered."""

    def __repr__(self) -> str:
        direction = "from" if self.inbound else "to"
        return f"<stream {self.stream_id} {direction} peer, {getattr(self, 'protocol', 'not agreed')}>"

    @property
    def connection(self) -> Connection:
        return self.core.connection

    def negotiate(self, negotiation: _StreamNegotiation) -> None:
        self._negotiation = self.receiver = negotiation
        self.paused = False

    def set_receiver(self, receiver: StreamReceiver) -> None:
        if self._negotiation is None:
            YamuxStream.set_receiver(self, receiver)
            return
        self._application = receiver
        if self._write_blocked:
            self._tell(receiver.pause_writing)

    def pause_reading(self) -> None:
        if self._negotiation is None:
            self.paused = True
        else:
            self._application_paused = True

    def resume_reading(self) -> None:
        if self._negotiation is None:
            YamuxStream.resume_reading(self)
        else:
            self._application_paused = False

    @property
    def wants_fin(self) -> bool:
        if self._negotiation is not None and not self.inbound:
            return False
        return self._write_closed and not self.fin_sent and not self.queued

    def close(self) -> None:
        if self._negotiation is not None and not self.inbound:
            self._close_waits = self._write_closed = True
            return
        if self.ended or self._discard:
            return
        YamuxStream.close(self)
        if not self.ended:
            self.core.stream_lingers(self)

    def finish(self, error: ChorusError | None) -> None:
        negotiation = self._negotiation
        if negotiation is not None:
            self._leave_negotiation()
        YamuxStream.finish(self, error)
        if negotiation is not None:
            negotiation.ended(error)

    def agreed(self, protocol: str, leftover: bytes) -> None:
        """Called by the negotiation within `data_received`; `leftover` is the protocol's."""
        self.protocol = protocol
        if leftover and not self._close_waits:
            self.unread(leftover)
        self._leave_negotiation()
        self.core.stream_agreed(self)
        if self.wants_fin and not self.ended:
            self.session.output.send_fin(self)
        if self._close_waits:
            self.close()

    def _leave_negotiation(self) -> None:
        self._negotiation = None
        self._delivering = False
        self.receiver = self._application
        self.paused = self.receiver is None or self._application_paused
        self._application = None


class _StreamNegotiation:
    """`StreamReceiver` of a stream whose protocol is not agreed."""

    __slots__ = ("_stream",)

    def __init__(self, stream: MuxedStream) -> None:
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def eof_received(self) -> None:
        self._fail(MultistreamError("the peer closed the stream instead of agreeing on a protocol"))

    def stream_closed(self, error: ChorusError | None) -> None:
        """Never: `MuxedStream.finish` ends the negotiation first."""

    def ended(self, error: ChorusError | None) -> None:
        """The stream ended without a protocol."""

    def pause_writing(self) -> None:
        application = self._stream._application
        if application is not None:
            application.pause_writing()

    def resume_writing(self) -> None:
        application = self._stream._application
        if application is not None:
            application.resume_writing()

    def _fail(self, error: ChorusError) -> None:
        self._stream.core.stream_failed(error)
        self._stream.reset(error)


class LazyOffer(_StreamNegotiation):
    """One candidate, offered lazily: data follows the proposal without waiting for the answer."""

    __slots__ = ("_dialer", "_expected")

    def __init__(self, stream: MuxedStream, protocol: str) -> None:
        super().__init__(stream)
        stream.protocol = protocol
        self._dialer: multistream.MultistreamDialer | None = None
        self._expected = multistream.lazy_offer(protocol)
        """Sent, and echoed by a peer that agrees."""
        stream.negotiate(self)
        stream.session.output.send_opening(stream, self._expected)

    def data_received(self, data: bytes) -> None:
        stream = self._stream
        dialer = self._dialer
        if dialer is None:
            if data.startswith(self._expected):
                stream.agreed(stream.protocol, data[len(self._expected) :])
                return
            self._dialer = dialer = multistream.MultistreamDialer([stream.protocol])
            dialer.data_to_send()
        try:
            dialer.receive_data(data)
        except PeerError as error:
            self._fail(error)
            return
        if dialer.selected is not None:
            stream.agreed(dialer.selected, dialer.leftover)
        elif dialer.failed:
            stream.reset(ProtocolNotSupported(f"the peer does not speak {stream.protocol}"))


class Proposals(_StreamNegotiation):
    """Several candidates in turn; `opened` hears the stream once the peer has taken one, or why not."""

    __slots__ = ("_dialer", "_opened", "_protocols")

    def __init__(self, stream: MuxedStream, protocols: Sequence[str], opened: Opened) -> None:
        super().__init__(stream)
        self._protocols = protocols
        self._dialer = multistream.MultistreamDialer(protocols)
        self._opened = opened
        stream.negotiate(self)
        stream.session.output.send_opening(stream, self._dialer.data_to_send())

    def data_received(self, data: bytes) -> None:
        stream, dialer = self._stream, self._dialer
        try:
            dialer.receive_data(data)
        except PeerError as error:
            self._fail(error)
            return
        if proposal := dialer.data_to_send():
            stream.write(proposal)
        if dialer.selected is not None:
            stream.agreed(dialer.selected, dialer.leftover)
            self._opened(stream)
        elif dialer.failed:
            stream.reset(ProtocolNotSupported(f"the peer speaks none of {', '.join(self._protocols)}"))

    def ended(self, error: ChorusError | None) -> None:
        self._opened(error or ProtocolNotSupported("the stream was closed before a protocol was agreed"))


class InboundAnswer(_StreamNegotiation):
    """The listening side."""

    __slots__ = ("_listener",)

    def __init__(self, stream: MuxedStream) -> None:
        super().__init__(stream)
        self._listener: multistream.MultistreamListener | None = None
        stream.negotiate(self)

    def data_received(self, data: bytes) -> None:
        stream = self._stream
        core = stream.core
        listener = self._listener
        if listener is None:
            # Nearly every offer is one that came before, alone in its frame; its echo is the offer itself.
            protocol = core.known_offers.get(data)
            if protocol is not None and core.protocol_supported(protocol):
                stream.write(data)
                stream.agreed(protocol, b"")
                return
            self._listener = listener = multistream.MultistreamListener(core.protocol_supported)
        try:
            listener.receive_data(data)
        except PeerError as error:
            self._fail(error)
            return
        if answer := listener.data_to_send():
            stream.write(answer)
        if listener.selected is not None:
            core.remember_offer(listener.selected)
            stream.agreed(listener.selected, listener.leftover)

    def eof_received(self) -> None:
        self._stream.close()
