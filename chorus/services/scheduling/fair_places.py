"""A bounded number of places that many ask for: so many in all, so many for one peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId


class FairPlaces:
    """`most` places, `each` of them for one peer. Whoever waits begins in a later turn of the reactor, in order; a peer
    that has its share is passed over."""

    def __init__(self, clock: IReactorTime, most: int, each: int) -> None:
        self._turn = Timer(clock, self._admit)
        self._most = most
        self._each = each
        self._taken: Counter[PeerId] = Counter()
        self._waiting: dict[Deferred[None], PeerId] = {}

    @property
    def taken(self) -> int:
        return self._taken.total()

    @asynccontextmanager
    async def place(self, peer: PeerId) -> AsyncIterator[None]:
        """Hold a place while this lasts; entering waits for one and may be cancelled."""
        if self._waiting or not self._has_room(peer):
            waiting: Deferred[None] = Deferred(self._given_up)
            self._waiting[waiting] = peer
            self._soon()
            await waiting
        else:
            self._taken[peer] += 1
        try:
            yield
        finally:
            self._taken[peer] -= 1
            if not self._taken[peer]:
                del self._taken[peer]
            self._soon()

    def _given_up(self, waiting: Deferred[None]) -> None:
        self._waiting.pop(waiting, None)

    def _has_room(self, peer: PeerId) -> bool:
        return self.taken < self._most and self._taken.get(peer, 0) < self._each

    def _soon(self) -> None:
        if self._waiting and not self._turn.armed:
            self._turn.arm(0)

    def _admit(self) -> None:
        for waiting, peer in list(self._waiting.items()):
            if self._has_room(peer) and waiting in self._waiting:
                del self._waiting[waiting]
                self._taken[peer] += 1
                waiting.callback(None)
