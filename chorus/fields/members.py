"""The shapes of single members of messages, and their limits."""

from __future__ import annotations

from typing import Final

from chorus.fields import Flag, Integer, ListOf, Text

MAX_NAME: Final = 128
"""Bytes of a name: an agent id, a role, a field of expertise."""

MAX_NAMES: Final = 64
"""Names in one list: a profile with more says nothing any more."""

MAX_ADDRESS: Final = 1024
"""Bytes of a UCXL address: four names of 128, and a path."""

MAX_ADDRESSES: Final = 8
"""Addresses in one list: with all at their longest a quarter of a message."""

MAX_TITLE: Final = 256
MAX_TEXT: Final = 2048
"""Bytes of a sentence or two for a person; longer ones are cut by their sender."""

MAX_TIME: Final = 2**40
"""Unix seconds: the year 36812. Later times would not fit where they are shown."""

MAX_COUNT: Final = 1_000_000

MAX_SERIAL: Final = 2**53 - 1
"""Of a term, an epoch, an index: the integers that every JSON implementation keeps exact (RFC 7493, 2.2)."""

MAX_SCORE: Final = 1000
"""Scores and shares are integers in thousandths: fractions have more than one spelling in JSON."""

MAX_HOPS: Final = 8
"""Times that an agent may ask on in its own name: a mesh of any size is crossed in fewer, and a loop ends."""

NAME: Final = Text(MAX_NAME, 1)
NAMES: Final = ListOf(NAME, MAX_NAMES)
TITLE: Final = Text(MAX_TITLE)
TEXT: Final = Text(MAX_TEXT)
SAID: Final = Text(MAX_TEXT, 1)
"""A sentence or two without which the message would say nothing."""
FLAG: Final = Flag()
TIME: Final = Integer(0, MAX_TIME, "Unix seconds")
SECONDS: Final = Integer(0, MAX_TIME, "seconds")
COUNT: Final = Integer(0, MAX_COUNT)
SERIAL: Final = Integer(0, MAX_SERIAL)
SCORE: Final = Integer(0, MAX_SCORE, "thousandths")
PERCENT: Final = Integer(0, 100, "percent")
HOPS: Final = Integer(0, MAX_HOPS)

# Identifiers are made by programs and never pass the redactor: a changed one would mean something else, and a rule that
# looks for random characters would find nothing but them.
ID: Final = Text(MAX_NAME, 1, "[0-9A-Za-z._:-]+", f"an identifier of 1 to {MAX_NAME} letters, digits and . _ : -")
IDS: Final = ListOf(ID, MAX_NAMES)
PEER: Final = Text(MAX_NAME, 1, "[1-9A-HJ-NP-Za-km-z]+", "a peer id (base58)")
PEERS: Final = ListOf(PEER, MAX_NAMES)
SHA256: Final = Text(None, 0, "[0-9a-f]{64}", "a SHA-256 in 64 small hexadecimal digits")

_UCXL_NAME = "[A-Za-z0-9._-]{1,128}"
ADDRESS: Final = Text(
    MAX_ADDRESS,
    1,
    f"ucxl://{_UCXL_NAME}:{_UCXL_NAME}@{_UCXL_NAME}:{_UCXL_NAME}(?:/[!-~]*)?",
    f"a UCXL address of at most {MAX_ADDRESS} bytes (ucxl://agent:role@project:task/temporal/path)",
    free_text=True,
)
"""Its outer form alone; resolvers read it whole. People name projects and paths, so it passes the redactor: an address
that holds a secret is then no address any more and is not said."""
ADDRESSES: Final = ListOf(ADDRESS, MAX_ADDRESSES)


def cut(text: str, maximum: int) -> str:
    """`text` in at most `maximum` bytes of UTF-8, never in the middle of a character."""
    raw = text.encode()
    if len(raw) <= maximum:
        return text
    return raw[: maximum - 3].decode(errors="ignore") + "…"
