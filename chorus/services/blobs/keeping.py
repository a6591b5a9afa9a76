"""Takes in the blobs that other members push: fetched from them, verified, pinned, and bounded for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from chorus.protocols.blobs import DropRequest
from chorus.services.blobs.fetch import BlobTooLarge, BlobUnavailable, UnknownBlob
from chorus.services.blobs.files import BlobStoreFull
from chorus.services.blobs.pins import PUSHED
from chorus.services.blobs.sealing import SealBroken, check_sealed
from chorus.store.pins import Pin, PinQuota

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.protocols.blobs import KeepRequest, Status
    from chorus.services.blobs.fetch import FetchContext
    from chorus.services.blobs.pins import Pins
    from chorus.services.blobs.serving import BlobCounters, BlobLimits
    from chorus.services.blobs.transfers import Transfers

MAX_KEEPS = 4
"""Pushed blobs on their way here at once: half of all fetches, so that tasks get theirs."""
MAX_KEEPS_PER_PEER = 1
"""So that it takes four slow members, not two, to hold all places; an honest one pushes one blob after the other."""
KEPT_SHARE = 0.5
"""Of the quota of all blobs, for what members push: the rest is for this node's own tasks, however many push."""
DROPPED_S = 86400.0
"""From a peer's word that it needs a blob no longer to its removal: readers may have its id from an older record."""
MAX_PINS_PER_PEER = 100_000
"""Of small blobs, whose bytes alone would be no bound of their rows."""


class KeptShelf(Protocol):
    """The blobs of the node, as pushes need them."""

    def size_of(self, sha256: str) -> int | None: ...

    def remove_unused(self, sha256: str, before: float, named: Callable[[], bool]) -> Deferred[bool]: ...


class Keeping:
    """`wall` gives Unix seconds, which end the pins of pushes that were cut off."""

    def __init__(
        self,
        context: FetchContext,
        transfers: Transfers,
        shelf: KeptShelf,
        pins: Pins,
        limits: BlobLimits,
        counters: BlobCounters,
        wall: Callable[[], float],
    ) -> None:
        self._context = context
        self._transfers = transfers
        self._shelf = shelf
        self._pins = pins
        self._limits = limits
        self._counters = counters
        self._wall = wall
        self._running: Counter[tuple[PeerId, str]] = Counter()
        """Requests by peer and blob; those for the same one share its transfer and its place."""

    async def keep(self, peer: PeerId, request: KeepRequest | DropRequest) -> Status:
        """`ok` once the blob is durable and pinned here, or the peer's pin has an end. Raises what is wrong with the
        disk or the store."""
        if isinstance(request, DropRequest):
            if self._pins.lasting(request.sha256, PUSHED, str(peer)):
                await self._pins.end(request.sha256, PUSHED, str(peer), self._wall() + DROPPED_S)
            return "ok"
        if request.size > self._limits.max_blob:
            return "full"
        place = (peer, request.sha256)
        if place not in self._running:
            theirs = sum(each == peer for each, _ in self._running)
            if len(self._running) >= MAX_KEEPS or theirs >= MAX_KEEPS_PER_PEER:
                return "busy"
        self._running[place] += 1
        try:
            return await self._keep(peer, request)
        finally:
            self._running[place] -= 1
            if not self._running[place]:
                del self._running[place]

    async def _keep(self, peer: PeerId, request: KeepRequest) -> Status:
        if (
            self._pins.lasting(request.sha256, PUSHED, str(peer))
            and self._shelf.size_of(request.sha256) == request.size
        ):
            return "ok"
        if self._pins.pushed_beside(request.sha256) + request.size > KEPT_SHARE * self._limits.max_store:
            return "full"
        # Pinned before it comes: the quota is taken by the first of two pushes, and no removal comes between.
        guard = Pin(request.sha256, PUSHED, str(peer), request.size, self._wall() + request.limit_s)
        quota = PinQuota(self._limits.max_kept_per_peer, MAX_PINS_PER_PEER)
        if not await self._pins.put(guard, quota):
            return "full"
        begun, brought = self._wall(), self._shelf.size_of(request.sha256) is None
        refusal = await self._fetch(peer, request)
        if refusal is None:
            await self._pins.put(attrs.evolve(guard, until=None), sealed=True)
            self._counters.kept += 1
            return "ok"
        if not self._pins.lasting(request.sha256, PUSHED, str(peer)):
            await self._pins.drop(request.sha256, PUSHED, str(peer))
        if refusal == "bad" and brought:
            # It would stay uncounted. Whoever fetched it for a use of their own meanwhile keeps it.
            await self._shelf.remove_unused(request.sha256, begun, lambda: False)
        return refusal

    async def _fetch(self, peer: PeerId, request: KeepRequest) -> Status | None:
        fetching = Deferred.fromCoroutine(self._transfers.fetch(request.sha256, request.size, [peer]))
        try:
            path = await fetching.addTimeout(request.limit_s, self._context.clock)
            # A plain blob that is here would be announced and pushed on, were it taken for a sealed one.
            await self._context.offload(lambda: check_sealed(path))
        except BlobStoreFull:
            return "full"
        except (BlobTooLarge, SealBroken):
            return "bad"
        except (UnknownBlob, BlobUnavailable, DeferredTimeout, CancelledError):
            return "unknown"
        return None
