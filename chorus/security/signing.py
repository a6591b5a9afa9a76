"""Domain-separated signatures (spec/security.md 1.9): one of one kind of object never counts for another. Pure."""

from __future__ import annotations

from chorus.identity import BadKey, Identity, PeerId, SignatureError
from chorus.multiformats import varint


def signed_bytes(domain: str, payload: bytes) -> bytes:
    """The bytes that a signature covers: the domain with its length before it, then the payload."""
    name = domain.encode()
    return varint.encode(len(name)) + name + payload


def sign(identity: Identity, domain: str, payload: bytes) -> bytes:
    """64 bytes."""
    return identity.sign(signed_bytes(domain, payload))


def verify(peer: PeerId, domain: str, payload: bytes, signature: bytes) -> None:
    """Raises `SignatureError`, or `BadKey` for a peer id that does not hold its key."""
    key = peer.public_key()
    if key is None:
        raise BadKey(f"{peer} does not hold its key, so nothing of it can be verified")
    if len(signature) != 64:
        raise SignatureError(f"a signature has 64 bytes, not {len(signature)}")
    key.verify(signed_bytes(domain, payload), signature)
