"""Finds a sequential order for what clients saw: the search of Wing and Gong with a memo (Lowe 2017).

J. M. Wing, C. Gong: Testing and verifying concurrent objects, 1993; G. Lowe: Testing for linearizability, 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import Enum
from typing import Any, Final

import attrs

MAX_CONCURRENT: Final = 30
"""Operations that may be open at one moment: the search may have to try every subset of them."""

MAX_VISITS: Final = 200_000
"""Pairs of (what is done, state) that one search looks at: about a second."""


class Unknown(Enum):
    """Nobody heard what became of it: it may have happened at any time since, or never will."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


@attrs.frozen
class Operation:
    """`invoked` and `returned` are places in one order of everything that clients did; `returned` is None for an
    operation whose answer is `UNKNOWN`."""

    call: Any
    answer: Any
    invoked: int
    returned: int | None


class Undecided(Exception):
    """The history is too wide to be searched."""


Step = Callable[[Any, Any, Any], Iterable[Hashable]]
"""(state, call, answer) → the states in which the object may be afterwards; none when it cannot give that answer."""


def linearizable(history: Sequence[Operation], initial: Hashable, step: Step, *, max_visits: int = MAX_VISITS) -> bool:
    """Raises `Undecided`. Operations that certainly did nothing are left out by the caller."""
    if width(history) > MAX_CONCURRENT:
        raise Undecided(f"{width(history)} operations were open at once")
    operations = sorted(history, key=lambda operation: operation.invoked)
    must = sum(1 << place for place, operation in enumerate(operations) if operation.returned is not None)
    waiting: list[tuple[int, Hashable]] = [(0, initial)]
    visited = set(waiting)
    while waiting:
        done, state = waiting.pop()
        if done & must == must:
            return True
        for place in _next(operations, done):
            operation = operations[place]
            for after in step(state, operation.call, operation.answer):
                reached = (done | 1 << place, after)
                if reached not in visited:
                    if len(visited) >= max_visits:
                        raise Undecided(f"more than {max_visits} states")
                    visited.add(reached)
                    waiting.append(reached)
    return False


def width(history: Iterable[Operation]) -> int:
    """The most operations that were open at one moment."""
    changes = []
    for operation in history:
        changes.append((operation.invoked, 1))
        if operation.returned is not None:
            changes.append((operation.returned, -1))
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def _next(operations: Sequence[Operation], done: int) -> list[int]:
    """Places of those that may be the next to take effect: none began after another of them had to be over."""
    found: list[int] = []
    first_end: int | None = None
    for place, operation in enumerate(operations):
        if done >> place & 1:
            continue
        if first_end is not None and operation.invoked > first_end:
            break
        found.append(place)
        if operation.returned is not None and (first_end is None or operation.returned < first_end):
            first_end = operation.returned
    return found
