"""A publication: the exact signed bytes of one decision, which whoever holds them can publish (pure).

It shows what everybody may see, and the ciphertext; nobody reads the decision in it without its role.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import attrs

from chorus.fields import Base64, Integer, ListOf, Object, field
from chorus.fields.members import MAX_SERIAL, SHA256
from chorus.protocols.task_messages import MAX_PUBLICATION
from chorus.ucxl import documents
from chorus.ucxl.documents import RecordError, sha256
from chorus.ucxl.record import MAX_FILES, MAX_ROWS
from chorus.ucxl.signed import MAX_ENCRYPTED, MAX_SIGNED, Head, Version


@attrs.frozen(kw_only=True)
class NamedSeal:
    """An encrypted file of a decision."""

    stored: str = field(SHA256, "Its blob.")
    size: int = field(Integer(0, MAX_SERIAL), "The most bytes that it has.")


@attrs.frozen(kw_only=True)
class Publication:
    """`of` makes one, `decode` has checked it: all of its parts are of one content, and signed."""

    signed_head: bytes = field(Base64(MAX_SIGNED, 1))
    signed_version: bytes = field(Base64(MAX_SIGNED, 1))
    ciphertext: bytes = field(Base64(MAX_ENCRYPTED, 1))
    sealed: tuple[NamedSeal, ...] = field(
        ListOf(Object(NamedSeal, closed=True), MAX_FILES), "Of its artifacts.", default=()
    )

    @classmethod
    def of(cls, head: Head, version: Version, ciphertext: bytes, sealed: tuple[NamedSeal, ...] = ()) -> Publication:
        return cls(signed_head=head.encode(), signed_version=version.encode(), ciphertext=ciphertext, sealed=sealed)

    @classmethod
    def decode(cls, data: bytes) -> Publication:
        """Raises `RecordError` or `LimitExceeded`."""
        found = documents.read(_SHAPE, data, MAX_PUBLICATION, "a publication", MAX_ROWS)
        head, version = found.head, found.version
        head.verify()
        version.verify()
        if (head.content, head.author) != (version.content, version.author):
            raise RecordError("a publication's head and version are of different decisions")
        if sha256(found.ciphertext) != version.ciphertext:
            raise RecordError("a publication's ciphertext is not that of its version")
        if version.size != len(found.ciphertext):
            raise RecordError("a publication's ciphertext has another size than its version says")
        return found

    def encode(self) -> bytes:
        return documents.write(_SHAPE, self)

    @cached_property
    def head(self) -> Head:
        """Raises `RecordError` or `LimitExceeded`."""
        return Head.decode(self.signed_head)

    @cached_property
    def version(self) -> Version:
        """Raises `RecordError` or `LimitExceeded`."""
        return Version.decode(self.signed_version)

    @property
    def content(self) -> str:
        """Content hash, in hexadecimal."""
        return self.head.content


_SHAPE: Final = Object(Publication, closed=True)
