"""Whether the peer of a connection is still there, and how far away: pings of the multiplexer (spec/wire.md 7). Pure.

Any bytes of the peer are a sign of life. Only after silence is it asked, and it is gone when it does not answer.
"""

from __future__ import annotations

from collections.abc import Callable

from chorus.errors import ChorusError
from chorus.protocols.connection_limits import ConnectionLimits, KeepaliveTimeout
from chorus.protocols.yamux_frames import StreamLimitReached

Answered = Callable[["float | ChorusError"], None]
"""Called once, with seconds or with why there is no answer."""


class Keepalive:
    """`heard` is when the peer last sent something; whoever receives sets it."""

    def __init__(self, limits: ConnectionLimits, now: float) -> None:
        self.heard = now
        self._limits = limits
        self._pings: dict[int, tuple[float, Answered]] = {}
        self._next = 0
        self._asked: float | None = None
        """When the keepalive ping without an answer was sent."""

    def measure_rtt(self, answered: Answered, now: float, ping: Callable[[int], None]) -> None:
        """Raises `StreamLimitReached`."""
        if len(self._pings) >= self._limits.max_pings:
            raise StreamLimitReached(f"{len(self._pings)} pings await their answer")
        value = self._take_value()
        self._pings[value] = (now, answered)
        ping(value)

    def pong_received(self, value: int, now: float) -> None:
        waiting = self._pings.pop(value, None)
        if waiting is not None:
            sent, answered = waiting
            answered(now - sent)

    def check(self, now: float, ping: Callable[[int], None]) -> float:
        """Ask a silent peer; returns when to look again. Raises `KeepaliveTimeout`."""
        limits = self._limits
        if self._asked is not None and self.heard >= self._asked:
            self._asked = None  # any bytes are an answer
        if self._asked is not None:
            if now >= self._asked + limits.keepalive_reply_s:
                raise KeepaliveTimeout(f"silent for {now - self.heard:.0f} s")
            return self._asked + limits.keepalive_reply_s
        if now < self.heard + limits.keepalive_idle_s:
            return self.heard + limits.keepalive_idle_s
        self._asked = now
        value = self._take_value()
        self._pings.pop(value, None)
        ping(value)
        return now + limits.keepalive_reply_s

    def _take_value(self) -> int:
        value = self._next
        self._next = (value + 1) & 0xFFFFFFFF
        return value

    def reading_resumed(self, now: float) -> float:
        """Silence so far was ours; returns when to look again."""
        self.heard = now
        self._asked = None
        return now + self._limits.keepalive_idle_s

    def end(self, error: ChorusError) -> None:
        """Whoever waits for an answer hears why there is none."""
        pings, self._pings = self._pings, {}
        for _, answered in pings.values():
            answered(error)
