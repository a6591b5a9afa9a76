"""Encrypts and decrypts whole age files in memory. Blocking, and pyrage holds the interpreter's lock all the while:
for records and keyrings, in a thread. Large files go through a child process, which uses `check_header` and
`parse_recipients`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pyrage

from chorus.security.age.errors import DamagedAge, NotForUs, WrongPassphrase
from chorus.security.age.header import MAX_STANZAS, check_header
from chorus.security.age.keys import BadAgeKey, parse_identity

_KINDS: Final[tuple[tuple[str, Callable[[str], Any]], ...]] = (
    ("age1tagpq1", pyrage.tagpq.Recipient.from_str),
    ("age1tag1", pyrage.tag.Recipient.from_str),
    ("age1", pyrage.x25519.Recipient.from_str),
)
"""The longest prefix first. Of the tagged kinds pyrage has recipients alone: it encrypts to them and cannot decrypt."""
MAX_TRIALS: Final = 200
"""Stanzas times identities of one call of pyrage, which holds the interpreter's lock: 0.1 ms each. Reading a header
again for each call takes a square of its stanzas (1 ms for 4, 25 ms for 33), so that fewer at once would cost more."""
_NO_MATCH: Final = "No matching keys found"
_WRONG: Final = "Decryption failed"


def parse_recipients(recipients: Iterable[str]) -> list[Any]:
    """pyrage's recipients, each once. Raises `BadAgeKey`, also for none at all."""
    parsed: list[Any] = []
    for text in dict.fromkeys(recipients):
        parse = next((parse for prefix, parse in _KINDS if text.startswith(prefix)), None)
        try:
            if parse is None or text != text.lower():
                raise ValueError
            parsed.append(parse(text))
        except (pyrage.RecipientError, ValueError):
            raise BadAgeKey("not an age recipient (age1…)") from None
    if not parsed:
        raise BadAgeKey("nobody to encrypt to")
    return parsed


def encrypt(data: bytes, recipients: Iterable[str]) -> bytes:
    """An age file that each of `recipients` (`age1…`) can read. Raises `BadAgeKey`, also for post-quantum recipients
    beside others: the file would be as weak as its weakest."""
    parsed = parse_recipients(recipients)
    try:
        return bytes(pyrage.encrypt(data, parsed))
    except pyrage.EncryptError as error:
        raise BadAgeKey(f"cannot encrypt to these recipients together: {error}") from None


def decrypt(data: bytes, identities: Sequence[str], stanzas: int = MAX_STANZAS) -> bytes:
    """The content of a file of at most so many stanzas. Raises `DamagedAge`, or `NotForUs` where no stanza is for any
    of `identities`, which are tried in their order; `BadAgeKey`."""
    header = check_header(data, stanzas)
    at_once = max(1, MAX_TRIALS // data.count(b"\n-> ", 0, header))
    for start in range(0, len(identities), at_once):
        parsed = [parse_identity(identity) for identity in identities[start : start + at_once]]
        try:
            return bytes(pyrage.decrypt(data, parsed))
        except pyrage.DecryptError as error:
            if str(error) != _NO_MATCH:
                raise DamagedAge("truncated or altered") from None
    raise NotForUs("encrypted to others")


def encrypt_passphrase(data: bytes, passphrase: str) -> bytes:
    """Takes about a second: the work factor is chosen so."""
    return bytes(pyrage.passphrase.encrypt(data, passphrase))


def decrypt_passphrase(data: bytes, passphrase: str) -> bytes:
    """Raises `DamagedAge`, `WrongPassphrase`, or `NotForUs` for a file of recipients."""
    if not is_passphrase(data):
        raise NotForUs("not encrypted to a passphrase")
    try:
        return bytes(pyrage.passphrase.decrypt(data, passphrase))
    except pyrage.DecryptError as error:
        if str(error) == _WRONG:
            raise WrongPassphrase("the passphrase is wrong") from None
        raise DamagedAge("truncated or altered") from None


def is_passphrase(data: bytes) -> bool:
    """True if the file is encrypted to a passphrase, and so to nobody else. Raises `DamagedAge`."""
    return data[: check_header(data)].split(b"\n", 2)[1].startswith(b"-> scrypt ")
