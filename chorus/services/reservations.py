"""Places that an executor has promised: from its `accept` until the assignment comes (pure).

A promise binds at once, and for a short time: a scheduler needs a commit between `accept` and `assign`, no more. One
that was not made use of by then may still be assigned, but takes no place from other schedulers any more; a scheduler
that let one lapse lately gets none that binds. So no member holds the places of an executor by offering and never
assigning.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs

BINDING_S = 1.0
"""Seconds for which a promise takes a place from everybody. An assignment follows an `accept` by one commit and one way
over the network; on a slow machine it may come later, and finds its place taken only if others wanted it meanwhile."""
LAPSED_S = 60.0
"""Seconds for which a scheduler that did not assign what it was promised gets no promise that binds."""
MAX_LAPSED = 1000
"""Schedulers remembered for that, which are members."""


@attrs.define
class _Promise:
    peer: Hashable
    binds: bool
    accepted_at: float | None = None
    """None while the offer is still looked at."""


class Reservations:
    """Each under a key of the caller's, by its conversation. `places` is what the executor has in all."""

    def __init__(self, places: int) -> None:
        self._share = max(1, places // 2)
        """Promises of one peer that bind at once: two members are needed to take all places, if only for a second."""
        self._promises: dict[Hashable, _Promise] = {}
        self._lapsed: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._promises)

    def promise(self, key: Hashable, peer: Hashable, now: float) -> None:
        """Keep a place for `peer`, whose offer is looked at now."""
        lapsed = now - self._lapsed.get(peer, float("-inf")) < LAPSED_S
        self._promises[key] = _Promise(peer, not lapsed)

    def accept(self, key: Hashable, now: float) -> None:
        """The offer is accepted: its time begins. Raises KeyError."""
        self._promises[key].accepted_at = now

    def use(self, key: Hashable) -> float:
        """It is assigned: gone from here. When it was accepted. Raises KeyError."""
        return self._promises.pop(key).accepted_at or 0.0

    def give_up(self, key: Hashable, now: float) -> bool:
        """It comes to nothing. False when there is none under this key."""
        promise = self._promises.pop(key, None)
        if promise is not None and promise.accepted_at is not None:
            # Anew at the end: the oldest leave first.
            self._lapsed.pop(promise.peer, None)
            self._lapsed[promise.peer] = now
            if len(self._lapsed) > MAX_LAPSED:
                del self._lapsed[next(iter(self._lapsed))]
        return promise is not None

    def taken(self, now: float) -> int:
        """Places taken from everybody."""
        return sum(self._binding(now).values())

    def taken_from(self, peer: Hashable, now: float) -> int:
        """Places that `peer` cannot have: those that bind for others, and all that it was promised itself."""
        own = sum(promise.peer == peer for promise in self._promises.values())
        return own + sum(count for other, count in self._binding(now).items() if other != peer)

    def _binding(self, now: float) -> dict[Hashable, int]:
        found: dict[Hashable, int] = {}
        for promise in self._promises.values():
            if promise.binds and (promise.accepted_at is None or now - promise.accepted_at < BINDING_S):
                found[promise.peer] = min(self._share, found.get(promise.peer, 0) + 1)
        return found
