"""Heads and versions: the signed records by which decisions are found in the DHT (spec/ucxl.md, "Publishing"). Pure.

A head names the newest version under an address. A version says where the ciphertext of a content hash is, and for
which epoch of the roles it was encrypted.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Final

import attrs

from chorus.fields import Integer, Object, field
from chorus.fields.members import ADDRESS, MAX_SERIAL, PEER, SHA256
from chorus.identity import Identity, PeerId
from chorus.security import signing
from chorus.ucxl import documents
from chorus.ucxl.address import Address, AddressError
from chorus.ucxl.documents import SIGNATURE, RecordError
from chorus.ucxl.record import MAX_RECORD, Decision, verify_author

HEAD_DOMAIN: Final = "chorus-head/1"
VERSION_DOMAIN: Final = "chorus-version/1"
MAX_SIGNED: Final = 2048
"""Bytes of a head or a version: an address of 1,024, two peer ids, hashes and signatures."""

CIPHERTEXTS: Final = "ucxl-ct"
VERSIONS: Final = "ucxl-ver"
HEADS: Final = "ucxl-head"
MAX_CIPHERTEXT: Final = 8 * 1024
"""Bytes of a ciphertext that is a value of the DHT; a larger one is a blob (spec/ucxl.md)."""
MAX_ENCRYPTED: Final = MAX_RECORD + 64 * 1024
"""Bytes of a record as an age file: a stanza of 100 bytes for each recipient, and 16 for each 64 KiB."""


def head_key(address: Address) -> bytes:
    """Key of the DHT for the head of an address, whose version does not count."""
    return f"/{HEADS}/{documents.sha256(str(address.base).encode())}".encode()


def version_key(author: str, content: str) -> bytes:
    """Key of the DHT for an author's version with this content hash (hexadecimal): whoever else signs the same hash has
    another key (docs/adr/0005-the-author-is-in-the-key-of-a-version.md). Raises `PeerIdError`."""
    return f"/{VERSIONS}/{documents.sha256(PeerId.parse(author).raw + bytes.fromhex(content))}".encode()


def ciphertext_key(ciphertext: str) -> bytes:
    """Key of the DHT for the ciphertext with this SHA-256 (hexadecimal)."""
    return f"/{CIPHERTEXTS}/{ciphertext}".encode()


@attrs.frozen(kw_only=True)
class Head:
    """Signed by the author: under this address, number `seq` has this content hash."""

    v: int = field(Integer(1, 1), default=1)
    address: str = field(ADDRESS)
    seq: int = field(Integer(1, MAX_SERIAL))
    content: str = field(SHA256)
    author: str = field(PEER)
    signature: bytes = field(SIGNATURE, default=b"")

    @classmethod
    def of(cls, decision: Decision, identity: Identity) -> Head:
        """Of a signed decision of this identity."""
        draft = cls(address=decision.address, seq=decision.seq, content=decision.content_hash, author=decision.peer_id)
        return attrs.evolve(draft, signature=signing.sign(identity, HEAD_DOMAIN, draft.body))

    @cached_property
    def body(self) -> bytes:
        """The signed bytes."""
        return documents.write(HEAD, self, "signature")

    @cached_property
    def place(self) -> Address:
        """Raises `RecordError` for an address that nothing is published under."""
        try:
            return Address.published(self.address)
        except AddressError as error:
            raise RecordError(f"a head's {error}") from None

    def encode(self) -> bytes:
        return documents.write(HEAD, self)

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Its form alone. Raises `RecordError` or `LimitExceeded`."""
        return _head(data)

    def verify(self) -> None:
        """That it is its author's, and of its own address. Raises `RecordError`."""
        if self.place.agent != self.author:
            raise RecordError("a head must be signed by the agent of its address")
        documents.verify(self.author, HEAD_DOMAIN, self.body, self.signature)

    def forks(self, other: Head) -> bool:
        """True if both cannot be: one number, two contents."""
        return (self.address, self.seq) == (other.address, other.seq) and self.content != other.content


@attrs.frozen(kw_only=True)
class Version:
    """Signed by the author, or by the founder who encrypted it anew: the ciphertext of one content hash."""

    v: int = field(Integer(1, 1), default=1)
    content: str = field(SHA256)
    author: str = field(PEER)
    author_signature: bytes = field(SIGNATURE)
    """The decision's own signature: over the content hash, so it holds for whoever may not read it."""
    ciphertext: str = field(SHA256)
    size: int = field(Integer(1, MAX_ENCRYPTED, "bytes"))
    """Of the ciphertext: readers fetch no more."""
    epoch: int = field(Integer(0, MAX_SERIAL))
    signer: str = field(PEER)
    signature: bytes = field(SIGNATURE, default=b"")

    @classmethod
    def of(cls, decision: Decision, identity: Identity, *, ciphertext: str, size: int, epoch: int) -> Version:
        """Of a signed decision, by its author or by the founder; `ciphertext` is a hash, `size` its bytes."""
        draft = cls(
            content=decision.content_hash,
            author=decision.peer_id,
            author_signature=decision.signature,
            ciphertext=ciphertext,
            size=size,
            epoch=epoch,
            signer=str(identity.peer_id),
        )
        return attrs.evolve(draft, signature=signing.sign(identity, VERSION_DOMAIN, draft.body))

    @cached_property
    def body(self) -> bytes:
        """The signed bytes."""
        return documents.write(VERSION, self, "signature")

    @property
    def blob(self) -> bool:
        """True if the ciphertext is a blob, not a value of the DHT."""
        return self.size > MAX_CIPHERTEXT

    @property
    def key(self) -> bytes:
        """Of the DHT. Raises `PeerIdError`."""
        return version_key(self.author, self.content)

    def encode(self) -> bytes:
        return documents.write(VERSION, self)

    @classmethod
    def decode(cls, data: bytes) -> Version:
        """Its form alone. Raises `RecordError` or `LimitExceeded`."""
        return _version(data)

    def verify(self) -> None:
        """Both signatures; not whether the signer may sign for the author. Raises `RecordError`."""
        verify_author(self.author, self.content, self.author_signature)
        documents.verify(self.signer, VERSION_DOMAIN, self.body, self.signature)


HEAD: Final = Object(Head, closed=True)
VERSION: Final = Object(Version, closed=True)


@lru_cache(maxsize=documents.REMEMBERED)
def _head(data: bytes) -> Head:
    return documents.read(HEAD, data, MAX_SIGNED, "a head")


@lru_cache(maxsize=documents.REMEMBERED)
def _version(data: bytes) -> Version:
    return documents.read(VERSION, data, MAX_SIGNED, "a version")
