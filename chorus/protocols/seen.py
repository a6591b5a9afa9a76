"""The ids of messages that have been here, bounded in entries and in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class SeenCache:
    """Remembers an id for `ttl` seconds after it was *first* seen, and at most `entries` of them (oldest out first).

    A later sight does not prolong: a message replayed for ever is forgotten as if it were not.
    """

    __slots__ = ("_entries", "_forgotten", "_ids", "_order", "_ttl")

    def __init__(self, ttl: float, entries: int, forgotten: Callable[[bytes], None] | None = None) -> None:
        """`forgotten` is called with each id that leaves."""
        self._forgotten = forgotten
        self._ttl = ttl
        self._entries = entries
        self._ids: set[bytes] = set()
        self._order: deque[tuple[float, bytes]] = deque()

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, message_id: bytes, now: float) -> bool:
        """Whether the id is new."""
        if message_id in self._ids:
            return False
        self._ids.add(message_id)
        self._order.append((now + self._ttl, message_id))
        if len(self._order) > self._entries:
            self._drop()
        return True

    def expire(self, now: float) -> None:
        order = self._order
        while order and order[0][0] <= now:
            self._drop()

    def _drop(self) -> None:
        message_id = self._order.popleft()[1]
        self._ids.discard(message_id)
        if self._forgotten is not None:
            self._forgotten(message_id)
