"""Rate limits of received messages: one for the publisher, one for the forwarding peer (`rates` has the numbers).

Each pays for its own messages alone. Copies from others must not crowd out the messages that a publisher sends itself,
nor cost it any score; and of what one peer passes on, a publisher has no more than is left for all others: however many
flood through a neighbour that we share with them, who says little is heard (the dynamic threshold of Choudhury and
Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
"""

from __future__ import annotations

import enum
from typing import Final

from chorus.bounded import Bounded
from chorus.messages.rates import NEWCOMERS, OWN, RELAYED, THROUGH_OTHERS, Buckets, Usage

MAX_AUTHORS: Final = 16384
"""Publishers that are not connected and are remembered as heard before; the one heard longest ago leaves first."""


class Room(enum.Enum):
    FREE = "free"
    AUTHOR = "author"
    """None for its publisher, whoever brings the message."""
    RELAY = "relay"
    """None for who passes it on; another's copy may find some."""


class Hearing:
    """`now` is seconds of any steady clock, `tokens` what `rates.cost` says of a message."""

    def __init__(self) -> None:
        self._own = Buckets(OWN)
        """Of connected publishers, by what they say themselves; and our own."""
        self._through_others = Buckets(THROUGH_OTHERS)
        """Of publishers, by what others pass on of theirs."""
        self._relayed = Buckets(RELAYED)
        """Of peers, by what they pass on."""
        self._newcomers = Buckets(NEWCOMERS)
        self._usage = Usage()
        """Of publishers, by what others pass on of theirs."""
        self._authors: Bounded[bytes, None] = Bounded(MAX_AUTHORS)
        """Publishers that are not connected and were let in, the one heard longest ago first."""

    def room(self, author: bytes, source: bytes, tokens: int, now: float, *, connected: bool) -> Room:
        """For a message that `author` signed and `source` brought; `connected`: whether the author is a peer of ours.
        Nothing is taken, but from an author that says too much itself: that is held against it."""
        if source == author:
            if self._own.level(author, now) >= tokens:
                return Room.FREE
            self._own.spend(author, now, tokens)
            return Room.AUTHOR
        if self._through_others.level(author, now) < tokens:
            return Room.AUTHOR
        if self._relayed.level(source, now) < self._usage.of(author, now) + tokens:
            return Room.RELAY
        if not connected and author not in self._authors and self._newcomers.level(source, now) < 1:
            return Room.RELAY
        return Room.FREE

    def take(self, author: bytes, source: bytes, tokens: int, now: float, *, connected: bool) -> None:
        """Charge a message that is received; there was room for it."""
        if source == author:
            self._own.spend(author, now, tokens)
            return
        self._through_others.spend(author, now, tokens)
        self._relayed.spend(source, now, tokens)
        self._usage.add(author, now, tokens)
        if connected:
            return
        if author not in self._authors:
            self._newcomers.spend(source, now)
        self._authors.put(author, None)

    def own(self, author: bytes, now: float) -> float:
        """Tokens that a publisher has left for its own messages; below 0, the excess that counts against it."""
        return self._own.level(author, now)
