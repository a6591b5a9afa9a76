"""Sends the pieces of one publication to their holders, and counts who has all of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.services.blobs.looks import provider_key
from chorus.services.dht.ports import Stored
from chorus.services.ucxl.bundle import Publication
from chorus.services.ucxl.memory import REASON
from chorus.store.dht import RecordOutdated
from chorus.ucxl.documents import RecordError
from chorus.ucxl.signed import CIPHERTEXTS, HEADS, VERSIONS, ciphertext_key, head_key

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.ucxl.record import Decision


class PublicationSender:
    """`take_in` enters a publication into the index, with its decision where that is at hand."""

    _log = Logger()

    def __init__(
        self, ports: MemoryPorts, take_in: Callable[[Publication, Decision | None], Coroutine[Any, Any, None]]
    ) -> None:
        self._ports = ports
        self._take_in = take_in

    async def send(self, publication: Publication, decision: Decision | None = None, *, announced: bool) -> Stored:
        """Ciphertext and version, head, blobs, announcement: in this order, so that who finds one finds what it
        names."""
        ports, version = self._ports, publication.version
        indexed = Deferred.fromCoroutine(self._take_in(publication, decision)).addErrback(self._not_indexed)
        pieces: list[Stored] = []
        # Nobody asks for a version before a head has named it, so these two go together.
        together = [
            self._put_ciphertext(publication),
            Deferred.fromCoroutine(self._put(VERSIONS, version.key, publication.signed_version)),
        ]
        value: Any
        for stored, value in await DeferredList(together, consumeErrors=True):
            if not stored:
                value.raiseException()
            pieces.append(value)
        pieces.append(await self._put(HEADS, head_key(publication.head.place), publication.signed_head))
        for sealed in publication.sealed:
            pieces.append(await self._replicated(sealed.stored, sealed.size, publication))
        if not announced:
            ports.mesh.announce(publication.head.address)
        await indexed
        return _all_of(pieces)

    def _put_ciphertext(self, publication: Publication) -> Deferred[Stored]:
        return Deferred.fromCoroutine(self._ciphertext(publication))

    async def _ciphertext(self, publication: Publication) -> Stored:
        version = publication.version
        if not version.blob:
            return await self._put(CIPHERTEXTS, ciphertext_key(version.ciphertext), publication.ciphertext)
        await self._ports.replicas.keep_sealed(publication.ciphertext)
        return await self._replicated(version.ciphertext, len(publication.ciphertext), publication)

    async def _put(self, namespace: str, key: bytes, value: bytes) -> Stored:
        try:
            stored = await self._ports.dht.put(key, value)
        except (RecordError, RecordOutdated):
            # Superseded meanwhile, or its author lost the role: the holders say what they have.
            return await self._holders(namespace, key, value)
        return stored if stored.safe else await self._holders(namespace, key, value, stored)

    async def _holders(self, namespace: str, key: bytes, value: bytes, stored: Stored | None = None) -> Stored:
        """Those that have it, or what took its place."""
        rules = self._ports.namespaces[namespace]
        found = await self._ports.dht.holders(key)
        have = [peer for peer, held in found.items() if held == value or not rules.replaces(key, held, value)]
        if stored is not None:
            have = list(dict.fromkeys([*stored.holders, *have]))
        wanted = min(self._ports.replication, self._ports.dht.servers)
        return Stored(tuple(have), wanted if stored is None else stored.wanted)

    async def _replicated(self, blob: str, most: int, publication: Publication) -> Stored:
        author = PeerId.parse(publication.head.author)
        holders = () if author == self._ports.identity.peer_id else (author,)
        try:
            return await self._ports.replicas.replicate(blob, f"{REASON} {publication.content}", holders, most)
        except ChorusError as error:
            self._log.warn("blob {blob} of a decision has no copies yet: {error}", blob=blob, error=error)
            return Stored((), self._ports.replication)

    async def look(self, publication: Publication) -> Stored:
        """Who has all of it, without changing anything."""
        version = publication.version
        pieces = [
            await self._holders(VERSIONS, version.key, publication.signed_version),
            await self._holders(HEADS, head_key(publication.head.place), publication.signed_head),
        ]
        blobs = [sealed.stored for sealed in publication.sealed]
        if version.blob:
            blobs.insert(0, version.ciphertext)
        else:
            pieces.append(await self._holders(CIPHERTEXTS, ciphertext_key(version.ciphertext), publication.ciphertext))
        for blob in blobs:
            stored = await self._ports.replicas.holders(blob)
            if not stored.holders:
                # It is not here: those that announced it count.
                announced = await self._ports.dht.providers(provider_key(blob))
                stored = Stored(tuple(each.peer for each in announced), stored.wanted)
            pieces.append(stored)
        return _all_of(pieces)

    def _not_indexed(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError):
            self._log.error("a decision is not indexed yet: {error}", error=failure.value)
        else:
            self._log.failure("internal error in indexing a decision", failure=failure)


def _all_of(pieces: list[Stored]) -> Stored:
    """The piece with the fewest holders speaks for all."""
    fewest = min(pieces, key=lambda each: len(each.holders))
    return Stored(fewest.holders, max(each.wanted for each in pieces))
