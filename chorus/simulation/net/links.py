"""Links of the simulated network: one for each direction between two hosts.

TCP neither loses nor reorders bytes: loss on a link shows as delay, 200 ms doubling, and after `GIVE_UP` as a lost
connection. A link that is cut carries nothing, in its direction only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import attrs

from chorus.simulation.world import MILLISECOND, SECOND

RTO: Final = 200 * MILLISECOND
"""Nanoseconds until a lost segment is sent again, doubling: Linux's minimum."""

GIVE_UP: Final = 60 * SECOND
"""How long a sender tries before its connection is lost. Linux tries for a quarter of an hour; nothing here waits so
long, and a run of a minute shall see it happen."""

LARGEST: Final = 64 * 1024
"""Bytes of one segment at most."""


def cut_large(rng: random.Random, waiting: int) -> int:
    return min(waiting, LARGEST)


def cut_small(rng: random.Random, waiting: int) -> int:
    kind = rng.random()
    if kind < 0.08:
        return 1
    return min(waiting, rng.randrange(1, 20) if kind < 0.2 else rng.randrange(1, 4096))


@attrs.frozen
class Cutting:
    """How streams become segments."""

    size: Callable[[random.Random, int], int]
    """Bytes of the next segment, of so many that wait."""
    hold: float = 0.0
    """Chance that a write waits a little, so that it travels together with the next ones."""


LARGE: Final = Cutting(cut_large)
"""Tiers B and C: all that waits, in one piece."""

SMALL: Final = Cutting(cut_small, hold=0.2)
"""Tier A: now and then one byte, now and then a few, else up to 4 KiB, and several writes in one segment: every
boundary is met at every place."""


@attrs.frozen
class LinkQuality:
    """One direction of one link. Times in nanoseconds."""

    delay: int = 10 * MILLISECOND
    jitter: int = 0
    """Up to so much more, uniform, drawn for each segment."""
    rate: float = 0.0
    """Bytes a second; 0 is without limit."""
    loss: float = 0.0
    """Chance that a segment or datagram is lost, 0 to 1."""
    duplicate: float = 0.0
    """Of datagrams."""
    reorder: float = 0.0
    """Chance that a datagram is held back so that later ones overtake it."""


MakeQuality = Callable[[random.Random, int, int], LinkQuality]
"""The quality of the link between two hosts, by their lanes; both directions have the same."""


def everywhere(quality: LinkQuality) -> MakeQuality:
    return lambda rng, one, other: quality


class SimLink:
    """One direction. `cuts` counts the faults that cut it now; `slow` multiplies its delay."""

    def __init__(self, quality: LinkQuality, rng: random.Random) -> None:
        self.quality = quality
        self.rng = rng
        self.cuts = 0
        self.slow = 1.0
        self.tamper: Callable[[bytes], bytes] | None = None
        """Changes bytes on their way."""
        self._free_at = 0

    def arrival(self, now: int, size: int) -> int | None:
        """When a segment sent now gets there, all its repetitions included; `None` when the sender gives up first."""
        quality = self.quality
        if quality.rate:
            now = self._free_at = max(now, self._free_at) + int(size * SECOND / quality.rate)
        at = now + self.delay()
        if quality.loss:
            wait = RTO
            while self.rng.random() < quality.loss:
                at += wait
                wait *= 2
                if at - now > GIVE_UP:
                    return None
        return at

    def delay(self) -> int:
        """Of a packet that takes no room: SYN, ACK, RST."""
        quality = self.quality
        return int(quality.delay * self.slow) + (self.rng.randrange(quality.jitter) if quality.jitter else 0)
