"""This node's log as a whole: entries, rosters, what is durable, committed and delivered, and its writes. Pure.

Entries are delivered (`Committed`) in order, each once in a start, as soon as they are committed and durable here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NoReturn

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import Roster, RosterSigning
from chorus.protocols.replication.limits import JournalLimits
from chorus.protocols.replication.log import ReplicatedLog, StoredLog
from chorus.protocols.replication.messages import EntryKind, LogEntry
from chorus.protocols.replication.outbox import Committed, LogContradiction, ReplicaOutbox, RosterChanged
from chorus.protocols.replication.refusals import BadAppend, ContradictsCommitted
from chorus.protocols.replication.rosters import Rosters, check_successor


class LocalLog:
    """Raises `ValueError` or `BadRoster` for a stored log with a gap or a roster that cannot be read: the store is
    corrupt."""

    def __init__(
        self, stored: StoredLog, outbox: ReplicaOutbox, authority: RosterSigning, limits: JournalLimits
    ) -> None:
        self.log = ReplicatedLog(stored.snapshot, stored.entries)
        self.rosters = Rosters(stored.snapshot.index, stored.roster, stored.entries)
        self.commit = stored.snapshot.index
        self.durable = self.log.last_index
        self.delivered = stored.snapshot.index
        self._outbox = outbox
        self._authority = authority
        self._limits = limits
        self._writes: deque[tuple[int, int]] = deque()
        """Ticket and last index of each write that is not durable yet."""

    def write(self, entries: Sequence[LogEntry], rosters: Sequence[Roster] = (), cut_after: int | None = None) -> None:
        """Append entries, after removing those above `cut_after`; `rosters` are those of the roster entries."""
        if cut_after is not None:
            self._cut(cut_after)
        self.log.extend(entries)
        self._outbox.append(entries, cut_after=cut_after)
        if self._writes and self._writes[-1][0] == self._outbox.ticket:
            self._writes.pop()
        self._writes.append((self._outbox.ticket, self.log.last_index))
        indexes = (entry.index for entry in entries if entry.kind is EntryKind.ROSTER)
        for index, roster in zip(indexes, rosters, strict=True):
            self.rosters.append(index, roster)
            self._outbox.report(RosterChanged(roster, False))

    def _cut(self, after: int) -> None:
        self.log.cut(after)
        self.durable = min(self.durable, after)
        self._writes = deque((ticket, min(last, after)) for ticket, last in self._writes)
        if self.rosters.cut(after):
            self._outbox.report(RosterChanged(self.rosters.in_force, self.rosters.index <= self.commit))

    def accept(self, source: str | None, term: int, prev: LogPosition, entries: Sequence[LogEntry]) -> bool:
        """Take what another node has after `prev`; false, and nothing is changed, where this log has not `prev`. Raises
        `BadAppend` and `ContradictsCommitted`."""
        _check_order(term, prev, entries)
        log = self.log
        if prev.index >= log.base.index and not log.holds(prev):
            if prev.index <= self.commit:
                self._contradicts(source, term, prev.index)
            return False
        fresh, cut_after = self._fresh(source, term, prev, entries)
        if fresh:
            self.write(fresh, self._rosters_of(fresh), cut_after)
        return True

    def _fresh(
        self, source: str | None, term: int, prev: LogPosition, entries: Sequence[LogEntry]
    ) -> tuple[Sequence[LogEntry], int | None]:
        """Those of `entries` that are not here, and the index above which others have to go first."""
        log = self.log
        if prev.index == log.last_index:
            return entries, None
        for at, entry in enumerate(entries):
            if entry.index > log.last_index:
                return entries[at:], None
            own = log.entry(entry.index)
            if own == entry or (own is None and entry.index < log.base.index):
                continue
            if own is None and entry.term == log.base.term:
                continue
            if own is None or entry.index <= self.commit:
                self._contradicts(source, term, entry.index)
            if own.term == entry.term:
                raise BadAppend(f"another entry {entry.index} of term {entry.term} than the one that is here")
            return entries[at:], entry.index - 1
        return (), None

    def _rosters_of(self, entries: Sequence[LogEntry]) -> list[Roster]:
        found: list[Roster] = []
        for entry in entries:
            if entry.kind is EntryKind.ROSTER:
                former = found[-1] if found else self.rosters.at(entries[0].index - 1)
                found.append(check_successor(former, entry, self._authority))
        return found

    def _contradicts(self, source: str | None, term: int, index: int) -> NoReturn:
        self._outbox.report(LogContradiction(source, term, index))
        raise ContradictsCommitted(f"another entry {index} than the one that is committed here")

    def commit_to(self, index: int) -> None:
        """Entries up to `index` are committed; a lower index than before changes nothing."""
        index = min(index, self.log.last_index)
        if index <= self.commit:
            return
        former, self.commit = self.rosters.at(self.commit), index
        roster = self.rosters.at(index)
        if roster is not former:
            self._outbox.report(RosterChanged(roster, True))
        self._deliver()

    def persisted(self, ticket: int) -> None:
        while self._writes and self._writes[0][0] <= ticket:
            self.durable = self._writes.popleft()[1]
        self._deliver()

    def _deliver(self) -> None:
        index = min(self.commit, self.durable)
        if index > self.delivered:
            self._outbox.report(Committed(self.log.between(self.delivered, index)))
            self.delivered = index

    def installed(self, position: LogPosition, roster: Roster) -> None:
        """A snapshot up to `position` is durable and applied. Entries after it are kept where the log has `position`,
        else the whole log is removed, in the store too."""
        if position.index > self.commit and not self.log.holds(position):
            changed = roster != self.rosters.in_force
            self.log.restart(position)
            self.rosters.restart(position.index, roster)
            self._outbox.append((), cut_after=0)
            self._writes.clear()
            self.commit = self.durable = self.delivered = position.index
            if changed:
                self._outbox.report(RosterChanged(roster, True))
        self.delivered = max(self.delivered, position.index)
        self.commit_to(position.index)

    def compacted(self, position: LogPosition) -> None:
        """Entries up to `position` are in a durable snapshot; some stay in memory (`JournalLimits.kept`)."""
        index = min(position.index, self.delivered)
        if index > self.log.base.index:
            base = self.log.tail(index, self._limits.kept, self._limits.kept_bytes)
            self.log.compact(base)
            self.rosters.compact(base)


def _check_order(term: int, prev: LogPosition, entries: Sequence[LogEntry]) -> None:
    """Raises `BadAppend` for a gap, and for a term that falls or is over that of the message."""
    index, former = prev.index, prev.term
    for entry in entries:
        index += 1
        if entry.index != index:
            raise BadAppend(f"entry {entry.index} where {index} follows")
        if entry.term < former:
            raise BadAppend(f"the term falls from {former} to {entry.term} at entry {index}")
        former = entry.term
    if former > term:
        raise BadAppend(f"an entry of term {former} in a message of term {term}")
