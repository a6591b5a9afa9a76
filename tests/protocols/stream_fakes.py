"""A stream of a test: what is written to it is kept, what the peer sends is put in by hand."""

from __future__ import annotations

from chorus.errors import ChorusError
from chorus.protocols.stream import StreamClosed, StreamReceiver


class FakeStream:
    stream_id = 1
    protocol = "/test/1.0.0"
    inbound = True
    connection = None

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write_closed = False
        self.closed = False
        self.reset_with: ChorusError | None = None
        self.was_reset = False
        self.reading_paused = False
        self.receiver: StreamReceiver | None = None
        self._held: list[bytes] = []

    @property
    def sent(self) -> bytes:
        return b"".join(self.written)

    def set_receiver(self, receiver: StreamReceiver) -> None:
        self.receiver = receiver

    def arrive(self, data: bytes) -> None:
        """From the peer; held back while reading is paused, as a window would be."""
        self._held.append(data)
        self._deliver()

    def arrive_eof(self) -> None:
        self.receiver.eof_received()

    def end(self, error: ChorusError | None = None) -> None:
        self.receiver.stream_closed(error)

    def _deliver(self) -> None:
        while self._held and not self.reading_paused:
            self.receiver.data_received(self._held.pop(0))

    def write(self, data: bytes) -> None:
        if self.write_closed or self.was_reset:
            raise StreamClosed("closed")
        self.written.append(data)

    def write_eof(self) -> None:
        self.write_closed = True

    def close(self) -> None:
        self.write_closed = self.closed = True

    def reset(self, error: ChorusError | None = None) -> None:
        if not self.was_reset:
            self.was_reset = True
            self.reset_with = error
            self.receiver.stream_closed(error)

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False
        self._deliver()
