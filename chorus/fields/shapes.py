"""Shapes of JSON values. Each reads a value, names its limits in words, and gives its JSON Schema: one object, so that
reader, documentation and schema cannot drift apart.

The schema never refuses what the reader takes. The reader may be stricter where JSON Schema cannot say it: texts are
bounded in bytes of UTF-8 (a schema counts characters), and `1.0` is an integer only where a shape says so.
"""

from __future__ import annotations

import base64
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, Self, cast

import attrs

from chorus import strictjson

if TYPE_CHECKING:
    from chorus.seams import JSON

Schema = dict[str, Any]

SHOWN: Final = 60
"""Characters of a refused value that an error repeats."""


class Refusal(Exception):
    """A value that its shape does not take; whoever reads a document turns it into an error of its own.

    `path` names the value in its document (`limits.cpu`, `commands[2]`), `expected` says what it must be, and `text`
    what is wrong with it, for somebody who may see the value; `over` is a quantity and the limit that it passed.
    """

    def __init__(
        self, expected: str, value: object, template: str = "", over: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        self.path = ""
        self.expected = expected
        self.over = over
        self._value = value
        self._template = template or f"{{}} is not {expected}"

    @property
    def text(self) -> str:
        """The value stands where the template has `{}`; made when it is asked for, since a value may be large."""
        return self._template.replace("{}", shown(self._value), 1)

    def under(self, name: str) -> Self:
        """The same refusal of the member `name`, or of the item `[3]`, of something."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{name}{dot}{self.path}"
        return self

    def rule(self, whole: str) -> str:
        """The rule that was broken, for somebody who need not see the value; `whole` names the document."""
        return f"{self.path or whole} must be {self.expected}"

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


def shown(value: object) -> str:
    """A value fit to stand in one line of an error."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of too many digits"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def nullable(schema: Schema) -> Schema:
    """A schema that takes null too."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "enum" in schema:
        return {**{name: item for name, item in schema.items() if name != "type"}, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


class Shape:
    """A kind of JSON value. Shapes are immutable, and equal where they say the same."""

    __slots__ = ()

    @property
    @abstractmethod
    def expected(self) -> str:
        """The limits for a person, fit to follow `must be`."""

    @property
    def free_text(self) -> bool:
        """True if a person may have written the value: then it passes the redactor before it is sent."""
        return False

    @abstractmethod
    def read(self, value: object) -> Any:
        """The value as the program holds it. Raises `Refusal`."""

    def write(self, value: Any) -> JSON:
        """Inverse of `read`."""
        return cast("JSON", value)

    @abstractmethod
    def schema(self) -> Schema:
        """JSON Schema, draft 2020-12."""


@attrs.frozen
class Text(Shape):
    """A string of `minimum` (0 or 1, unless it has a pattern) to `maximum` units."""

    maximum: int | None
    """None: the pattern says it."""
    minimum: int = 0
    pattern: str | None = None
    """Of the whole, without anchors, and without anything that regular expressions of ECMA-262 read differently."""
    form: str = ""
    """The pattern in words, as `expected`."""
    free_text: bool = attrs.field(default=attrs.Factory(lambda self: self.pattern is None, takes_self=True))
    nul: bool = attrs.field(default=True, kw_only=True)
    """True if the text may hold the character U+0000."""
    unit: str = attrs.field(default="bytes", kw_only=True)
    """`bytes` of UTF-8, or `characters`."""
    _match: Any = attrs.field(init=False, eq=False, repr=False)

    @_match.default
    def _compile(self) -> object:
        return None if self.pattern is None else re.compile(self.pattern).fullmatch

    @property
    def expected(self) -> str:
        if self.form:
            return self.form
        return "text" if self.maximum is None else f"text of {self.minimum} to {self.maximum} {self.unit}"

    def read(self, value: object) -> Any:
        if isinstance(value, str):
            size = len(value) if value.isascii() else self._size(value)
            if (
                self.minimum <= size
                and (self.maximum is None or size <= self.maximum)
                and (self.nul or "\0" not in value)
                and (self._match is None or self._match(value))
            ):
                return value
        raise self._refusal(value)

    def _size(self, text: str) -> int:
        """Units of it; -1 where it is no text."""
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            return -1
        return len(text) if self.unit == "characters" else len(raw)

    def _refusal(self, value: object) -> Refusal:
        if not isinstance(value, str):
            return Refusal(self.expected, value, "must be a string, not {}")
        size = self._size(value)
        if size < 0:
            return Refusal(self.expected, value, "holds half of a surrogate pair")
        if self.maximum is not None and size > self.maximum:
            over = (size, self.maximum) if self._match is None else None
            return Refusal(self.expected, value, f"is {size} {self.unit} long, the most is {self.maximum}", over)
        if not size and self.minimum:
            return Refusal(self.expected, value, "must not be empty")
        if not self.nul and "\0" in value:
            return Refusal(self.expected, value, "must not hold a NUL character")
        return Refusal(self.expected, value)

    def schema(self) -> Schema:
        schema: Schema = {"type": "string"}
        if self.minimum:
            schema["minLength"] = self.minimum
        if self.maximum is not None:
            schema["maxLength"] = self.maximum
        if self.pattern is not None:
            schema["pattern"] = f"^(?:{self.pattern})$" if "|" in self.pattern else f"^{self.pattern}$"
        elif self.maximum is not None:
            schema["description"] = f"At most {self.maximum} {self.unit}{' of UTF-8' * (self.unit == 'bytes')}."
        if not self.nul:
            schema.setdefault("pattern", "^[^\\x00]*$")
        return schema


@attrs.frozen
class Base64(Shape):
    """At most `maximum` bytes, as text (RFC 4648, 4)."""

    maximum: int
    minimum: int = 0
    """0 or 1: whether there may be none."""
    hint: str = ""
    """Added to the refusal of more bytes."""

    @property
    def expected(self) -> str:
        return f"base64 of {self.minimum} to {self.maximum} bytes"

    @property
    def _text(self) -> Text:
        return Text((self.maximum + 2) // 3 * 4, self.minimum)

    def read(self, value: object) -> bytes:
        try:
            data = base64.b64decode(self._text.read(value), validate=True)
        except ValueError:
            raise Refusal(self.expected, value, "is not base64") from None
        if len(data) > self.maximum:
            raise Refusal(self.expected, value, f"is {len(data)} bytes, the most is {self.maximum}{self.hint}")
        return data

    def write(self, value: Any) -> JSON:
        return base64.b64encode(value).decode()

    def schema(self) -> Schema:
        lengths = {"minLength": 4 * self.minimum, "maxLength": self._text.maximum}
        four = "[A-Za-z0-9+/]"
        pattern = f"^(?:{four}{{4}})*(?:{four}{{2}}==|{four}{{3}}=)?$"
        return {"type": "string", "contentEncoding": "base64", **lengths, "pattern": pattern}


@attrs.frozen
class Integer(Shape):
    minimum: int
    maximum: int
    unit: str = ""
    whole_floats: bool = False
    """True if 5.0 is an integer, as in JSON Schema. A boolean never is."""

    @property
    def expected(self) -> str:
        return f"an integer from {self.minimum} to {self.maximum}" + (f" ({self.unit})" if self.unit else "")

    def read(self, value: object) -> int:
        if self.whole_floats and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Refusal(self.expected, value, "must be a whole number, not {}")
        if not self.minimum <= value <= self.maximum:
            over = (value, self.maximum) if value > self.maximum else None
            raise Refusal(self.expected, value, f"is {{}}, must be from {self.minimum} to {self.maximum}", over)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@attrs.frozen
class Number(Shape):
    """A finite number, fractions included; the program holds a float."""

    minimum: float
    maximum: float

    @property
    def expected(self) -> str:
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def read(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Refusal(self.expected, value, "must be a number, not {}")
        if not self.minimum <= value <= self.maximum:
            raise Refusal(self.expected, value, f"is {{}}, must be from {self.minimum:g} to {self.maximum:g}")
        return float(value)

    def schema(self) -> Schema:
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}


@attrs.frozen
class Flag(Shape):
    expected = "true or false"

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Refusal(self.expected, value, "must be true or false, not {}")
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@attrs.frozen
class OneOf(Shape):
    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f"one of {', '.join(self.words)}"

    def read(self, value: object) -> Any:
        # A tuple, since what comes need not be hashable.
        if value not in self.words:
            raise Refusal(self.expected, value)
        return value

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.words)}


@attrs.frozen
class ListOf(Shape):
    """At most `maximum` items of one shape. The program holds a tuple."""

    item: Shape
    maximum: int
    distinct: bool = False

    @property
    def expected(self) -> str:
        return f"a list of at most {self.maximum}, each {self.item.expected}"

    @property
    def free_text(self) -> bool:
        return self.item.free_text

    def read(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Refusal(self.expected, value, "must be a list, not {}")
        if len(value) > self.maximum:
            size = len(value)
            text = f"has {size} items, the most is {self.maximum}"
            raise Refusal(self.expected, value, text, (size, self.maximum))
        items: list[Any] = []
        read = self.item.read
        try:
            for each in value:
                items.append(read(each))
        except Refusal as refusal:
            raise refusal.under(f"[{len(items)}]") from None
        if self.distinct and len(set(items)) < len(items):
            position = next(position for position, item in enumerate(items) if item in items[:position])
            raise Refusal(self.expected, items[position], "{} appears twice").under(f"[{position}]")
        return tuple(items)

    def write(self, value: Any) -> JSON:
        return [self.item.write(each) for each in value]

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "maxItems": self.maximum, "items": self.item.schema()}
        return {**schema, "uniqueItems": True} if self.distinct else schema


@attrs.frozen
class AnyObject(Shape):
    """Any JSON object, of at most `maximum` bytes in canonical form (RFC 8785)."""

    maximum: int | None = None

    @property
    def expected(self) -> str:
        return "an object" if self.maximum is None else f"an object of at most {self.maximum} bytes"

    def read(self, value: object) -> Any:
        if not isinstance(value, dict):
            raise Refusal(self.expected, value, "must be an object, not {}")
        if self.maximum is None:
            return value
        try:
            size = len(strictjson.canonical(value))
        except ValueError:
            raise Refusal(self.expected, value, "has no canonical form") from None
        if size > self.maximum:
            text = f"has {size} bytes, the most is {self.maximum}"
            raise Refusal(self.expected, value, text, (size, self.maximum))
        return value

    def schema(self) -> Schema:
        return {"type": "object"}
