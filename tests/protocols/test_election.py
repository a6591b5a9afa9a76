"""Standing, winning, governing and handing over, by numbers: one core among fakes."""

from __future__ import annotations

from typing import TypeVar

import attrs

from chorus.errors import PeerError
from chorus.protocols.ballot.certificates import vote_statement
from chorus.protocols.ballot.effects import HardState, OfficeLost
from chorus.protocols.ballot.messages import (
    Grant,
    Heartbeat,
    LogPosition,
    PreVote,
    PreVoteReply,
    RequestVote,
    TransferNow,
    Vote,
)
from chorus.protocols.ballot.profiles import LAN, REJOIN_S, WAN, lease_of
from chorus.protocols.ballot.roster import Voter
from chorus.protocols.election import Election, TransferRefused
from chorus.protocols.replication.outbox import ReplicaMessage
from tests.protocols.ballot.kit import LEASE, NOW, Booth, booth, grant, heartbeat, office, request, transfer
from tests.protocols.ballot.net import Signer
from tests.protocols.replication.support import A, B, C, D, E, roster
from tests.support import PureTestCase

T = TypeVar("T")
ACTING = lease_of(LEASE)
OLD = NOW + REJOIN_S
"""From here on the node has not just come back."""


class ElectionCase(PureTestCase):
    """Cores of `A`; a test plays the other voters."""

    def begin(self, *voters: Voter, stored: HardState | None = None, **changes: object) -> None:
        self.booth: Booth = booth(A, voters or (A, B, C), **changes)  # type: ignore[arg-type]
        self.roster = self.booth.log.roster
        self.election = Election(self.booth.context, stored or HardState(term=4), NOW)

    def setUp(self) -> None:
        self.begin()

    def sent(self, now: float = OLD) -> list[tuple[str, ReplicaMessage]]:
        """What leaves once all writes are durable."""
        messages = self.booth.sent()
        if not self.booth.held:
            self.election.persisted(now)
            messages += self.booth.sent()
        return messages

    def of(self, kind: type[T], now: float = OLD) -> list[T]:
        return [message for _, message in self.sent(now) if isinstance(message, kind)]

    def run_to_candidacy(self, now: float) -> float:
        """Tick whenever the core wants it, until it stands; the time of that."""
        while self.election.role != "candidate":
            due = self.election.due()
            assert due is not None
            now = max(now, due)
            self.election.tick(now)
        return now

    def stand(self, now: float = OLD) -> PreVote:
        """Let it stand, at `now` at the earliest."""
        self.election.tick(now)
        self.stood = self.run_to_candidacy(now)
        return self.of(PreVote, self.stood)[0]

    def support(self, who: Voter, asked: PreVote, now: float) -> None:
        self.election.receive(who.peer, PreVoteReply(asked.term, asked.term - 1, "yes"), now)

    def vote(self, who: Voter, term: int, now: float) -> None:
        signature = Signer(who.peer).sign(vote_statement(self.roster, term, A.peer))
        self.election.receive(who.peer, Vote(term, term, True, signature), now)

    def win(self, now: float = OLD) -> Heartbeat:
        """To the first heartbeat of an office without a lease."""
        asked = self.stand(now)
        self.support(B, asked, self.stood)
        self.of(RequestVote, self.stood)
        self.vote(B, asked.term, self.stood)
        return self.of(Heartbeat, self.stood)[0]

    def govern(self, now: float = OLD) -> Heartbeat:
        """To the first lease, which counts from `self.stood`."""
        asked = self.win(now)
        self.election.receive(B.peer, grant(B, A, asked, self.roster), self.stood)
        self.assertEqual(self.election.role, "admin")
        return asked


class Standing(ElectionCase):
    def test_after_a_delay_by_rank(self) -> None:
        """Counted from the end of its own promise, which is to B until `OLD` + L."""
        for scores, slots in (({}, 0), ({A.peer: 500, B.peer: 900}, 1), ({A.peer: 0, B.peer: 900, C.peer: 900}, 2)):
            self.begin()
            self.election.observe(scores)
            self.election.receive(B.peer, heartbeat(office(B, 5, self.roster, B, C), self.roster), OLD)
            self.sent()
            self.stand()
            delay = self.stood - OLD - LEASE
            self.assertTrue(slots * LAN.slot_s <= delay <= slots * LAN.slot_s + LAN.jitter_s, (scores, delay))

    def test_three_ranks_later_after_a_start(self) -> None:
        self.stand(NOW)
        self.assertTrue(0.15 <= self.stood - NOW <= 0.2, self.stood - NOW)

    def test_not_in_the_silence(self) -> None:
        self.begin(stored=HardState(4, None, 3000))
        self.assertEqual(self.election.due(), NOW + 3.0)
        self.election.tick(NOW + 2.999)
        self.assertEqual(self.sent(), [])
        self.stand(NOW + 2.999)
        self.assertGreaterEqual(self.stood, NOW + 3.0)

    def test_one_voter_waits_for_nothing(self) -> None:
        self.begin(A)
        self.election.tick(NOW)
        self.assertEqual(self.sent(NOW), [])
        self.assertEqual((self.election.role, self.election.term), ("admin", 5))
        self.assertAlmostEqual(self.election.lease_left(NOW), ACTING)

    def test_never_without_a_vote(self) -> None:
        self.begin(B, C)
        self.assertIsNone(self.election.due())
        self.election.tick(NOW + 100)
        self.assertEqual((self.sent(), self.election.role), ([], "learner"))

    def test_never_with_another_lease_than_the_clusters(self) -> None:
        self.begin(profile=WAN)
        self.election.tick(NOW + 100)
        self.assertEqual(self.sent(), [])

    def test_the_term_is_above_the_logs(self) -> None:
        self.booth.log.last = LogPosition(9, 10)
        self.assertEqual(self.stand().term, 10)

    def test_a_pre_vote_changes_nothing_and_is_given_up(self) -> None:
        self.stand()
        for _ in range(20):
            due = self.election.due()
            assert due is not None
            self.election.tick(due)
        self.assertEqual((self.election.term, self.booth.context.outbox.ticket), (4, 0))

    def test_failed_rounds_halve_the_rank(self) -> None:
        self.election.observe({A.peer: 0, B.peer: 900, C.peer: 900})
        self.stand(OLD)
        delays = []
        for _ in range(3):
            failed = self.election.due()
            assert failed is not None
            self.election.tick(failed)
            delays.append(self.run_to_candidacy(failed) - failed)
        for delay, slots in zip(delays, (1, 0, 0), strict=True):
            self.assertTrue(slots * 0.05 <= delay <= slots * 0.05 + 0.05, delays)

    def test_a_round_lasts_longer_where_answers_took_longer(self) -> None:
        asked = self.stand()
        self.election.receive(B.peer, PreVoteReply(asked.term, 4, "wait"), self.stood + 0.4)
        self.election.tick(self.stood + 0.5)
        self.stand(self.stood + 0.5)
        due = self.election.due()
        assert due is not None
        self.assertTrue(0.45 <= due - self.stood <= 0.5, due - self.stood)


class Winning(ElectionCase):
    def test_votes_are_asked_for_after_a_majority_of_pre_votes(self) -> None:
        self.begin(A, B, C, D, E)
        asked = self.stand()
        for reply in ("no", "wait"):
            self.election.receive(B.peer, PreVoteReply(asked.term, 4, reply), self.stood)  # type: ignore[arg-type]
        self.support(C, asked, self.stood)
        self.support(C, asked, self.stood)
        self.assertEqual((self.of(RequestVote), self.election.term), ([], 4))
        self.support(D, asked, self.stood)
        self.assertEqual(len(self.of(RequestVote)), 4)
        self.assertEqual(self.election.term, 5)

    def test_its_own_vote_is_durable_before_it_counts(self) -> None:
        asked = self.stand()
        self.booth.held = True
        self.support(B, asked, self.stood)
        self.assertEqual(self.of(RequestVote), [])
        self.vote(B, asked.term, self.stood)
        self.assertEqual(self.of(Heartbeat), [])
        self.booth.held = False
        self.assertEqual(len(self.of(Heartbeat)), 2)

    def test_another_write_does_not_make_it_so(self) -> None:
        asked = self.stand()
        self.booth.outbox.append(())
        self.booth.outbox.drain()
        self.booth.held = True
        self.support(B, asked, self.stood)
        self.vote(B, asked.term, self.stood)
        self.booth.outbox.persisted(1)
        self.election.persisted(self.stood)
        self.assertEqual(self.of(Heartbeat), [])

    def test_forged_votes(self) -> None:
        self.begin(A, B, C, D, E)
        asked = self.stand()
        self.support(B, asked, self.stood)
        self.support(C, asked, self.stood)
        self.of(RequestVote)
        statement = vote_statement(self.roster, 5, A.peer)
        for who, signature in ((B, b""), (B, Signer(C.peer).sign(statement)), (C, Signer(C.peer).sign(b""))):
            self.assertRaises(PeerError, self.election.receive, who.peer, Vote(5, 5, True, signature), self.stood)
        outsider = roster(A, B, C, D, E)
        self.assertNotIn("12D3KooWZ", outsider.by_peer)
        signature = Signer("12D3KooWZ").sign(statement)
        error = self.assertRaises(
            PeerError, self.election.receive, "12D3KooWZ", Vote(5, 5, True, signature), self.stood
        )
        self.assertEqual(str(error), "not_a_voter")
        for _ in range(5):
            self.vote(B, 5, self.stood)
        self.assertEqual(self.of(Heartbeat), [])
        self.vote(C, 5, self.stood)
        self.assertEqual(len(self.of(Heartbeat)), 4)

    def test_votes_of_an_older_candidacy_do_not_count(self) -> None:
        asked = self.stand()
        self.support(B, asked, self.stood)
        self.of(RequestVote)
        self.vote(B, 4, self.stood)
        self.assertEqual(self.of(Heartbeat), [])

    def test_an_office_begins_with_its_first_lease(self) -> None:
        asked = self.win()
        self.assertEqual((self.election.role, self.election.lease_left(self.stood)), ("candidate", 0))
        self.election.receive(B.peer, grant(B, A, asked, self.roster), self.stood + 0.1)
        self.assertAlmostEqual(self.election.lease_left(self.stood + 0.1), ACTING - 0.1)
        self.assertEqual((self.election.role, self.election.admin), ("admin", A.peer))

    def test_an_office_without_a_lease_ends(self) -> None:
        self.win()
        self.election.tick(self.stood + LEASE)
        self.sent()
        self.assertEqual((self.election.role, self.election.term), ("follower", 5))
        self.assertEqual(self.booth.events, [])

    def test_a_higher_term_of_a_voter_is_caught_up_with(self) -> None:
        asked = self.stand()
        self.election.receive(B.peer, PreVoteReply(asked.term, 8, "no"), self.stood)
        self.sent()
        self.assertEqual(self.election.term, 8)
        self.assertEqual(self.stand(self.stood).term, 9)

    def test_so_is_one_that_a_vote_shows(self) -> None:
        asked = self.stand()
        self.support(B, asked, self.stood)
        self.of(RequestVote)
        self.election.receive(C.peer, Vote(5, 8, False), self.stood)
        self.vote(B, 5, self.stood)
        self.assertEqual((self.of(Heartbeat), self.election.term), ([], 8))

    def test_a_vote_for_another_ends_the_candidacy(self) -> None:
        slow = self.stand()
        self.election.receive(B.peer, PreVoteReply(slow.term, 4, "wait"), self.stood + 0.9)
        asked = self.stand(self.stood + 1.0)
        self.support(B, asked, self.stood)
        self.of(RequestVote, self.stood)
        later = self.stood + LAN.vote_hold_s
        self.election.receive(C.peer, request(6, self.roster), later)
        self.assertEqual([vote.granted for vote in self.of(Vote, later)], [True])
        self.assertEqual(self.election.role, "follower")
        self.vote(B, 5, later)
        self.assertEqual(self.of(Heartbeat, later), [])


class Governing(ElectionCase):
    def test_a_lease_that_runs_out_ends_the_office_at_once_and_keeps_the_term(self) -> None:
        self.govern()
        self.election.tick(self.stood + ACTING - 0.001)
        self.assertEqual(self.election.role, "admin")
        self.assertEqual(self.election.lease_left(self.stood + ACTING), 0)
        self.election.tick(self.stood + ACTING)
        self.sent()
        self.assertEqual((self.election.role, self.election.term), ("follower", 5))
        self.assertEqual(self.booth.events[-1], OfficeLost("the lease ran out"))

    def test_a_grant_after_its_end_does_not_bring_it_back(self) -> None:
        asked = self.govern()
        late = self.stood + ACTING
        self.election.receive(B.peer, grant(B, A, asked, self.roster), late)
        self.assertEqual(self.election.role, "follower")

    def test_rounds_follow_at_the_heartbeat(self) -> None:
        first = self.govern()
        self.assertEqual(self.election.due(), self.stood + LAN.heartbeat_s)
        self.election.tick(self.stood + LAN.heartbeat_s)
        (second, *_) = self.of(Heartbeat)
        self.assertEqual((first.round, second.round), (1, 2))
        self.assertEqual(first.nonce, second.nonce)

    def test_a_live_admin_is_not_deposed(self) -> None:
        self.govern()
        self.election.receive(C.peer, request(99, self.roster), self.stood + 0.5)
        (answer,) = self.of(Vote)
        self.assertEqual((answer.granted, answer.own_term), (False, 5))
        self.assertEqual((self.election.role, self.election.term), ("admin", 5))

    def test_its_promise_to_itself_outlasts_its_lease(self) -> None:
        self.govern()
        for now, granted in ((self.stood + LEASE - 0.001, False), (self.stood + LEASE, True)):
            self.election.receive(C.peer, request(6, self.roster), now)
            self.assertEqual([vote.granted for vote in self.of(Vote, now)], [granted])

    def test_a_voter_with_a_higher_term_is_won_back(self) -> None:
        asked = self.govern()
        self.election.receive(C.peer, Grant(8, asked.round, asked.nonce, False, 0), self.stood + 0.1)
        self.assertEqual([each.term for each in self.of(PreVote, self.stood + 0.1)], [9, 9])
        self.assertIn(OfficeLost("a voter has a higher term"), self.booth.events)

    def test_a_member_without_a_vote_cannot_do_that(self) -> None:
        asked = self.govern()
        self.election.receive(D.peer, Grant(8, asked.round, asked.nonce, False, 0), self.stood)
        self.assertEqual((self.election.role, self.election.term), ("admin", 5))

    def test_learners_that_are_tracked_see_the_office(self) -> None:
        self.govern()
        self.election.track(D.peer)
        self.election.tick(self.stood + LAN.heartbeat_s)
        to = {peer: each for peer, each in self.sent() if isinstance(each, Heartbeat)}
        self.assertEqual(set(to), {B.peer, C.peer, D.peer})
        self.assertIsNotNone(to[D.peer].certificate)
        self.election.untrack(D.peer)
        self.election.tick(self.stood + 2 * LAN.heartbeat_s)
        self.assertEqual({peer for peer, _ in self.sent()}, {B.peer, C.peer})

    def test_an_admin_that_is_no_voter_any_more_ends(self) -> None:
        self.govern()
        self.booth.log.roster = roster(B, C, epoch=2)
        self.election.tick(self.stood + 0.1)
        self.assertEqual(self.election.role, "admin")
        self.booth.log.committed_roster = self.booth.log.roster
        self.election.tick(self.stood + 0.2)
        self.sent()
        self.assertEqual(self.booth.events[-1], OfficeLost("this node is no voter any more"))


class HandingOver(ElectionCase):
    def test_in_five_steps(self) -> None:
        self.govern()
        now = self.stood + 0.1
        self.booth.log.matches = {B.peer: 9}
        self.election.transfer(B.peer, now)
        self.assertTrue(self.election.hands_over)
        self.assertEqual(self.of(TransferNow), [])
        self.assertGreater(self.election.lease_left(now), 0)
        self.booth.log.matches = {B.peer: 10}
        self.election.progressed(now)
        self.assertEqual((self.election.lease_left(now), self.election.role), (0, "follower"))
        self.assertEqual(self.of(TransferNow), [transfer(A, B, 5, self.roster)])
        self.assertEqual(self.booth.events[-1], OfficeLost("handed over"))

    def test_no_return_without_a_new_term(self) -> None:
        asked = self.govern()
        self.booth.log.matches = {B.peer: 10}
        self.election.transfer(B.peer, self.stood + 0.1)
        self.election.receive(C.peer, grant(C, A, asked, self.roster), self.stood + 0.2)
        self.assertEqual(self.election.lease_left(self.stood + 0.2), 0)

    def test_the_old_admin_votes_for_its_target_alone(self) -> None:
        self.govern()
        self.booth.log.matches = {B.peer: 10}
        self.election.transfer(B.peer, self.stood + 0.1)
        (token,) = self.of(TransferNow)
        now = self.stood + 0.2
        self.election.receive(C.peer, request(6, self.roster, transfer=token), now)
        self.election.receive(B.peer, request(6, self.roster), now)
        self.election.receive(B.peer, request(6, self.roster, transfer=token), now)
        self.assertEqual([vote.granted for vote in self.of(Vote, now)], [False, False, True])

    def test_given_up_after_a_lease(self) -> None:
        asked = self.govern()
        self.booth.log.matches = {B.peer: 9}
        self.election.transfer(B.peer, self.stood)
        # Rounds go on meanwhile.
        for number in range(1, 5):
            self.election.tick(self.stood + number * LAN.heartbeat_s)
            renewed = attrs.evolve(asked, round=number + 1)
            self.election.receive(B.peer, grant(B, A, renewed, self.roster), self.stood + number * LAN.heartbeat_s)
        self.assertFalse(self.election.hands_over)
        self.assertEqual(self.election.role, "admin")

    def test_refusals(self) -> None:
        self.assertRaises(TransferRefused, self.election.transfer, B.peer, OLD)
        self.govern()
        for target in (A, D):
            error = self.assertRaises(TransferRefused, self.election.transfer, target.peer, self.stood)
            self.assertIn("chorus admin status", str(error))
        self.assertRaises(TransferRefused, self.election.transfer, B.peer, self.stood + ACTING)

    def test_stepping_down_lets_others_stand_first(self) -> None:
        self.govern()
        self.election.step_down(self.stood)
        self.sent()
        self.assertEqual(self.booth.events[-1], OfficeLost("stepped down"))
        before = self.stood
        self.stand(before)
        self.assertGreaterEqual(self.stood, before + LEASE + 3 * LAN.slot_s)


class TakingOver(ElectionCase):
    def setUp(self) -> None:
        super().setUp()
        self.election.receive(B.peer, heartbeat(office(B, 5, self.roster, B, C), self.roster), OLD)
        self.sent()

    def test_votes_are_asked_for_at_once_with_the_token(self) -> None:
        token = transfer(B, A, 5, self.roster)
        self.election.receive(B.peer, token, OLD + 0.1)
        self.assertEqual([(each.term, each.transfer) for each in self.of(RequestVote)], [(6, token)] * 2)

    def test_what_an_admin_did_not_send(self) -> None:
        rows = {
            "another_transfer": (B, transfer(B, C, 5, self.roster)),
            "not_the_admin": (C, transfer(C, A, 5, self.roster)),
            "forged_transfer": (B, attrs.evolve(transfer(B, A, 5, self.roster), signature=b"x" * 64)),
        }
        for reason, (who, token) in rows.items():
            error = self.assertRaises(PeerError, self.election.receive, who.peer, token, OLD + 0.1)
            self.assertEqual(str(error), reason)
        error = self.assertRaises(PeerError, self.election.receive, B.peer, transfer(B, A, 4, self.roster), OLD + 0.1)
        self.assertEqual(str(error), "not_the_admin")
        self.assertEqual((self.of(RequestVote), self.election.term), ([], 5))
