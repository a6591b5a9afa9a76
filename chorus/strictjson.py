"""JSON as it is accepted from users and peers: one meaning per text, bounded in every direction.

Refused: anything over the byte limit, nesting over the depth limit (before the parser recurses), duplicate keys, NaN
and the infinities, integers outside ±(2^53 - 1) or with absurd digits (CVE-2020-10735), lone surrogates, a byte order
mark, invalid UTF-8. The rest is I-JSON (RFC 7493), so `canonical` (RFC 8785) can write it again.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, NoReturn, cast

import rfc8785

from chorus.errors import ChorusError, UserError

if TYPE_CHECKING:
    from chorus.seams import JSON

MAX_BYTES = 1 << 20
"""Default limit of one document; callers that expect less say so."""
MAX_DEPTH = 32
"""Arrays and objects inside one another; the deepest document of CHORUS has 6 levels."""
MAX_INTEGER = 2**53 - 1
"""The integers that every JSON implementation keeps exact (RFC 7493, 2.2)."""
MAX_NUMBER_CHARACTERS = 64
"""A number's digits, before anything converts them: conversion is quadratic in them."""

# A string to its end (or to the end of the text), or one bracket. Possessive, so that a text of quotes stays linear.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPED_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ROUND = bytes.maketrans(b"[]{}", b"()()")
_HALF = "a string holds half of a surrogate pair"


class JSONError(UserError):
    """Text that is no acceptable JSON."""

    code = "invalid_json"


class _NotStrict(Exception):
    pass


def loads(
    data: bytes | bytearray | memoryview | str,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    max_containers: int | None = None,
    error: type[ChorusError] = JSONError,
) -> JSON:
    """Parse one document. Raises `error` with one line; peers' protocols pass a `PeerError` of their own.

    `max_containers`: arrays and objects in all. Where the reactor waits, they should be few: all that live while a text
    is read make Python's collector go through everything, again and again.
    """
    try:
        text = _text(data, max_bytes)
        brackets = _brackets(text)
        if max_containers is not None and brackets.count(b"(") > max_containers:
            raise _NotStrict(f"more than {max_containers} arrays and objects")
        if not _is_flat(brackets, max_depth):
            _check_depth(text, max_depth)
        value = _DECODER.decode(text)
        _check_surrogates(text)
    except _NotStrict as refusal:
        raise error(str(refusal)) from None
    except json.JSONDecodeError as problem:
        raise error(f"not JSON: {problem.msg} at line {problem.lineno} column {problem.colno}") from None
    except RecursionError:
        raise error(f"nested deeper than {max_depth} levels") from None
    return cast("JSON", value)


def canonical(value: JSON) -> bytes:
    """The one spelling of `value` (RFC 8785), for what is hashed or signed. Raises ValueError for what has none."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as problem:
        raise ValueError(str(problem)) from None


def _text(data: bytes | bytearray | memoryview | str, max_bytes: int) -> str:
    if len(data) > max_bytes:
        raise _NotStrict(f"longer than {max_bytes} bytes")
    if isinstance(data, str):
        text = data
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise _NotStrict(_HALF) from None
        if size > max_bytes:
            raise _NotStrict(f"longer than {max_bytes} bytes")
    else:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError as problem:
            raise _NotStrict(f"not UTF-8 at byte {problem.start}") from None
    if text.startswith("\ufeff"):
        raise _NotStrict("starts with a byte order mark")
    return text


def _check_depth(text: str, maximum: int) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        if mark in "[{":
            depth += 1
            if depth > maximum:
                raise _NotStrict(f"nested deeper than {maximum} levels")
        elif mark in "]}":
            depth -= 1


def _brackets(text: str) -> bytes:
    """Those outside of the strings of valid JSON, made round: a text of nothing but brackets and quotes costs what
    copying it a few times does."""
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    return "".join(text.split('"')[::2]).encode().translate(_ROUND, _NO_BRACKETS)


def _is_flat(brackets: bytes, maximum: int) -> bool:
    """True if they surely close, at most `maximum` deep. False for some valid JSON too: `_check_depth` decides then."""
    for _ in range(maximum):
        if not brackets:
            break
        # Takes the innermost level away, and that alone.
        brackets = brackets.replace(b"()", b"")
    return not brackets


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _NotStrict(f"the key {json.dumps(key[:64])} appears twice in one object")
            seen.add(key)
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARACTERS or abs(value := int(digits)) > MAX_INTEGER:
        raise _NotStrict(f"the integer {digits[:24]} is outside ±(2^53 - 1)")
    return value


def _float(digits: str) -> float:
    if len(digits) > MAX_NUMBER_CHARACTERS:
        raise _NotStrict(f"a number of more than {MAX_NUMBER_CHARACTERS} characters")
    value = float(digits)
    if not math.isfinite(value):
        raise _NotStrict(f"the number {digits} is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise _NotStrict(f"{name} is not JSON")


def _check_surrogates(text: str) -> None:
    """Of a text that is JSON: no escape stands for half of a pair."""
    if not _ESCAPED_SURROGATE.search(text):
        return
    # An escaped backslash is none that escapes; something stays in its place, and in that of a pair, so that what stood
    # apart does not become one.
    if _ESCAPED_SURROGATE.search(_ESCAPED_PAIR.sub("_", text.replace("\\\\", "_"))):
        raise _NotStrict(_HALF)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=True
)
