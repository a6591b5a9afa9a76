"""Signed documents in canonical JSON: one spelling, one signature over a domain and the document's own bytes. Pure."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, TypeVar

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.fields import Base64, Object, Refusal
from chorus.identity import KeyType, PeerId
from chorus.security import signing

SIGNATURE: Final = Base64(64, 1)
"""An Ed25519 signature, as text."""
MAX_DEPTH: Final = 5
"""A decision has objects in lists in an object."""
MAX_CONTAINERS: Final = 1
"""Arrays and objects of a head or a version, which are flat."""
REMEMBERED: Final = 1024
"""Signed documents of each kind, and signatures that hold, that are known again: the same bytes come from each holder,
and several rules look at them. About 8 MiB in all."""

T = TypeVar("T")


class RecordError(PeerError):
    """A decision, head or version that is malformed, not in its one spelling, or not signed by whom it names."""

    code = "bad_record"


def read(shape: Object[T], data: bytes, maximum: int, what: str, containers: int = MAX_CONTAINERS) -> T:
    """A document of at most `maximum` bytes, with at most so many arrays and objects. Raises `RecordError` or
    `LimitExceeded`."""
    if len(data) > maximum:
        raise LimitExceeded(f"bytes of {what}", len(data), maximum)
    try:
        value = shape.read(
            strictjson.loads(data, max_bytes=maximum, max_depth=MAX_DEPTH, max_containers=containers, error=RecordError)
        )
    except Refusal as refusal:
        raise RecordError(refusal.rule(what)) from None
    if write(shape, value) != data:
        raise RecordError(f"{what} is not in canonical form")
    return value


def write(shape: Object[T], value: T, *without: str) -> bytes:
    """Canonical JSON (RFC 8785), without the members named."""
    members = shape.write(value)
    return strictjson.canonical({name: item for name, item in members.items() if name not in without})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=REMEMBERED)
def verify(peer: str, domain: str, message: bytes, signature: bytes) -> None:
    """Raises `RecordError` unless the peer, whose id holds its Ed25519 key, signed the message."""
    try:
        found = PeerId.parse(peer)
        key = found.public_key()
        if str(found) != peer or key is None or key.type is not KeyType.ED25519:
            raise RecordError("a record is signed by a peer whose id holds an Ed25519 key, in base58")
        signing.verify(found, domain, message, signature)
    except PeerError as error:
        raise error if isinstance(error, RecordError) else RecordError(f"signature refused: {error}") from None
