"""Counts of peer scoring: of a peer, of a peer in a topic, and of the senders of one message; and views of them."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

MAX_RECORDS: Final = 65536
"""Messages whose senders are remembered for P3 and P4; the oldest leave first."""

RECORD_TTL: Final = 120.0
"""Seconds a message's senders are remembered: as long as its id is in the seen cache by default."""


class TopicStats:
    """Counters of one peer in one topic."""

    __slots__ = (
        "active",
        "before",
        "failure",
        "first",
        "grafted_at",
        "in_mesh",
        "invalid",
        "mesh_deliveries",
        "mesh_time",
        "owed",
        "served",
    )

    def __init__(self) -> None:
        self.in_mesh = False
        self.grafted_at = 0.0
        self.mesh_time = 0.0
        self.active = False
        """In the mesh for long enough that P3 counts: in this stay and those before it that were too short to be
        judged, or P3 would never meet a peer that leaves in time and comes back."""
        self.served = 0.0
        """Seconds of those earlier stays, decaying as P3's counters do."""
        self.owed = 0.0
        """Of the topic's traffic, what they had a part in."""
        self.first = 0.0
        self.mesh_deliveries = 0.0
        self.before = 0.0
        """Of the topic's traffic, what nobody can expect of it: from before it came to the mesh, and its own words."""
        self.failure = 0.0
        self.invalid = 0.0

    @property
    def burdened(self) -> bool:
        """True if a counter lowers the peer's score, or it has not been judged yet."""
        return bool(self.served or self.failure or self.invalid)

    @property
    def empty(self) -> bool:
        """Nothing of it counts: a topic that was left is forgotten so."""
        return not (self.in_mesh or self.first or self.mesh_deliveries or self.burdened)


class PeerStats:
    __slots__ = ("application", "behaviour", "connected", "expires", "group", "topics", "value")

    def __init__(self) -> None:
        self.topics: dict[str, TopicStats] = {}
        self.connected = False
        self.expires = 0.0
        self.group: str | None = None
        self.behaviour = 0.0
        self.application = 0.0
        self.value: float | None = None
        """The score, until something changes it."""


class Record:
    """The senders of one message: `at` is when it was accepted, None while that is open or when it was not."""

    __slots__ = ("advertisers", "at", "counted", "invalid", "mark", "origin", "others", "promised", "senders")

    def __init__(self, first: bytes, origin: bytes, mark: bytes, promised: bool) -> None:
        self.origin = origin
        self.mark = mark
        self.promised = promised
        self.advertisers: tuple[bytes, ...] = ()
        """Peers that advertised it after it was here, where gossip delivered it first."""
        self.counted = False
        """True if the mesh is held to it already."""
        self.others: tuple[bytes, ...] = ()
        """Peers that sent another message under its id; empty as long as none is proven to be its publisher's."""
        self.at: float | None = None
        self.invalid = False
        self.senders: tuple[bytes, ...] = (first,)


class Records:
    """The senders of each message, for `RECORD_TTL` seconds, of at most `MAX_RECORDS` messages."""

    __slots__ = ("_by_id", "_order")

    def __init__(self) -> None:
        self._by_id: dict[bytes, Record] = {}
        self._order: deque[tuple[float, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, message_id: bytes) -> Record | None:
        return self._by_id.get(message_id)

    def add(self, message_id: bytes, record: Record, now: float) -> None:
        self._by_id[message_id] = record
        self._order.append((now + RECORD_TTL, message_id))
        if len(self._order) > MAX_RECORDS:
            self._by_id.pop(self._order.popleft()[1], None)

    def expire(self, now: float) -> None:
        while self._order and self._order[0][0] <= now:
            self._by_id.pop(self._order.popleft()[1], None)


@attrs.frozen(kw_only=True)
class TopicScore:
    """One topic's part of a score: counters, and what each is worth before the topic's own weight."""

    in_mesh: bool
    time_in_mesh: float
    first_deliveries: float
    mesh_deliveries: float
    mesh_deliveries_wanted: float
    mesh_failure: float
    invalid: float
    score: float


@attrs.frozen(kw_only=True)
class PeerScoreView:
    """A peer's score and where it comes from."""

    score: float
    connected: bool
    topics: dict[str, TopicScore]
    application: float
    group_size: int
    behaviour: float
