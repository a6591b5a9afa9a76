"""Plaintext out of sealed blobs, for readers of this node alone.

It is no blob: no member gets it, and no task. It is one of the temporary files, which each start removes; before that
it goes after a day, with a lost role, or when newer ones need its place.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from chorus.services.blobs.fetch import UnknownBlob
from chorus.services.blobs.serving import open_sized
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.services.blobs.files import Ingest
    from chorus.services.blobs.offload import Offload
    from chorus.services.blobs.sealing import Sealer
    from chorus.services.blobs.service import BlobService
    from chorus.services.keys.ports import Keyring

PLAIN_S = 86400.0
"""So that a download that was cut is not unsealed again; what is read longer is unsealed once a day."""
PLAIN_SHARE = 0.25
"""Of the quota of blobs: many reads take no task's place."""
SWEEP_S = 600.0


@attrs.frozen
class _Plain:
    ingest: Ingest
    since: float


class Plaintexts:
    """From `start` to `stop`, which removes them."""

    _log = Logger()

    def __init__(
        self, blobs: BlobService, sealer: Sealer, offload: Offload, clock: IReactorTime, keyring: Keyring
    ) -> None:
        self._blobs = blobs
        self._sealer = sealer
        self._offload = offload
        self._clock = clock
        self._keyring = keyring
        self._keys = frozenset(keyring.identities())
        self.losses = 0
        """Times that this node lost a key since the start."""
        self._held: dict[str, _Plain] = {}
        self._sweep = Periodic(clock, "removing plaintexts", self._remove_old, lambda: SWEEP_S)
        keyring.watch(self._roles_changed)

    def start(self) -> None:
        self._sweep.start()

    def stop(self) -> Deferred[None]:
        self._sweep.stop()
        return self._remove_before(math.inf)

    def path(self, sha256: str) -> Path | None:
        held = self._held.get(sha256)
        return None if held is None else held.ingest.path

    async def open(self, sha256: str) -> tuple[IO[bytes], int] | None:
        """The file, read to its end also when it is removed meanwhile, and its size; None where it is not here."""
        path = self.path(sha256)
        try:
            return None if path is None else await self._offload(lambda: open_sized(path))
        except FileNotFoundError:
            return None

    async def unseal(self, sealed: Path, key: str, sha256: str, size: int, losses: int) -> None:
        """Have the content of an age file here. Raises `SealBroken`, `BlobStoreFull`; `UnknownBlob` where a key was
        lost since there were so many `losses`."""
        await self._make_room(size)
        ingest = await self._sealer.unseal(sealed, key, sha256, size)
        if losses != self.losses or sha256 in self._held:
            await self._offload(ingest.abort)
            if losses != self.losses:
                raise UnknownBlob(sha256)
            return
        try:
            self._blobs.reserve(size)
        except BaseException:
            await self._offload(ingest.abort)
            raise
        self._held[sha256] = _Plain(ingest, self._clock.seconds())

    async def _make_room(self, size: int) -> None:
        most = PLAIN_SHARE * self._blobs.limits.max_store
        while self._held and sum(each.ingest.size for each in self._held.values()) + size > most:
            await self._remove(next(iter(self._held)))

    async def _remove(self, sha256: str) -> None:
        if (gone := self._held.pop(sha256, None)) is not None:
            self._blobs.reserve(-gone.ingest.size)
            await self._offload(gone.ingest.abort)

    def _remove_old(self) -> None:
        gone = self._remove_before(self._clock.seconds() - PLAIN_S)
        gone.addErrback(lambda failure: self._log.failure("an old plaintext stays until the next start", failure))

    def _remove_before(self, time: float) -> Deferred[None]:
        """All at once: one that cannot be removed keeps no other here, and none is found any more."""
        old = [sha256 for sha256, each in self._held.items() if each.since <= time]
        gone = [Deferred.fromCoroutine(self._remove(sha256)) for sha256 in old]
        return gatherResults(gone, consumeErrors=True).addCallback(lambda _: None)

    def _roles_changed(self) -> Deferred[None] | None:
        before, self._keys = self._keys, frozenset(self._keyring.identities())
        if before <= self._keys:
            return None
        self.losses += 1
        return self._remove_before(math.inf)
