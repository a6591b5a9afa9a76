"""Connections that have not proved anything yet: a pool in which a further one always finds a place (pure).

The one without progress for longest makes room, in the group of the newcomer when that is full, else in all of the
pool. Progress is a step of the protocol, never a number of bytes: a client that trickles stays where it is in the line.
A connection that has proved what the listener asks for leaves the pool, so that strangers never take a member's place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
Group = tuple[str, int]
"""A name, and how many of the pool may have it."""


class Newcomers(Generic[T]):
    """At most `most` at a time, by their last progress."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._line: dict[T, tuple[str, ...]] = {}
        """With the names of their groups; the one without progress for longest is first."""
        self._by_group: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[T]:
        """The one without progress for longest comes first."""
        return iter(self._line)

    def __contains__(self, member: object) -> bool:
        return member in self._line

    def in_the_way(self, groups: Sequence[Group] = ()) -> T | None:
        """The one that has to go before another one of `groups` comes; ask again until there is none."""
        for name, most in groups:
            if self._by_group[name] >= most:
                return next(each for each, names in self._line.items() if name in names)
        return next(iter(self._line)) if len(self._line) >= self.most else None

    def add(self, member: T, groups: Sequence[Group] = ()) -> None:
        """Coming is progress. Make room first."""
        names = tuple(name for name, _ in groups)
        self._line[member] = names
        self._by_group.update(names)

    def progressed(self, member: T) -> None:
        """Go to the end of the line; nothing for those that have left it."""
        if member in self._line:
            self._line[member] = self._line.pop(member)

    def remove(self, member: T) -> None:
        """Idempotent."""
        names = self._line.pop(member, ())
        self._by_group.subtract(names)
        for name in names:
            if not self._by_group[name]:
                del self._by_group[name]
