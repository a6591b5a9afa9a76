"""Keeps the table and the records alive: refresh, expiry, republishing, and copies where holders are missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.messages import Contact
from chorus.protocols.kad.replication import (
    PUBLISH_AGAIN_S,
    SWEEP_S,
    Copies,
    received,
    replicated,
    replication,
    restored,
)
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.services.dht.held import HeldRecords
    from chorus.services.dht.servers import KnownServers
    from chorus.services.dht.walks import Deliveries, Walks

LOOK_S = 2.0
"""Between two looks at connected peers: they may have begun to serve since they came."""
TIDY_S = 60.0
"""Between two rounds of expiry, probes and republishing."""
REFRESH_S = 600.0
REPLICATE_EVERY_S = 10.0
"""A part of the records is looked at in each turn, all of them within `SWEEP_S`."""
ANNOUNCE_AGAIN_S = 12 * 3600.0
"""Between two announcements of one provider (rust's number); it expires after 48 h."""
MAX_SWEPT = 500
"""Expired rows deleted in one transaction; the next round comes soon."""
MAX_PUBLISHED = 100
"""Own records and announcements put again in one round."""
LEAST_PAGE = 20


class Upkeep:
    """One periodic piece of work that may take longer than its interval: it never runs twice at the same time, and its
    errors are logged."""

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, name: str, body: Callable[[], Coroutine[Any, Any, None]], every_s: float
    ) -> None:
        self._name = name
        self._body = body
        self._running: Deferred[None] | None = None
        self.timer = Periodic(clock, name, self.run, lambda: every_s)

    def run(self) -> None:
        if self._running is None:
            running = self._running = Deferred.fromCoroutine(self._body())
            running.addBoth(self._ended)

    def _ended(self, result: object) -> None:
        self._running = None
        if isinstance(result, Failure):
            if not isinstance(result.value, (ChorusError, CancelledError)):
                self._log.failure("internal error in {name}", result, name=self._name)
            else:
                self._log.debug("{name}: {error}", name=self._name, error=result.value)

    def stop(self) -> None:
        self.timer.stop()
        if self._running is not None:
            self._running.cancel()


class DhtKeeper:
    """Works from `start` to `stop`. `announcement` is this node as a provider; `serving` is true while it holds records
    for others, `holders` how many servers get each record."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        servers: KnownServers,
        walks: Walks,
        held: HeldRecords,
        *,
        announcement: Callable[[], Contact],
        serving: Callable[[], bool],
        holders: int,
    ) -> None:
        self.unreachable = False
        """True if servers were known at the last refresh, and none answered."""
        self._clock = clock
        self._servers = servers
        self._walks = walks
        self._held = held
        self._announcement = announcement
        self._serving = serving
        self._holders = holders
        self._copies: dict[bytes, Copies] = {}
        self._sets: dict[frozenset[PeerId], frozenset[PeerId]] = {}
        """One object for equal sets of holders; a small mesh has few."""
        self._published: list[tuple[bytes, bytes]] = []
        """Keys and values of own records that were put since the last note of it."""
        self._after = b""
        self._size = 0
        self._upkeep = (
            Upkeep(clock, "refreshing the table of the DHT", self.refresh, REFRESH_S),
            Upkeep(clock, "expiring records", self._tidy, TIDY_S),
            Upkeep(clock, "republishing records", self.republish, TIDY_S),
            Upkeep(clock, "replicating records", self.replicate, REPLICATE_EVERY_S),
        )
        self._looks = Periodic(clock, "looking for servers of the DHT", self._look, lambda: LOOK_S)

    async def start(self) -> None:
        contacts = await self._held.load_peers()
        self._servers.table.load(contacts, self._clock.seconds())
        for upkeep in self._upkeep:
            upkeep.timer.start()
        self._looks.start(0.0)

    async def stop(self) -> None:
        self._looks.stop()
        for upkeep in self._upkeep:
            upkeep.stop()
        try:
            await self._note_published()
            await self._held.save_peers(self._servers.table.dump())
        except ChorusError as error:
            self._log.warn("the state of the DHT is not kept: {error}", error=error)

    # The table

    def _look(self) -> None:
        self._servers.look()
        self._servers.trim()
        size = len(self._servers.table)
        if size > self._size:
            self._upkeep[0].timer.run()
        self._size = size

    async def refresh(self) -> None:
        asked = bool(self._servers.nearest(self._servers.table.point, 1))
        outcome = await self._walks.refresh()
        self.unreachable = asked and not outcome.closest

    async def _tidy(self) -> None:
        more = True
        while more:
            swept = await self._held.sweep(MAX_SWEPT)
            for key in swept:
                self._copies.pop(key, None)
            more = len(swept) == MAX_SWEPT
        for contact in self._servers.table.stale(self._clock.seconds()):
            self._servers.probe(contact)
        await self._held.save_peers(self._servers.table.dump())

    # Copies

    def received(self, key: bytes) -> None:
        """A peer put the record here, as it does to all closest servers."""
        self._remember(key, received(self._servers.table, point_of(key), self._holders, self._clock.seconds()))

    def sent(self, key: bytes, contacts: tuple[Contact, ...], deliveries: Deliveries) -> None:
        """This node put the record to those."""
        known = self._copies.get(key) or restored(self._servers.table.own, key, self._clock.seconds())
        # A server that refuses has a better one, or no room: it is asked again in an hour.
        settled = frozenset((*deliveries.confirmed, *deliveries.refused))
        table, now = self._servers.table, self._clock.seconds()
        self._remember(key, replicated(table, point_of(key), known, list(contacts), settled, self._holders, now))

    def _remember(self, key: bytes, copies: Copies) -> None:
        if copies.holders not in self._sets:
            if len(self._sets) > 1000:
                self._sets.clear()
            self._sets[copies.holders] = copies.holders
        self._copies[key] = Copies(copies.put_at, self._sets[copies.holders])

    async def replicate(self) -> None:
        """Look at the next part of the records, and send copies where they are missing."""
        if not self._serving() or not len(self._servers):
            return
        most = max(LEAST_PAGE, math.ceil(self._held.rows * REPLICATE_EVERY_S / SWEEP_S))
        page = await self._held.page(self._after, most)
        self._after = page[-1].key if len(page) >= most else b""
        for record in page:
            if self._held.ends_soon(record):
                continue
            now, point = self._clock.seconds(), point_of(record.key)
            copies = self._copies.get(record.key)
            if copies is None:
                copies = self._copies[record.key] = restored(self._servers.table.own, record.key, now)
            contacts = replication(self._servers.table, record.key, point, copies, self._holders, now)
            if contacts:
                deliveries = await self._walks.put(
                    contacts, record.key, record.value, len(contacts), self._held.publisher(record)
                )
                self.sent(record.key, tuple(contacts), deliveries)

    # What this node published

    async def republish(self) -> None:
        """Put own records, and announce own blobs, whose time has come."""
        await self._note_published()
        if not len(self._servers):
            return
        for record in await self._held.unpublished(PUBLISH_AGAIN_S, MAX_PUBLISHED):
            await self.publish(record.key, record.value, 1)
        for provider in await self._held.unannounced(ANNOUNCE_AGAIN_S, MAX_PUBLISHED):
            await self.announce(provider.key, 1)

    async def publish(self, key: bytes, value: bytes, wanted: int) -> Deliveries:
        """Put an own record to the closest servers."""
        contacts = await self._walks.closest(key, self._holders)
        deliveries = await self._walks.put(contacts, key, value, wanted)
        self.sent(key, contacts, deliveries)
        if deliveries.confirmed:
            self._published.append((key, value))
        return deliveries

    async def _note_published(self) -> None:
        """In one transaction for many; what a crash takes away is put once more."""
        noted, self._published = self._published, []
        if noted:
            await self._held.published(noted)

    async def announce(self, key: bytes, wanted: int) -> Deliveries:
        """Announce this node as a provider at the closest servers."""
        contacts = await self._walks.closest(key, self._holders)
        deliveries = await self._walks.announce(contacts, key, self._announcement(), wanted)
        if deliveries.confirmed:
            await self._held.announced(key)
        return deliveries
