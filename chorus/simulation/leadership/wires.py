"""Links of tier D: message objects with delay, loss, cuts and connections that are made anew.

A link carries one stream: messages arrive in order unless its quality says otherwise or the connection is made anew;
then those on the way are lost or arrive among the later ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs

from chorus.simulation.world import MILLISECOND, World, nanoseconds

RETRANSMIT: Final = 200 * MILLISECOND
"""The least time-out of TCP on Linux."""
PATIENCE: Final = 12
"""Tries of a segment on a cut link, each after `RETRANSMIT`, before the connection is given up: about 2.4 s."""


@attrs.frozen
class WireQuality:
    delay: tuple[float, float] = (0.0002, 0.001)
    """Seconds one way: each link draws its own base from it."""
    jitter: float = 0.2
    """Share of the base that is added at random."""
    loss: float = 0.0
    """Chance that a message is lost."""
    spike: float = 0.0
    """Chance that a message is held up, for `spike_s` seconds at most."""
    spike_s: float = 0.9
    in_order: bool = True


@attrs.define
class _Link:
    source: int
    target: int
    base: int
    cuts: int = 0
    generation: int = 0
    free: int = 0
    """True time before which nothing that is sent now may arrive."""


Deliver = Callable[[int, int, object], None]
"""(source, target, message)."""


class Wires:
    """All links between `count` hosts. `quality` may be replaced at any time; bases stay."""

    def __init__(self, world: World, count: int, quality: WireQuality, deliver: Deliver) -> None:
        self.counters: Counter[str] = Counter()
        self._world = world
        self._rng = world.rng("wires")
        self._deliver = deliver
        self.quality = quality
        self._links = [
            [_Link(source, target, nanoseconds(self._rng.uniform(*quality.delay))) for target in range(count)]
            for source in range(count)
        ]

    def longest(self) -> float:
        """Seconds of the slowest link one way, without faults."""
        return max(link.base for row in self._links for link in row) * (1 + self.quality.jitter) / 1e9

    def send(self, source: int, target: int, message: object) -> None:
        link, quality, rng = self._links[source][target], self.quality, self._rng
        delay = link.base + int(link.base * quality.jitter * rng.random())
        if quality.loss and rng.random() < quality.loss:
            self.counters["lost"] += 1
            return
        if quality.spike and rng.random() < quality.spike:
            self.counters["held up"] += 1
            delay += nanoseconds(rng.random() * quality.spike_s)
        arrival = self._world.now_ns + delay
        if quality.in_order:
            arrival = link.free = max(arrival, link.free)
        generation = link.generation
        self._world.at(arrival, lambda: self._arrive(link, generation, message, 0))

    def _arrive(self, link: _Link, generation: int, message: object, tries: int) -> None:
        if link.generation != generation and self._rng.random() < 0.5:
            self.counters["lost with a connection"] += 1
        elif not link.cuts:
            self._deliver(link.source, link.target, message)
        elif tries < PATIENCE and link.generation == generation:
            self._world.after(RETRANSMIT, lambda: self._arrive(link, generation, message, tries + 1))
        else:
            self.counters["lost at a cut"] += 1

    def cut(self, pairs: list[tuple[int, int]]) -> Callable[[], None]:
        """Cut one way each; returns what mends it."""
        links = [self._links[source][target] for source, target in pairs]
        for link in links:
            link.cuts += 1

        def mend() -> None:
            for link in links:
                link.cuts -= 1

        return mend

    def reconnect(self, source: int, target: int) -> None:
        """The connection is made anew: what is on the way is lost or overtaken."""
        link = self._links[source][target]
        link.generation += 1
        link.free = 0
