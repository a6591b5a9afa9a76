"""age identities and recipients: 32 secret bytes as `AGE-SECRET-KEY-1…`, and what belongs to them as `age1…`. Pure.

Bech32 (BIP 173, without its length limit) is written and read here, so that the randomness of a new identity is a
parameter, and a secret can be split and put together again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pyrage

from chorus.entropy import RandomBytes, system_random
from chorus.errors import UserError

SECRET_BYTES: Final = 32
_PREFIX: Final = "age-secret-key-"
_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM: Final = 6


class BadAgeKey(UserError):
    """A text that is no age identity or recipient of a kind that is known here."""

    code = "bad_age_key"


def new_identity(random: RandomBytes = system_random) -> str:
    """A fresh X25519 identity. Secret."""
    return identity_of(random(SECRET_BYTES))


def identity_of(secret: bytes) -> str:
    """The identity whose secret is `secret` (32 bytes)."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"an age identity has {SECRET_BYTES} bytes")
    return bech32(_PREFIX, secret).upper()


def secret_of(identity: str) -> bytes:
    """The 32 bytes of an identity. Raises `BadAgeKey`."""
    head, _, body = identity.lower().rpartition("1")
    if identity != identity.upper() or head != _PREFIX or not set(body) <= set(_ALPHABET):
        raise BadAgeKey("not an age identity (AGE-SECRET-KEY-1…)")
    words = [_ALPHABET.index(letter) for letter in body]
    if _polymod([*_expanded(_PREFIX), *words]) != 1:
        raise BadAgeKey("an age identity with a wrong letter")
    secret = bytes(_regroup(words[:-_CHECKSUM], 5, 8))[:SECRET_BYTES]
    if len(secret) != SECRET_BYTES or identity_of(secret) != identity:
        raise BadAgeKey("an age identity of another length")
    return secret


def recipient_of(identity: str) -> str:
    """`age1…` of an identity. Raises `BadAgeKey`."""
    return str(parse_identity(identity).to_public())


def parse_identity(identity: str) -> Any:
    """pyrage's identity. Raises `BadAgeKey`."""
    secret_of(identity)
    return pyrage.x25519.Identity.from_str(identity)


def bech32(prefix: str, data: bytes) -> str:
    """`data` as text, with a checksum over both."""
    words = list(_regroup(data, 8, 5))
    checksum = _polymod([*_expanded(prefix), *words, *(0,) * _CHECKSUM]) ^ 1
    words += [checksum >> 5 * (_CHECKSUM - 1 - at) & 31 for at in range(_CHECKSUM)]
    return f"{prefix}1{''.join(_ALPHABET[word] for word in words)}"


def _expanded(prefix: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]


def _polymod(words: Iterable[int]) -> int:
    check = 1
    for word in words:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for at, part in enumerate(_GENERATOR):
            check ^= part if top >> at & 1 else 0
    return check


def _regroup(words: Iterable[int], have: int, want: int) -> Iterable[int]:
    """Bits in groups of another size; the last one is filled with zeros."""
    held = bits = 0
    for word in words:
        held, bits = held << have | word, bits + have
        while bits >= want:
            bits -= want
            yield held >> bits & (1 << want) - 1
    if bits:
        yield held << (want - bits) & (1 << want) - 1
