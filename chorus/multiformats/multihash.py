"""Multihash: varint code, varint length, digest. Codes that libp2p uses: identity and sha2-256."""

from __future__ import annotations

import hashlib

from chorus.errors import PeerError
from chorus.multiformats import varint

IDENTITY = 0x00
SHA2_256 = 0x12
MAX_DIGEST = 64
"""Longer than any digest in use; an identity multihash of a peer id holds at most 42 bytes."""


class MultihashError(PeerError):
    """Bytes that are no complete multihash."""

    code = "bad_multihash"


def encode(code: int, digest: bytes) -> bytes:
    return varint.encode(code) + varint.encode(len(digest)) + digest


def sha2_256(data: bytes) -> bytes:
    return b"\x12\x20" + hashlib.sha256(data).digest()


def decode(data: bytes) -> tuple[int, bytes]:
    """Return (code, digest); raises `MultihashError` unless `data` is exactly one multihash."""
    try:
        code, offset = varint.decode(data)
        length, offset = varint.decode(data, offset, MAX_DIGEST)
    except varint.VarintError as error:
        raise MultihashError(f"not a multihash: {error}") from None
    if len(data) - offset != length:
        raise MultihashError(f"multihash names {length} bytes and holds {len(data) - offset}")
    if code == SHA2_256 and length > 32:
        raise MultihashError(f"a sha2-256 digest has at most 32 bytes, not {length}")
    return code, bytes(data[offset:])
