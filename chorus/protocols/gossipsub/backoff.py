"""Prune backoffs: pairs of topic and peer that may not be grafted yet (GossipSub 1.1, "Prune Backoff")."""

from __future__ import annotations

from chorus.bounded import Bounded
from chorus.protocols.gossipsub.params import MAX_BACKOFF, MAX_BACKOFFS


def clamp(seconds: int | float | None, default: float) -> float:
    """A PRUNE's backoff, in seconds, made safe to add to a clock: absent or 0 is `default`."""
    if not seconds or seconds < 0:
        return default
    return float(min(seconds, MAX_BACKOFF))


class PruneBackoffs:
    """Deadlines by (topic, peer), at most `limit` of them; the one set longest ago leaves first."""

    __slots__ = ("_deadlines",)

    def __init__(self, limit: int = MAX_BACKOFFS) -> None:
        self._deadlines: Bounded[tuple[str, bytes], float] = Bounded(limit)

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, topic: str, peer: bytes, until: float) -> None:
        """A backoff is only ever prolonged: a second PRUNE cannot shorten the first."""
        key = (topic, peer)
        self._deadlines.put(key, max(self._deadlines.get(key, 0.0), until))

    def until(self, topic: str, peer: bytes) -> float:
        """The deadline, 0.0 when there is none."""
        return self._deadlines.get((topic, peer), 0.0)

    def expire(self, now: float) -> None:
        """Linear in the number of entries: called once in some heartbeats, not on every message."""
        for key in [key for key, until in self._deadlines.items() if until <= now]:
            del self._deadlines[key]
