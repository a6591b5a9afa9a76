"""The blobs of the API: those of this node and its peers, plaintext out of sealed copies, and ciphertext."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from twisted.internet.defer import Deferred

from chorus.protocols.blobs import is_blob_id
from chorus.services.blobs.fetch import BlobUnavailable, UnknownBlob
from chorus.services.blobs.sealing import SealBroken

if TYPE_CHECKING:
    from chorus.services.blobs.ports import SealedCopies
    from chorus.services.blobs.replicas import ReplicaService
    from chorus.services.blobs.service import BlobService
    from chorus.services.blobs.upload import BlobUpload


class ReadableBlobs:
    """Implements `http.ports.BlobPort`. Without `copies` nothing is unsealed."""

    def __init__(self, blobs: BlobService, replicas: ReplicaService, copies: SealedCopies | None) -> None:
        self._blobs = blobs
        self._replicas = replicas
        self._copies = copies

    def writer(self, expected_sha256: str | None) -> BlobUpload:
        return self._blobs.writer(expected_sha256)

    def open(self, sha256: str) -> Deferred[tuple[IO[bytes], int]]:
        """Fails as `BlobService.open`, and with `SealBroken`."""
        return Deferred.fromCoroutine(self._open(sha256))

    async def _open(self, sha256: str) -> tuple[IO[bytes], int]:
        if (plain := await self._replicas.plaintexts.open(sha256)) is not None:
            return plain
        try:
            return await self._blobs.open(sha256)
        except (UnknownBlob, BlobUnavailable):
            if self._copies is None or not is_blob_id(sha256):
                raise
            sealed = await self._copies.sealed_copy_of(sha256)
            if sealed is None:
                raise
        await self._replicas.unseal(sealed.stored, sealed.key, sha256, sealed.size)
        return await self._replicas.plaintexts.open(sha256) or await self._blobs.open(sha256)

    def open_sealed(self, stored: str) -> Deferred[tuple[IO[bytes], int]]:
        """The ciphertext. Fails as `open`; what is no sealed blob is `UnknownBlob`."""
        return Deferred.fromCoroutine(self._open_sealed(stored))

    async def _open_sealed(self, stored: str) -> tuple[IO[bytes], int]:
        if not is_blob_id(stored):
            raise UnknownBlob(stored[:64])
        # Removed or not, the open file is read to its end.
        return await self._replicas.passing(stored, partial(self._checked, stored))

    async def _checked(self, stored: str, path: Path) -> tuple[IO[bytes], int]:
        try:
            await self._replicas.check_sealed(stored, path)
        except SealBroken:
            raise UnknownBlob(stored) from None
        return await self._blobs.open(stored)
