"""Reads the text form of an age file (strict PEM), as the `age -a` command writes it. Pure."""

from __future__ import annotations

import base64
from typing import Final

from chorus.security.age.errors import DamagedAge

_BEGIN: Final = b"-----BEGIN AGE ENCRYPTED FILE-----"
_END: Final = b"-----END AGE ENCRYPTED FILE-----"
_LINE: Final = 64
_SPACE: Final = b" \t\r\n"
"""Allowed before and after the text, and nowhere inside."""


def unarmor(text: bytes) -> bytes:
    """The binary file. Raises `DamagedAge`."""
    lines = text.strip(_SPACE).replace(b"\r\n", b"\n").split(b"\n")
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise DamagedAge("no age file in text form")
    body = lines[1:-1]
    if any(len(line) != _LINE for line in body[:-1]) or not 0 < len(body[-1]) <= _LINE:
        raise DamagedAge("a line of another length")
    whole = b"".join(body)
    try:
        data = base64.b64decode(whole, validate=True)
    except ValueError:
        raise DamagedAge("not base64") from None
    if base64.b64encode(data) != whole:
        raise DamagedAge("base64 that is not canonical")
    return data
