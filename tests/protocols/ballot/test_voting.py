"""The voter's rules, each with its counter-case: silence, promises, terms, logs, rosters, and forgeries."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from chorus.errors import PeerError
from chorus.protocols.ballot.effects import AdminKnown, DoubleVote, HardState
from chorus.protocols.ballot.messages import Grant, LogPosition, PreVoteReply, TransferNow, Vote
from chorus.protocols.ballot.profiles import LAN, WAN
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.ballot.voting import Voting
from tests.protocols.ballot.kit import LAST, LEASE, NOW, Booth, booth, heartbeat, office, pre_vote, request, transfer
from tests.protocols.ballot.net import Signer
from tests.protocols.replication.support import A, B, C, D, E, roster
from tests.support import PureTestCase

ROSTER = roster(A, B, C)


class VotingCase(PureTestCase):
    """`A` votes; `B` and `C` ask."""

    def setUp(self) -> None:
        self.begin()

    def begin(self, stored: HardState | None = None, **changes: object) -> None:
        self.booth: Booth = booth(A, (A, B, C), **changes)  # type: ignore[arg-type]
        self.voting = Voting(self.booth.context, stored or HardState(term=4), NOW)

    def pre(self, who: Voter, now: float = NOW, term: int = 5, score: int = 0, **more: object) -> str | None:
        message = attrs.evolve(pre_vote(term, ROSTER, score), **more)
        self.voting.pre_vote(who.peer, message, now)
        return self.answer(PreVoteReply, who, lambda reply: reply.answer)

    def vote(self, who: Voter, now: float = NOW, term: int = 5, **more: object) -> bool | None:
        self.voting.request_vote(who.peer, attrs.evolve(request(term, ROSTER), **more), now)
        return self.answer(Vote, who, lambda vote: vote.granted)

    def beat(self, who: Voter, term: int = 5, now: float = NOW, value: Roster = ROSTER, **more: object) -> bool | None:
        message = attrs.evolve(heartbeat(office(who, term, ROSTER, B, C), value), **more)
        self.voting.heartbeat(who.peer, message, now)
        return self.answer(Grant, who, lambda grant: grant.granted)

    def answer(self, kind: type, to: Voter, read: Callable[[object], object]) -> object:
        sent = self.booth.sent()
        if not sent:
            return None
        ((peer, message),) = sent
        self.assertIsInstance(message, kind)
        self.assertEqual(peer, to.peer)
        return read(message)

    def refused(self, call: Callable[..., object], *args: object, **more: object) -> str:
        before = self.voting.hard, self.voting.promise
        error = self.assertRaises(PeerError, call, *args, **more)
        self.assertEqual((self.voting.hard, self.voting.promise), before)
        self.booth.sent()
        return getattr(error, "reason", error.code)


class Silence(VotingCase):
    def test_after_a_start_nobody_is_answered_for_the_longest_lease(self) -> None:
        self.begin(HardState(term=4, longest_lease_ms=3000))
        last = NOW + 2.999
        self.assertEqual((self.pre(B, last), self.vote(B, last)), (None, None))
        self.assertEqual(self.voting.hard.term, 4)
        self.assertFalse(self.beat(C, now=last))
        self.assertIsNone(self.voting.promise)
        self.assertTrue(self.beat(C, now=NOW + 3.0))

    def test_none_for_a_store_that_never_granted_to_another(self) -> None:
        self.assertTrue(self.vote(B))

    def test_the_admin_is_known_meanwhile(self) -> None:
        self.begin(HardState(term=4, longest_lease_ms=3000))
        self.beat(C)
        self.assertTrue(self.voting.follows(C.peer, 5))

    def test_one_voter_alone_has_none_later(self) -> None:
        self.voting.record_lease(roster(A))
        self.assertEqual(self.voting.hard.longest_lease_ms, 0)
        self.voting.record_lease(roster(A, B))
        self.assertEqual(self.voting.hard.longest_lease_ms, 1000)

    def test_the_longest_lease_never_becomes_shorter(self) -> None:
        self.begin(HardState(term=4, longest_lease_ms=3000))
        self.voting.record_lease(ROSTER)
        self.assertEqual(self.voting.hard.longest_lease_ms, 3000)


class Votes(VotingCase):
    def test_one_in_a_term(self) -> None:
        self.assertTrue(self.vote(B))
        self.assertEqual(self.voting.hard, HardState(5, B.peer))
        after = NOW + 10
        self.assertFalse(self.vote(C, after))
        self.assertTrue(self.vote(B, after))
        self.assertTrue(self.vote(C, after + 10, term=6))

    def test_after_a_start_too(self) -> None:
        self.begin(HardState(5, B.peer))
        self.assertFalse(self.vote(C))
        self.assertTrue(self.vote(B))

    def test_none_in_an_older_term(self) -> None:
        self.assertFalse(self.vote(B, term=3))
        self.assertEqual(self.voting.hard.term, 4)

    def test_it_is_signed_over_the_candidates_roster(self) -> None:
        self.voting.request_vote(B.peer, request(5, ROSTER), NOW)
        ((_, vote),) = self.booth.sent()
        assert isinstance(vote, Vote)
        self.assertIn((A.peer, vote.signature), office(B, 5, ROSTER, A).votes)

    def test_it_leaves_after_its_write(self) -> None:
        self.booth.held = True
        self.voting.request_vote(B.peer, request(5, ROSTER), NOW)
        self.assertEqual(self.booth.sent(), [])
        self.booth.held = False
        self.assertEqual(len(self.booth.sent()), 1)

    def test_for_a_log_that_is_not_behind(self) -> None:
        for last, right in (
            (LAST, True),
            (LogPosition(2, 1), True),
            (LogPosition(1, 9), False),
            (LogPosition(), False),
        ):
            self.begin()
            self.assertEqual(self.pre(B, last=last), "yes" if right else "no")
            self.assertEqual(self.vote(B, last=last), right)

    def test_a_refusal_for_the_log_takes_the_term(self) -> None:
        self.vote(B, last=LogPosition())
        self.assertEqual(self.voting.hard, HardState(5, None))

    def test_a_vote_holds_for_a_moment(self) -> None:
        self.vote(B)
        held = NOW + LAN.vote_hold_s - 0.001
        self.assertEqual(self.pre(C, held, term=6), "no")
        self.assertFalse(self.vote(C, held, term=6))
        self.assertEqual(self.voting.hard.term, 5)
        self.assertEqual(self.pre(B, held, term=6), "yes")
        self.assertTrue(self.vote(C, NOW + LAN.vote_hold_s, term=6))

    def test_its_voter_does_not_stand_meanwhile(self) -> None:
        self.vote(B)
        self.assertEqual(self.voting.free_at(), NOW + LAN.vote_hold_s)

    def test_a_vote_starts_no_lease(self) -> None:
        self.vote(B)
        self.assertIsNone(self.voting.promise)


class PreVotes(VotingCase):
    def test_they_change_nothing(self) -> None:
        self.assertEqual(self.pre(B, term=9), "yes")
        self.assertEqual(self.pre(C, term=9), "yes")
        self.assertEqual((self.voting.hard, self.voting.hold, self.voting.promise), (HardState(4), None, None))

    def test_a_term_that_is_over(self) -> None:
        self.assertEqual(self.pre(B, term=3), "no")

    def test_a_voter_waits_for_a_better_one_three_slots_long(self) -> None:
        self.voting.scores = {C.peer: 600}
        begun = NOW + 3 * LAN.slot_s
        self.assertEqual(self.pre(B, begun - 0.001, score=500), "wait")
        self.assertEqual(self.pre(B, begun - 0.001, score=501), "yes")
        self.assertEqual(self.pre(B, begun, score=0), "yes")

    def test_the_slots_are_counted_from_the_end_of_its_promise(self) -> None:
        self.voting.scores = {C.peer: 600}
        self.beat(B)
        self.assertEqual(self.pre(C, NOW + LEASE, term=6), "yes")
        self.voting.scores = {C.peer: 0, A.peer: 600}
        self.assertEqual(self.pre(C, NOW + LEASE + 0.149, term=6), "wait")
        self.assertEqual(self.pre(C, NOW + LEASE + 0.151, term=6), "yes")

    def test_nobody_waits_for_another_than_the_admins_own_choice(self) -> None:
        self.beat(B)
        self.voting.scores = {A.peer: 1000}
        token = transfer(B, C, 5, ROSTER)
        self.assertEqual(self.pre(C, NOW + LEASE, term=6), "wait")
        self.assertEqual(self.pre(C, NOW + LEASE, term=6, transfer=token), "yes")

    def test_a_vote_never_waits(self) -> None:
        self.voting.scores = {C.peer: 1000}
        self.assertTrue(self.vote(B))

    def test_nobody_waits_while_promised_to_the_candidate(self) -> None:
        self.voting.scores = {C.peer: 1000}
        self.beat(B)
        self.assertEqual(self.pre(B, NOW + 0.5, term=7), "yes")


class Promises(VotingCase):
    def test_a_grant_keeps_its_voter_for_the_whole_lease_whatever_the_term(self) -> None:
        self.assertTrue(self.beat(B))
        last = NOW + LEASE - 0.001
        for term in (6, 1000):
            self.assertEqual(self.pre(C, last, term=term), "no")
            self.assertFalse(self.vote(C, last, term=term))
        self.assertEqual(self.voting.hard.term, 5)
        self.assertTrue(self.vote(C, NOW + LEASE, term=6))

    def test_the_admin_itself_may_win_a_higher_term_at_once(self) -> None:
        self.beat(B)
        self.assertTrue(self.vote(B, NOW + 0.1, term=8))

    def test_a_replayed_heartbeat_makes_no_promise_shorter(self) -> None:
        self.beat(B, now=NOW + 0.5)
        self.beat(B, now=NOW + 0.2)
        assert self.voting.promise is not None
        self.assertEqual(self.voting.promise.until, NOW + 0.5 + LEASE)

    def test_the_longest_lease_is_durable_before_the_grant(self) -> None:
        self.booth.held = True
        self.voting.heartbeat(B.peer, heartbeat(office(B, 4, ROSTER, B, C), ROSTER), NOW)
        self.assertEqual(self.booth.sent(), [])
        self.assertEqual(self.voting.hard.longest_lease_ms, 1000)
        self.booth.held = False
        self.assertEqual(len(self.booth.sent()), 1)

    def test_later_grants_wait_for_no_write(self) -> None:
        self.beat(B)
        self.booth.held = True
        self.booth.outbox.append(())
        self.assertTrue(self.beat(B, now=NOW + 0.2))

    def test_a_certified_admin_of_a_higher_term_waits_for_the_end_of_a_promise(self) -> None:
        self.beat(B)
        self.assertFalse(self.beat(C, term=6, now=NOW + LEASE - 0.01))
        self.assertEqual(self.voting.hard.term, 5)
        self.assertTrue(self.beat(C, term=6, now=NOW + LEASE))


class Transfers(VotingCase):
    def setUp(self) -> None:
        super().setUp()
        self.beat(B)

    def test_a_promise_is_released_for_the_target(self) -> None:
        token = transfer(B, C, 5, ROSTER)
        self.assertEqual(self.pre(C, NOW + 0.1, term=6, transfer=token), "yes")
        self.assertTrue(self.vote(C, NOW + 0.1, term=6, transfer=token))

    def test_the_new_admin_shows_it_to_those_that_did_not_vote(self) -> None:
        self.assertTrue(self.beat(C, term=6, now=NOW + 0.1, transfer=transfer(B, C, 5, ROSTER)))

    def test_nobody_else_uses_it(self) -> None:
        right = transfer(B, C, 5, ROSTER)
        tokens: dict[str, TransferNow] = {
            "another target": transfer(B, D, 5, ROSTER),
            "another term": transfer(B, C, 4, ROSTER),
            "another admin": transfer(C, C, 5, ROSTER),
            "a forged one": attrs.evolve(right, signature=Signer(C.peer).sign(b"")),
            "another cluster": transfer(B, C, 5, attrs.evolve(ROSTER, cluster="cd" * 32)),
        }
        for what, token in tokens.items():
            self.assertFalse(self.vote(C, NOW + 0.1, term=6, transfer=token), what)
            self.assertFalse(self.beat(C, term=6, now=NOW + 0.1, transfer=token), what)
        self.assertEqual(self.voting.hard.term, 5)

    def test_it_does_not_make_up_for_a_log(self) -> None:
        token = transfer(B, C, 5, ROSTER)
        self.assertFalse(self.vote(C, NOW + 0.1, term=6, transfer=token, last=LogPosition()))


class Rosters(VotingCase):
    def test_a_voter_learns_of_its_vote_from_the_candidate(self) -> None:
        self.begin(in_force=roster(B, C))
        self.assertTrue(self.vote(B))

    def test_refusals(self) -> None:
        forged = attrs.evolve(roster(A, B, D, epoch=2), signature=b"x" * 64)
        rows = {
            "not_a_voter": (roster(A, C, epoch=2), B),
            "no_vote_here": (roster(B, C, epoch=2), B),
            "forged_roster": (forged, B),
            "other_cluster": (attrs.evolve(ROSTER, cluster="cd" * 32), B),
            "lease_differs": (attrs.evolve(ROSTER, epoch=2, lease_ms=3000), B),
        }
        for reason, (value, who) in rows.items():
            self.assertEqual(self.refused(self.vote, who, roster=value.encode()), reason)
            self.assertEqual(self.refused(self.pre, who, roster=value.encode()), reason)
        self.assertEqual(self.refused(self.vote, B, roster=b"{}"), "bad_roster")

    def test_a_wiped_store_is_another_voter(self) -> None:
        old = roster(Voter(A.peer, "f" * 32), B, C, epoch=2)
        self.assertEqual(self.refused(self.vote, B, roster=old.encode()), "no_vote_here")

    def test_a_removed_voter_does_not_disturb(self) -> None:
        self.begin(in_force=roster(A, B, C, epoch=7))
        old = roster(A, B, C, D, E, epoch=6)
        self.assertEqual(self.refused(self.vote, D, roster=old.encode()), "old_roster")

    def test_a_voter_with_another_lease_neither_votes_nor_grants(self) -> None:
        self.begin(profile=WAN)
        self.assertEqual(self.refused(self.vote, B), "lease_differs")
        self.assertRaises(PeerError, self.beat, B)
        ((_, answer),) = self.booth.sent()
        assert isinstance(answer, Grant)
        self.assertFalse(answer.granted)
        self.assertIsNone(self.voting.promise)

    def test_a_learner_grants_to_whoever_shows_it_an_office(self) -> None:
        other = roster(B, C, epoch=2)
        self.assertTrue(self.beat(B, value=other, rosters=(other.encode(),)))
        self.assertIsNotNone(self.voting.promise)

    def test_a_store_that_is_lost_does_not_grant_by_the_vote_of_the_former_one(self) -> None:
        other = roster(Voter(A.peer, "f" * 32), B, C, epoch=2)
        self.assertFalse(self.beat(B, value=other, rosters=(other.encode(),)))
        self.assertIsNone(self.voting.promise)

    def test_no_grant_under_a_roster_that_nobody_showed(self) -> None:
        other = roster(A, B, C, epoch=2)
        self.assertFalse(self.beat(B, value=other))
        self.assertTrue(self.beat(B, value=other, rosters=(other.encode(),)))


class Admins(VotingCase):
    def test_a_certificate_is_needed_once_in_a_term(self) -> None:
        self.assertFalse(self.beat(B, certificate=None))
        self.assertTrue(self.beat(B))
        self.assertTrue(self.beat(B, certificate=None))
        self.assertFalse(self.beat(C, certificate=None))
        self.assertFalse(self.beat(B, term=6, certificate=None))

    def test_forged_offices(self) -> None:
        few = office(B, 5, ROSTER, B)
        rows = {
            "bad_office": few,
            "another_office": office(C, 5, ROSTER, B, C),
            "unknown_roster": office(B, 5, roster(A, B, C, epoch=3), B, C),
        }
        for reason, certificate in rows.items():
            self.assertEqual(self.refused(self.beat, B, certificate=certificate), reason)

    def test_an_office_of_removed_voters(self) -> None:
        """A majority of a former roster makes no admin in a new term; one of a term before the change was one."""
        old = roster(A, B, D)
        self.begin(in_force=roster(A, B, C, epoch=7))
        certificate = office(D, 5, old, B, D)
        later = self.booth.log.roster
        shown = {"certificate": certificate, "rosters": (old.encode(),)}
        self.assertEqual(self.refused(self.beat, D, value=later, **shown), "old_roster")
        self.booth.log.last = LogPosition(5, 20)
        self.assertTrue(self.beat(D, value=later, **shown))

    def test_an_older_term_is_told_the_newer_one(self) -> None:
        self.voting.heartbeat(B.peer, heartbeat(office(B, 3, ROSTER, B, C), ROSTER), NOW)
        ((_, answer),) = self.booth.sent()
        assert isinstance(answer, Grant)
        self.assertEqual((answer.granted, answer.own_term), (False, 4))

    def test_an_admin_is_known_for_a_lease(self) -> None:
        self.beat(B)
        self.voting.expire(NOW + LEASE - 0.001)
        self.assertTrue(self.voting.follows(B.peer, 5))
        self.voting.expire(NOW + LEASE)
        self.booth.sent()
        self.assertIsNone(self.voting.admin)
        self.assertEqual(self.booth.events, [AdminKnown(5, B.peer), AdminKnown(5, None)])

    def test_two_votes_in_one_term_are_evidence(self) -> None:
        self.beat(B)
        self.assertEqual(self.refused(self.beat, C, now=NOW + LEASE / 2), "second_admin")
        (evidence, *_) = [each for each in self.booth.events if isinstance(each, DoubleVote)]
        self.assertEqual((evidence.term, evidence.candidates), (5, (B.peer, C.peer)))

    def test_the_same_vote_twice_is_none(self) -> None:
        self.beat(B)
        self.voting.expire(NOW + LEASE)
        self.beat(B, now=NOW + LEASE)
        self.assertFalse([each for each in self.booth.events if isinstance(each, DoubleVote)])
