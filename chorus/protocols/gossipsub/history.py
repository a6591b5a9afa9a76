"""Seen messages: ids while cached, then a sequence floor for each publisher."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from chorus.bounded import Bounded
from chorus.protocols.gossipsub.params import GossipParams

MAX_PUBLISHERS: Final = 65536
"""Publishers whose floor is kept (10 MB); the one raised longest ago leaves first. More than anybody can invent in the
time that new publishers are let in by (`chorus.messages.rates`)."""

_SEQNO = 8


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
        """True if the id is new."""
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


class SeqnoFloors:
    """Sequence numbers at or below which a publisher's messages are replays (go-libp2p-pubsub's seqno validator, made
    safe against messages that overtake each other).

    A floor is raised when an id leaves the seen cache: a message at or below it is late by the time that ids are
    remembered. Only for meshes whose members count up, as go, current rust and CHORUS do; js draws numbers."""

    __slots__ = ("_floors",)

    def __init__(self) -> None:
        self._floors: Bounded[bytes, bytes] = Bounded(MAX_PUBLISHERS)

    def __len__(self) -> int:
        return len(self._floors)

    def forgotten(self, message_id: bytes) -> None:
        """An id of the form publisher ‖ sequence number has left the seen cache."""
        origin, seqno = message_id[:-_SEQNO], message_id[-_SEQNO:]
        self._floors.put(origin, max(self._floors.get(origin, b""), seqno))

    def is_replay(self, origin: bytes, seqno: bytes) -> bool:
        return seqno <= self._floors.get(origin, b"")


class SeenMessages:
    """The seen cache, and the floors that the ids which leave it raise."""

    __slots__ = ("_floors", "_growing", "_not_passed_on", "_seen")

    def __init__(self, params: GossipParams) -> None:
        self._growing = params.growing_seqno
        self._floors = SeqnoFloors()
        self._not_passed_on: dict[bytes, None] = {}
        """Ids that raise no floor, for others need not know them: kept where numbers grow, and gone with the id or its
        acceptance."""
        self._seen = SeenCache(params.seen_ttl, params.seen_entries, self._forgotten if self._growing else None)

    def __len__(self) -> int:
        """Ids that are remembered."""
        return len(self._seen)

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._seen

    @property
    def floors(self) -> int:
        """Publishers of whom a floor is known."""
        return len(self._floors)

    def is_replay(self, origin: bytes, seqno: bytes) -> bool:
        """True if the message is from before the seen cache's time; never where numbers need not grow."""
        return bool(self._floors) and self._floors.is_replay(origin, seqno)

    def published(self, message_id: bytes, now: float) -> bool:
        """A message of our own; false if its id is known."""
        return self._seen.add(message_id, now)

    def arrived(self, message_id: bytes, now: float) -> None:
        """A message is here, and not passed on yet."""
        self._seen.add(message_id, now)
        if self._growing:
            self._not_passed_on[message_id] = None

    def passed_on(self, message_id: bytes) -> None:
        self._not_passed_on.pop(message_id, None)

    def expire(self, now: float) -> None:
        self._seen.expire(now)

    def _forgotten(self, message_id: bytes) -> None:
        if message_id in self._not_passed_on:
            del self._not_passed_on[message_id]
        else:
            self._floors.forgotten(message_id)
