"""The admin's side of replication: who is sent what and when, and what a majority has (Raft 5.3, 5.4.2, 6). Pure."""

from __future__ import annotations

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import Voter
from chorus.protocols.replication.limits import MAX_BATCH, MAX_BATCH_ENTRIES, JournalLimits
from chorus.protocols.replication.local import LocalLog
from chorus.protocols.replication.messages import Append, AppendReply, LogEntry
from chorus.protocols.replication.outbox import ReplicaOutbox, SnapshotWanted
from chorus.protocols.replication.progress import FollowerProgress, Mode
from chorus.protocols.replication.refusals import BadAppendReply

EMPTY_AFTER = 2
"""Silences in a row after which probes carry no entries: a member that is away is not sent them again and again."""
LEFT_AFTER = 5
"""Silences after which a former voter is not told of its removal any more."""


class Leading:
    """One term of this node as admin."""

    def __init__(self, me: Voter, term: int, local: LocalLog, outbox: ReplicaOutbox, limits: JournalLimits) -> None:
        self.term = term
        self.tracked: set[str] = set()
        self.followers: dict[str, FollowerProgress] = {}
        self._me = me
        self._local = local
        self._outbox = outbox
        self._limits = limits
        self._tell_at = 0.0
        """The commit index may be told alone from here on."""

    def sync(self, now: float) -> None:
        """Follow the voters of the roster in force, and those that are tracked."""
        rosters = self._local.rosters
        wanted = {voter.peer: None for voter in rosters.in_force.voters if voter.peer != self._me.peer}
        wanted |= dict.fromkeys(sorted(self.tracked))
        for peer in wanted:
            if peer not in self.followers:
                self.followers[peer] = FollowerProgress(self._limits, self._local.log.last_index + 1, now)
            self.followers[peer].leaves_at = None
        for peer, follower in self.followers.items():
            if peer not in wanted and follower.leaves_at is None:
                follower.leaves_at = rosters.index

    def advance(self, now: float) -> None:
        """Commit what a majority of the roster in force holds durably, if its last entry is of this term."""
        local, roster = self._local, self._local.rosters.in_force
        index = sorted((self._match(voter) for voter in roster.voters), reverse=True)[roster.quorum - 1]
        if index > local.commit and local.log.term_at(index) == self.term:
            local.commit_to(index)
            if self._tell_at <= now:
                self._tell_at = now + self._limits.tell_s

    def _match(self, voter: Voter) -> int:
        if voter == self._me:
            return self._local.durable
        follower = self.followers.get(voter.peer)
        return follower.match if follower else 0

    def reply(self, peer: str, message: AppendReply, now: float) -> None:
        """Raises `BadAppendReply`."""
        follower = self.followers.get(peer)
        if follower is None or message.term != self.term:
            return
        if message.match > self._local.log.last_index:
            raise BadAppendReply(f"entries up to {message.match}, where {self._local.log.last_index} is the last")
        if message.ok:
            if follower.agreed(message.match, now):
                self.advance(now)
        elif follower.mode is Mode.SNAPSHOT and message.match < self._local.log.base.index:
            follower.wait_for_snapshot(now)
        else:
            follower.disagreed(message.match, now)

    def tick(self, now: float) -> None:
        for follower in self.followers.values():
            if follower.due <= now and not follower.idle:
                follower.silent(now)

    def due(self) -> float:
        """When something is to be sent again; infinite without followers."""
        commit = self._local.commit
        due = min((follower.due for follower in self.followers.values()), default=float("inf"))
        if any(follower.untold(commit) for follower in self.followers.values()):
            due = min(due, self._tell_at)
        return due

    def flush(self, now: float) -> None:
        """Queue what may be sent now."""
        for peer, follower in list(self.followers.items()):
            if self._has_left(follower):
                del self.followers[peer]
            elif follower.next <= self._local.log.base.index or follower.mode is Mode.SNAPSHOT:
                self._want_snapshot(peer, follower, now)
            elif follower.mode is Mode.PROBING:
                if follower.idle and follower.due <= now:
                    self._send(peer, follower, now, empty=follower.silences >= EMPTY_AFTER)
            else:
                self._stream(peer, follower, now)

    def _has_left(self, follower: FollowerProgress) -> bool:
        index = follower.leaves_at
        if index is None:
            return False
        return min(follower.match, follower.told) >= index or follower.silences >= LEFT_AFTER

    def _stream(self, peer: str, follower: FollowerProgress, now: float) -> None:
        last = self._last_for(follower)
        while follower.open and follower.next <= last:
            self._send(peer, follower, now)
        telling = follower.untold(self._local.commit) and self._tell_at <= now
        if follower.idle and (telling or follower.due <= now):
            self._send(peer, follower, now, empty=True)

    def _last_for(self, follower: FollowerProgress) -> int:
        """A voter gets its removal once that is committed: with it alone it would stand no more, and its longer log
        would keep those from winning that still need its vote."""
        last, leaves_at = self._local.log.last_index, follower.leaves_at
        return last if leaves_at is None or leaves_at <= self._local.commit else min(last, leaves_at - 1)

    def _want_snapshot(self, peer: str, follower: FollowerProgress, now: float) -> None:
        base = self._local.log.base
        if follower.mode is not Mode.SNAPSHOT:
            follower.wait_for_snapshot(now)
        follower.next = base.index + 1
        if follower.wanted_at is None or now - follower.wanted_at >= self._limits.snapshot_s:
            follower.wanted_at = now
            self._outbox.report(SnapshotWanted(peer))
        if follower.idle and follower.due <= now:
            self._send(peer, follower, now, empty=True)

    def _send(self, peer: str, follower: FollowerProgress, now: float, *, empty: bool = False) -> None:
        """One message from `follower.next` on. It leaves beside this node's own write, not after it."""
        log, commit = self._local.log, self._local.commit
        after = follower.next - 1
        entries: tuple[LogEntry, ...] = ()
        if not empty:
            entries = log.batch(after, self._last_for(follower), MAX_BATCH_ENTRIES, MAX_BATCH)
        prev: LogPosition = log.position(after)
        self._outbox.send(peer, Append(self.term, prev, commit, entries), after_writes=False)
        follower.sent(after + len(entries), sum(len(entry.data) for entry in entries), commit, now)
