"""Encrypts decisions anew after the roles have a later epoch (spec/amendments.md 32).

Each author does it for its own, the founder for authors that have left the roles. The record, its hash and its place
in the chain stay: only the ciphertext and the signed version that names it are new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.services.ucxl.memory import REASON
from chorus.store import meta
from chorus.ucxl.address import Address
from chorus.ucxl.query import DecisionQuery
from chorus.ucxl.signed import ciphertext_key

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.services.ucxl.authoring import DecisionAuthor
    from chorus.services.ucxl.index import DecisionIndex
    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.services.ucxl.reading import DecisionReader

DONE = "decisions.epoch"
"""Key of the newest epoch for which everything was encrypted anew."""
PAGE = 100
"""Decisions that are looked up at once."""


class Reencryption:
    """`start` does what is left of it; a restart begins at what is not done."""

    _log = Logger()

    def __init__(
        self, ports: MemoryPorts, index: DecisionIndex, reader: DecisionReader, author: DecisionAuthor
    ) -> None:
        self._ports = ports
        self._index = index
        self._reader = reader
        self._author = author
        self._lock = DeferredLock()
        self._up = True
        self.renewed = 0
        """Decisions encrypted anew since the start."""

    def start(self) -> None:
        Deferred.fromCoroutine(self._run()).addErrback(self._broken)

    def stop(self) -> None:
        self._up = False

    async def _run(self) -> None:
        store = self._ports.store
        async with self._lock:
            epoch = self._ports.keyring.epoch
            if epoch <= int(await store.read(lambda connection: meta.get(connection, DONE)) or 1):
                return
            failed = await self._renew_all(epoch)
            if failed:
                self._log.error("{count} decisions could not be encrypted anew yet", count=failed)
            elif self._up:
                await store.write(lambda connection: meta.put(connection, DONE, str(epoch)))

    async def _renew_all(self, epoch: int) -> int:
        """How many failed."""
        own = self._ports.identity.peer_id
        founds = self._ports.keyring.founder == own
        query = DecisionQuery(agent=None if founds else str(own))
        failed = 0
        after: str | None = None
        while self._up:
            page = await self._index.search(query, PAGE, after)
            for each in page.decisions:
                author = Address.parse(each.address).agent
                if each.summary is not None and self._is_ours(author):
                    failed += not await self._renewed(each.content, author, epoch)
            if page.next is None:
                break
            after = page.next
        return failed

    async def _renewed(self, content: str, author: str, epoch: int) -> bool:
        try:
            await self._renew(content, author, epoch)
        except ChorusError as error:
            self._log.info("{content} is not encrypted anew yet: {error}", content=content, error=error)
            return False
        return True

    def _is_ours(self, author: str) -> bool:
        own, keyring = self._ports.identity.peer_id, self._ports.keyring
        return author == str(own) or (keyring.founder == own and not keyring.roles_of(author))

    async def _renew(self, content: str, author: str, epoch: int) -> None:
        read = await self._reader.read(content, author)
        if read.decision is None or read.version.epoch >= epoch:
            return
        version, ciphertext = await self._author.encrypted(read.decision)
        if version.blob:
            stored = await self._ports.replicas.keep_sealed(ciphertext)
            await self._ports.replicas.replicate(stored, f"{REASON} {content}")
        else:
            await self._ports.dht.put(ciphertext_key(version.ciphertext), ciphertext)
        await self._ports.dht.put(version.key, version.encode())
        if read.version.blob:
            await self._ports.replicas.unpin(read.version.ciphertext, f"{REASON} {content}")
        self.renewed += 1

    def _broken(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError):
            self._log.error("decisions are not encrypted anew yet: {error}", error=failure.value)
        else:
            self._log.failure("internal error in encrypting decisions anew", failure=failure)
