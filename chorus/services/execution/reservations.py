"""Places that an executor has promised: from its `accept` until the assignment comes (pure).

A promise binds at once, and for a short time: a scheduler needs a commit between `accept` and `assign`, no more. One
that was not made use of by then may still be assigned, but takes no place from other schedulers any more. It is used
by a run, of commands that come to their own end or are stopped after a while; all else that becomes of it is a lapse,
and a scheduler with a lapse lately gets none that binds. The time for which its promises bind is bounded as well,
whatever they lead to. So no member holds the places of an executor without running anything there.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs

from chorus.bounded import Bounded

BINDING_S = 1.0
"""Seconds for which a promise takes a place from everybody. An assignment follows an `accept` by one commit and one way
over the network; on a slow machine it may come later, and finds its place taken only if others wanted it meanwhile."""
LAPSED_S = 60.0
"""Seconds for which a scheduler that made nothing of what it was promised gets no promise that binds."""
BOUND_S = 10.0
"""Seconds for which the promises of a scheduler may bind at a stretch, all of them together and for each place of its
share: a hundred tasks at once, with a tenth of a second for each commit."""
BOUND_RATE = 0.1
"""The part of all time for which they may bind in the long run, for each place of its share: ten tasks a second, with
a hundredth of a second for each commit."""
MAX_SCHEDULERS = 1000
"""Schedulers remembered for that, which are members."""


@attrs.define
class _Promise:
    peer: Hashable
    accepted_at: float | None = None
    """None while the offer is still looked at, which takes no place from others."""
    binds: bool = False


@attrs.define
class _Scheduler:
    lapsed_at: float = float("-inf")
    bound: float = 0.0
    """Seconds for which its promises have bound or may still, less what was forgiven until `counted_at`."""
    counted_at: float = 0.0


class Reservations:
    """Each under a key of the caller's, by its conversation. `places` is what the executor has in all."""

    def __init__(self, places: int) -> None:
        self._share = max(1, places // 2)
        """Promises of one peer that bind at once: two members are needed to take all places, if only for a second."""
        self._promises: dict[Hashable, _Promise] = {}
        self._schedulers: Bounded[Hashable, _Scheduler] = Bounded(MAX_SCHEDULERS)

    def __len__(self) -> int:
        return len(self._promises)

    def promise(self, key: Hashable, peer: Hashable) -> None:
        """An offer of `peer` is looked at now."""
        self._promises[key] = _Promise(peer)

    def accept(self, key: Hashable, now: float) -> None:
        """The offer is accepted: its time begins. Raises KeyError."""
        promise = self._promises[key]
        promise.accepted_at = now
        scheduler = self._scheduler(promise.peer, now)
        promise.binds = now - scheduler.lapsed_at >= LAPSED_S and scheduler.bound + BINDING_S <= BOUND_S * self._share
        if promise.binds:
            scheduler.bound += BINDING_S

    def use(self, key: Hashable, now: float) -> float:
        """It is assigned: gone from here. When it was accepted. Raises KeyError."""
        promise = self._promises.pop(key)
        self._settle(promise, now)
        return promise.accepted_at or 0.0

    def give_up(self, key: Hashable, now: float) -> bool:
        """It comes to nothing. False when there is none under this key."""
        promise = self._promises.pop(key, None)
        if promise is not None and promise.accepted_at is not None:
            self._settle(promise, now)
            self.lapse(promise.peer, now)
        return promise is not None

    def lapse(self, peer: Hashable, now: float) -> None:
        """A promise to `peer` was used, and has led to no run."""
        self._scheduler(peer, now).lapsed_at = now

    def taken(self, now: float) -> int:
        """Places taken from everybody."""
        return sum(self._binding(now).values())

    def taken_from(self, peer: Hashable, now: float, but: Hashable = None) -> int:
        """Places that `peer` cannot have: those that bind for others, and all that it was promised itself, without the
        one under the key `but`."""
        own = sum(promise.peer == peer for key, promise in self._promises.items() if key != but)
        return own + sum(count for other, count in self._binding(now).items() if other != peer)

    def _binding(self, now: float) -> dict[Hashable, int]:
        found: dict[Hashable, int] = {}
        for promise in self._promises.values():
            if promise.binds and promise.accepted_at is not None and now - promise.accepted_at < BINDING_S:
                found[promise.peer] = min(self._share, found.get(promise.peer, 0) + 1)
        return found

    def _settle(self, promise: _Promise, now: float) -> None:
        """Count the time that it did bind, in place of all that it might have."""
        if promise.binds and promise.accepted_at is not None:
            unused = max(0.0, BINDING_S - (now - promise.accepted_at))
            scheduler = self._scheduler(promise.peer, now)
            scheduler.bound = max(0.0, scheduler.bound - unused)

    def _scheduler(self, peer: Hashable, now: float) -> _Scheduler:
        """Anew at the end: the oldest leave first."""
        scheduler = self._schedulers.get(peer) or _Scheduler(counted_at=now)
        forgiven = (now - scheduler.counted_at) * BOUND_RATE * self._share
        scheduler.bound = max(0.0, scheduler.bound - forgiven)
        scheduler.counted_at = now
        self._schedulers.put(peer, scheduler)
        return scheduler
