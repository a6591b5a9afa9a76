"""Replicated blobs as other parts use them (spec/amendments.md 29, 30)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.identity import PeerId
    from chorus.services.dht.ports import Stored

T = TypeVar("T")


@attrs.frozen
class SealedBlob:
    """A blob that is stored encrypted to an age identity of its own, which is its key."""

    stored: str
    """SHA-256 of the ciphertext, in hexadecimal: its blob id."""
    size: int
    """Bytes of the plaintext."""
    key: str = attrs.field(repr=False)
    """`AGE-SECRET-KEY-1…`; whoever has it can read the blob."""


class SealedCopies(Protocol):
    """Sealed copies by the SHA-256 of their plaintext, from the decisions that this node may read."""

    def sealed_copy_of(self, sha256: str) -> Deferred[SealedBlob | None]:
        """None where no readable decision names the plaintext; never fails."""


class Replicas(Protocol):
    """Blob ids are SHA-256 in lower-case hexadecimal. What takes long can be cancelled.

    All may fail with `BlobStoreFull`, `BlobStoreUnavailable` or the errors of the store.
    """

    def seal_file(self, path: Path) -> Deferred[SealedBlob]:
        """Encrypt a regular file to a fresh age identity. The ciphertext is a durable blob of this node, marked sealed,
        and not pinned. Fails also with `SourceUnreadable`, `BlobTooLarge` and `SealFailed`."""

    def keep_sealed(self, data: bytes) -> Deferred[str]:
        """Make ready ciphertext (a record too large for the DHT) a durable blob, marked sealed; its id."""

    def replicate(
        self, stored: str, reason: str, holders: Sequence[PeerId] = (), most: int | None = None
    ) -> Deferred[Stored]:
        """Pin a sealed blob, announce it, and push it to the closest members until as many as wanted have it; fetched
        before, from `holders` first, where it is not here. Idempotent; kept up until `unpin`. Fires with what could be
        reached now. Fails with `UnknownBlob` or `BlobUnavailable` where there is nothing to replicate, and with
        `BlobTooLarge` for more than `most` bytes."""

    def holders(self, stored: str) -> Deferred[Stored]:
        """Peers that say that they have all of it now, this node first; none where it is not here."""

    async def passing(self, stored: str, use: Callable[[Path], Awaitable[T]], size: int | None = None) -> T:
        """The outcome of `use` of the ciphertext, which is fetched from the closest members and providers of the DHT
        where it is not here, and not kept then. Raises `UnknownBlob` or `BlobUnavailable`, and `BlobTooLarge` for one
        of more than `size` bytes, before any of them are here."""

    def unseal(self, stored: str, key: str, sha256: str, size: int) -> Deferred[Path]:
        """Fetch a sealed blob (from providers of the DHT) and have its plaintext here for a while, once it is `size`
        bytes with this `sha256`; it is no blob, and goes with a lost role. Fails with `SealBroken` for anything else,
        `UnknownBlob` or `BlobUnavailable`."""

    def pin(self, sha256: str, reason: str, until: float | None = None) -> Deferred[None]:
        """Keep a blob from removal until Unix seconds, or `unpin`; one that is not here yet also. Idempotent."""

    def unpin(self, sha256: str, reason: str) -> Deferred[None]:
        """Take one reason away; the last one gone, it is kept up no longer and removed when nothing names it."""
