"""Records and providers held here: valid in their namespace, durable before they count, hot ones in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.messages import Contact
from chorus.protocols.kad.params import MAX_PROVIDERS, PROVIDER_ADDRESSES_S, PROVIDER_S
from chorus.services.dht.ports import Provider
from chorus.store import dht as table
from chorus.store.dht import OUTDATED_S, OWN, HeldProvider, HeldRecord, Quotas, RecordRules

if TYPE_CHECKING:
    from chorus.protocols.kad.namespaces import Namespaces
    from chorus.store.database import Store

CACHE_BYTES = 16 << 20
"""Of records kept in memory: a read through the store's threads costs more than the rest of an answer."""
ENTRY_BYTES = 400
"""Counted for each key in memory beside its records, an absent one's included."""


@runtime_checkable
class Outdating(Protocol):
    """A namespace whose records name others that nobody needs once they are replaced."""

    def outdates(self, key: bytes, held: bytes) -> bytes | None:
        """The key of the record that a replaced value named."""


class HeldCache:
    """Values by key, those of absent keys included; what was used longest ago leaves first."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._most = most_bytes
        self._entries: dict[bytes, list[HeldRecord]] = {}
        self.bytes = 0

    def get(self, key: bytes) -> list[HeldRecord] | None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._entries[key] = found
        return found

    def put(self, key: bytes, records: list[HeldRecord]) -> None:
        self.forget(key)
        self._entries[key] = records
        self.bytes += _cost(records)
        while self.bytes > self._most and self._entries:
            self.forget(next(iter(self._entries)))

    def forget(self, key: bytes) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self.bytes -= _cost(found)


def _cost(records: list[HeldRecord]) -> int:
    return ENTRY_BYTES + sum(ENTRY_BYTES + each.size for each in records)


class HeldRecords:
    """`wall` gives Unix seconds. All methods raise what the store fails with (`StoreUnavailable`) besides their own."""

    def __init__(
        self,
        store: Store,
        namespaces: Namespaces,
        own: PeerId,
        wall: Callable[[], float],
        quotas: Quotas,
    ) -> None:
        self.namespaces = namespaces
        self.rows = 0
        """Records held."""
        self._store = store
        self._own = str(own)
        self._wall = wall
        self._quotas = quotas
        self._cache = HeldCache()
        self._writes = 0
        """Begun or done: a read that began before one must not fill the cache after it."""

    async def start(self) -> None:
        self.rows, _ = await self._store.read(table.usage)

    # Values

    async def get(self, key: bytes) -> list[HeldRecord]:
        """Live records under `key`."""
        found = self.at_hand(key)
        if found is None:
            writes = self._writes
            found = await self._store.read(lambda connection: table.records(connection, key))
            if writes == self._writes:
                self._cache.put(key, found)
            found = self._live(found)
        return found

    def at_hand(self, key: bytes) -> list[HeldRecord] | None:
        """As `get`, from memory alone; None where only the store knows."""
        found = self._cache.get(key)
        return None if found is None else self._live(found)

    def _live(self, found: list[HeldRecord]) -> list[HeldRecord]:
        now = self._wall()
        return [each for each in found if each.expires_at is None or each.expires_at > now]

    async def put(
        self, key: bytes, value: bytes, sender: PeerId | None = None, publisher: PeerId | None = None
    ) -> None:
        """Keep a valid record of `sender`, which is its publisher or names it, or an own one, which will be
        republished. Durable when it returns. Raises the namespace's error, `RecordOutdated` or `DhtFull`."""
        if sender is None:
            await self._put(key, value, OWN, OWN, 0.0)
        else:
            await self._put(key, value, str(sender), str(publisher or sender), None)

    async def _put(self, key: bytes, value: bytes, sender: str, publisher: str, published_at: float | None) -> None:
        now = self._wall()
        namespace = self.namespaces.check(key, value, now)
        lifetime = namespace.lifetime_s
        record = HeldRecord(
            key=key,
            value=value,
            author=namespace.author(key, value),
            sender=sender,
            publisher=publisher,
            stored_at=now,
            expires_at=None if lifetime is None else now + lifetime,
            published_at=published_at,
        )
        rules = RecordRules(
            lambda held, new: namespace.replaces(key, held, new),
            namespace.variants,
            partial(namespace.outdates, key) if isinstance(namespace, Outdating) else lambda held: None,
        )
        self._writes += 1
        self._cache.forget(key)
        held, self.rows = await self._store.write(
            lambda connection: (table.keep(connection, record, rules, self._quotas), table.usage(connection)[0])
        )
        self._writes += 1
        self._cache.put(key, held)

    def check(self, key: bytes, value: bytes) -> None:
        """Raises the namespace's error for a record that is not valid."""
        self.namespaces.check(key, value, self._wall())

    async def correct(self, key: bytes, value: bytes) -> None:
        """Replace what is held by a better record that was read; not as an own one."""
        held = await self.get(key)
        if held:
            await self._put(key, value, held[0].sender, held[0].publisher, None)

    def ends_soon(self, record: HeldRecord) -> bool:
        """Its end is known, and it is not passed on: a holder that has deleted it would keep the copy for good."""
        return record.expires_at is not None and record.expires_at - self._wall() <= OUTDATED_S

    def publisher(self, record: HeldRecord) -> PeerId | None:
        """The peer that a copy names; None for own records. A sender that named this node, or whose copy of an own
        record outlived it, stands for itself: it could have its records charged to this node."""
        if record.sender == OWN:
            return None
        return PeerId.parse(record.sender if record.publisher == self._own else record.publisher)

    def teller(self, value: bytes, own: Sequence[HeldRecord], others: Mapping[PeerId, bytes]) -> PeerId | None:
        """The peer that a correction with a value that was read names: its publisher as far as it is held here, else
        a holder of it."""
        for record in own:
            if record.value == value:
                return self.publisher(record)
        return next((peer for peer, held in others.items() if held == value), None)

    async def published(self, own: Sequence[tuple[bytes, bytes]]) -> None:
        """Own records, by key and value, were put to the closest servers."""
        now = self._wall()

        def note(connection: sqlite3.Connection) -> None:
            for key, value in own:
                table.published(connection, key, value, now)

        await self._store.write(note)

    async def unpublished(self, age_s: float, most: int) -> list[HeldRecord]:
        """Own records that were put longer ago."""
        before = self._wall() - age_s
        return await self._store.read(lambda connection: table.unpublished(connection, before, most))

    async def page(self, after: bytes, most: int) -> list[HeldRecord]:
        """Live records of keys behind `after`."""
        return self._live(await self._store.read(lambda connection: table.page(connection, after, most)))

    async def sweep(self, most: int) -> list[bytes]:
        """Delete what has expired, at most so many of each kind; the keys of the records."""
        now = self._wall()
        keys, _ = await self._store.write(
            lambda connection: (
                table.sweep(connection, now, most),
                table.sweep_providers(connection, now - PROVIDER_S, most),
            )
        )
        self._writes += 1
        for key in keys:
            self._cache.forget(key)
        self.rows -= len(keys)
        return keys

    # Providers

    async def provide(self, key: bytes, addresses: tuple[Multiaddr, ...], sender: PeerId | None = None) -> None:
        """Keep the announcement of `sender`, or the own one. Raises `DhtFull`."""
        provider = HeldProvider(
            key=key,
            peer=self._own if sender is None else str(sender),
            addresses=tuple(map(str, addresses)),
            stored_at=self._wall(),
            published_at=0.0 if sender is None else None,
        )
        await self._store.write(lambda connection: table.provide(connection, provider, MAX_PROVIDERS))

    async def announced(self, key: bytes) -> None:
        """The own announcement was made at the closest servers, if it is not withdrawn."""
        now = self._wall()
        await self._store.write(lambda connection: table.announced(connection, key, self._own, now))

    async def withdraw(self, key: bytes) -> None:
        await self._store.write(lambda connection: table.withdraw(connection, key, self._own))

    async def providers(self, key: bytes, most: int) -> list[Provider]:
        """The newest first; addresses that are old are left out."""
        now = self._wall()
        found = await self._store.read(lambda connection: table.providers(connection, key, now - PROVIDER_S, most))
        return [
            Provider(
                PeerId.parse(each.peer),
                tuple(map(Multiaddr.parse, each.addresses)) if now - each.stored_at < PROVIDER_ADDRESSES_S else (),
            )
            for each in found
        ]

    # The table

    async def load_peers(self) -> list[Contact]:
        """Servers of a former run."""
        return [
            Contact(PeerId.parse(peer), tuple(map(Multiaddr.parse, addresses)))
            for peer, addresses in await self._store.read(table.load_peers)
        ]

    async def save_peers(self, contacts: list[Contact]) -> None:
        rows = [(str(contact.peer), list(map(str, contact.addresses))) for contact in contacts]
        await self._store.write(lambda connection: table.save_peers(connection, rows))

    # Announced by this node

    async def unannounced(self, age_s: float, most: int) -> list[HeldProvider]:
        before = self._wall() - age_s
        return await self._store.read(lambda connection: table.unannounced(connection, before, most))
