"""One voter among fakes: a log that says what a test wants, cheap signatures, and what the outbox would send."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from chorus.protocols.ballot.certificates import grant_statement, transfer_statement, vote_statement
from chorus.protocols.ballot.context import BallotContext, KnownRosters
from chorus.protocols.ballot.messages import (
    Grant,
    Heartbeat,
    LogPosition,
    OfficeCertificate,
    PreVote,
    RequestVote,
    TransferNow,
)
from chorus.protocols.ballot.profiles import LAN, ElectionProfile
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.replication.outbox import ReplicaEvent, ReplicaMessage, ReplicaOutbox
from tests.protocols.ballot.net import Signer
from tests.protocols.replication.support import Authority, roster

NOW = 1000.0
LAST = LogPosition(1, 10)
LEASE = LAN.lease_s


@attrs.define
class FakeLog:
    roster: Roster
    committed_roster: Roster
    last: LogPosition = LAST
    matches: dict[str, int] = attrs.Factory(dict)

    def match(self, peer: str) -> int | None:
        return self.matches.get(peer)


@attrs.define(eq=False)
class Booth:
    """What one election core is given, and what it made of it."""

    context: BallotContext
    log: FakeLog
    outbox: ReplicaOutbox
    held: bool = False
    """Writes do not become durable."""
    events: list[ReplicaEvent] = attrs.Factory(list)

    def sent(self) -> list[tuple[str, ReplicaMessage]]:
        """Messages that may leave by now."""
        first = self.outbox.drain()
        self.events += first.events
        if self.held:
            return list(first.messages)
        self.outbox.persisted(self.outbox.ticket)
        second = self.outbox.drain()
        self.events += second.events
        return [*first.messages, *second.messages]


def booth(me: Voter, voters: Sequence[Voter], profile: ElectionProfile = LAN, in_force: Roster | None = None) -> Booth:
    log = FakeLog(in_force or roster(*voters), in_force or roster(*voters))
    outbox = ReplicaOutbox()
    rosters = KnownRosters(log, Authority())
    context = BallotContext(me, profile, log, rosters, Signer(me.peer), outbox, random.Random(1))
    return Booth(context, log, outbox)


def pre_vote(term: int, value: Roster, score: int = 0, last: LogPosition = LAST) -> PreVote:
    return PreVote(term, value.encode(), last, score)


def request(term: int, value: Roster, last: LogPosition = LAST, transfer: TransferNow | None = None) -> RequestVote:
    return RequestVote(term, value.encode(), last, transfer)


def office(admin: Voter, term: int, value: Roster, *voters: Voter) -> OfficeCertificate:
    """The certificate of `admin` with the votes of `voters`."""
    statement = vote_statement(value, term, admin.peer)
    votes = sorted((each.peer, Signer(each.peer).sign(statement)) for each in voters)
    return OfficeCertificate(value.epoch, term, admin.peer, value.sha256, tuple(votes))


def heartbeat(certificate: OfficeCertificate, value: Roster, number: int = 1, *, shown: bool = True) -> Heartbeat:
    term = certificate.term
    return Heartbeat(term, value.epoch, value.sha256, number, 7, certificate if shown else None)


def grant(voter: Voter, admin: Voter, asked: Heartbeat, value: Roster) -> Grant:
    statement = grant_statement(value, asked.term, admin.peer, asked.round, asked.nonce)
    return Grant(asked.term, asked.round, asked.nonce, True, 0, Signer(voter.peer).sign(statement))


def transfer(admin: Voter, target: Voter, term: int, value: Roster) -> TransferNow:
    unsigned = TransferNow(value.epoch, term, admin.peer, target.peer)
    return attrs.evolve(unsigned, signature=Signer(admin.peer).sign(transfer_statement(value.cluster, unsigned)))
