"""Opens ciphertexts: from a version to its verified record, as far as this node may read it.

Decrypting and reading run in a thread, in slices: neither the lock of the interpreter nor the reactor waits for a
large record, or for one with many stanzas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import DeferredSemaphore

from chorus.bounded import Bounded
from chorus.security import age
from chorus.security.roles import MAX_ROLES
from chorus.services.blobs.fetch import BlobTooLarge
from chorus.services.ucxl.cache import CachedDecision
from chorus.ucxl.documents import RecordError, sha256
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import ciphertext_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from chorus.services.ucxl.cache import DecisionCache
    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.ucxl.signed import Version

MAX_READERS = MAX_ROLES + 1
"""Stanzas of a record: one a role that may read it, and one to spare. Each is tried with each identity of this node."""
MAX_AT_ONCE = 2
"""Records that are opened at a time: the threads are the store's too, and share one lock."""
MAX_CLOSED = 10_000
"""Ciphertexts that are remembered to be for others."""


@attrs.frozen
class ReadVersion:
    """A version as far as this node can read it."""

    version: Version
    decision: Decision | None


class RecordOpener:
    """Remembers what it has opened in the cache, and what it cannot open with the keys that this node has now."""

    def __init__(self, ports: MemoryPorts, cache: DecisionCache) -> None:
        self._ports = ports
        self._cache = cache
        self._turns = DeferredSemaphore(MAX_AT_ONCE)
        self._closed: Bounded[tuple[str, int], None] = Bounded(MAX_CLOSED)

    async def fetched(self, version: Version) -> ReadVersion:
        """Raises `RecordError`, `RecordNotFound`, `DhtUnavailable`, and what a fetch of a blob fails with."""
        if self._mark(version) in self._closed:
            return ReadVersion(version, None)
        return await self.opened(version, await self._ciphertext(version))

    async def opened(self, version: Version, ciphertext: bytes) -> ReadVersion:
        """`ciphertext` hashes to what the version names. Raises `RecordError` where the record is another one."""
        mark = self._mark(version)
        if mark in self._closed:
            return ReadVersion(version, None)
        identities = self._ports.keyring.identities()
        try:
            async with self._turns:
                decision, size = await self._ports.in_thread(_record, ciphertext, identities)
        except age.NotForUs:
            self._closed.put(mark, None)
            return ReadVersion(version, None)
        except age.AgeError as error:
            raise RecordError(f"the ciphertext of {version.content} is damaged: {error}") from None
        if (decision.content_hash, decision.peer_id) != (version.content, version.author):
            raise RecordError(f"the record of {version.content} is another one")
        if not self._ports.may_read(decision.role):
            # The role was lost meanwhile.
            return ReadVersion(version, None)
        self._cache.put(CachedDecision(version, decision, size), self._ports.clock.seconds())
        return ReadVersion(version, decision)

    def _mark(self, version: Version) -> tuple[str, int]:
        """Of a ciphertext and the keys that this node has now."""
        return version.ciphertext, hash(self._ports.keyring.identities())

    async def _ciphertext(self, version: Version) -> bytes:
        if not version.blob:
            return await self._ports.dht.get(ciphertext_key(version.ciphertext), quorum=1)
        size, in_thread = version.size, self._ports.in_thread
        try:
            data = await self._ports.replicas.passing(
                version.ciphertext, lambda path: in_thread(_read, path, size), size
            )
        except BlobTooLarge as error:
            raise RecordError(f"the ciphertext of {version.content} is larger than it says: {error}") from None
        if sha256(data) != version.ciphertext:
            raise RecordError(f"the ciphertext of {version.content} is another one")
        return data


def _record(ciphertext: bytes, identities: Sequence[str]) -> tuple[Decision, int]:
    """With the bytes of the record. Blocking."""
    data = age.decrypt(ciphertext, identities, MAX_READERS)
    return Decision.decode(data), len(data)


def _read(path: Path, size: int) -> bytes:
    """Blocking."""
    with path.open("rb") as file:
        return file.read(size)
