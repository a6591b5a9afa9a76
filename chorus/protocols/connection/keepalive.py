"""Keepalive: pings of the multiplexer prove a peer alive and measure the round trip (spec/wire.md 7). Pure.

Any bytes of the peer are a sign of life. Only after silence is it asked, and it is gone when it does not answer.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from chorus.errors import ChorusError
from chorus.protocols.connection.limits import ConnectionLimits, KeepaliveTimeout, PingLimitReached, PingTimeout

Answered = Callable[["float | ChorusError"], None]
"""Called once, with seconds or with why there is no answer."""


@attrs.frozen
class _Ping:
    sent: float
    until: float
    answered: Answered


class Keepalive:
    """`heard` is when the peer last sent something; whoever receives sets it."""

    def __init__(self, limits: ConnectionLimits, now: float) -> None:
        self.heard = now
        self._limits = limits
        self._pings: dict[int, _Ping] = {}
        """By value; the one that must be answered first comes first."""
        self._next = 0
        self._asked: float | None = None
        """When the keepalive ping without an answer was sent."""

    def measure_rtt(self, answered: Answered, now: float, ping: Callable[[int], None]) -> float:
        """Returns when to look whether there is an answer. Raises `PingLimitReached`."""
        if len(self._pings) >= self._limits.max_pings:
            raise PingLimitReached(f"{len(self._pings)} pings await their answer")
        value = self._take_value()
        until = now + self._limits.ping_s
        self._pings[value] = _Ping(now, until, answered)
        ping(value)
        return until

    def pong_received(self, value: int, now: float) -> None:
        waiting = self._pings.pop(value, None)
        if waiting is not None:
            waiting.answered(now - waiting.sent)

    @property
    def first(self) -> float:
        """When the next ping has waited too long for its answer."""
        return next((each.until for each in self._pings.values()), float("inf"))

    def expire(self, now: float) -> None:
        """Fail the pings that have waited too long for an answer."""
        late = [value for value, each in self._pings.items() if each.until <= now]
        for each in [self._pings.pop(value) for value in late]:
            each.answered(PingTimeout(f"a ping was not answered in {self._limits.ping_s:g} s"))

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
        until = now + self._limits.ping_s
        self._pings = {value: attrs.evolve(each, until=until) for value, each in self._pings.items()}
        return min(self.first, now + self._limits.keepalive_idle_s)

    def end(self, error: ChorusError) -> None:
        """Fail every ping under way with the reason."""
        pings, self._pings = self._pings, {}
        for each in pings.values():
            each.answered(error)
