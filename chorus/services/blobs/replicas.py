"""Keeps sealed blobs on several machines: seals, announces, pushes, looks at their holders and pushes again.

Implements `Replicas`. Every node does so for each sealed blob that it has pinned, whether it made it or keeps it for
others (`looks` says which of the holders acts).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.protocols.blobs import PROTOCOL
from chorus.services.blobs.fetch import MAX_HOLDERS, BlobUnavailable, UnknownBlob
from chorus.services.blobs.looks import FIRST_S, Looks, closest, provider_key
from chorus.services.blobs.pins import PUSHED
from chorus.services.blobs.ports import SealedBlob
from chorus.services.blobs.pushing import Pushing
from chorus.services.blobs.sharing import BlobLock, detached
from chorus.services.dht.ports import Provider, Stored
from chorus.store.pins import Pin
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Connection, Host
    from chorus.services.blobs.plaintexts import Plaintexts
    from chorus.services.blobs.sealing import Sealer
    from chorus.services.blobs.service import BlobService
    from chorus.services.dht.ports import Dht

T = TypeVar("T")

TURN_S = 2.0
"""Between two rounds of looks."""
MAX_LOOKS = 8
"""Blobs looked at in one round: 4 a second, so that a node with 10,000 blobs is no storm after its start."""
MAX_TRIED = 16
"""Members asked to keep one blob in one go."""
SWEEP_S = 3600.0
"""Between two removals of blobs that members gave up."""
SPARE = 3
"""Members beyond the wanted ones that are asked whether they have it."""


@attrs.frozen
class ReplicaContext:
    """The parts below."""

    blobs: BlobService
    sealer: Sealer
    plaintexts: Plaintexts
    host: Host
    dht: Dht
    clock: IReactorTime
    rng: random.Random
    wanted: int
    """Machines that are to have each blob; all members where there are fewer."""


class ReplicaService(Service):
    name = "replicas"
    _log = Logger()

    def __init__(self, context: ReplicaContext) -> None:
        self._context = context
        self._own = context.host.peer_id
        self._blobs = context.blobs
        self._pins = context.blobs.pins
        self.plaintexts = context.plaintexts
        self.pushing = Pushing(context.host, context.clock)
        self.looks = Looks(self._own, context.rng)
        self._round = Periodic(context.clock, "looking at holders of blobs", self._look_at_due, lambda: TURN_S)
        self._sweep = Periodic(context.clock, "removing blobs given up", self._remove_given_up, lambda: SWEEP_S)
        self._locks: dict[str, BlobLock] = {}
        self._announced: set[str] = set()
        self._brought: set[str] = set()
        self._users: Counter[str] = Counter()
        self._looking: dict[str, Deferred[None]] = {}
        self._pins.watch(self._pin_changed)
        context.host.watch_peers(self._peer_joined, self._peer_left)

    # Life

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        for sha256 in self._pins.kept_up():
            self.looks.add(sha256, self._context.clock.seconds(), FIRST_S)
        self._round.start()
        self._sweep.start()
        self.plaintexts.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._round.stop()
        self._sweep.stop()
        self._context.sealer.stop()
        for looking in list(self._looking.values()):
            looking.cancel()
        return self.plaintexts.stop()

    # Replicas

    def seal_file(self, path: Path) -> Deferred[SealedBlob]:
        return detached(self._seal_file(path))

    async def _seal_file(self, path: Path) -> SealedBlob:
        sealed = await self._context.sealer.seal(path)
        await self._pins.mark_sealed(sealed.stored)
        return sealed

    def keep_sealed(self, data: bytes) -> Deferred[str]:
        return detached(self._keep_sealed(data))

    async def _keep_sealed(self, data: bytes) -> str:
        stored = (await self._blobs.put_bytes(data)).sha256
        await self._pins.mark_sealed(stored)
        return stored

    def replicate(
        self, stored: str, reason: str, holders: Sequence[PeerId] = (), most: int | None = None
    ) -> Deferred[Stored]:
        return Deferred.fromCoroutine(self._replicate(stored, reason, holders, most))

    async def _replicate(self, stored: str, reason: str, holders: Sequence[PeerId], most: int | None) -> Stored:
        path = await self._fetch(stored, holders, most)
        await self.check_sealed(stored, path)
        if not self._pins.lasting(stored, reason, ""):
            await self._pins.put(Pin(stored, reason, "", self._size(stored) or 0), sealed=True)
        async with self._lock(stored):
            self._announce(stored)
            return await self._spread(stored, [self._own])

    def holders(self, stored: str) -> Deferred[Stored]:
        return Deferred.fromCoroutine(self._holders(stored))

    async def _holders(self, stored: str) -> Stored:
        size = self._size(stored)
        if size is None:
            return Stored((), self._wanted())
        near = closest(stored, self._members())[: self._wanted() + SPARE]
        asked = list(dict.fromkeys([*await self._providers(stored), *near]))
        asks = [Deferred.fromCoroutine(self.pushing.has(peer, stored, size)) for peer in asked]
        holders = [peer for peer, has in zip(asked, await gatherResults(asks, consumeErrors=True), strict=True) if has]
        return Stored((self._own, *holders), self._wanted())

    def unseal(self, stored: str, key: str, sha256: str, size: int) -> Deferred[Path]:
        return detached(self._unseal(stored, key, sha256, size))

    async def _unseal(self, stored: str, key: str, sha256: str, size: int) -> Path:
        texts = self.plaintexts
        path = self._blobs.path_of(sha256) or texts.path(sha256)
        if path is None:
            losses = texts.losses
            await self.passing(stored, lambda sealed: texts.unseal(sealed, key, sha256, size, losses))
            path = texts.path(sha256)
        if path is None:
            raise UnknownBlob(sha256)
        return path

    def pin(self, sha256: str, reason: str, until: float | None = None) -> Deferred[None]:
        pin = Pin(sha256, reason, "", self._size(sha256) or 0, until)
        return Deferred.fromCoroutine(self._pins.put(pin)).addCallback(lambda _: None)

    def unpin(self, sha256: str, reason: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._unpin(sha256, reason))

    async def _unpin(self, sha256: str, reason: str) -> None:
        await self._pins.drop(sha256, reason)
        await self._let_go(sha256)

    async def _let_go(self, sha256: str) -> None:
        """Remove a sealed blob that nothing pins, and tell those that may keep it for this node."""
        if self._pins.is_sealed(sha256) and sha256 not in self._pins:
            self._announced.discard(sha256)
            await self._quietly(self._context.dht.withdraw(provider_key(sha256)))
            await self._blobs.remove_unused(sha256, math.inf, lambda: sha256 in self._users)
            for peer in closest(sha256, self._members())[:MAX_TRIED]:
                Deferred.fromCoroutine(self.pushing.drop(peer, sha256))

    def fetch(self, stored: str, holders: Sequence[PeerId] = ()) -> Deferred[Path]:
        return Deferred.fromCoroutine(self._fetch(stored, holders))

    # Others

    async def _fetch(self, stored: str, holders: Sequence[PeerId], size: int | None = None) -> Path:
        limit = self._blobs.limits.max_blob if size is None else size
        if self._size(stored) is not None or holders:
            try:
                return await self._blobs.fetch(stored, limit, holders)
            except (UnknownBlob, BlobUnavailable) as problem:
                self._log.debug("blob {stored} is sought elsewhere: {problem}", stored=stored, problem=str(problem))
        near = closest(stored, self._members())[:MAX_HOLDERS]
        announced = (await self._providers(stored))[:MAX_HOLDERS]
        turns = zip_longest(near, announced)
        return await self._blobs.fetch(stored, limit, [peer for turn in turns for peer in turn if peer is not None])

    async def check_sealed(self, stored: str, path: Path) -> None:
        """Raises `SealBroken` for a blob that is no age file."""
        if not self._pins.is_sealed(stored):
            await self._context.sealer.check(path)

    async def passing(self, stored: str, use: Callable[[Path], Awaitable[T]], size: int | None = None) -> T:
        """Use the file of a sealed blob. One that was fetched for that alone is removed after its last use: it has no
        pin, and would be taken for a copy that lasts."""
        if self._size(stored) is None:
            self._brought.add(stored)
        self._users[stored] += 1
        try:
            return await use(await self._fetch(stored, (), size))
        finally:
            self._users[stored] -= 1
            if not self._users[stored]:
                del self._users[stored]
                if stored in self._brought:
                    self._brought.discard(stored)
                    await self._blobs.remove_unused(stored, math.inf, lambda: stored in self._users)

    def _lock(self, stored: str) -> BlobLock:
        return self._locks.setdefault(stored, BlobLock(stored, self._locks))

    def _size(self, stored: str) -> int | None:
        return self._blobs.size_of(stored)

    def _members(self) -> list[PeerId]:
        """Connected ones that speak the protocol of blobs."""
        host = self._context.host
        connected = (connection.peer_id for connection in host.connections())
        return [peer for peer in connected if PROTOCOL in host.protocols_of(peer)]

    def _wanted(self) -> int:
        return min(self._context.wanted, 1 + len(self._members()))

    async def _providers(self, stored: str) -> list[PeerId]:
        """Announced holders that are connected, or were reached now."""
        found = await self._quietly(self._context.dht.providers(provider_key(stored)))
        others = [each for each in found or () if each.peer != self._own]
        reaching = [Deferred.fromCoroutine(self._reach(each)) for each in others]
        reached = await gatherResults(reaching, consumeErrors=True)
        return [each.peer for each, there in zip(others, reached, strict=True) if there]

    async def _reach(self, provider: Provider) -> bool:
        host = self._context.host
        if host.connection(provider.peer) is None and provider.addresses:
            await self._quietly(host.dial(provider.peer, provider.addresses))
        return host.connection(provider.peer) is not None

    def _announce(self, stored: str) -> None:
        """Once in a process; the DHT repeats it. Nobody waits for it."""
        if stored not in self._announced:
            self._announced.add(stored)
            self._context.dht.provide(provider_key(stored)).addErrback(self._not_announced, stored)

    def _not_announced(self, failure: Failure, stored: str) -> None:
        self._announced.discard(stored)
        if not isinstance(failure.value, ChorusError | CancelledError):
            self._log.failure("internal error in announcing a blob", failure)

    async def _spread(self, stored: str, holders: list[PeerId]) -> Stored:
        """Push it until as many as wanted have it, or nobody more takes it."""
        size, wanted = self._size(stored), self._wanted()
        found = list(holders)
        candidates = iter([peer for peer in closest(stored, self._members()) if peer not in found][:MAX_TRIED])

        async def to_one() -> None:
            for peer in candidates:
                if await self.pushing.push(peer, stored, size or 0):
                    found.append(peer)
                    return

        if size is not None:
            pushes = [Deferred.fromCoroutine(to_one()) for _ in range(wanted - len(found))]
            await gatherResults(pushes, consumeErrors=True)
        self.looks.seen(stored, found, wanted, self._context.clock.seconds())
        return Stored(tuple(found), wanted)

    # Looks

    def _look_at_due(self) -> None:
        room = MAX_LOOKS - len(self._looking)
        due = self.looks.due(self._context.clock.seconds(), MAX_LOOKS * 2)
        for sha256 in [each for each in due if each not in self._looking][: max(0, room)]:
            self._looking[sha256] = looking = Deferred.fromCoroutine(self._look(sha256))
            looking.addBoth(self._looked, sha256)

    async def _look(self, stored: str) -> None:
        async with self._lock(stored):
            if self._size(stored) is None:
                await self.fetch(stored)
            self._announce(stored)
            found = await self._holders(stored)
            if len(found.holders) < found.wanted and self.looks.acts(stored, found.holders):
                await self._spread(stored, list(found.holders))
            else:
                self.looks.seen(stored, found.holders, found.wanted, self._context.clock.seconds())

    def _looked(self, result: object, sha256: str) -> None:
        self._looking.pop(sha256, None)
        if not isinstance(result, Failure):
            return
        self.looks.seen(sha256, (), self._wanted(), self._context.clock.seconds())
        if isinstance(result.value, ChorusError):
            self._log.info("blob {sha256} could not be kept up: {problem}", sha256=sha256, problem=str(result.value))
        elif self.running:
            self._log.failure("internal error in keeping up a blob", result)

    def _remove_given_up(self) -> None:
        for sha256, by in self._pins.ended():
            Deferred.fromCoroutine(self._give_up(sha256, by)).addErrback(self._not_given_up, sha256)

    async def _give_up(self, sha256: str, by: str) -> None:
        await self._pins.drop(sha256, PUSHED, by)
        await self._let_go(sha256)

    def _not_given_up(self, failure: Failure, sha256: str) -> None:
        self._log.failure("the blob {sha256}, which its members need no longer, stays", failure, sha256=sha256)

    def _pin_changed(self, sha256: str) -> None:
        if self._pins.is_kept_up(sha256):
            self.looks.add(sha256, self._context.clock.seconds(), FIRST_S)
            self._announce(sha256)
        else:
            self.looks.remove(sha256)

    def _peer_joined(self, connection: Connection) -> None:
        self.looks.joined(self._context.clock.seconds())

    def _peer_left(self, connection: Connection) -> None:
        self.looks.left(connection.peer_id, self._context.clock.seconds())

    async def _quietly(self, asked: Deferred[T]) -> T | None:
        """None where the DHT or a dial fails: members that are connected are asked anyway."""
        try:
            return await asked
        except ChorusError as problem:
            self._log.debug("{problem}", problem=str(problem))
            return None
