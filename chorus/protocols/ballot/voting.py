"""The voter: its term and vote, its promises, and its answers to candidates and the admin (spec/election.md 4). Pure.

A vote and the grant of a lease are two promises. A vote keeps its voter from others for a moment and starts no lease; a
grant keeps it from others for L. After each start a voter answers nobody for the longest L that it ever granted, since
it has forgotten its promises.
"""

from __future__ import annotations

import math

import attrs

from chorus.errors import PeerError
from chorus.protocols.ballot.certificates import grant_statement, transfer_statement, verify_office, vote_statement
from chorus.protocols.ballot.context import BallotContext, Evidence, OutOfTurn
from chorus.protocols.ballot.effects import AdminKnown, HardState
from chorus.protocols.ballot.messages import (
    Answer,
    Grant,
    Heartbeat,
    OfficeCertificate,
    PreVote,
    PreVoteReply,
    RequestVote,
    TransferNow,
    Vote,
)
from chorus.protocols.ballot.profiles import WAIT_SLOTS
from chorus.protocols.ballot.roster import Roster
from chorus.protocols.ballot.standing import better_lives


@attrs.frozen
class Promise:
    """No vote or pre-vote for another than `admin` before `until`."""

    admin: str
    term: int
    until: float


@attrs.frozen
class SeenAdmin:
    """An admin whose certificate was verified here, and how long its last heartbeat keeps it known."""

    certificate: OfficeCertificate
    until: float


class Voting:
    """State of one voter; a learner has it too, since a candidate's roster may tell it that it has a vote."""

    def __init__(self, context: BallotContext, stored: HardState, now: float) -> None:
        self._context = context
        self._evidence = Evidence(context.outbox)
        self.hard = stored
        self._hard_ticket = 0
        """Of the write of `hard`; what rests on nothing newer leaves at once."""
        self.quiet_until = now + stored.longest_lease_ms / 1000
        self.promise: Promise | None = None
        self.hold: tuple[str, float] | None = None
        """A candidate that has this node's vote, and until when no other one is helped."""
        self.admin: SeenAdmin | None = None
        self.scores: dict[str, int] = {}

    @property
    def own_score(self) -> int:
        return self.scores.get(self._context.me.peer, 0)

    def free_at(self) -> float:
        """When no promise, vote or silence keeps this node from standing any more."""
        times = [self.quiet_until]
        if self.promise is not None:
            times.append(self.promise.until)
        if self.hold is not None and self.hold[0] != self._context.me.peer:
            times.append(self.hold[1])
        if self.admin is not None:
            times.append(self.admin.until)
        return max(times)

    def follows(self, peer: str, term: int) -> bool:
        """True if `peer` has shown that it is the admin of this `term`."""
        seen = self.admin
        return seen is not None and seen.certificate.admin == peer and self.hard.term == term == seen.certificate.term

    def adopt(self, term: int) -> None:
        """Rise to a higher term, without a vote in it yet."""
        if term > self.hard.term:
            self._keep(attrs.evolve(self.hard, term=term, voted_for=None))

    def vote_for_self(self, term: int, now: float) -> None:
        me = self._context.me.peer
        self._keep(attrs.evolve(self.hard, term=term, voted_for=me))
        self.hold = (me, now + self._context.profile.vote_hold_s)

    def record_lease(self, roster: Roster) -> int:
        """Keep the longest L before granting under `roster`; returns the ticket after which the grant may count. With
        one voter nobody else is promised anything."""
        if len(roster.voters) > 1 and roster.lease_ms > self.hard.longest_lease_ms:
            self._keep(attrs.evolve(self.hard, longest_lease_ms=roster.lease_ms))
        return self._hard_ticket

    def note_vote(self, voter: str, term: int, candidate: str, signature: bytes) -> None:
        self._evidence.note(voter, term, candidate, signature)

    def expire(self, now: float) -> None:
        """Forget an admin that has not been heard of for L."""
        if self.admin is not None and now >= self.admin.until:
            self.forget_admin()

    def forget_admin(self) -> None:
        if self.admin is not None:
            self.admin = None
            self._context.outbox.report(AdminKnown(self.hard.term, None))

    def pre_vote(self, peer: str, message: PreVote, now: float) -> None:
        """Answer, and change nothing."""
        roster = self._candidate_roster(peer, message.roster)
        if now < self.quiet_until:
            return
        answer: Answer = "no"
        if self._may_vote(peer, message, roster, now):
            waits = message.transfer is None and self._may_wait(now)
            answer = "wait" if waits and better_lives(peer, message.score, self.scores, roster) else "yes"
        self._answer(peer, PreVoteReply(message.term, self.hard.term, answer))

    def _may_wait(self, now: float) -> bool:
        """Never while a promise runs: it is to the candidate, who wants a higher term."""
        free = self.free_at()
        return free <= now < free + WAIT_SLOTS * self._context.profile.slot_s

    def request_vote(self, peer: str, message: RequestVote, now: float) -> None:
        """Vote, or refuse; durable before the answer leaves."""
        roster = self._candidate_roster(peer, message.roster)
        if now < self.quiet_until:
            return
        signature = b""
        if self._is_free_for(peer, message.transfer, now):
            self.adopt(message.term)
            if self._may_vote(peer, message, roster, now):
                signature = self._vote(peer, message.term, roster, now)
        self._answer(peer, Vote(message.term, self.hard.term, bool(signature), signature))

    def _vote(self, peer: str, term: int, roster: Roster, now: float) -> bytes:
        if self.hard.voted_for is None:
            self._keep(attrs.evolve(self.hard, voted_for=peer))
        self.hold = (peer, now + self._context.profile.vote_hold_s)
        return self._context.signing.sign(vote_statement(roster, term, peer))

    def _candidate_roster(self, peer: str, encoded: bytes) -> Roster:
        """The roster that a candidate shows: it has a vote there, and so has this node. Raises `OutOfTurn`."""
        roster = self._context.rosters.read(encoded)
        if peer not in roster.by_peer:
            raise OutOfTurn("not_a_voter")
        if not roster.has(self._context.me):
            raise OutOfTurn("no_vote_here")
        if roster.epoch < self._context.log.committed_roster.epoch:
            raise OutOfTurn("old_roster")
        if not self._context.lease_agrees(roster):
            raise OutOfTurn("lease_differs")
        return roster

    def _may_vote(self, peer: str, message: PreVote | RequestVote, roster: Roster, now: float) -> bool:
        """For its term, its log, and this node's promises."""
        if not self._is_free_for(peer, message.transfer, now) or message.last < self._context.log.last:
            return False
        return message.term > self.hard.term or (message.term == self.hard.term and self.hard.voted_for in {None, peer})

    def _is_free_for(self, peer: str, transfer: TransferNow | None, now: float) -> bool:
        """No promise and no other candidate's vote stands against `peer`, or its promise was handed over to it."""
        if self.hold is not None and self.hold[0] != peer and now < self.hold[1]:
            return False
        return not self._promised_to_another(peer, now) or self._released(peer, transfer)

    def _promised_to_another(self, peer: str, now: float) -> bool:
        return self.promise is not None and self.promise.admin != peer and now < self.promise.until

    def _released(self, peer: str, transfer: TransferNow | None) -> bool:
        """The admin that holds the promise gave its office to `peer`, after the end of its lease."""
        promise = self.promise
        if promise is None or transfer is None or transfer.target != peer:
            return False
        if (transfer.admin, transfer.term) != (promise.admin, promise.term):
            return False
        return self.is_genuine(transfer)

    def is_genuine(self, transfer: TransferNow) -> bool:
        statement = transfer_statement(self._context.log.roster.cluster, transfer)
        return self._context.signing.verify(transfer.admin, statement, transfer.signature)

    def heartbeat(self, peer: str, message: Heartbeat, now: float) -> bool:
        """Follow the admin of a term that is not over, and grant its lease. True if this node follows it now.

        Raises `OutOfTurn` for what an honest admin does not send.
        """
        followed, refusal = False, None
        signature = b""
        try:
            followed = self._follow(peer, message, now)
            if followed:
                signature = self._grant(peer, message, now)
        except PeerError as error:
            refusal = error
        answer = Grant(self.hard.term, message.round, message.nonce, bool(signature), self.own_score, signature)
        self._answer(peer, answer)
        if refusal is not None:
            raise refusal
        return followed

    def _follow(self, peer: str, message: Heartbeat, now: float) -> bool:
        if message.term < self.hard.term:
            return False
        for encoded in message.rosters:
            self._context.rosters.read(encoded)
        if self.follows(peer, message.term) and self.admin is not None:
            certificate = self.admin.certificate
        elif message.certificate is None:
            return False
        else:
            certificate = self._verified(peer, message.term, message.certificate)
        if self._promised_to_another(peer, now) and not self._released(peer, message.transfer):
            return False
        known = self.follows(peer, message.term)
        self.adopt(message.term)
        self.admin = SeenAdmin(certificate, now + self._context.profile.lease_s)
        if not known:
            self._context.outbox.report(AdminKnown(message.term, peer))
        return True

    def _verified(self, peer: str, term: int, certificate: OfficeCertificate) -> OfficeCertificate:
        if certificate.admin != peer or certificate.term != term:
            raise OutOfTurn("another_office")
        roster = self._context.rosters.find(certificate.roster_sha256)
        if roster is None:
            raise OutOfTurn("unknown_roster")
        if roster.epoch < self._context.log.committed_roster.epoch and term > self._context.log.last.term:
            raise OutOfTurn("old_roster")
        verify_office(certificate, roster, self._context.signing)
        for voter, signature in certificate.votes:
            self.note_vote(voter, term, peer, signature)
        if self.admin is not None and self.admin.certificate.term == term and self.admin.certificate.admin != peer:
            raise OutOfTurn("second_admin")
        return certificate

    def _grant(self, peer: str, message: Heartbeat, now: float) -> bytes:
        """Promise L to the admin; empty where this node must not, or cannot, grant.

        A learner that the admin shows its office grants too: it does not count, but tells that it may become a voter.
        """
        roster, me = self._context.rosters.find(message.roster_sha256), self._context.me
        if roster is None or now < self.quiet_until:
            return b""
        if roster.by_peer.get(me.peer, me) != me:
            return b""  # The vote is that of a store that this node has lost.
        if not self._context.lease_agrees(roster):
            raise OutOfTurn("lease_differs")
        self.record_lease(roster)
        self.promise_to(peer, message.term, now + roster.lease_s)
        statement = grant_statement(roster, message.term, peer, message.round, message.nonce)
        return self._context.signing.sign(statement)

    def promise_to(self, admin: str, term: int, until: float) -> None:
        kept = self.promise.until if self.promise is not None and self.promise.admin == admin else -math.inf
        self.promise = Promise(admin, term, max(until, kept))

    def _keep(self, state: HardState) -> None:
        self.hard = state
        self._context.outbox.keep(state)
        self._hard_ticket = self._context.outbox.ticket

    def _answer(self, peer: str, message: PreVoteReply | Vote | Grant) -> None:
        outbox = self._context.outbox
        outbox.send(peer, message, after_writes=outbox.durable < self._hard_ticket)
