"""Whole replicas in one process: stores that keep only what was written, lines that lose and reorder, true time."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Sequence

import attrs

from chorus.protocols.ballot.effects import HardState
from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.profiles import LAN, ElectionProfile
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.replica import Replica, ReplicaSettings, StoredReplica
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import LogEntry
from chorus.protocols.replication.outbox import Committed, LogWrite, ReplicaEvent, ReplicaMessage
from tests.protocols.replication.support import CLUSTER, Authority, applied


class Signer:
    """Signatures that cost nothing: a hash of the signer's name and the statement."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def sign(self, statement: bytes) -> bytes:
        return hashlib.sha512(self._peer.encode() + statement).digest()

    def verify(self, peer: str, statement: bytes, signature: bytes) -> bool:
        return signature == Signer(peer).sign(statement)


def genesis(voters: Sequence[Voter], profile: ElectionProfile = LAN) -> Roster:
    return Roster(1, CLUSTER, 1, profile.lease_ms, tuple(sorted(voters)), b"s" * 64)


@attrs.define
class Faults:
    loss: float = 0.0
    delay: tuple[float, float] = (0.0005, 0.001)
    fsync: tuple[float, float] = (0.001, 0.005)
    cut: set[str] = attrs.Factory(set)
    """Members that nobody reaches."""


@attrs.define(eq=False)
class Member:
    """One node with its store, its clock (`rate` ticks a second) and everything that happened at it."""

    me: Voter
    profile: ElectionProfile
    roster: Roster
    rng: random.Random
    rate: float = 1.0
    hard: HardState = attrs.Factory(HardState)
    rows: list[LogEntry] = attrs.Factory(list)
    events: list[ReplicaEvent] = attrs.Factory(list)
    log: list[LogEntry] = attrs.Factory(list)
    """Committed since the start."""
    start_count: int = 0
    replica: Replica | None = None
    writing: bool = False
    unwritten: list[LogWrite] = attrs.Factory(list)

    def start(self, now: float) -> None:
        self.start_count += 1
        self.log, self.unwritten, self.writing = [], [], False
        stored = StoredReplica(self.hard, StoredLog(LogPosition(), self.roster, tuple(self.rows)))
        settings = ReplicaSettings(self.profile, b"noop")
        signer = Signer(self.me.peer)
        self.replica = Replica(self.me, settings, stored, signer, Authority(), self.rng, now * self.rate)

    def keep(self, write: LogWrite) -> None:
        self.rows = applied(self.rows, write)
        self.hard = write.hard_state or self.hard


class Net:
    """Members under true time; `check` is called after every step."""

    def __init__(
        self, voters: Sequence[Voter], profile: ElectionProfile = LAN, seed: int = 1, rates: Sequence[float] = ()
    ) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.faults = Faults()
        roster = genesis(voters, profile)
        self.members = {
            voter.peer: Member(voter, profile, roster, random.Random(seed * 100 + at))
            for at, voter in enumerate(voters)
        }
        for member, rate in zip(self.members.values(), rates, strict=False):
            member.rate = rate
        self.sent: list[tuple[str, str, ReplicaMessage]] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.violations: list[str] = []
        self.winners: dict[int, str] = {}
        for member in self.members.values():
            member.start(self.now)
            self.drain(member)

    def add(self, voter: Voter) -> Member:
        """A learner."""
        first = next(iter(self.members.values()))
        self.members[voter.peer] = member = Member(voter, first.profile, first.roster, random.Random(len(self.members)))
        member.start(self.now)
        self.drain(member)
        return member

    def core(self, peer: str) -> Replica:
        replica = self.members[peer].replica
        assert replica is not None
        return replica

    def local(self, peer: str) -> float:
        return self.now * self.members[peer].rate

    def _at(self, delay: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, call))

    def act(self, peer: str, act: Callable[[Replica, float], object]) -> None:
        """Do something at a member at its own time."""
        member = self.members[peer]
        if member.replica is not None:
            act(member.replica, self.local(peer))
            self.drain(member)

    def drain(self, member: Member) -> None:
        assert member.replica is not None
        output = member.replica.drain()
        if output.write is not None:
            member.unwritten.append(output.write)
        for peer, message in output.messages:
            self._send(member.me.peer, peer, message)
        for event in output.events:
            member.events.append(event)
            if isinstance(event, Committed):
                member.log += event.entries
        self._write(member)

    def _write(self, member: Member) -> None:
        if member.writing or not member.unwritten:
            return
        member.writing, start, write = True, member.start_count, member.unwritten.pop(0)

        def done() -> None:
            if member.start_count == start and member.replica is not None:
                member.keep(write)
                member.writing = False
                self.act(member.me.peer, lambda replica, now: replica.persisted(write.ticket, now))

        self._at(self.rng.uniform(*self.faults.fsync), done)

    def _send(self, sender: str, peer: str, message: ReplicaMessage) -> None:
        self.sent.append((sender, peer, message))
        if self.rng.random() < self.faults.loss or {sender, peer} & self.faults.cut or peer not in self.members:
            return

        def arrive() -> None:
            if not {sender, peer} & self.faults.cut:
                self.act(peer, lambda replica, now: replica.receive(sender, message, now))

        self._at(self.rng.uniform(*self.faults.delay), arrive)

    def crash(self, peer: str) -> None:
        member = self.members[peer]
        member.replica, member.start_count = None, member.start_count + 1

    def restart(self, peer: str) -> None:
        self.members[peer].start(self.now)
        self.drain(self.members[peer])

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """True as soon as `until` holds; false after so many seconds of true time."""
        end = self.now + seconds
        while not until():
            times = [self._queue[0][0]] if self._queue else []
            for member in self.members.values():
                due = member.replica.due() if member.replica is not None else None
                times += [due / member.rate] if due is not None else []
            self.now = max(self.now, min([*times, end]))
            if self.now >= end:
                return until()
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for peer, member in self.members.items():
                due = member.replica.due() if member.replica is not None else None
                if due is not None and due / member.rate <= self.now:
                    # A clock of another rate may round a time down: a nanosecond late is on time.
                    late = max(due, self.local(peer))
                    self.act(peer, lambda replica, _, late=late: replica.tick(late))  # type: ignore[misc]
            self.check()
        return True

    def check(self) -> None:
        acting = [
            p for p, m in self.members.items() if m.replica is not None and m.replica.lease_left(self.local(p)) > 0
        ]
        if len(acting) > 1:
            self.violations.append(f"{self.now}: leases of {acting}")
        for peer in acting:
            term = self.core(peer).term
            if self.winners.setdefault(term, peer) != peer:
                self.violations.append(f"two admins of term {term}")
        logs = sorted((member.log for member in self.members.values()), key=len)
        longest = logs[-1]
        if any(log and (log[-1] != longest[len(log) - 1]) for log in logs):
            self.violations.append("committed logs differ")

    def admin(self) -> str | None:
        """The one that may act."""
        found = [p for p, m in self.members.items() if m.replica is not None and m.replica.holds(self.local(p))]
        return found[0] if found else None

    def elect(self, seconds: float = 10.0) -> str:
        assert self.run(seconds, lambda: self.admin() is not None), "no admin"
        admin = self.admin()
        assert admin is not None
        return admin
