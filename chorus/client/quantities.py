"""Quantities as they are given on the command line of `chorus simulate`. Each raises `ValueError`, whose text follows
the option's name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from chorus.simulation.gossip.scenario import Attack

SPREAD: Final = 0.1
"""How far a link's delay is from a single number that was given, to both sides."""

LONGEST: Final = 40
"""Characters of a number."""

_WHOLE: Final = re.compile(r"-?[0-9]+")
_DECIMAL: Final = re.compile(r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def _matched(text: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"is {what}, not {text[:LONGEST]!r}")
    if len(text) > LONGEST:
        raise ValueError(f"is {what} of at most {LONGEST} characters, not {len(text)}")
    return text


def whole(text: str) -> int:
    return int(_matched(text, _WHOLE, "a whole number"))


def decimal(text: str) -> float:
    return float(_matched(text, _DECIMAL, "a number"))


def share(text: str) -> float:
    """`5%` or `0.05`; what is above 1 has its percent sign, so that nobody gets a hundred times what was meant."""
    try:
        value = decimal(text[:-1]) / 100 if text.endswith("%") else decimal(text)
    except ValueError:
        raise ValueError(f"is a share such as 5% or 0.05, not {text[:LONGEST]!r}") from None
    if value > 1 and not text.endswith("%"):
        raise ValueError(f"is a share such as 5% or 0.05, not {text!r}: above 1 say it in percent")
    return value


def delays(text: str) -> tuple[float, float]:
    """The shortest and the longest delay of a link, in ms."""
    parts = text.removesuffix("ms").strip().split("-")
    try:
        low, high = (decimal(part) for part in parts) if len(parts) > 1 else (decimal(parts[0]),) * 2
    except ValueError:
        raise ValueError(f"is a delay in ms such as 25, or two such as 10-150, not {text[:LONGEST]!r}") from None
    if low > high:
        raise ValueError(f"is a delay in ms such as 25, or two such as 10-150, the shorter one first, not {text!r}")
    return (low, high) if len(parts) > 1 else (low * (1 - SPREAD), high * (1 + SPREAD))


def attack(text: str) -> Attack:
    """Raises `ScenarioError` for what is no attack that can be."""
    from chorus.simulation.gossip.scenario import Attack

    found = re.fullmatch(r"([a-z]+):([0-9]{1,9})x([0-9]{1,9})", text)
    if found is None:
        raise ValueError(f"is KIND:NxK such as silent:400x100, not {text[:LONGEST]!r}")
    return Attack(found[1], int(found[2]), int(found[3]))
