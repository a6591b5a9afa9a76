"""Election of the admin (spec/election.md 4; amendments 9 and 14). Pure.

A member that knows of no admin stands after the end of its own promise and a delay by its rank: pre-votes, votes,
then rounds of heartbeats. An admin acts only under a lease that a majority granted, and steps down the moment that it
runs out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from chorus.errors import UserError
from chorus.protocols.ballot.campaign import Campaign
from chorus.protocols.ballot.candidacy import OwnCandidacy
from chorus.protocols.ballot.certificates import transfer_statement
from chorus.protocols.ballot.context import BallotContext, OutOfTurn
from chorus.protocols.ballot.effects import HardState, OfficeLost
from chorus.protocols.ballot.messages import (
    ElectionMessage,
    Grant,
    Heartbeat,
    OfficeCertificate,
    PreVote,
    PreVoteReply,
    RequestVote,
    TransferNow,
    Vote,
)
from chorus.protocols.ballot.roster import Voter
from chorus.protocols.ballot.tenure import Tenure
from chorus.protocols.ballot.voting import Voting

Role = Literal["learner", "follower", "candidate", "admin"]


class TransferRefused(UserError):
    """This node cannot hand its office to that member now."""

    code = "transfer_refused"
    http_status = 409


@attrs.frozen
class _HandingOver:
    target: str
    deadline: float


class Election:
    """One member's part in the election. `receive` raises `PeerError` for what a peer should not have sent."""

    def __init__(self, context: BallotContext, stored: HardState, now: float) -> None:
        self._context = context
        self._voting = Voting(context, stored, now)
        self._campaign = Campaign(context, self._voting, now)
        self._tenure: Tenure | None = None
        self._handing: _HandingOver | None = None
        self._next_round = math.inf
        self._tracked: set[str] = set()

    @property
    def role(self) -> Role:
        if self._tenure is not None and self._tenure.has_lease:
            return "admin"
        if self._tenure is not None or self._campaign.stands:
            return "candidate"
        return "follower" if self._context.log.roster.has(self._context.me) else "learner"

    @property
    def term(self) -> int:
        return self._voting.hard.term

    @property
    def admin(self) -> str | None:
        """The admin that is known, maybe this node."""
        return self.certificate.admin if self.certificate is not None else None

    @property
    def certificate(self) -> OfficeCertificate | None:
        """Of the admin that is known."""
        if self._tenure is not None and self._tenure.has_lease:
            return self._tenure.certificate
        return self._voting.admin.certificate if self._voting.admin is not None else None

    @property
    def scores(self) -> Mapping[str, int]:
        return self._voting.scores

    @property
    def hands_over(self) -> bool:
        """True while a transfer is prepared: no new admin act begins."""
        return self._handing is not None

    @property
    def settled(self) -> bool:
        """True if the lease was granted under the roster in force, so that another one may follow."""
        return self._tenure is not None and self._tenure.is_settled(self._context.log.roster)

    def would_have_leases(self, voters: Sequence[Voter]) -> bool:
        """True if a majority of `voters`, and each one that is new, grants now. Otherwise their roster would end this
        office, and maybe nobody could win another one to change it again."""
        granters = self._tenure.granters() if self._tenure is not None else set()
        wanted = {each.peer for each in voters}
        added = wanted - self._context.log.roster.by_peer.keys()
        return added <= granters and 2 * len(wanted & granters) > len(wanted)

    def follows(self, peer: str, term: int) -> bool:
        """True if `peer` is the admin of this `term`, as its certificate shows: its appends are taken."""
        return self._tenure is None and self._voting.follows(peer, term)

    def lease_left(self, now: float) -> float:
        """Seconds for which this node may act as admin; 0 where it may not."""
        return max(0.0, self._tenure.lease_until - now) if self._tenure is not None else 0.0

    def observe(self, scores: Mapping[str, int]) -> None:
        """Scores of the live members, this one included."""
        self._voting.scores = dict(scores)

    def track(self, peer: str) -> None:
        """Show this office to a learner too, so that it takes appends."""
        self._tracked.add(peer)

    def untrack(self, peer: str) -> None:
        self._tracked.discard(peer)

    def receive(self, peer: str, message: ElectionMessage, now: float) -> None:
        self.tick(now)
        match message:
            case PreVote():
                self._voting.pre_vote(peer, message, now)
            case RequestVote():
                self._voting.request_vote(peer, message, now)
                self._yield_to_term(now)
            case Heartbeat():
                if self._voting.heartbeat(peer, message, now):
                    self._follow(now)
            case TransferNow():
                self._take_over(peer, message, now)
            case PreVoteReply():
                self._campaign.pre_vote_reply(peer, message, now)
            case Vote():
                self._campaign.vote_reply(peer, message, now)
            case Grant():
                self._granted(peer, message, now)
        self._settle(now)

    def persisted(self, now: float) -> None:
        """A write became durable: this node's own vote or grant may count now."""
        self._campaign.persisted(now)
        self._settle(now)

    def due(self) -> float | None:
        """When `tick` is to be called next."""
        times: list[float | None] = []
        if self._tenure is not None:
            times += [self._next_round, self._tenure.expires]
            times.append(self._handing.deadline if self._handing is not None else None)
        else:
            times.append(self._campaign.due())
        if self._voting.admin is not None:
            times.append(self._voting.admin.until)
        return min((each for each in times if each is not None), default=None)

    def tick(self, now: float) -> None:
        self._context.rosters.note()
        self._voting.expire(now)
        if self._tenure is not None:
            self._govern(self._tenure, now)
        else:
            self._campaign.tick(now)

    def _settle(self, now: float) -> None:
        """Take the office that was won, and the lease that was granted."""
        winner = self._campaign.winner
        if winner is not None:
            self._begin(winner, now)
        promised = self._tenure.settle(now) if self._tenure is not None else None
        if self._tenure is not None and promised is not None:
            self._campaign.succeed()
            self._voting.promise_to(self._context.me.peer, self._tenure.certificate.term, promised)

    def _begin(self, winner: OwnCandidacy, now: float) -> None:
        self._campaign.end(now)
        self._voting.admin = None
        certificate = winner.certificate(self._context.me.peer)
        self._tenure = Tenure(self._context, certificate, winner.roster, winner.transfer, now)
        self._beat(self._tenure, now)

    def _govern(self, tenure: Tenure, now: float) -> None:
        if now >= tenure.expires:
            self._lose("the lease ran out", now)
        elif self._is_removed():
            self._lose("this node is no voter any more", now)
        elif now >= self._next_round:
            self._beat(tenure, now)
        if self._handing is not None and now >= self._handing.deadline:
            self._handing = None

    def _is_removed(self) -> bool:
        """The roster in force is committed and does not name this node. After a start the last committed one that is
        known may be older than this node's vote."""
        log = self._context.log
        return not log.roster.has(self._context.me) and log.committed_roster == log.roster

    def _beat(self, tenure: Tenure, now: float) -> None:
        """One round: its lease counts from before it is sent."""
        roster = self._context.log.roster
        tenure.open_round(now, self._voting.record_lease(roster))
        self._next_round = now + self._context.profile.heartbeat_s
        for peer in sorted(self._tracked.union(self._context.others(roster))):
            self._context.outbox.send(peer, tenure.heartbeat(peer), after_writes=False)
        self._settle(now)

    def _granted(self, peer: str, grant: Grant, now: float) -> None:
        if self._tenure is None:
            return
        if not grant.granted and grant.own_term > self.term and peer in self._context.log.roster.by_peer:
            # Voters that are promised to this node vote for it at once.
            self._voting.adopt(grant.own_term)
            self._lose("a voter has a higher term", now)
            if self._campaign.may_stand:
                self._campaign.stand(now)
            return
        self._tenure.receive(peer, grant)

    def _lose(self, reason: str, now: float) -> None:
        """Step down at once; the term is kept."""
        had_lease = self._tenure is not None and self._tenure.has_lease
        self._tenure, self._handing, self._next_round = None, None, math.inf
        self._tracked.clear()
        self._campaign.end(now)
        if had_lease:
            self._context.outbox.report(OfficeLost(reason))

    def _follow(self, now: float) -> None:
        """Another one has shown its office."""
        self._campaign.succeed()
        self._campaign.end(now)
        if self._tenure is not None:
            self._lose("another member is admin", now)

    def _yield_to_term(self, now: float) -> None:
        """A vote for another candidate ends the own candidacy, and an office that has no lease yet."""
        self._campaign.end_if_outvoted(now)
        if self._tenure is not None and self._tenure.certificate.term != self.term:
            self._lose("another term has begun", now)

    def transfer(self, target: str, now: float) -> None:
        """Stop new acts, and hand over to `target` once it has the whole log; given up after L.

        Raises `TransferRefused`.
        """
        if self.lease_left(now) <= 0:
            raise TransferRefused("this node is not the admin: ask the one that `chorus admin status` names")
        if target == self._context.me.peer or target not in self._context.log.roster.by_peer:
            raise TransferRefused(f"{target} is no other voter: choose one that `chorus admin status` lists")
        self._handing = _HandingOver(target, now + self._context.profile.lease_s)
        self.progressed(now)

    def progressed(self, now: float) -> None:
        """Hand over if the target holds the whole log: this node's lease ends before its successor hears of it."""
        handing, log = self._handing, self._context.log
        match = log.match(handing.target) if handing is not None else None
        if handing is None or match is None or match < log.last.index or self.lease_left(now) <= 0:
            return
        transfer = TransferNow(log.roster.epoch, self.term, self._context.me.peer, handing.target)
        statement = transfer_statement(log.roster.cluster, transfer)
        self._campaign.be_late(now)
        self._lose("handed over", now)
        signed = attrs.evolve(transfer, signature=self._context.signing.sign(statement))
        self._context.outbox.send(handing.target, signed, after_writes=False)

    def step_down(self, now: float) -> None:
        """End the office without a successor. For a while this node stands after others."""
        if self._tenure is not None:
            self._campaign.be_late(now)
            self._lose("stepped down", now)

    def _take_over(self, peer: str, transfer: TransferNow, now: float) -> None:
        if transfer.target != self._context.me.peer or transfer.admin != peer:
            raise OutOfTurn("another_transfer")
        if not self.follows(peer, transfer.term):
            raise OutOfTurn("not_the_admin")
        if not self._voting.is_genuine(transfer):
            raise OutOfTurn("forged_transfer")
        if self._campaign.may_stand and not self._campaign.stands:
            self._campaign.stand(now, transfer)
