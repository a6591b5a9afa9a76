"""One replica: its election and its journal, behind one face for the shell and the simulator. Pure.

Whoever drives it hands in messages and time, performs what `drain` gives in its order (`replication/outbox.py`), and
reports each write with `persisted`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from chorus.errors import PeerError
from chorus.protocols.ballot.certificates import Signing
from chorus.protocols.ballot.context import BallotContext, KnownRosters, OutOfTurn
from chorus.protocols.ballot.effects import HardState, OfficeWon
from chorus.protocols.ballot.messages import LogPosition, OfficeCertificate
from chorus.protocols.ballot.profiles import ElectionProfile
from chorus.protocols.ballot.roster import Roster, RosterSigning, Voter
from chorus.protocols.election import Election, Role
from chorus.protocols.journal import DEFAULT_LIMITS, JournalCore
from chorus.protocols.replication.limits import JournalLimits
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import Append, AppendReply, Pull, Pulled
from chorus.protocols.replication.outbox import Committed, ReplicaMessage, ReplicaOutbox, ReplicaOutput
from chorus.protocols.replication.refusals import RosterRefused
from chorus.tasks.journal import Fence, NotLeader

EMPTY: Final = b""


class OfficeNotReady(NotLeader):
    """This node is admin, but its no-op is not applied yet, or it hands its office over: try again in a moment."""

    code = "office_not_ready"

    def __init__(self, hint: str) -> None:
        super().__init__(hint)
        self.args = ("the office begins or ends at this node: try again in a moment",)


@attrs.frozen
class ReplicaSettings:
    profile: ElectionProfile
    noop: bytes = EMPTY
    """Data of the first entry of each of this node's terms (amendment 1)."""
    limits: JournalLimits = DEFAULT_LIMITS


@attrs.frozen
class StoredReplica:
    """A replica's state in its store at a start."""

    hard: HardState
    log: StoredLog


class Replica:
    """A voter or a learner. `receive` never raises for a peer's nonsense: it is counted in `refused` and dropped."""

    def __init__(
        self,
        me: Voter,
        settings: ReplicaSettings,
        stored: StoredReplica,
        signing: Signing,
        authority: RosterSigning,
        rng: random.Random,
        now: float,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._me = me.peer
        self._settings = settings
        self._outbox = ReplicaOutbox()
        self._journal = JournalCore(me, stored.log, self._outbox, authority, settings.limits)
        self._rosters = KnownRosters(self._journal, authority)
        context = BallotContext(me, settings.profile, self._journal, self._rosters, signing, self._outbox, rng)
        self._election = Election(context, stored.hard, now)
        self._noop: int | None = None
        """Index of the own term's first entry, while this node leads the journal."""
        self._applied = stored.log.snapshot.index

    # Reads

    @property
    def role(self) -> Role:
        return self._election.role

    @property
    def term(self) -> int:
        return self._election.term

    @property
    def admin(self) -> str | None:
        return self._election.admin

    @property
    def certificate(self) -> OfficeCertificate | None:
        """Of the admin that is known."""
        return self._election.certificate

    @property
    def roster(self) -> Roster:
        """In force."""
        return self._journal.roster

    @property
    def committed_roster(self) -> Roster:
        return self._journal.committed_roster

    @property
    def epoch(self) -> int:
        """Of the last committed roster."""
        return self._journal.committed_roster.epoch

    @property
    def last(self) -> LogPosition:
        return self._journal.last

    @property
    def commit(self) -> int:
        return self._journal.commit

    @property
    def applied(self) -> int:
        """Index of the last entry that was drained as committed, or of the snapshot."""
        return self._applied

    @property
    def scores(self) -> Mapping[str, int]:
        return self._election.scores

    @property
    def lease_agrees(self) -> bool:
        """False where this node is configured for another L than the roster's: it neither votes, grants nor stands."""
        return self._settings.profile.lease_ms == self._journal.roster.lease_ms

    def known_roster(self, sha256: bytes) -> Roster | None:
        """A roster of the log, or one that a peer showed with the authority's signature."""
        return self._rosters.find(sha256)

    def shown(self, encoded: bytes) -> None:
        """Remember a roster that a peer shows, for the offices that were won under it. Nonsense is counted."""
        try:
            self._rosters.read(encoded)
        except OutOfTurn as error:
            self.refused[error.reason] += 1

    def term_at(self, index: int) -> int | None:
        return self._journal.term_at(index)

    def roster_at(self, index: int) -> Roster:
        return self._journal.roster_at(index)

    def match(self, peer: str) -> int | None:
        """At the admin: the index up to which `peer` holds everything durably."""
        return self._journal.match(peer)

    def holds(self, now: float) -> bool:
        """True while this node may act as admin: its lease is valid, its no-op is applied, it hands nothing over."""
        return (
            self._noop is not None
            and self._applied >= self._noop
            and not self._election.hands_over
            and self._election.lease_left(now) > 0
        )

    def lease_left(self, now: float) -> float:
        """Seconds; 0 where this node is not the admin."""
        return self._election.lease_left(now)

    def fence(self, index: int) -> Fence:
        """The token of an act of this office that the entry at `index` records."""
        return Fence(self.epoch, self.term, index)

    # Driving

    def receive(self, peer: str, message: ReplicaMessage, now: float) -> None:
        try:
            self._receive(peer, message, now)
        except OutOfTurn as error:
            self.refused[error.reason] += 1
        except PeerError as error:
            self.refused[error.code] += 1
        self._settle(now)

    def _receive(self, peer: str, message: ReplicaMessage, now: float) -> None:
        match message:
            case Append():
                self._election.tick(now)
                if not self._election.follows(peer, message.term):
                    raise OutOfTurn("not_the_admin")
                self._journal.receive_append(peer, message)
            case AppendReply():
                self._journal.receive_reply(peer, message, now)
            case Pull():
                self._outbox.send(peer, self._journal.pulled(message.after))
            case Pulled():
                raise OutOfTurn("not_asked")
            case _:
                self._election.receive(peer, message, now)

    def due(self) -> float | None:
        """When `tick` is to be called next."""
        times = (self._election.due(), self._journal.due())
        return min((each for each in times if each is not None), default=None)

    def tick(self, now: float) -> None:
        self._election.tick(now)
        self._journal.tick(now)
        self._settle(now)

    def persisted(self, ticket: int, now: float) -> None:
        self._outbox.persisted(ticket)
        self._journal.persisted(ticket, now)
        self._election.persisted(now)
        self._settle(now)

    def drain(self) -> ReplicaOutput:
        self._journal.flush()
        output = self._outbox.drain()
        for event in output.events:
            if isinstance(event, Committed):
                self._applied = event.entries[-1].index
        return output

    def _settle(self, now: float) -> None:
        """The journal leads as long as the election gives a lease; the no-op is appended with the first one."""
        certificate = self._election.certificate
        if self._election.role == "admin" and certificate is not None:
            if self._noop is None:
                self._noop = self._journal.lead(certificate.term, now, self._settings.noop)
                self._outbox.report(OfficeWon(certificate, self._noop))
            self._election.progressed(now)
        if self._noop is not None and self._election.role != "admin":
            self._noop = None
            self._journal.follow()

    # Acts of the admin

    def propose(self, data: Sequence[bytes], now: float) -> range:
        """Append entries; returns their indexes. Raises `NotLeader`, `OfficeNotReady` and `EntryTooLarge`."""
        self._check_office(now)
        return self._journal.propose(data, now)

    def propose_roster(self, voters: Sequence[Voter], now: float) -> int:
        """Append a roster that differs in one voter; returns its index. Raises `NotLeader`, `OfficeNotReady` and
        `RosterRefused`."""
        self._check_office(now)
        if not self._election.settled:
            raise RosterRefused("the voters have not granted a lease since the last change: try again in a moment")
        if not self._election.would_have_leases(voters):
            raise RosterRefused(
                "too few of these voters grant leases: see that they are up, and have the same profile of the election"
            )
        return self._journal.propose_roster(voters, now)

    def _check_office(self, now: float) -> None:
        if self._election.lease_left(now) <= 0:
            raise NotLeader(self._election.admin)
        if not self.holds(now):
            raise OfficeNotReady(self._me)

    def track(self, peer: str, now: float) -> None:
        """Append directly to a learner that shall become a voter. Raises `NotLeader`."""
        self._journal.track(peer, now)
        self._election.track(peer)

    def untrack(self, peer: str) -> None:
        self._journal.untrack(peer)
        self._election.untrack(peer)

    def transfer(self, target: str, now: float) -> None:
        """Hand the office over to `target` once it has the whole log; given up after L. Raises `TransferRefused`."""
        self._election.transfer(target, now)
        self._settle(now)

    def step_down(self, now: float) -> None:
        self._election.step_down(now)
        self._settle(now)

    def observe(self, scores: Mapping[str, int], now: float) -> None:
        """Scores 0 to 1000 of the live members, this node included."""
        self._election.observe(scores)

    # Learners and snapshots

    @property
    def pull_after(self) -> LogPosition:
        return self._journal.pull_after

    def pulled(self, after: LogPosition) -> Pulled:
        """The answer to a learner's `Pull`."""
        return self._journal.pulled(after)

    def learn(self, pulled: Pulled, now: float) -> bool:
        """Take committed entries from a voter; false where a snapshot is needed. Nonsense is counted and dropped."""
        try:
            return self._journal.learn(pulled)
        except PeerError as error:
            self.refused[error.code] += 1
            return True
        finally:
            self._settle(now)

    def compacted(self, position: LogPosition) -> None:
        """Entries up to `position` are in a durable snapshot."""
        self._journal.compacted(position)

    def installed(self, position: LogPosition, roster: Roster, now: float) -> None:
        """A snapshot from another member is durable and applied here."""
        self._journal.installed(position, roster)
        self._applied = max(self._applied, position.index)
        self._settle(now)
