"""Receivers, events and a pair of sessions for the tests of the multiplexer."""

from __future__ import annotations

from chorus.errors import ChorusError
from chorus.protocols.yamux.frames import HEADER, YamuxLimits
from chorus.protocols.yamux.session import YamuxSession
from chorus.protocols.yamux.stream import YamuxStream


class Recorder:
    """`StreamReceiver` that keeps what it hears."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.eofs = 0
        self.closed: list[ChorusError | None] = []
        self.writing: list[str] = []

    def data_received(self, data: bytes) -> None:
        assert not self.eofs
        assert not self.closed
        assert isinstance(data, bytes)
        self.data += data

    def eof_received(self) -> None:
        assert not self.closed
        self.eofs += 1

    def stream_closed(self, error: ChorusError | None) -> None:
        self.closed.append(error)

    def pause_writing(self) -> None:
        assert not self.closed
        self.writing.append("pause")

    def resume_writing(self) -> None:
        assert not self.closed
        self.writing.append("resume")


class Events:
    """`SessionEvents` that keeps what it hears; `receive` gives each inbound stream a `Recorder`."""

    def __init__(self, receive: bool = True) -> None:
        self.receive = receive
        self.arrived: list[YamuxStream] = []
        self.waiting = 0
        self.failures: list[Exception] = []
        self.ended: list[YamuxStream] = []
        self.pongs: list[int] = []
        self.gone: list[int] = []
        self.read_agains = 0

    def stream_arrived(self, stream: YamuxStream) -> None:
        self.arrived.append(stream)
        stream.session.accept(stream)
        if self.receive:
            stream.set_receiver(Recorder())

    def output_waiting(self) -> None:
        self.waiting += 1

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        self.failures.append(error)

    def stream_ended(self, stream: YamuxStream) -> None:
        self.ended.append(stream)

    def pong_received(self, value: int) -> None:
        self.pongs.append(value)

    def peer_going_away(self, code: int) -> None:
        self.gone.append(code)

    def read_again(self) -> None:
        self.read_agains += 1


def session(initiator: bool, limits: YamuxLimits | None = None, receive: bool = True) -> tuple[YamuxSession, Events]:
    events = Events(receive)
    return YamuxSession(events, initiator=initiator, limits=limits), events


def drain(session: YamuxSession) -> bytes:
    sent = bytearray()
    while parts := session.output.data_to_send():
        sent += b"".join(parts)
    return bytes(sent)


def frames(data: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """(type, flags, stream id, length, body) of each frame."""
    found = []
    while data:
        kind, flags, stream_id, length = HEADER.unpack_from(data)
        body = data[12 : 12 + length] if kind == 0 else b""
        found.append((kind, flags, stream_id, length, body))
        data = data[12 + len(body) :]
    return found


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, flags, stream_id, length) + body


class Pair:
    """Two sessions back to back, without a cipher."""

    def __init__(self, limits: YamuxLimits | None = None, receive: bool = True) -> None:
        self.dialer, self.dialer_events = session(True, limits, receive)
        self.listener, self.listener_events = session(False, limits, receive)

    def pump(self) -> int:
        """Carry everything both ways until nothing is left; returns the bytes carried."""
        total = 0
        while True:
            there, back = drain(self.dialer), drain(self.listener)
            if not there and not back:
                return total
            total += len(there) + len(back)
            self.listener.receive_data([there], 0.0)
            self.dialer.receive_data([back], 0.0)

    def open(self) -> tuple[YamuxStream, YamuxStream]:
        """An open stream, as the dialer and as the listener see it."""
        stream = self.dialer.open_stream()
        stream.set_receiver(Recorder())
        self.dialer.output.announce(stream)
        self.pump()
        return stream, self.listener_events.arrived[-1]
