"""Back-off: how long to wait after so many failures in a row (pure)."""

from __future__ import annotations

import random

import attrs

_MAX_DOUBLINGS = 32


@attrs.frozen
class Backoff:
    """`first` seconds after one failure, doubled for each further one, at most `most`, times anything between `low` and
    `high` so that many who wait do not come back together."""

    first: float
    most: float
    low: float = 1.0
    high: float = 1.0

    def ceiling(self, failures: int) -> float:
        """Seconds without chance; 0 where nothing failed."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)) if failures > 0 else 0.0

    def delay(self, failures: int, rng: random.Random) -> float:
        return self.ceiling(failures) * rng.uniform(self.low, self.high)
