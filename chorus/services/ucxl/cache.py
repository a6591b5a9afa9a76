"""Decisions that were read lately, in memory alone, within a limit of bytes (pure)."""

from __future__ import annotations

from collections import OrderedDict

import attrs

from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Version

CACHE_S = 3600.0
"""Seconds that an entry lives: a version may be replaced by one of a later epoch."""
OVERHEAD = 1024
"""Bytes that an entry takes beside the text of its record."""


@attrs.frozen
class CachedDecision:
    version: Version
    decision: Decision
    size: int
    """Bytes of its record."""


class DecisionCache:
    """By content hash. `now` in seconds of one clock."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._entries: OrderedDict[str, tuple[float, CachedDecision]] = OrderedDict()
        self.used = 0
        """Bytes."""
        self.hits = 0
        self.misses = 0

    def get(self, content: str, now: float) -> CachedDecision | None:
        found = self._entries.get(content)
        if found is None or found[0] <= now:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(content)
        return found[1]

    def put(self, entry: CachedDecision, now: float) -> None:
        """What was not asked for for longest makes room."""
        content = entry.version.content
        self._drop(content)
        if entry.size + OVERHEAD > self._most:
            return
        self._entries[content] = (now + CACHE_S, entry)
        self.used += entry.size + OVERHEAD
        while self.used > self._most:
            self._drop(next(iter(self._entries)))

    def clean(self, now: float) -> None:
        """Drop what has lived its time."""
        for content in [each for each, (until, _) in self._entries.items() if until <= now]:
            self._drop(content)

    def clear(self) -> None:
        """The roles of this node have changed."""
        self._entries.clear()
        self.used = 0

    def _drop(self, content: str) -> None:
        if (found := self._entries.pop(content, None)) is not None:
            self.used -= found[1].size + OVERHEAD
