"""Typed readers of a JSON object's fields, with the path of what is wrong in every refusal."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from chorus.errors import UserError

T = TypeVar("T")


class SpecError(UserError):
    """A task specification that is not acceptable; `field` is the path of what is wrong (`limits.cpu`,
    `commands[2]`), empty for the whole body."""

    code = "invalid_task"
    http_status = 422

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}" if field else text)
        self.field = field
        self.text = text


def shown(value: object, limit: int = 60) -> str:
    """A value fit to stand in one line of an error."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def path_of(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def as_object(value: object, field: str, known: Iterable[str]) -> Mapping[str, object]:
    """A JSON object with no field outside `known`; an unknown one is named, with what may have been meant."""
    if not isinstance(value, dict):
        raise SpecError(field, f"must be an object, not {shown(value)}")
    known = tuple(known)
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name[:64].lower(), known, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"known fields are {', '.join(known)}"
            named = name[:64] if name.isprintable() else repr(name[:64])
            raise SpecError(path_of(field, named), f"unknown field; {hint}")
    return value


def as_text(
    value: object, field: str, *, maximum: int, minimum: int = 0, pattern: re.Pattern[str] | None = None, form: str = ""
) -> str:
    """A string of at most `maximum` bytes of UTF-8 without NUL, matching `pattern` (described by `form`)."""
    if not isinstance(value, str):
        raise SpecError(field, f"must be a string, not {shown(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise SpecError(field, "holds half of a surrogate pair") from None
    if size > maximum:
        raise SpecError(field, f"is {size} bytes long, the most is {maximum}")
    if size < minimum:
        raise SpecError(field, "must not be empty" if minimum == 1 else f"must have at least {minimum} bytes")
    if "\0" in value:
        raise SpecError(field, "must not hold a NUL character")
    if pattern is not None and not pattern.fullmatch(value):
        raise SpecError(field, f"{shown(value)} is not {form}")
    return value


def as_integer(value: object, field: str, minimum: int, maximum: int) -> int:
    """A whole number (5.0 is one, as in JSON Schema; a boolean is none)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(field, f"must be a whole number, not {shown(value)}")
    if not minimum <= value <= maximum:
        raise SpecError(field, f"is {shown(value)}, must be from {minimum} to {maximum}")
    return value


def as_number(value: object, field: str, minimum: float, maximum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(field, f"must be a number, not {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(field, "must be finite")
    if not minimum <= value <= maximum:
        raise SpecError(field, f"is {shown(value)}, must be from {minimum:g} to {maximum:g}")
    return float(value)


def as_list(
    value: object, field: str, maximum: int, item: Callable[[object, str], T], *, distinct: bool = False
) -> tuple[T, ...]:
    """A list of at most `maximum` items, each read by `item(value, path)`."""
    if not isinstance(value, list | tuple):
        raise SpecError(field, f"must be a list, not {shown(value)}")
    if len(value) > maximum:
        raise SpecError(field, f"has {len(value)} items, the most is {maximum}")
    items = tuple(item(each, f"{field}[{position}]") for position, each in enumerate(value))
    if distinct:
        seen: set[T] = set()
        for position, each in enumerate(items):
            if each in seen:
                raise SpecError(f"{field}[{position}]", f"{shown(each)} appears twice")
            seen.add(each)
    return items
