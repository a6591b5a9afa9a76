"""The log above its snapshot, in memory: entries with terms and sizes, cut and compacted. Pure.

The first entries may lie under the snapshot: some are kept for followers that are a little behind (`JournalLimits`).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import Roster
from chorus.protocols.replication.messages import LogEntry


@attrs.frozen
class StoredLog:
    """A replica's log in its store: the snapshot's position with the roster in force there, and the entries after
    it, which follow on each other without a gap."""

    snapshot: LogPosition
    roster: Roster
    entries: tuple[LogEntry, ...] = ()


class ReplicatedLog:
    """Entries `base.index + 1` to `last.index`; positions below `base` are unknown."""

    def __init__(self, base: LogPosition, entries: Sequence[LogEntry] = ()) -> None:
        self._entries: list[LogEntry] = []
        self.base = base
        self.size = 0
        """Bytes of data of the entries in memory."""
        self.extend(entries)

    @property
    def last(self) -> LogPosition:
        if not self._entries:
            return self.base
        entry = self._entries[-1]
        return LogPosition(entry.term, entry.index)

    @property
    def last_index(self) -> int:
        return self.base.index + len(self._entries)

    def term_at(self, index: int) -> int | None:
        """None below the base and above the end."""
        at = index - self.base.index - 1
        if at == -1:
            return self.base.term
        return self._entries[at].term if 0 <= at < len(self._entries) else None

    def holds(self, position: LogPosition) -> bool:
        return self.term_at(position.index) == position.term

    def position(self, index: int) -> LogPosition:
        """Of an index from the base to the end. Raises `IndexError` for another."""
        term = self.term_at(index)
        if term is None:
            raise IndexError(f"index {index} is not in memory")
        return LogPosition(term, index)

    def entry(self, index: int) -> LogEntry | None:
        at = index - self.base.index - 1
        return self._entries[at] if 0 <= at < len(self._entries) else None

    def between(self, after: int, last: int) -> tuple[LogEntry, ...]:
        """Entries `after + 1` to `last`, as far as they are in memory."""
        base = self.base.index
        return tuple(self._entries[max(0, after - base) : max(0, last - base)])

    def batch(self, after: int, last: int, most: int, most_bytes: int) -> tuple[LogEntry, ...]:
        """At most `most` entries of at most `most_bytes` bytes in all, but at least one, of `after + 1` to `last`."""
        start = after - self.base.index
        end = min(last - self.base.index, start + most)
        size = 0
        for at in range(start, end):
            size += len(self._entries[at].data)
            if size > most_bytes and at > start:
                end = at
                break
        return tuple(self._entries[start:end])

    def back_up(self, index: int, term: int) -> int:
        """The highest index up to `index` at which another log may agree that has `term` at `index`, where this log has
        another term or none: entries of higher terms cannot, and a whole term is passed over at once."""
        at = min(index, self.last_index)
        own = self.term_at(at)
        if own is None or at < index or own == term:
            return max(at, self.base.index)
        limit = own - 1 if own < term else term
        while at > self.base.index and (self.term_at(at) or 0) > limit:
            at -= 1
        return at

    def extend(self, entries: Sequence[LogEntry]) -> None:
        """Append entries that follow on the last one. Raises `ValueError` for a gap: a store that lost rows."""
        for entry in entries:
            if entry.index != self.last_index + 1:
                raise ValueError(f"entry {entry.index} does not follow on {self.last_index}")
            self._entries.append(entry)
            self.size += len(entry.data)

    def cut(self, after: int) -> None:
        """Remove the entries above `after`."""
        start = max(0, after - self.base.index)
        self.size -= sum(len(entry.data) for entry in self._entries[start:])
        del self._entries[start:]

    def compact(self, index: int) -> None:
        """Forget the entries up to `index`, which becomes the base."""
        base = self.position(index)
        count = index - self.base.index
        self.size -= sum(len(entry.data) for entry in self._entries[:count])
        del self._entries[:count]
        self.base = base

    def tail(self, index: int, most: int, most_bytes: int) -> int:
        """The lowest base that keeps at most `most` entries of at most `most_bytes` bytes up to `index`."""
        lowest = max(self.base.index, index - most)
        size = 0
        while index > lowest:
            entry = self.entry(index)
            size += len(entry.data) if entry else 0
            if size > most_bytes:
                break
            index -= 1
        return index

    def restart(self, base: LogPosition) -> None:
        """Forget all entries: `base` is a snapshot's position."""
        self.base = base
        self._entries.clear()
        self.size = 0
