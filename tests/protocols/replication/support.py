"""Replicas' logs side by side: voters, rosters that anybody may sign, and messages that a test delivers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.journal import JournalCore
from chorus.protocols.replication.limits import JournalLimits
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import Append, AppendReply, EntryKind, LogEntry
from chorus.protocols.replication.outbox import Committed, LogWrite, ReplicaEvent, ReplicaMessage, ReplicaOutbox

PEERS = tuple(f"12D3KooW{letter * 44}" for letter in "ABCDEFG")
VOTERS = tuple(Voter(peer, f"{at:032x}") for at, peer in enumerate(PEERS))
CLUSTER = "ab" * 32
A, B, C, D, E, F, G = VOTERS


class Authority:
    """Signs with a constant."""

    key = True

    def verify(self, roster: Roster) -> bool:
        return roster.signature == b"s" * 64

    def sign(self, roster: Roster) -> Roster | None:
        return attrs.evolve(roster, signature=b"s" * 64) if self.key else None


def roster(*voters: Voter, epoch: int = 1) -> Roster:
    return Roster(1, CLUSTER, epoch, 1000, tuple(sorted(voters)), b"s" * 64)


def entry(index: int, term: int, data: bytes | None = None) -> LogEntry:
    return LogEntry(index, term, EntryKind.ENTRY, b"%d.%d" % (term, index) if data is None else data)


def entries(*terms: int, first: int = 1) -> tuple[LogEntry, ...]:
    """One entry for each term, from index `first` on."""
    return tuple(entry(first + at, term) for at, term in enumerate(terms))


def roster_entry(index: int, term: int, value: Roster) -> LogEntry:
    return LogEntry(index, term, EntryKind.ROSTER, value.encode())


@attrs.define(eq=False)
class Replica:
    """A core with its store, which keeps only what was written."""

    me: Voter
    stored: StoredLog
    limits: JournalLimits = attrs.field(factory=JournalLimits)
    rows: list[LogEntry] = attrs.Factory(list)
    unwritten: list[LogWrite] = attrs.Factory(list)
    messages: list[tuple[str, ReplicaMessage]] = attrs.Factory(list)
    events: list[ReplicaEvent] = attrs.Factory(list)
    authority: Authority = attrs.Factory(Authority)
    outbox: ReplicaOutbox = attrs.field(init=False)
    core: JournalCore = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rows = list(self.stored.entries)
        self.start()

    def start(self) -> None:
        """Also after a crash: what was not written is gone."""
        self.unwritten.clear()
        self.messages.clear()
        self.events.clear()
        self.outbox = ReplicaOutbox()
        stored = attrs.evolve(self.stored, entries=tuple(self.rows))
        self.core = JournalCore(self.me, stored, self.outbox, self.authority, self.limits)

    def drain(self) -> None:
        self.core.flush()
        output = self.outbox.drain()
        self.unwritten += [output.write] if output.write else []
        self.messages += output.messages
        self.events += output.events

    def write(self, now: float = 0.0) -> None:
        """Perform the writes that wait."""
        self.drain()
        while self.unwritten:
            write = self.unwritten.pop(0)
            self.rows = applied(self.rows, write)
            self.outbox.persisted(write.ticket)
            self.core.persisted(write.ticket, now)
            self.drain()

    def taken(self) -> list[tuple[str, ReplicaMessage]]:
        """Messages since the last call."""
        self.drain()
        messages, self.messages = self.messages, []
        return messages

    def committed(self) -> list[LogEntry]:
        """Delivered since the start."""
        return [each for event in self.events if isinstance(event, Committed) for each in event.entries]


def applied(rows: Sequence[LogEntry], write: LogWrite) -> list[LogEntry]:
    """What a store holds after a write."""
    kept = [row for row in rows if write.cut_after is None or row.index <= write.cut_after]
    return kept + list(write.entries)


def replica(
    me: Voter = A,
    log: Iterable[LogEntry] = (),
    *,
    voters: Sequence[Voter] = (A, B, C),
    snapshot: LogPosition | None = None,
    limits: JournalLimits | None = None,
) -> Replica:
    stored = StoredLog(snapshot or LogPosition(), roster(*voters), tuple(log))
    return Replica(me, stored, limits or JournalLimits())


class Group:
    """Replicas whose messages and writes a test lets through."""

    def __init__(self, *members: Replica) -> None:
        self.members = {member.me.peer: member for member in members}
        self.now = 0.0

    def deliver(self, sender: str, peer: str, message: ReplicaMessage) -> None:
        core = self.members[peer].core
        if isinstance(message, Append):
            core.receive_append(sender, message)
        elif isinstance(message, AppendReply):
            core.receive_reply(sender, message, self.now)

    def settle(self, *cut: str) -> int:
        """Write and deliver until nothing is left, but nothing to or from `cut`; returns the number of messages."""
        count = 0
        while True:
            for member in self.members.values():
                member.write(self.now)
            sent = [(peer, *each) for peer, member in self.members.items() for each in member.taken()]
            if not sent:
                return count
            count += len(sent)
            for sender, peer, message in sent:
                if not {sender, peer} & set(cut) and peer in self.members:
                    self.deliver(sender, peer, message)

    def advance(self, seconds: float, *cut: str) -> None:
        """Let time pass and settle at each time that a core asks for."""
        end = self.now + seconds
        while True:
            self.settle(*cut)
            due = min((at for at in (m.core.due() for m in self.members.values()) if at is not None), default=end)
            if due > end:
                break
            self.now = max(self.now, due)
            for member in self.members.values():
                member.core.tick(self.now)
        self.now = end
