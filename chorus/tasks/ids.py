"""Task ids: 26 characters of Crockford's base 32, 48 bits of Unix milliseconds before 80 random bits.

So ids sort by creation, and a list is cut at an id. The same layout as a ULID, in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable

PATTERN = "[0-7][0-9a-hjkmnp-tv-z]{25}"
"""For OpenAPI and argument checks; anchor it."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_MATCH = re.compile(PATTERN)


def make(now: float, random: Callable[[int], bytes]) -> str:
    """A new id at `now` (Unix seconds); `random(n)` gives n bytes from the operating system."""
    number = (int(now * 1000) & (1 << 48) - 1) << 80 | int.from_bytes(random(10), "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def is_task_id(text: object) -> bool:
    return isinstance(text, str) and _MATCH.fullmatch(text) is not None
