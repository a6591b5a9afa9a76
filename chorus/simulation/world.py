"""The one clock of a simulation: a heap of events on true time, and streams of chance named after what they are for.

True time is an integer of nanoseconds since the start of the run. Two events of one instant happen in the order in
which they were asked for, unless the world shuffles ties; then lanes (usually nodes) are in another order at every
instant, and events of one lane keep theirs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

SECOND: Final = 1_000_000_000
"""Nanoseconds."""

MILLISECOND: Final = 1_000_000

Call = Callable[[], object]


def nanoseconds(seconds: float) -> int:
    """Seconds as true time; rounds to the nearest nanosecond."""
    return round(seconds * SECOND)


class World:
    """Events on true time. An exception of an event ends `run_until` and is the caller's."""

    def __init__(self, seed: int, *, shuffle_ties: bool = False) -> None:
        self.seed = seed
        self.now_ns = 0
        self.events = 0
        """How many events have happened."""
        self._heap: list[tuple[int, int, Call]] = []
        self._sequence = 0
        self._salt = self.rng("scheduler").getrandbits(63) | 1 if shuffle_ties else 0
        self._check: Call | None = None
        self._every = 1

    @property
    def now(self) -> float:
        """True time in seconds, for reports; the simulation itself compares `now_ns`."""
        return self.now_ns / SECOND

    @property
    def pending(self) -> int:
        """Events that wait, those that were cancelled where they land included."""
        return len(self._heap)

    def rng(self, *names: str | int) -> random.Random:
        """The stream of chance of that name: the same for the same seed, whatever other streams have drawn."""
        text = "\0".join(map(str, (self.seed, *names)))
        return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))

    def at(self, ns: int, call: Call, lane: int = 0) -> None:
        """Let `call` happen at true time `ns`, now at the earliest. There is no cancelling: let the call look."""
        ns = max(ns, self.now_ns)
        self._sequence = sequence = self._sequence + 1
        if self._salt:
            # Only the order of lanes within one instant depends on this product.
            sequence += (((lane + 1) * (ns + 1) * self._salt) >> 17 & 0xFFFF) << 48
        heappush(self._heap, (ns, sequence, call))

    def after(self, delay_ns: int, call: Call, lane: int = 0) -> None:
        """`at`, counted from now."""
        if self._salt or delay_ns < 0:
            self.at(self.now_ns + delay_ns, call, lane)
            return
        self._sequence = sequence = self._sequence + 1
        heappush(self._heap, (self.now_ns + delay_ns, sequence, call))

    def watch(self, check: Call, every: int = 1) -> None:
        """Call `check` after every `every` events and at the end of each `run_until`; it must change nothing."""
        self._check = check
        self._every = every

    def run_until(self, ns: int, max_events: int | None = None) -> bool:
        """Let everything happen up to and including `ns`; false when `max_events` came first, and time stands there."""
        left = -1 if max_events is None else max_events
        while left:
            chunk = self._every if self._check is not None else 1 << 30
            chunk = min(chunk, left) if left > 0 else chunk
            done = self._run(ns, chunk)
            left -= done if left > 0 else 0
            if self._check is not None:
                self._check()
            if done < chunk:
                self.now_ns = max(self.now_ns, ns)
                return True
        return False

    def run_for(self, seconds: float) -> bool:
        return self.run_until(self.now_ns + nanoseconds(seconds))

    def _run(self, until: int, chunk: int) -> int:
        """The hot loop: at most `chunk` events, how many there were."""
        heap, pop = self._heap, heappop
        done = 0
        try:
            while done < chunk and heap and heap[0][0] <= until:
                self.now_ns, _, call = pop(heap)
                done += 1
                call()
        finally:
            self.events += done
        return done
