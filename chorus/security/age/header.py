"""The strict check of an age header, before pyrage reads the file. Pure.

pyrage takes a stanza without its last line and any work factor up to what it thinks a machine can do; the format does
not (C2SP age.md, and the vectors in tests/vectors/age-testkit.json).
"""

from __future__ import annotations

import base64
import re
from typing import Final

from chorus.security.age.errors import DamagedAge

MAX_HEADER: Final = 64 * 1024
"""Bytes: some 40 post-quantum stanzas, or 600 of X25519."""
MAX_STANZAS: Final = 64
"""Each costs a scalar multiplication for each identity of the reader; we write one a role that may read."""
MAX_WORK_FACTOR: Final = 22
"""log2 of scrypt's N, as the age program has it. pyrage writes what takes a second: 18 on a machine of 2026, more on a
faster one. Only the node's own keyring is opened with a passphrase."""

_VERSION: Final = b"age-encryption.org/v1"
_ARGUMENTS: Final = re.compile(rb"-> [!-~]+(?: [!-~]+)*")
_MAC: Final = re.compile(rb"--- ([A-Za-z0-9+/]{43})")
_BODY_LINE: Final = 64
_FILE_KEY: Final = 32
"""Bytes of a wrapped file key with its tag: the body of X25519 and scrypt stanzas."""
_SHARE: Final = 32
_SALT: Final = 16
_FACTOR: Final = re.compile(rb"[1-9][0-9]?")


def check_header(start: bytes, most: int = MAX_STANZAS) -> int:
    """The length of the header that a file begins with, of at most `most` stanzas. `start` is the whole file, or at
    least its first `MAX_HEADER` bytes. Raises `DamagedAge` with one line."""
    lines = _Lines(start[:MAX_HEADER])
    if lines.next() != _VERSION:
        raise DamagedAge("not an age file of version 1")
    stanzas: list[list[bytes]] = []
    while (line := lines.next()).startswith(b"->"):
        if not _ARGUMENTS.fullmatch(line):
            raise DamagedAge("a malformed stanza")
        if len(stanzas) == most:
            raise DamagedAge(f"more than {most} stanzas")
        stanzas.append(line.split(b" ")[1:])
        _check_stanza(stanzas[-1], _body(lines))
    mac = _MAC.fullmatch(line)
    if mac is None or not stanzas:
        raise DamagedAge("the header does not end as it must")
    unpadded(mac[1])
    if any(stanza[0] == b"scrypt" for stanza in stanzas) and len(stanzas) > 1:
        raise DamagedAge("a passphrase beside other stanzas")
    return lines.offset


class _Lines:
    """Lines that end with LF alone."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def next(self) -> bytes:
        end = self._data.find(b"\n", self.offset)
        if end < 0:
            raise DamagedAge("the header is cut off, or too long")
        line = self._data[self.offset : end]
        self.offset = end + 1
        return line


def _body(lines: _Lines) -> bytes:
    """Full lines, then one that is shorter, maybe empty."""
    parts: list[bytes] = []
    while True:
        line = lines.next()
        if len(line) > _BODY_LINE:
            raise DamagedAge("a line of a stanza is too long")
        parts.append(line)
        if len(line) < _BODY_LINE:
            return unpadded(b"".join(parts))


def unpadded(text: bytes) -> bytes:
    """Canonical base64 without padding. Raises `DamagedAge`."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise DamagedAge("not base64") from None
    if base64.b64encode(data).rstrip(b"=") != text:
        raise DamagedAge("base64 that is not canonical")
    return data


def _check_stanza(arguments: list[bytes], body: bytes) -> None:
    kind, *rest = arguments
    if kind == b"X25519":
        if len(rest) != 1 or len(unpadded(rest[0])) != _SHARE or len(body) != _FILE_KEY:
            raise DamagedAge("a malformed stanza of X25519")
    elif kind == b"scrypt":
        if len(rest) != 2 or len(unpadded(rest[0])) != _SALT or len(body) != _FILE_KEY:
            raise DamagedAge("a malformed stanza of a passphrase")
        if not _FACTOR.fullmatch(rest[1]) or int(rest[1]) > MAX_WORK_FACTOR:
            raise DamagedAge(f"a work factor that is no number from 1 to {MAX_WORK_FACTOR}")
