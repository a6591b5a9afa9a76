"""Unsigned varint: little-endian groups of 7 bits, at most 9 bytes (63 bits), minimal (spec/wire.md 1)."""

from __future__ import annotations

from chorus.errors import PeerError

MAX_BYTES = 9
MAX_VALUE = 2**63 - 1

Buffer = bytes | bytearray | memoryview


class VarintError(PeerError):
    """Truncated, not minimal, over 9 bytes, or over the caller's maximum."""

    code = "bad_varint"


_SINGLE = tuple(bytes([value]) for value in range(128))


def encode(value: int) -> bytes:
    """Encode 0 … 2**63 - 1; raises `ValueError` outside."""
    if 0 <= value < 128:
        return _SINGLE[value]
    if not 0 <= value <= MAX_VALUE:
        raise ValueError(f"{value} is not an unsigned 63-bit integer")
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def peek(buffer: Buffer, offset: int = 0, maximum: int = MAX_VALUE) -> tuple[int, int] | None:
    """Return (value, offset after it), or `None` while more bytes are needed.

    Raises `VarintError` as soon as no continuation could be legal, so at most 8 bytes are ever waited on.
    """
    end = len(buffer)
    if offset < end and (first := buffer[offset]) < 128:
        if first > maximum:
            raise VarintError(f"varint {first} is over the limit of {maximum}")
        return first, offset + 1
    value = shift = 0
    for position in range(offset, min(end, offset + MAX_BYTES)):
        byte = buffer[position]
        value |= (byte & 127) << shift
        if value > maximum:
            raise VarintError(f"varint is over the limit of {maximum}")
        if byte < 128:
            if byte == 0 and position > offset:
                raise VarintError("varint is not minimal")
            return value, position + 1
        shift += 7
    if end - offset >= MAX_BYTES:
        raise VarintError("varint is longer than 9 bytes")
    return None


def decode(buffer: Buffer, offset: int = 0, maximum: int = MAX_VALUE) -> tuple[int, int]:
    """Return (value, offset after it); a truncated varint is an error here."""
    found = peek(buffer, offset, maximum)
    if found is None:
        raise VarintError("varint is truncated")
    return found
