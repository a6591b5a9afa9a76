"""What a yamux session tells its owner, by calls within `receive_data` and within the calls of streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from chorus.protocols.yamux.stream import YamuxStream


class SessionEvents(Protocol):
    """What a session tells its owner."""

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
