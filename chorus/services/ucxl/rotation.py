"""Encrypts decisions anew after the roles have a later epoch (spec/amendments.md 32).

Each author does it for its own, the founder for authors that have left the roles, and after a while for those that do
not come. The record, its hash and its place in the chain stay: only the ciphertext and the signed version that names it
are new.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from chorus.backoff import Backoff
from chorus.errors import ChorusError, LocalError
from chorus.services.dht.ports import RecordNotFound
from chorus.services.ucxl.memory import REASON
from chorus.store import meta, publications
from chorus.store.dht import RecordOutdated
from chorus.store.publications import PublicationState
from chorus.timer import Timer
from chorus.ucxl.address import Address
from chorus.ucxl.query import DecisionQuery
from chorus.ucxl.signed import Version, ciphertext_key, version_key

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
RETRY = Backoff(30.0, 3600.0)
"""Between two tries of what failed: the network may be cut for long, and each decision costs walks through the DHT."""
REST_S = 3600.0
"""Seconds that authors have for their own, before the founder does what is left."""
MAX_LEFT = 10_000
"""Failed ones that are remembered, 1 MB; with more the network is away, and all are looked at again."""


class StillPublished(LocalError):
    """Its publication is encrypted anew before it goes on: look again when that is done."""

    code = "still_published"


class Reencryption:
    """`start` does what is left of it, again and again until all is done, also after a restart."""

    _log = Logger()

    def __init__(
        self, ports: MemoryPorts, index: DecisionIndex, reader: DecisionReader, author: DecisionAuthor
    ) -> None:
        self._ports = ports
        self._index = index
        self._reader = reader
        self._author = author
        self._lock = DeferredLock()
        self._again = Timer(ports.clock, self.start)
        self._failures = 0
        self._epoch = 0
        self._since = 0.0
        """When this node saw the epoch, on its clock."""
        self._rest = False
        """True once the founder does what authors have left."""
        self._left: dict[str, str] = {}
        """Authors of those that failed, by content hash."""
        self._up = True
        self.renewed = 0
        """Decisions encrypted anew since the start."""

    def start(self) -> None:
        Deferred.fromCoroutine(self._run()).addErrback(self._broken)

    def stop(self) -> None:
        self._up = False
        self._again.cancel()

    async def _run(self) -> None:
        store = self._ports.store
        async with self._lock:
            epoch, now = self._ports.keyring.epoch, self._ports.clock.seconds()
            if epoch <= int(await store.read(lambda connection: meta.get(connection, DONE)) or 1):
                return
            if epoch != self._epoch:
                self._epoch, self._since, self._rest, self._failures, self._left = epoch, now, False, 0, {}
            if self._founds and not self._rest and now - self._since >= REST_S:
                self._rest, self._left = True, {}
            await self._renew_all(epoch)
            if not self._up:
                return
            if self._left:
                self._log.error("{count} decisions could not be encrypted anew yet", count=len(self._left))
                self._try_again()
            elif self._founds and not self._rest:
                self._again.arm(self._since + REST_S - now)
            else:
                await store.write(lambda connection: meta.put(connection, DONE, str(epoch)))

    def _try_again(self) -> None:
        if self._up:
            self._failures += 1
            self._again.arm(RETRY.ceiling(self._failures))

    @property
    def _founds(self) -> bool:
        return self._ports.keyring.founder == self._ports.identity.peer_id

    async def _renew_all(self, epoch: int) -> None:
        failed: dict[str, str] = {}
        async for content, author in self._due():
            if not await self._renewed(content, author, epoch):
                failed[content] = author
            if len(failed) == MAX_LEFT or not self._up:
                break
        self._left = failed

    async def _due(self) -> AsyncIterator[tuple[str, str]]:
        """(content hash, author) of those that failed before, else of all that may be to do. The index has no
        text of others' large ones."""
        if 0 < len(self._left) < MAX_LEFT:
            for each in self._left.items():
                yield each
            return
        query = DecisionQuery(agent=None if self._founds else str(self._ports.identity.peer_id))
        after: str | None = None
        while True:
            page = await self._index.search(query, PAGE, after)
            for found in page.decisions:
                author = Address.parse(found.address).agent
                if (found.summary is not None or self._founds) and (self._rest or self._is_ours(author)):
                    yield found.content, author
            after = page.next
            if after is None:
                return

    async def _renewed(self, content: str, author: str, epoch: int) -> bool:
        try:
            await self._renew(content, author, epoch)
        except ChorusError as error:
            self._log.info("{content} is not encrypted anew yet: {error}", content=content, error=error)
            return False
        return True

    def _is_ours(self, author: str) -> bool:
        own, keyring = self._ports.identity.peer_id, self._ports.keyring
        return author == str(own) or (self._founds and not keyring.roles_of(author))

    async def _renew(self, content: str, author: str, epoch: int) -> None:
        row = await self._ports.store.read(lambda connection: publications.get(connection, bytes.fromhex(content)))
        if row is not None and row.state is PublicationState.DUE:
            raise StillPublished(content)
        read = await self._reader.read(content, author)
        if read.decision is None or read.version.epoch >= epoch:
            return
        try:
            # Somebody else may have done it. One that nobody has is on its way.
            held = Version.decode(await self._ports.dht.get(version_key(author, content)))
            if held.epoch >= epoch:
                return
        except RecordNotFound:
            pass
        version, ciphertext = await self._author.encrypted(read.decision)
        if version.blob:
            stored = await self._ports.replicas.keep_sealed(ciphertext)
            await self._ports.replicas.replicate(stored, f"{REASON} {content}")
        else:
            await self._ports.dht.put(ciphertext_key(version.ciphertext), ciphertext)
        try:
            await self._ports.dht.put(version.key, version.encode())
        except RecordOutdated:
            return
        if read.version.blob:
            await self._ports.replicas.unpin(read.version.ciphertext, f"{REASON} {content}")
        self.renewed += 1

    def _broken(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError):
            self._log.error("decisions are not encrypted anew yet: {error}", error=failure.value)
        else:
            self._log.failure("internal error in encrypting decisions anew", failure=failure)
        self._try_again()
