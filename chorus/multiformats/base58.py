"""base58btc, without a multibase prefix."""

from __future__ import annotations

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MAX_TEXT = 1024
"""Decoding is quadratic in the length."""

_DIGITS = {character: value for value, character in enumerate(ALPHABET)}
_PAIRS = tuple(high + low for high in ALPHABET for low in ALPHABET)
_SQUARE = 58 * 58


def encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    pairs: list[str] = []
    while number:
        number, pair = divmod(number, _SQUARE)
        pairs.append(_PAIRS[pair])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(pairs)).lstrip("1")


def decode(text: str) -> bytes:
    """Raises `ValueError` for a character outside the alphabet or a text over `MAX_TEXT`."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"base58 text of {len(text)} characters is over the limit of {MAX_TEXT}")
    number = 0
    try:
        for character in text:
            number = number * 58 + _DIGITS[character]
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is not a base58 character") from None
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
