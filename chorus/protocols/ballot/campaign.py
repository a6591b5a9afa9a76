"""Standing for admin: the wait for one's turn, then pre-votes and votes (spec/election.md 4). Pure."""

from __future__ import annotations

from typing import Final

from chorus.protocols.ballot.candidacy import OwnCandidacy
from chorus.protocols.ballot.certificates import vote_statement
from chorus.protocols.ballot.context import BallotContext, OutOfTurn
from chorus.protocols.ballot.messages import PreVote, PreVoteReply, RequestVote, TransferNow, Vote
from chorus.protocols.ballot.profiles import REJOIN_RANKS, REJOIN_S
from chorus.protocols.ballot.standing import rank_of, standing_delay
from chorus.protocols.ballot.voting import Voting

MAX_DELAY_S: Final = 1.0
"""Of the round trips that make candidacies longer: one stalled voter must not slow down each election."""


class Campaign:
    """Candidacies of this node, one after the other. Whoever drives it takes the `winner` after each call."""

    def __init__(self, context: BallotContext, voting: Voting, now: float) -> None:
        self._context = context
        self._voting = voting
        self._candidacy: OwnCandidacy | None = None
        self._not_before = now
        self._stand_at: float | None = None
        self._failures = 0
        self._late_until = now + REJOIN_S
        self._asked = (0, now)
        """Term of the last round, and when it began."""
        self._delay = 0.0
        """The largest round trip seen in one."""

    @property
    def stands(self) -> bool:
        return self._candidacy is not None

    @property
    def winner(self) -> OwnCandidacy | None:
        return self._candidacy if self._candidacy is not None and self._candidacy.won else None

    def be_late(self, now: float) -> None:
        """For a while other members stand first."""
        self._late_until = now + REJOIN_S

    def succeed(self) -> None:
        """There is an admin: former failures say nothing any more."""
        self._failures = 0

    def end(self, now: float) -> None:
        """Stand no more, or not before another delay from `now` on."""
        self._candidacy, self._stand_at, self._not_before = None, None, now

    def end_if_outvoted(self, now: float) -> None:
        """A vote for another candidate ends the own candidacy."""
        candidacy, hard = self._candidacy, self._voting.hard
        if candidacy is None or candidacy.term > hard.term:
            return
        if not (candidacy.voting and candidacy.term == hard.term and hard.voted_for == self._context.me.peer):
            self.end(now)

    def due(self) -> float | None:
        if self._candidacy is not None:
            return self._candidacy.deadline
        if not self.may_stand:
            return None
        return self._stand_at if self._stand_at is not None else self._free_at()

    def tick(self, now: float) -> None:
        if self._candidacy is None:
            self._wait_to_stand(now)
        elif now >= self._candidacy.deadline:
            # A failed round halves the rank, so that a dead favourite stops mattering.
            self._failures += 1
            self.end(now)

    def persisted(self, now: float) -> None:
        """The own vote counts once it is durable; only then the others are asked, and the round begins."""
        candidacy, me = self._candidacy, self._context.me.peer
        if candidacy is None or not candidacy.voting or me in candidacy.votes:
            return
        if self._context.outbox.durable >= candidacy.own_vote:
            statement = vote_statement(candidacy.roster, candidacy.term, me)
            candidacy.votes[me] = self._context.signing.sign(statement)
            self._begin_round(candidacy, now)

    @property
    def may_stand(self) -> bool:
        roster = self._context.log.roster
        return roster.has(self._context.me) and self._context.lease_agrees(roster)

    def _free_at(self) -> float:
        return max(self._voting.free_at(), self._not_before)

    def _wait_to_stand(self, now: float) -> None:
        free = self._free_at()
        if not self.may_stand:
            self._not_before, self._stand_at = now, None
            return
        if now < free:
            self._stand_at = None
            return
        if self._stand_at is None:
            self._stand_at = free + self._standing_delay(now)
        if now >= self._stand_at:
            self.stand(now)

    def _standing_delay(self, now: float) -> float:
        roster = self._context.log.roster
        if len(roster.voters) == 1:
            return 0.0
        rank = rank_of(self._context.me.peer, self._voting.scores, roster)
        late = REJOIN_RANKS if now < self._late_until else 0
        return standing_delay(rank + late, self._failures, self._context.profile, self._context.rng)

    def stand(self, now: float, transfer: TransferNow | None = None) -> None:
        log = self._context.log
        candidacy = OwnCandidacy(max(self._voting.hard.term, log.last.term) + 1, log.roster, transfer, now)
        self._candidacy, self._stand_at = candidacy, None
        self._begin_round(candidacy, now)
        candidacy.supporters.add(self._context.me.peer)
        if candidacy.supported or transfer is not None:
            self._run(candidacy, now)
            return
        message = PreVote(candidacy.term, log.roster.encode(), log.last, self._voting.own_score)
        for peer in self._context.others(candidacy.roster):
            self._context.outbox.send(peer, message)

    def _run(self, candidacy: OwnCandidacy, now: float) -> None:
        """Ask for votes, once the own one is durable."""
        self._voting.vote_for_self(candidacy.term, now)
        candidacy.own_vote = self._context.outbox.ticket
        candidacy.deadline = now + MAX_DELAY_S
        roster, last = candidacy.roster, self._context.log.last
        message = RequestVote(candidacy.term, roster.encode(), last, candidacy.transfer)
        for peer in self._context.others(roster):
            self._context.outbox.send(peer, message)

    def _begin_round(self, candidacy: OwnCandidacy, now: float) -> None:
        low, high = self._context.profile.round_s
        candidacy.deadline = now + self._context.rng.uniform(low, high) + self._delay
        self._asked = (candidacy.term, now)

    def _measure(self, term: int, now: float) -> None:
        """Answers that come too late count too: else slow voters would be given up again and again."""
        asked, at = self._asked
        if asked == term:
            self._delay = min(MAX_DELAY_S, max(self._delay, now - at))

    def pre_vote_reply(self, peer: str, reply: PreVoteReply, now: float) -> None:
        candidacy = self._candidacy
        self._measure(reply.term, now)
        if candidacy is None or candidacy.voting or reply.term != candidacy.term:
            return
        if peer not in candidacy.roster.by_peer:
            raise OutOfTurn("not_a_voter")
        if reply.answer == "yes":
            candidacy.supporters.add(peer)
            if candidacy.supported:
                self._run(candidacy, now)
        elif reply.own_term >= candidacy.term:
            self._catch_up(reply.own_term, now)

    def vote_reply(self, peer: str, reply: Vote, now: float) -> None:
        candidacy = self._candidacy
        self._measure(reply.term, now)
        if candidacy is None or not candidacy.voting or reply.term != candidacy.term:
            return
        if peer not in candidacy.roster.by_peer or peer == self._context.me.peer:
            raise OutOfTurn("not_a_voter")
        if not reply.granted:
            if reply.own_term > candidacy.term:
                self._catch_up(reply.own_term, now)
            return
        statement = vote_statement(candidacy.roster, candidacy.term, self._context.me.peer)
        if not self._context.signing.verify(peer, statement, reply.signature):
            raise OutOfTurn("forged_vote")
        self._voting.note_vote(peer, candidacy.term, self._context.me.peer, reply.signature)
        candidacy.votes[peer] = reply.signature

    def _catch_up(self, term: int, now: float) -> None:
        """A voter has a higher term: stand again above it."""
        self._voting.adopt(term)
        self.end(now)
