"""When a node looks at the holders of the blobs that it keeps up, and whether it is the one to act (pure).

Each holder looks by itself. Of those alive the one closest to the blob acts; each further one waits one more look, so
that one holder pushes, and another one only where the first cannot.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

import attrs

from chorus.backoff import Backoff
from chorus.identity import PeerId
from chorus.multiformats import multihash
from chorus.protocols.kad.keys import point_of

LOOK_S = 3600.0
"""Between two looks at a blob with enough holders; times 0.75 to 1.25."""
FIRST_S = 60.0
"""Within this time after a start all blobs are looked at, as fast as the turns allow."""
LEFT_S = 30.0
"""A holder that left is missed after this; most come back sooner."""
LOW: Backoff = Backoff(10.0, 600.0, 0.75, 1.25)
"""Between two looks at a blob with too few holders."""


def provider_key(sha256: str) -> bytes:
    """Multihash of a blob's root: its key in the DHT."""
    return multihash.encode(multihash.SHA2_256, bytes.fromhex(sha256))


def closest(sha256: str, peers: Iterable[PeerId]) -> list[PeerId]:
    """Peers by the XOR distance of their SHA-256 to the blob's, as the DHT counts it."""
    target = point_of(provider_key(sha256))
    return sorted(peers, key=lambda peer: point_of(peer.raw) ^ target)


@attrs.define
class _Kept:
    due: float
    holders: frozenset[PeerId] = frozenset()
    low: int = 0
    """Looks in a row that found too few holders."""


class Looks:
    """Times are seconds of a clock."""

    def __init__(self, own: PeerId, rng: random.Random) -> None:
        self._own = own
        self._rng = rng
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def low(self) -> int:
        """Blobs with too few holders at the last look."""
        return sum(each.low > 0 for each in self._kept.values())

    def add(self, sha256: str, now: float, within: float = 0.0) -> None:
        """Look at it at some time `within` so many seconds; one that is there keeps its time."""
        self._kept.setdefault(sha256, _Kept(now + self._rng.uniform(0, within)))

    def remove(self, sha256: str) -> None:
        self._kept.pop(sha256, None)

    def due(self, now: float, most: int) -> list[str]:
        """Blobs to look at now, the longest due first."""
        found = sorted((each.due, sha256) for sha256, each in self._kept.items() if each.due <= now)
        return [sha256 for _, sha256 in found[:most]]

    def acts(self, sha256: str, holders: Collection[PeerId]) -> bool:
        """True if this node is to push it, of `holders` (itself included) that are too few."""
        kept = self._kept.get(sha256)
        return closest(sha256, holders).index(self._own) <= (kept.low if kept is not None else 0)

    def seen(self, sha256: str, holders: Collection[PeerId], wanted: int, now: float) -> None:
        """A look found these holders."""
        kept = self._kept.get(sha256)
        if kept is None:
            return
        kept.low = kept.low + 1 if len(holders) < wanted else 0
        kept.holders = frozenset(holders)
        kept.due = now + (LOW.delay(kept.low, self._rng) if kept.low else LOOK_S * self._rng.uniform(0.75, 1.25))

    def left(self, peer: PeerId, now: float) -> None:
        """A peer is gone: what it held is looked at soon."""
        for kept in self._kept.values():
            if peer in kept.holders:
                kept.due = min(kept.due, now + LEFT_S)

    def joined(self, now: float) -> None:
        """Somebody came who may take what has too few holders."""
        for kept in self._kept.values():
            if kept.low:
                kept.due = min(kept.due, now + self._rng.uniform(0, LOW.first))
