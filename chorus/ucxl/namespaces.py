"""Validators and selectors of the DHT's namespaces for decisions: `ucxl-ct`, `ucxl-ver`, `ucxl-head`. Pure.

They fit the `Namespace` Protocol of the DHT by their shape. Every verdict follows from the record, the key and the
roles, never from the order in which records came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from chorus.errors import LimitExceeded
from chorus.identity import PeerId
from chorus.ucxl.documents import RecordError, sha256
from chorus.ucxl.signed import (
    CIPHERTEXTS,
    HEADS,
    MAX_CIPHERTEXT,
    VERSIONS,
    Head,
    Version,
    ciphertext_key,
    head_key,
    version_key,
)

FORKS_KEPT: Final = 2
"""Heads under one key: both of a fork show that it is one; more show nothing more."""


class Writers(Protocol):
    """The newest valid roles, as far as validators ask."""

    @property
    def epoch(self) -> int: ...

    @property
    def founder(self) -> PeerId | None:
        """May sign in the place of an author."""

    def wrote_under(self, peer: PeerId) -> Mapping[str, int]:
        """Roles that the peer holds or held, each with the last epoch in which it did; none for a stranger."""


class CiphertextNamespace:
    """`/ucxl-ct/<SHA-256>`: any bytes that hash to the key; every holder verifies them without reading them."""

    lifetime_s: float | None = None
    variants = 1

    def validate(self, key: bytes, value: bytes, now: float) -> None:
        """Raises `RecordError` or `LimitExceeded`."""
        if len(value) > MAX_CIPHERTEXT:
            raise LimitExceeded("bytes of a ciphertext", len(value), MAX_CIPHERTEXT)
        if ciphertext_key(sha256(value)) != key:
            raise RecordError("a ciphertext does not hash to its key")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return 0

    def replaces(self, key: bytes, held: bytes, new: bytes) -> bool:
        return False

    def author(self, key: bytes, value: bytes) -> str | None:
        return None


class VersionNamespace:
    """`/ucxl-ver/<SHA-256 of author and content hash>`: the highest epoch wins, never above that of the roles."""

    lifetime_s: float | None = None
    variants = 1

    def __init__(self, writers: Writers) -> None:
        self._writers = writers

    def validate(self, key: bytes, value: bytes, now: float) -> None:
        """Raises `RecordError` or `LimitExceeded`."""
        version = Version.decode(value)
        if version_key(version.author, version.content) != key:
            raise RecordError("a version is of another author or content than its key")
        if version.epoch > self._writers.epoch:
            raise RecordError(f"a version of epoch {version.epoch}, and the roles are of {self._writers.epoch}")
        signer = PeerId.parse(version.signer)
        if signer != self._writers.founder:
            if version.signer != version.author:
                raise RecordError("a version must be signed by its author or the founder")
            if version.epoch > max(self._writers.wrote_under(signer).values(), default=-1):
                raise RecordError(f"a version's author holds no role in epoch {version.epoch}")
        version.verify()

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return min(range(len(values)), key=lambda at: (-Version.decode(values[at]).epoch, values[at]))

    def replaces(self, key: bytes, held: bytes, new: bytes) -> bool:
        """In a later epoch (spec/amendments.md 32); author and content are those of the key."""
        return Version.decode(new).epoch > Version.decode(held).epoch

    def author(self, key: bytes, value: bytes) -> str | None:
        return Version.decode(value).author

    def outdates(self, key: bytes, held: bytes) -> bytes | None:
        """The key of the ciphertext that a replaced version named; None where that is a blob."""
        old = Version.decode(held)
        return None if old.blob else ciphertext_key(old.ciphertext)


class HeadNamespace:
    """`/ucxl-head/<SHA-256 of the address>`: the highest number wins; of a fork both are kept, and the smaller hash
    wins for newcomers (spec/amendments.md 31)."""

    lifetime_s: float | None = None
    variants = FORKS_KEPT

    def __init__(self, writers: Writers) -> None:
        self._writers = writers

    def validate(self, key: bytes, value: bytes, now: float) -> None:
        """Raises `RecordError` or `LimitExceeded`."""
        head = Head.decode(value)
        place = head.place
        if head_key(place) != key:
            raise RecordError("a head is of another address than its key")
        if place.role not in self._writers.wrote_under(PeerId.parse(head.author)):
            raise RecordError(f"a head's author never held the role {place.role}")
        head.verify()

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return min(range(len(values)), key=lambda at: _rank(values[at]))

    def replaces(self, key: bytes, held: bytes, new: bytes) -> bool:
        """A fork replaces nothing, nor is it replaced: a second place is kept for it."""
        old, young = Head.decode(held), Head.decode(new)
        if old.forks(young):
            return False
        return _rank(new) < _rank(held)

    def author(self, key: bytes, value: bytes) -> str | None:
        return Head.decode(value).author


def _rank(value: bytes) -> tuple[int, str, bytes]:
    head = Head.decode(value)
    return (-head.seq, head.content, value)


DecisionNamespace = CiphertextNamespace | VersionNamespace | HeadNamespace


def ucxl_namespaces(writers: Writers) -> Mapping[str, DecisionNamespace]:
    """All three, by name."""
    return {
        CIPHERTEXTS: CiphertextNamespace(),
        VERSIONS: VersionNamespace(writers),
        HEADS: HeadNamespace(writers),
    }
