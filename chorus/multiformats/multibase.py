"""Multibase: one prefix character names the base of the text that follows.

All registered final and draft bases but base256emoji and proquint, which no peer id or certificate hash uses.
"""

from __future__ import annotations

import attrs

MAX_TEXT = 1024
"""Decoding is quadratic in the length."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BASE58_UPPER = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_BASE58_LOWER = "abcdefghijkmnopqrstuvwxyz"


class MultibaseError(ValueError):
    """Unknown prefix, a character outside the alphabet, or bits that no encoder would write."""


@attrs.frozen
class Base:
    """`bits` a digit for bases that are a power of two, else 0: a big integer with leading zero bytes kept."""

    name: str
    prefix: str
    alphabet: str
    bits: int = 0
    padded: bool = False
    folds_case: bool = False
    digits: dict[str, int] = attrs.field(init=False, eq=False, repr=False)

    @digits.default
    def _fill(self) -> dict[str, int]:
        digits = {character: value for value, character in enumerate(self.alphabet)}
        if self.folds_case:
            digits |= {character.swapcase(): value for character, value in digits.items()}
        return digits

    def encode(self, data: bytes) -> str:
        """Return the text without the prefix."""
        return self._encode_bits(data) if self.bits else self._encode_integer(data)

    def decode(self, text: str) -> bytes:
        """Decode a text without the prefix."""
        try:
            values = [self.digits[character] for character in (text.rstrip("=") if self.padded else text)]
        except KeyError as error:
            raise MultibaseError(f"{error.args[0]!r} is not a {self.name} character") from None
        decoded = self._decode_bits(values) if self.bits else self._decode_integer(values)
        if self.padded and len(text) != len(self.encode(decoded)):
            raise MultibaseError(f"wrong {self.name} padding")
        return decoded

    def _encode_bits(self, data: bytes) -> str:
        count = -(-len(data) * 8 // self.bits)
        number = int.from_bytes(data, "big") << (count * self.bits - len(data) * 8)
        mask = (1 << self.bits) - 1
        text = "".join(self.alphabet[number >> (self.bits * place) & mask] for place in reversed(range(count)))
        if self.padded:
            group = 8 if self.bits == 5 else 4
            text += "=" * (-len(text) % group)
        return text

    def _decode_bits(self, values: list[int]) -> bytes:
        number = 0
        for value in values:
            number = number << self.bits | value
        size, rest = divmod(len(values) * self.bits, 8)
        if rest >= self.bits or number & ((1 << rest) - 1):
            raise MultibaseError(f"{self.name} text ends in bits that belong to no byte")
        return (number >> rest).to_bytes(size, "big")

    def _encode_integer(self, data: bytes) -> str:
        number = int.from_bytes(data, "big")
        base = len(self.alphabet)
        text: list[str] = []
        while number:
            number, digit = divmod(number, base)
            text.append(self.alphabet[digit])
        zeros = len(data) - len(data.lstrip(b"\0"))
        return self.alphabet[0] * zeros + "".join(reversed(text))

    def _decode_integer(self, values: list[int]) -> bytes:
        number = zeros = 0
        for value in values:
            number = number * len(self.alphabet) + value
            zeros += number == 0
        return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _bases() -> list[Base]:
    base16 = "0123456789abcdef"
    base32 = _LETTERS + "234567"
    base32hex = "0123456789" + _LETTERS[:22]
    base36 = "0123456789" + _LETTERS
    base64 = _LETTERS.upper() + _LETTERS + "0123456789+/"
    base64url = base64[:-2] + "-_"
    bases = [
        Base("base2", "0", "01", 1),
        Base("base8", "7", "01234567", 3),
        Base("base10", "9", "0123456789"),
        Base("base32z", "h", "ybndrfg8ejkmcpqxot1uwisza345h769", 5),
        Base("base58btc", "z", "123456789" + _BASE58_UPPER + _BASE58_LOWER),
        Base("base58flickr", "Z", "123456789" + _BASE58_LOWER + _BASE58_UPPER),
        Base("base64", "m", base64, 6),
        Base("base64pad", "M", base64, 6, padded=True),
        Base("base64url", "u", base64url, 6),
        Base("base64urlpad", "U", base64url, 6, padded=True),
    ]
    for name, prefix, alphabet, bits, padded in (
        ("base16", "f", base16, 4, False),
        ("base32", "b", base32, 5, False),
        ("base32pad", "c", base32, 5, True),
        ("base32hex", "v", base32hex, 5, False),
        ("base32hexpad", "t", base32hex, 5, True),
        ("base36", "k", base36, 0, False),
    ):
        stem = name.removesuffix("pad")
        upper = f"{stem}upper" if stem == name else f"{stem}padupper"
        bases.append(Base(name, prefix, alphabet, bits, padded, folds_case=True))
        bases.append(Base(upper, prefix.upper(), alphabet.upper(), bits, padded, folds_case=True))
    return bases


BASES = {base.name: base for base in _bases()}
_BY_PREFIX = {base.prefix: base for base in BASES.values()}


def encode(base: str, data: bytes) -> str:
    """Encode with the base of that registered name, prefix included."""
    found = BASES[base]
    return found.prefix + found.encode(data)


def decode(text: str) -> bytes:
    """Raises `MultibaseError`."""
    if len(text) > MAX_TEXT:
        raise MultibaseError(f"multibase text of {len(text)} characters is over the limit of {MAX_TEXT}")
    base = _BY_PREFIX.get(text[:1])
    if base is None:
        raise MultibaseError(f"unknown multibase prefix {text[:1]!r}")
    return base.decode(text[1:])
