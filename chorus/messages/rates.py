"""How much one publisher may say: a token bucket each, with a memory of how far it overdraws."""

from __future__ import annotations

from typing import Final

RATE: Final = 200.0
"""Messages a second that a publisher may sustain: a scheduler of fifty tasks a second says four words of each."""

BURST: Final = 2000.0
"""Messages that may come at once, after ten quiet seconds."""

DEPTH: Final = 1000.0
"""How far a bucket can be overdrawn: what a flood costs is forgiven five seconds after it ends."""

MAX_PUBLISHERS: Final = 4096
"""Buckets kept; the one used longest ago leaves first."""


class PublisherRates:
    """Levels by publisher; a new one is full. `now` is seconds of any steady clock."""

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: dict[bytes, tuple[float, float]] = {}
        """Publisher → tokens left, and when that was."""

    def __len__(self) -> int:
        return len(self._levels)

    def level(self, publisher: bytes, now: float) -> float:
        level, at = self._levels.get(publisher, (BURST, now))
        return min(BURST, level + (now - at) * RATE)

    def spend(self, publisher: bytes, now: float) -> float:
        """One message was said; what is left, below 0 when it was one too many."""
        level = max(-DEPTH, self.level(publisher, now) - 1.0)
        self._levels.pop(publisher, None)
        self._levels[publisher] = (level, now)
        if len(self._levels) > MAX_PUBLISHERS:
            del self._levels[next(iter(self._levels))]
        return level
