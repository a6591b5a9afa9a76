"""Who may not be grafted into which mesh, and until when (GossipSub 1.1, "Prune Backoff")."""

from __future__ import annotations

from chorus.protocols.gossipsub.params import MAX_BACKOFF, MAX_BACKOFFS


def clamp(seconds: int | float | None, default: float) -> float:
    """A PRUNE's backoff, in seconds, made safe to add to a clock: absent or 0 is `default`."""
    if not seconds or seconds < 0:
        return default
    return float(min(seconds, MAX_BACKOFF))


class Backoffs:
    """Deadlines by (topic, peer), at most `limit` of them; the one set longest ago leaves first."""

    __slots__ = ("_deadlines", "_limit")

    def __init__(self, limit: int = MAX_BACKOFFS) -> None:
        self._limit = limit
        self._deadlines: dict[tuple[str, bytes], float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, topic: str, peer: bytes, until: float) -> None:
        """A backoff is only ever prolonged: a second PRUNE cannot shorten the first."""
        key = (topic, peer)
        known = self._deadlines.pop(key, 0.0)
        self._deadlines[key] = max(known, until)
        if len(self._deadlines) > self._limit:
            del self._deadlines[next(iter(self._deadlines))]

    def until(self, topic: str, peer: bytes) -> float:
        """The deadline, 0.0 when there is none."""
        return self._deadlines.get((topic, peer), 0.0)

    def expire(self, now: float) -> None:
        """Linear in the number of entries: called once in some heartbeats, not on every message."""
        self._deadlines = {key: until for key, until in self._deadlines.items() if until > now}
