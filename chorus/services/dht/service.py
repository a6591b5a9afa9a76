"""The node's part in the DHT: holds records, asks the servers closest to a key, answers others. Implements `Dht`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.protocols.kad.namespaces import Namespaces
from chorus.services.dht.held import HeldRecords
from chorus.services.dht.ports import Provider, RecordNotFound, Stored
from chorus.services.dht.settings import DhtSettings

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.kad.namespaces import Namespace
    from chorus.protocols.stream import Host
    from chorus.store.database import Store


class DhtService(Service):
    """`wall` gives Unix seconds; `namespaces` are those of values, by name."""

    _log = Logger()
    name = "dht"

    def __init__(
        self,
        host: Host,
        store: Store,
        clock: IReactorTime,
        *,
        namespaces: Mapping[str, Namespace],
        wall: Callable[[], float],
        rng: random.Random,
        settings: DhtSettings | None = None,
    ) -> None:
        self.settings = settings = settings or DhtSettings()
        self._host = host
        self._clock = clock
        self._rng = rng
        self.namespaces = Namespaces(namespaces)
        self.held = HeldRecords(store, self.namespaces, host.peer_id, wall, settings.quotas)

    # Life

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self.held.start())

    # Dht

    @property
    def servers(self) -> int:
        return 1

    def put(self, key: bytes, value: bytes) -> Deferred[Stored]:
        return Deferred.fromCoroutine(self._put(key, value))

    async def _put(self, key: bytes, value: bytes) -> Stored:
        await self.held.put(key, value)
        return Stored((self._host.peer_id,), 1)

    def get(
        self, key: bytes, *, quorum: int | None = None, accept: Callable[[bytes], bool] | None = None
    ) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._get(key, accept))

    async def _get(self, key: bytes, accept: Callable[[bytes], bool] | None) -> bytes:
        namespace = self.namespaces.of(key)
        values = [each.value for each in await self.held.get(key) if accept is None or accept(each.value)]
        if not values:
            raise RecordNotFound("no server that was asked holds this record")
        return values[namespace.select(key, values)]

    def holders(self, key: bytes) -> Deferred[dict[PeerId, bytes]]:
        return Deferred.fromCoroutine(self._holders(key))

    async def _holders(self, key: bytes) -> dict[PeerId, bytes]:
        values = [each.value for each in await self.held.get(key)]
        return {self._host.peer_id: values[self.namespaces.of(key).select(key, values)]} if values else {}

    def provide(self, key: bytes) -> Deferred[Stored]:
        return Deferred.fromCoroutine(self._provide(key))

    async def _provide(self, key: bytes) -> Stored:
        await self.held.provide(key, tuple(self._host.listen_addresses()))
        return Stored((self._host.peer_id,), 1)

    def withdraw(self, key: bytes) -> Deferred[None]:
        return Deferred.fromCoroutine(self.held.withdraw(key))

    def providers(self, key: bytes, most: int = 20) -> Deferred[tuple[Provider, ...]]:
        return Deferred.fromCoroutine(self._providers(key, most))

    async def _providers(self, key: bytes, most: int) -> tuple[Provider, ...]:
        return ()
