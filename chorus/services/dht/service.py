"""The node's part in the DHT: holds records, asks the servers closest to a key, answers others. Implements `Dht`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.observe.metrics import Histogram
from chorus.protocols.kad.lookup import ValueRules
from chorus.protocols.kad.messages import Contact, RequestKind
from chorus.protocols.kad.namespaces import Namespaces
from chorus.protocols.kad.params import KadParams
from chorus.protocols.kademlia import protocol_id
from chorus.services.dht.held import HeldRecords
from chorus.services.dht.keeper import DhtKeeper
from chorus.services.dht.ports import DhtUnavailable, Provider, RecordNotFound, Stored
from chorus.services.dht.servers import KnownServers
from chorus.services.dht.serving import KadServing
from chorus.services.dht.settings import DhtSettings
from chorus.services.dht.walks import Deliveries, Walks

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.kad.lookup import LookupOutcome
    from chorus.protocols.kad.namespaces import Namespace
    from chorus.protocols.stream import Connection, Host
    from chorus.store.database import Store

T = TypeVar("T")
MAX_CORRECTIONS = 100
"""Corrections of stale holders under way; further ones wait for the next get."""
FIRST_SERVER_S = 10.0
"""From the first peer until the health check misses a server: whoever connects first has not said yet what it serves,
and we look every 2 s."""
QUERY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


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
        self.queries: Counter[tuple[str, str]] = Counter()
        """By kind (put, get, holders, provide, providers) and outcome (`ok`, or the code of the error)."""
        self.seconds = Histogram(QUERY_SECONDS)
        self.namespaces = Namespaces(namespaces)
        self.held = HeldRecords(store, self.namespaces, host.peer_id, wall, settings.quotas)
        params = KadParams(quorum=settings.quorum)
        self.known = KnownServers(host, clock, protocol_id(settings.prefix), params)
        self._host = host
        self._clock = clock
        self._walks = Walks(host.peer_id, self.known, clock, rng)
        self._keeper = DhtKeeper(
            clock,
            self.known,
            self._walks,
            self.held,
            announcement=lambda: Contact(host.peer_id, tuple(host.listen_addresses())),
            serving=lambda: self.serving,
            holders=settings.holders or params.k,
        )
        self._server = KadServing(host, clock, self.known, self.held, self._keeper.received)
        self._corrections: set[bytes] = set()
        self._watching = False
        self._looked_from: float | None = None
        """When the first peer of this run was connected."""

    # Life

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self.held.start()
        if not self.settings.enabled:
            return
        if self.settings.mode == "server" or (self.settings.mode == "auto" and self._listens_to_others()):
            self._server.start()
        await self._keeper.start()
        if not self._watching:
            # A host's watchers stay; `running` decides.
            self._watching = True
            self._host.watch_peers(self._joined, self._left)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.settings.enabled:
            if self._server.on:
                self._server.stop()
            try:
                await self._keeper.stop()
            finally:
                self.known.stop()

    def _listens_to_others(self) -> bool:
        return any(not address.is_loopback for address in self._host.listen_addresses())

    def _joined(self, connection: Connection) -> None:
        if not self.running:
            return
        if self._looked_from is None:
            self._looked_from = self._clock.seconds()
        # Somebody reached this node, or is on the same machine and could.
        reached = connection.inbound or connection.remote_address.is_loopback
        if reached and self.settings.mode == "auto" and not self._server.on:
            self._server.start()
        self.known.met(connection)

    def _left(self, connection: Connection) -> None:
        if self.running:
            self.known.left(connection)

    # Read from outside

    @property
    def serving(self) -> bool:
        """True while this node holds and answers for others."""
        return self._server.on

    @property
    def servers(self) -> int:
        return (len(self.known) if self.settings.enabled else 0) + (self.serving or not self.settings.enabled)

    def trouble(self) -> str | None:
        """For the health check: one line where members were met or servers are remembered, and none can be asked."""
        if not self.settings.enabled:
            return None
        known = len(self.known.table)
        if self._keeper.unreachable or (not len(self.known) and (known or self._should_know())):
            return f"no server answers: {known} known"
        return None

    def _should_know(self) -> bool:
        return self._looked_from is not None and self._clock.seconds() - self._looked_from >= FIRST_SERVER_S

    def condition(self) -> str:
        """For the health check, while there is no trouble."""
        if not self.settings.enabled:
            return "off"
        live = len(self.known)
        return f"{live} {'server answers' if live == 1 else 'servers answer'}" if live else "alone"

    async def refresh(self) -> None:
        """Look for servers now."""
        self.known.look()
        await self._keeper.refresh()

    # Dht

    def put(self, key: bytes, value: bytes) -> Deferred[Stored]:
        return self._counted("put", self._put(key, value))

    async def _put(self, key: bytes, value: bytes) -> Stored:
        await self.held.put(key, value)
        return await self._sent(partial(self._keeper.publish, key, value))

    async def _sent(self, send: Callable[[int], Awaitable[Deliveries]]) -> Stored:
        """Send what is held here to others. A client's own copy counts only where there is no other: nobody can ask
        for it."""
        if not self.settings.enabled:
            return Stored((self._host.peer_id,), 1)
        wanted = max(1, min(self.settings.replication, self.servers))
        confirmed = (await send(wanted - self.serving)).confirmed
        own = (self._host.peer_id,) if self.serving or not confirmed else ()
        return Stored((*own, *confirmed), wanted)

    def get(self, key: bytes, *, quorum: int | None = None) -> Deferred[bytes]:
        return self._counted("get", self._get(key, quorum or self.settings.quorum))

    async def _get(self, key: bytes, quorum: int) -> bytes:
        namespace = self.namespaces.of(key)
        rules = self._rules(key, namespace)
        own = [] if self.settings.ask_others else [r.value for r in await self.held.get(key) if _passes(rules, r.value)]
        enough = quorum - bool(own)
        if not self.settings.enabled or enough <= 0:
            if not own:
                raise RecordNotFound("this record is not on this machine, and the DHT is switched off")
            return own[namespace.select(key, own)]
        outcome = await self._walks.find(RequestKind.GET_VALUE, key, rules=rules, enough=enough, paths=3)
        values = own if outcome.best is None else [*own, outcome.best]
        if not values:
            raise self._missing(outcome)
        best = values[namespace.select(key, values)]
        self._correct(key, best, own, outcome)
        return best

    def _rules(self, key: bytes, namespace: Namespace) -> ValueRules:
        return ValueRules(partial(self.held.check, key), partial(namespace.select, key))

    def _missing(self, outcome: LookupOutcome) -> ChorusError:
        if outcome.asked and not outcome.closest:
            return DhtUnavailable("no server of the DHT answered")
        return RecordNotFound("no server that was asked holds this record")

    def _correct(self, key: bytes, best: bytes, own: list[bytes], outcome: LookupOutcome) -> None:
        """Put the best value to those of the closest that have another or none, and here, in the background."""
        stale = outcome.stale(best, self.settings.holders)
        here = own and best not in own
        if (not stale and not here) or key in self._corrections or len(self._corrections) >= MAX_CORRECTIONS:
            return
        self._corrections.add(key)
        correction = Deferred.fromCoroutine(self._send_corrections(key, best, stale, bool(here), outcome.values))
        correction.addErrback(self._not_corrected)
        correction.addBoth(lambda _: self._corrections.discard(key))

    async def _send_corrections(
        self, key: bytes, best: bytes, stale: list[Contact], here: bool, others: Mapping[PeerId, bytes]
    ) -> None:
        if stale:
            teller = self.held.teller(best, await self.held.get(key), others)
            await self._walks.put(stale, key, best, len(stale), teller)
        if here:
            await self.held.correct(key, best)

    def _not_corrected(self, failure: Failure) -> None:
        if not isinstance(failure.value, ChorusError):
            self._log.failure("internal error in a correction", failure)

    def holders(self, key: bytes) -> Deferred[dict[PeerId, bytes]]:
        return self._counted("holders", self._holders(key))

    async def _holders(self, key: bytes) -> dict[PeerId, bytes]:
        namespace = self.namespaces.of(key)
        rules = self._rules(key, namespace)
        found: dict[PeerId, bytes] = {}
        if self.settings.enabled:
            found.update((await self._walks.find(RequestKind.GET_VALUE, key, rules=rules)).values)
        own = [record.value for record in await self.held.get(key) if _passes(rules, record.value)]
        if own and (self.serving or not found):
            found[self._host.peer_id] = own[namespace.select(key, own)]
        return found

    def provide(self, key: bytes) -> Deferred[Stored]:
        return self._counted("provide", self._provide(key))

    async def _provide(self, key: bytes) -> Stored:
        await self.held.provide(key, tuple(self._host.listen_addresses()))
        return await self._sent(partial(self._keeper.announce, key))

    def withdraw(self, key: bytes) -> Deferred[None]:
        return Deferred.fromCoroutine(self.held.withdraw(key))

    def providers(self, key: bytes, most: int = 20) -> Deferred[tuple[Provider, ...]]:
        return self._counted("providers", self._providers(key, most))

    async def _providers(self, key: bytes, most: int) -> tuple[Provider, ...]:
        found = {each.peer: each for each in await self.held.providers(key, most)}
        if self.settings.enabled and len(found) < most:
            outcome = await self._walks.find(RequestKind.GET_PROVIDERS, key, enough=most)
            if outcome.asked and not outcome.closest and not found:
                raise DhtUnavailable("no server of the DHT answered")
            for contact in outcome.providers:
                found.setdefault(contact.peer, Provider(contact.peer, contact.addresses))
        return tuple(found.values())[:most]

    def _counted(self, kind: str, query: Coroutine[Any, Any, T]) -> Deferred[T]:
        began = self._clock.seconds()

        def ended(result: T | Failure) -> T | Failure:
            self.seconds.observe(self._clock.seconds() - began)
            outcome = "ok"
            if isinstance(result, Failure):
                outcome = result.value.code if isinstance(result.value, ChorusError) else "internal"
            self.queries[kind, outcome] += 1
            return result

        counted: Deferred[T] = Deferred.fromCoroutine(query)
        counted.addBoth(ended)
        return counted


def _passes(rules: ValueRules, value: bytes) -> bool:
    try:
        rules.check(value)
    except ChorusError:
        return False
    return True
