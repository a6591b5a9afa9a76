"""Rosters of the log: which one is in force at which index, and which one is committed. Pure.

A roster governs from the moment that it is appended. A cut of the log brings the former one back into force.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import attrs

from chorus.errors import PeerError
from chorus.protocols.ballot.roster import MAX_VOTERS, Roster, RosterSigning, Voter, read_roster
from chorus.protocols.replication.messages import EntryKind, LogEntry
from chorus.protocols.replication.refusals import BadAppend, RosterRefused


class Rosters:
    """The roster at the base of the log, and those of the entries above it."""

    def __init__(self, base: int, roster: Roster, entries: Sequence[LogEntry] = ()) -> None:
        self._indexes = [base]
        self._rosters = [roster]
        for entry in entries:
            if entry.kind is EntryKind.ROSTER:
                self.append(entry.index, read_roster(entry.data))

    @property
    def in_force(self) -> Roster:
        return self._rosters[-1]

    @property
    def index(self) -> int:
        """Of the entry of the roster in force, or the base where that is older."""
        return self._indexes[-1]

    def at(self, index: int) -> Roster:
        """In force at `index`, which is not below the base."""
        return self._rosters[max(0, bisect_right(self._indexes, index) - 1)]

    def append(self, index: int, roster: Roster) -> None:
        self._indexes.append(index)
        self._rosters.append(roster)

    def cut(self, after: int) -> bool:
        """Forget rosters above `after`; true if another one is in force now."""
        kept = max(1, bisect_right(self._indexes, after))
        changed = kept < len(self._indexes)
        del self._indexes[kept:], self._rosters[kept:]
        return changed

    def compact(self, base: int) -> None:
        """Forget rosters that were followed by another up to `base`."""
        first = max(0, bisect_right(self._indexes, base) - 1)
        del self._indexes[:first], self._rosters[:first]

    def restart(self, base: int, roster: Roster) -> None:
        self._indexes, self._rosters = [base], [roster]


def successor(former: Roster, voters: Sequence[Voter], index: int, authority: RosterSigning) -> Roster:
    """`former` with other voters, as the entry at `index`, signed. One voter is added or removed. Raises
    `RosterRefused`."""
    ordered = tuple(sorted(voters))
    if not ordered or len(ordered) > MAX_VOTERS or len({each.peer for each in ordered}) != len(ordered):
        raise RosterRefused(f"a roster names 1 to {MAX_VOTERS} voters, each once")
    if len(set(ordered) ^ set(former.voters)) != 1:
        raise RosterRefused("one voter changes at a time: add it, or remove it")
    unsigned = attrs.evolve(former, epoch=max(index, former.epoch + 1), voters=ordered, signature=b"")
    signed = authority.sign(unsigned)
    if signed is None:
        raise RosterRefused("this node has no key of the cluster's authority: change the voters at a member that has")
    return signed


def check_successor(former: Roster, entry: LogEntry, authority: RosterSigning) -> Roster:
    """The roster of an entry that another node appended. Raises `BadAppend`."""
    try:
        roster = read_roster(entry.data)
    except PeerError as error:
        raise BadAppend(f"entry {entry.index}: {error}") from None
    if roster.cluster != former.cluster or roster.epoch <= former.epoch:
        raise BadAppend(f"entry {entry.index}: a roster of another cluster, or of an older epoch")
    if not authority.verify(roster):
        raise BadAppend(f"entry {entry.index}: a roster that the authority of this cluster did not sign")
    return roster
