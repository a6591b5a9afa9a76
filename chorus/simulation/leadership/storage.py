"""The disk of a replica: transactions in order, each durable some time after it was asked for.

At a crash those that wait are kept up to one of them; a transaction is kept whole or not at all, as SQLite keeps it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import attrs

from chorus.protocols.ballot.effects import HardState
from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import Roster
from chorus.protocols.replication.messages import LogEntry
from chorus.protocols.replication.outbox import LogWrite
from chorus.simulation.world import World, nanoseconds

STALL_S: Final = 1.5
"""Seconds that one write takes at most while a disk is slow."""


@attrs.frozen
class ReplicaSnapshot:
    """A machine at one position of the log, with the roster that governed there."""

    position: LogPosition
    roster: Roster
    machine: bytes = b""


@attrs.define
class ReplicaImage:
    """What is durable."""

    snapshot: ReplicaSnapshot
    hard_state: HardState = attrs.field(factory=HardState)
    entries: list[LogEntry] = attrs.field(factory=list)
    """After the snapshot, without a gap."""

    @property
    def last(self) -> LogPosition:
        return LogPosition(self.entries[-1].term, self.entries[-1].index) if self.entries else self.snapshot.position

    def term_at(self, index: int) -> int | None:
        """None outside the log; the snapshot stands for everything up to its position."""
        base = self.snapshot.position
        if index <= base.index:
            return base.term if index == base.index else None
        place = index - base.index - 1
        return self.entries[place].term if place < len(self.entries) else None

    def holds(self, entry: LogEntry) -> bool:
        return entry.index <= self.snapshot.position.index or self.term_at(entry.index) == entry.term

    def write(self, step: LogWrite) -> bool:
        """Returns true if entries were cut off."""
        if step.hard_state is not None:
            self.hard_state = step.hard_state
        cut = False
        if step.cut_after is not None:
            kept = max(0, step.cut_after - self.snapshot.position.index)
            cut = len(self.entries) > kept
            del self.entries[kept:]
        for entry in step.entries:
            if entry.index > self.snapshot.position.index:
                if entry.index != self.last.index + 1:
                    raise AssertionError(f"a gap in the log: {entry.index} after {self.last.index}")
                self.entries.append(entry)
        return cut

    def install(self, snapshot: ReplicaSnapshot) -> None:
        if snapshot.position.index <= self.snapshot.position.index:
            return
        agrees = self.term_at(snapshot.position.index) == snapshot.position.term
        after = [entry for entry in self.entries if entry.index > snapshot.position.index]
        self.snapshot, self.entries = snapshot, after if agrees else []


Step = LogWrite | ReplicaSnapshot
Durable = Callable[[], None]


class ReplicaDisk:
    """Of one store. `latency` is the range of seconds that a transaction takes; `early` is for mutants."""

    def __init__(self, world: World, number: int, genesis: ReplicaSnapshot, latency: tuple[float, float]) -> None:
        self.image = ReplicaImage(genesis)
        self.counters: Counter[str] = Counter()
        self.slow = 0
        """How many faults slow it down now."""
        self.latency = latency
        self._world = world
        self._rng = world.rng("disk", number)
        self._waiting: deque[tuple[Step, Durable]] = deque()
        self._start = 0

    def write(self, step: Step, durable: Durable) -> None:
        """Call `durable` once the step and all before it are durable, unless the machine crashes first."""
        self._waiting.append((step, durable))
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        delay = self._rng.uniform(*self.latency)
        if self.slow:
            delay += self._rng.random() ** 2 * STALL_S
        start = self._start
        self._world.after(nanoseconds(delay), lambda: self._finish(start))

    def _finish(self, start: int) -> None:
        if start != self._start:
            return
        step, durable = self._waiting.popleft()
        self._apply(step)
        if self._waiting:
            self._begin()
        durable()

    def _apply(self, step: Step) -> None:
        if isinstance(step, ReplicaSnapshot):
            self.image.install(step)
        elif self.image.write(step):
            self.counters["log cut"] += 1

    def crash(self) -> None:
        """Whole transactions up to one of those that wait are kept."""
        self._start += 1
        kept = self._rng.randint(0, len(self._waiting))
        for place, (step, _) in enumerate(self._waiting):
            if place < kept:
                self._apply(step)
        self.counters["writes kept at a crash"] += kept
        self.counters["writes lost at a crash"] += len(self._waiting) - kept
        self._waiting.clear()
