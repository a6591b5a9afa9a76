"""The replicated journal: Raft's log on the terms of the election (Raft 5.3, 5.4, 6 and 7). Pure.

The election says who leads in which term (`lead`, `follow`); this says what is in the log and what is committed. Both
share one `ReplicaOutbox`. Whoever drives it calls `flush` before each drain: entries that were proposed since the last
one travel together.
"""

from __future__ import annotations

from collections.abc import Sequence

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import Roster, RosterSigning, Voter
from chorus.protocols.replication.leading import Leading
from chorus.protocols.replication.limits import MAX_BATCH, MAX_BATCH_ENTRIES, MAX_ENTRY, JournalLimits
from chorus.protocols.replication.local import LocalLog
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import Append, AppendReply, EntryKind, LogEntry, Pulled
from chorus.protocols.replication.outbox import ReplicaOutbox
from chorus.protocols.replication.refusals import BadAppend, BadPulled, EntryTooLarge, RosterRefused, StaleAppend
from chorus.protocols.replication.rosters import successor
from chorus.tasks.journal import NotLeader

DEFAULT_LIMITS = JournalLimits()


class JournalCore:
    """The log of one replica, as leader, follower or learner."""

    def __init__(
        self,
        me: Voter,
        stored: StoredLog,
        outbox: ReplicaOutbox,
        authority: RosterSigning,
        limits: JournalLimits = DEFAULT_LIMITS,
    ) -> None:
        self._me = me
        self._outbox = outbox
        self._authority = authority
        self._limits = limits
        self._local = LocalLog(stored, outbox, authority, limits)
        self._leading: Leading | None = None
        self._doubtful = False
        """A learner's entries above its commit index are not the cluster's: pull from there."""
        self._now = float("-inf")

    # Reads

    @property
    def last(self) -> LogPosition:
        """Of the last entry, durable or not."""
        return self._local.log.last

    @property
    def commit(self) -> int:
        return self._local.commit

    @property
    def durable(self) -> int:
        """Everything up to here is in the store."""
        return self._local.durable

    @property
    def delivered(self) -> int:
        """Everything up to here was reported as `Committed`, or is in an installed snapshot."""
        return self._local.delivered

    @property
    def size(self) -> int:
        """Bytes of data in memory."""
        return self._local.log.size

    @property
    def base(self) -> LogPosition:
        """Entries above it are in memory; it may lie under the snapshot."""
        return self._local.log.base

    @property
    def roster(self) -> Roster:
        """In force: the newest in the log, committed or not."""
        return self._local.rosters.in_force

    @property
    def committed_roster(self) -> Roster:
        return self._local.rosters.at(self._local.commit)

    def roster_at(self, index: int) -> Roster:
        """In force at an index that is not below `base`: what a snapshot of that index holds."""
        return self._local.rosters.at(index)

    def term_at(self, index: int) -> int | None:
        """None below `base` and above the end."""
        return self._local.log.term_at(index)

    def match(self, peer: str) -> int | None:
        """Index up to which a follower of this admin holds everything durably; None for others."""
        follower = self._leading.followers.get(peer) if self._leading else None
        return follower.match if follower else None

    # The leader

    def lead(self, term: int, now: float, noop: bytes = b"") -> int:
        """This node has won `term`: append its no-op, and return the index of that."""
        if term <= self.last.term:
            raise ValueError(f"term {term} is not above {self.last.term}, that of the last entry")
        self._leading = Leading(self._me, term, self._local, self._outbox, self._limits)
        return self._append(EntryKind.NOOP, (noop,), now)[0]

    def follow(self) -> None:
        """This node leads no more. Its entries stay, committed or not."""
        self._leading = None

    def propose(self, data: Sequence[bytes], now: float) -> range:
        """Append entries of this term; returns their indexes. Raises `NotLeader` and `EntryTooLarge`."""
        for each in data:
            if len(each) > MAX_ENTRY:
                raise EntryTooLarge(f"an entry of {len(each)} bytes is over the limit of {MAX_ENTRY}: make it smaller")
        return self._append(EntryKind.ENTRY, data, now)

    def propose_roster(self, voters: Sequence[Voter], now: float) -> int:
        """Append a roster that differs in one voter; it is in force at once. Raises `NotLeader` and `RosterRefused`.

        The admin does not take its own vote: a roster that it alone has would keep it from standing, and its longer log
        the others from winning.
        """
        if self._leading is None:
            raise NotLeader
        if self._me not in voters:
            raise RosterRefused("the admin keeps its vote: hand the office over first (`chorus admin transfer`)")
        if self.term_at(self.commit) != self._leading.term:
            raise RosterRefused("no entry of this term is committed yet: try again in a moment")
        if self._local.rosters.index > self.commit:
            raise RosterRefused("the last change of voters is not committed yet: try again in a moment")
        roster = successor(self.roster, voters, self.last.index + 1, self._authority)
        return self._append(EntryKind.ROSTER, (roster.encode(),), now, (roster,))[0]

    def _append(self, kind: EntryKind, data: Sequence[bytes], now: float, rosters: Sequence[Roster] = ()) -> range:
        leading = self._leading
        if leading is None:
            raise NotLeader
        self._now = now
        first = self.last.index + 1
        entries = [LogEntry(first + at, leading.term, kind, each) for at, each in enumerate(data)]
        if entries:
            self._local.write(entries, rosters)
        if kind is not EntryKind.ENTRY:
            leading.sync(now)
            leading.advance(now)
        return range(first, first + len(entries))

    def track(self, peer: str, now: float) -> None:
        """Append to a learner that shall become a voter. Raises `NotLeader`."""
        if self._leading is None:
            raise NotLeader
        self._now = now
        self._leading.tracked.add(peer)
        self._leading.sync(now)

    def untrack(self, peer: str) -> None:
        """No more, unless it is a voter by now."""
        leading = self._leading
        if leading is not None and peer in leading.tracked:
            leading.tracked.discard(peer)
            if peer not in self.roster.by_peer:
                leading.followers.pop(peer, None)

    def receive_reply(self, peer: str, message: AppendReply, now: float) -> None:
        """Answers of other terms are passed over. Raises `BadAppendReply`."""
        self._now = now
        if self._leading is not None:
            self._leading.reply(peer, message, now)

    # Followers and learners

    def receive_append(self, leader: str, message: Append) -> None:
        """Entries of the admin of `message.term`, which is this node's term as well. Raises `BadAppend`, `StaleAppend`
        and `ContradictsCommitted`.

        A learner may have pulled entries of a term that it has not heard of, while a former admin still tracks it.
        """
        if self._leading is not None:
            if message.term <= self._leading.term:
                raise BadAppend(f"entries of term {message.term} to the admin of term {self._leading.term}")
            self.follow()
        if message.term < self.last.term:
            raise StaleAppend(f"entries of term {message.term}, where the log ends in term {self.last.term}")
        local, prev = self._local, message.prev
        if not local.accept(leader, message.term, prev, message.entries):
            hint = max(local.log.back_up(prev.index, prev.term), local.commit)
            self._outbox.send(leader, AppendReply(message.term, False, hint))
            return
        match = prev.index + len(message.entries)
        local.commit_to(min(message.commit, match))
        # Whoever leads has all that is committed (Raft 5.4.3): more than `match` of it is agreed on.
        self._outbox.send(leader, AppendReply(message.term, True, max(match, local.commit)))

    def pulled(self, after: LogPosition) -> Pulled:
        """The answer to a learner's `Pull`."""
        log, commit = self._local.log, self._local.commit
        if after.index < log.base.index:
            return Pulled(commit, snapshot=True)
        agreed = after.index if log.holds(after) else log.back_up(after.index, after.term)
        prev = log.position(min(agreed, commit))
        return Pulled(commit, log.batch(prev.index, commit, MAX_BATCH_ENTRIES, MAX_BATCH), prev=prev)

    @property
    def pull_after(self) -> LogPosition:
        """Where this learner's next `Pull` begins."""
        return self._local.log.position(self.commit) if self._doubtful else self.last

    def learn(self, pulled: Pulled, source: str | None = None) -> bool:
        """Take committed entries; false where a snapshot is needed instead. Raises `BadPulled` and
        `ContradictsCommitted`."""
        if pulled.snapshot or self._leading is not None:
            return self._leading is not None
        last = pulled.prev.index + len(pulled.entries)
        term = max((pulled.prev.term, *(entry.term for entry in pulled.entries)))
        if last > pulled.commit:
            raise BadPulled(f"entries up to {last}, where {pulled.commit} is committed")
        try:
            agreed = self._local.accept(source, term, pulled.prev, pulled.entries)
        except BadAppend as error:
            raise BadPulled(str(error)) from None
        if agreed:
            self._local.commit_to(last)
        self._doubtful = not agreed or (self._doubtful and self.commit < self.last.index)
        return True

    # The store

    def persisted(self, ticket: int, now: float) -> None:
        """Writes up to `ticket` are durable."""
        self._local.persisted(ticket)
        if self._leading is not None:
            self._now = now
            self._leading.advance(now)

    def installed(self, position: LogPosition, roster: Roster) -> None:
        """A snapshot up to `position`, with the roster in force there, is durable and applied here. Entries after it
        stay only where the log has that very position; the store must do the same when it reads both at a start."""
        if self._leading is None:
            self._local.installed(position, roster)
            self._doubtful = False

    def compacted(self, position: LogPosition) -> None:
        """Entries up to `position` are in a durable snapshot of this node."""
        self._local.compacted(position)

    # Time

    def tick(self, now: float) -> None:
        self._now = now
        if self._leading is not None:
            self._leading.tick(now)

    def due(self) -> float | None:
        """When to call `tick` next."""
        due = self._leading.due() if self._leading is not None else float("inf")
        return None if due == float("inf") else due

    def flush(self) -> None:
        """Queue the messages that the last calls gave rise to; before each drain of the outbox."""
        if self._leading is not None:
            self._leading.flush(self._now)
