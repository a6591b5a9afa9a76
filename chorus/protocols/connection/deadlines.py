"""Deadlines of a connection's streams: for agreeing on a protocol, and for sending their last bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chorus.protocols.connection.streams import MuxedStream


class Deadlines:
    """All wait equally long, `wait` seconds, so they expire in their order."""

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
