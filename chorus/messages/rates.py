"""Token buckets for the messages of one peer, which remember how far they are overdrawn. A token is a message, or
each KiB that it begins: what a message costs a node grows with both."""

from __future__ import annotations

from math import exp
from typing import Final

import attrs

from chorus.bounded import Bounded

MAX_PEERS: Final = 16384
"""Buckets of one kind; the one used longest ago leaves first."""

MAX_AGE: Final = 900
"""Seconds between a message's own time and ours, either way, beyond which it is not heard: what members said before a
node came must not be played to it, and clocks of members agree better than that."""

UNIT: Final = 1024
"""Bytes that a token pays for. Nearly all messages are shorter; the longest takes 32."""


def cost(size: int) -> int:
    """Tokens of a message of `size` bytes."""
    return max(1, -(-size // UNIT))


@attrs.frozen
class Rate:
    """`burst` tokens at most, `per_second` come back, and a bucket can be overdrawn by `depth`."""

    per_second: float
    burst: float
    depth: float = 0.0


OWN: Final = Rate(per_second=200.0, burst=2000.0, depth=1000.0)
"""Messages of a connected publisher from itself: a scheduler of fifty tasks a second publishes four of each, all below
a KiB. Its overdraft is held against it, and forgiven five seconds after it ends."""

THROUGH_OTHERS: Final = Rate(per_second=200.0, burst=2000.0)
"""Messages of one publisher through others: flooding many neighbours a little gains nothing."""

RELAYED: Final = Rate(per_second=1000.0, burst=5000.0)
"""Messages of others that one peer passes on: bounds what it can make us read. Nobody is blamed for what others say."""

NEWCOMERS: Final = Rate(per_second=4.0, burst=256.0)
"""Publishers (a token each) that nobody connected here is, and that were not heard before, from one peer: a node that
joins a thousand others hears of all of them within minutes, and invented ones are few."""

SHARE_MEMORY: Final = 10.0
"""Seconds: what a publisher has said counts for its share as long as this, on average."""


class Buckets:
    """One kind of bucket by peer (or publisher); a new one is full. `now` is seconds of any steady clock."""

    __slots__ = ("_levels", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._levels: Bounded[bytes, tuple[float, float]] = Bounded(MAX_PEERS)
        """Peer → tokens left, and when that was."""

    def __len__(self) -> int:
        return len(self._levels)

    def level(self, peer: bytes, now: float) -> float:
        rate = self.rate
        level, at = self._levels.get(peer, (rate.burst, now))
        return min(rate.burst, level + (now - at) * rate.per_second)

    def spend(self, peer: bytes, now: float, tokens: float = 1.0) -> float:
        """Tokens left after `tokens` are taken, below 0 when they were too many. Then they are taken as far as the
        bucket can be overdrawn; where it cannot, nothing is: a peer that asks faster than it fills still gets through
        what it may."""
        level = self.level(peer, now)
        left = level - tokens
        kept = left if left >= 0 else max(-self.rate.depth, left) if self.rate.depth else level
        self._levels.put(peer, (kept, now))
        return left


class Usage:
    """How much each publisher has had lately; it fades within `SHARE_MEMORY`."""

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used: Bounded[bytes, tuple[float, float]] = Bounded(MAX_PEERS)
        """Publisher → tokens, and when that was."""

    def __len__(self) -> int:
        return len(self._used)

    def of(self, publisher: bytes, now: float) -> float:
        used, at = self._used.get(publisher, (0.0, now))
        return used * exp((at - now) / SHARE_MEMORY)

    def add(self, publisher: bytes, now: float, tokens: float) -> None:
        self._used.put(publisher, (self.of(publisher, now) + tokens, now))
