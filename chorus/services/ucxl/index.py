"""The index of decisions: the tables of `chorus/store/decisions.py`, asked from the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from chorus.store import decision_texts, decisions
from chorus.ucxl.address import Address, Exactly
from chorus.ucxl.query import DecisionQuery

if TYPE_CHECKING:
    import sqlite3

    from chorus.entropy import RandomBytes
    from chorus.store.database import Store
    from chorus.ucxl.query import DecisionPage, IndexedDecision
    from chorus.ucxl.record import Decision


PAGE = 200
"""Decisions that are looked at in one read."""


class DecisionIndex:
    """Decisions that this node knows of; text of those that it may read. All may raise errors of the store."""

    def __init__(self, store: Store, random: RandomBytes) -> None:
        self._store = store
        self._random = random

    async def newest(self, address: Address) -> IndexedDecision | None:
        return await self._store.read(lambda connection: decisions.newest(connection, address))

    async def at(self, address: Address, seq: int) -> IndexedDecision | None:
        """Number `seq` of a chain; None where the index does not know it."""

        def work(connection: sqlite3.Connection) -> IndexedDecision | None:
            found = decisions.versions(connection, address, 1, seq + 1)
            return found[0] if found and found[0].seq == seq else None

        return await self._store.read(work)

    async def before(self, address: Address, seq: int) -> IndexedDecision | None:
        """The highest number below `seq` that the index knows."""
        found = await self._store.read(lambda connection: decisions.versions(connection, address, 1, seq))
        return found[0] if found else None

    async def version(self, address: Address, content: str) -> IndexedDecision | None:
        named = address.at(Exactly(content))
        return await self._store.read(lambda connection: decisions.version_at(connection, named))

    async def notice(self, address: Address, seq: int, content: str, now: int) -> None:
        """One whose text this node may not read."""
        await self._store.write(lambda connection: decisions.notice(connection, address, seq, content, now))

    async def record(self, decision: Decision, may_read: Callable[[str], bool]) -> None:
        """With its text, if its role may still be read when it is written: `hide` comes before or after that."""

        def work(connection: sqlite3.Connection) -> None:
            if may_read(decision.role):
                decisions.record(connection, decision, self._random)
            else:
                decisions.notice(connection, decision.place, decision.seq, decision.content_hash, decision.created)

        await self._store.write(work)

    async def search(self, query: DecisionQuery, limit: int, after: str | None) -> DecisionPage:
        return await self._store.read(lambda connection: decisions.search(connection, query, limit, after))

    async def naming(self, sha256: str) -> list[IndexedDecision]:
        """Readable ones with an artifact whose plain content has this hash, the newest first."""
        return list((await self.search(DecisionQuery(words=(sha256,)), 10, None)).decisions)

    async def counts(self) -> tuple[int, int]:
        """(decisions, those of them whose text is here)."""
        return await self._store.read(decisions.counts)

    async def hide(self, may_read: Callable[[str], bool]) -> None:
        """No text of a role that may not be read is left when it returns."""

        def work(connection: sqlite3.Connection) -> int:
            kept = [role for role in decision_texts.keys(connection) if may_read(role)]
            return decision_texts.shred(connection, kept)

        await self._store.erase(work)
        while await self._store.write(decision_texts.sweep):
            pass

    async def hidden(self, may_read: Callable[[str], bool], most: int) -> list[Address]:
        """Addresses of which no text is here although it may be read, at most so many, the newest first."""
        found: dict[str, Address] = {}
        may_read = cache(may_read)
        after: str | None = None
        while True:
            page = await self.search(DecisionQuery(), PAGE, after)
            for each in page.decisions:
                address = Address.parse(each.address)
                if each.summary is None and may_read(address.role):
                    found[each.address] = address
            after = page.next
            if after is None or len(found) >= most:
                return list(found.values())[:most]
