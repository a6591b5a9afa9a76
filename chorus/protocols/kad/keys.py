"""Points of the key space: SHA-256 of a key's or a binary peer id's bytes, as integers; their distance is their XOR."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Final

BITS: Final = 256
SPACE: Final = 1 << BITS


@lru_cache(maxsize=65536)
def point_of(key: bytes) -> int:
    """The point of a record's key, a multihash, or a peer id's binary multihash."""
    return int.from_bytes(sha256(key).digest(), "big")


def common_bits(one: int, other: int) -> int:
    """Length of the common prefix of two points, 0 to 256."""
    return BITS - (one ^ other).bit_length()
