"""How much is heard of one peer: token buckets, with a memory of how far they are overdrawn."""

from __future__ import annotations

from typing import Final

import attrs

MAX_PEERS: Final = 16384
"""Buckets of one kind; the one used longest ago leaves first."""

MAX_AGE: Final = 900
"""Seconds between a message's own time and ours, either way, beyond which it is not heard: what members said before a
node came must not be played to it, and clocks of members agree better than that."""


@attrs.frozen
class Rate:
    """`burst` tokens at most, `per_second` come back, and a bucket can be overdrawn by `depth`."""

    per_second: float
    burst: float
    depth: float = 0.0


OWN: Final = Rate(per_second=200.0, burst=2000.0, depth=1000.0)
"""Messages that a connected publisher says itself: a scheduler of fifty tasks a second says four words of each. What it
overdraws is held against it, and forgiven five seconds after it ends."""

THROUGH_OTHERS: Final = Rate(per_second=200.0, burst=2000.0)
"""Messages of one publisher that others pass on: who floods many neighbours a little is no more heard for it."""

RELAYED: Final = Rate(per_second=1000.0, burst=5000.0)
"""Messages that one peer passes on: a bound on what it can make us check. Nobody is blamed for others' words."""

NEWCOMERS: Final = Rate(per_second=4.0, burst=256.0)
"""Publishers that nobody connected here is, and that were not heard before, from one peer: a node that joins a thousand
others hears of all of them within minutes, and invented ones are few."""


class Buckets:
    """One kind of bucket by peer (or publisher); a new one is full. `now` is seconds of any steady clock."""

    __slots__ = ("_levels", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._levels: dict[bytes, tuple[float, float]] = {}
        """Peer → tokens left, and when that was."""

    def __len__(self) -> int:
        return len(self._levels)

    def level(self, peer: bytes, now: float) -> float:
        rate = self.rate
        level, at = self._levels.get(peer, (rate.burst, now))
        return min(rate.burst, level + (now - at) * rate.per_second)

    def spend(self, peer: bytes, now: float) -> float:
        """One was taken; what is left, below 0 when it was one too many."""
        left = self.level(peer, now) - 1.0
        self._levels.pop(peer, None)
        self._levels[peer] = (max(-self.rate.depth, left), now)
        if len(self._levels) > MAX_PEERS:
            del self._levels[next(iter(self._levels))]
        return left
