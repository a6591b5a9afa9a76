"""Readers of single members. Each checks a JSON value, says its limits in words, and gives the JSON Schema of what it
takes: one object, so that reader, documentation and schema cannot drift apart.

The schema never refuses what the reader takes. The reader may be stricter where JSON Schema cannot say it: texts are
bounded in bytes of UTF-8 (a schema counts characters), and `1.0` is no integer here.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from chorus.messages.errors import BadEnvelope

if TYPE_CHECKING:
    from chorus.seams import JSON

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


class Reader(Protocol):
    """What one member of a message must be."""

    @property
    def written(self) -> bool:
        """Whether a person may have written the value: then it passes the redactor before it is sent."""

    @property
    def told(self) -> str:
        """The limits for a person, fit to follow `must be`."""

    def __call__(self, value: object) -> object:
        """The value as payloads hold it. Raises `BadEnvelope`."""

    def schema(self) -> dict[str, JSON]:
        """JSON Schema, draft 2020-12."""


@attrs.frozen
class Text:
    """Any text of at most `maximum` bytes of UTF-8."""

    maximum: int
    minimum: int = 0
    """0 or 1: whether it may be empty."""
    written: bool = True

    @property
    def told(self) -> str:
        return f"text of {self.minimum} to {self.maximum} bytes"

    def __call__(self, value: object) -> object:
        if not isinstance(value, str) or not self.minimum <= len(value.encode()) <= self.maximum:
            raise BadEnvelope(f"must be {self.told}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {
            "type": "string",
            "minLength": self.minimum,
            "maxLength": self.maximum,
            "description": f"At most {self.maximum} bytes of UTF-8.",
        }


@attrs.frozen
class Word:
    """A text of ASCII that follows a pattern of its own."""

    told: str
    pattern: str
    """Without anchors, and without anything that regular expressions of ECMA-262 read differently."""
    maximum: int
    minimum: int = 1
    written: bool = False
    _match: re.Pattern[str] = attrs.field(
        init=False, eq=False, default=attrs.Factory(lambda self: re.compile(self.pattern), takes_self=True)
    )

    def __call__(self, value: object) -> object:
        if not isinstance(value, str) or not self.minimum <= len(value) <= self.maximum:
            raise BadEnvelope(f"must be {self.told}")
        if not self._match.fullmatch(value):
            raise BadEnvelope(f"must be {self.told}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {
            "type": "string",
            "minLength": self.minimum,
            "maxLength": self.maximum,
            "pattern": f"^(?:{self.pattern})$",
        }


@attrs.frozen
class Integer:
    minimum: int
    maximum: int
    unit: str = ""
    written: bool = attrs.field(init=False, default=False)

    @property
    def told(self) -> str:
        return f"an integer from {self.minimum} to {self.maximum}" + (f" ({self.unit})" if self.unit else "")

    def __call__(self, value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not self.minimum <= value <= self.maximum:
            raise BadEnvelope(f"must be {self.told}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@attrs.frozen
class Flag:
    told: str = attrs.field(init=False, default="true or false")
    written: bool = attrs.field(init=False, default=False)

    def __call__(self, value: object) -> object:
        if not isinstance(value, bool):
            raise BadEnvelope(f"must be {self.told}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "boolean"}


@attrs.frozen
class OneOf:
    words: tuple[str, ...]
    written: bool = attrs.field(init=False, default=False)

    @property
    def told(self) -> str:
        return f"one of {', '.join(self.words)}"

    def __call__(self, value: object) -> object:
        if value not in self.words:
            raise BadEnvelope(f"must be {self.told}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "string", "enum": list(self.words)}


@attrs.frozen
class ListOf:
    """At most `maximum` items that `item` reads. A payload holds them as a tuple."""

    item: Reader
    maximum: int

    @property
    def written(self) -> bool:
        return self.item.written

    @property
    def told(self) -> str:
        return f"a list of at most {self.maximum}, each {self.item.told}"

    def __call__(self, value: object) -> object:
        if not isinstance(value, list) or len(value) > self.maximum:
            raise BadEnvelope(f"must be {self.told}")
        return tuple(map(self.item, value))

    def schema(self) -> dict[str, JSON]:
        return {"type": "array", "maxItems": self.maximum, "items": self.item.schema()}


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
ID: Final = Word(f"an identifier of 1 to {MAX_NAME} letters, digits and . _ : -", "[0-9A-Za-z._:-]+", MAX_NAME)
IDS: Final = ListOf(ID, MAX_NAMES)
PEER: Final = Word("a peer id (base58)", "[1-9A-HJ-NP-Za-km-z]+", MAX_NAME)
PEERS: Final = ListOf(PEER, MAX_NAMES)
SHA256: Final = Word("a SHA-256 in 64 small hexadecimal digits", "[0-9a-f]{64}", 64, 64)

_UCXL_NAME = "[A-Za-z0-9._-]{1,128}"
ADDRESS: Final = Word(
    f"a UCXL address of at most {MAX_ADDRESS} bytes (ucxl://agent:role@project:task/temporal/path)",
    f"ucxl://{_UCXL_NAME}:{_UCXL_NAME}@{_UCXL_NAME}:{_UCXL_NAME}(?:/[!-~]*)?",
    MAX_ADDRESS,
    written=True,
)
"""Its outer form alone; resolvers read it whole. People name projects and paths, so it passes the redactor: an address
that holds a secret is then no address any more and is not said."""
ADDRESSES: Final = ListOf(ADDRESS, MAX_ADDRESSES)


@attrs.frozen
class Member:
    """One member of a payload, or of the envelope."""

    name: str
    read: Reader
    meaning: str
    default: Any
    """What a missing or null member means; `attrs.NOTHING`: it must be there."""

    @property
    def needed(self) -> bool:
        return self.default is attrs.NOTHING


_READ = "read"
_MEANING = "meaning"


def field(read: Reader, meaning: str = "", **arguments: Any) -> Any:
    """An attribute read from the JSON member of the same name by `read`. One with a default may be missing or null."""
    return attrs.field(metadata={_READ: read, _MEANING: meaning}, **arguments)


def members_of(cls: Any) -> tuple[Member, ...]:
    """What `field` declared in the class `cls`, in order."""
    return _members_of(cls)


@cache
def _members_of(cls: Any) -> tuple[Member, ...]:
    return tuple(
        Member(each.name, each.metadata[_READ], each.metadata[_MEANING], each.default)
        for each in attrs.fields(cls)
        if _READ in each.metadata
    )


def cut(text: str, maximum: int) -> str:
    """`text` in at most `maximum` bytes of UTF-8, never in the middle of a character."""
    raw = text.encode()
    if len(raw) <= maximum:
        return text
    return raw[: maximum - 3].decode(errors="ignore") + "…"
