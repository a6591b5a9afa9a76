"""What a connection core tells its shell, by calls within its own methods and those of its streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from chorus.errors import ChorusError
    from chorus.protocols.connection.streams import MuxedStream
    from chorus.protocols.noise.handshake import HandshakeResult
    from chorus.protocols.yamux.stream import YamuxStream


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
