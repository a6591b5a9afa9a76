"""Rounds of heartbeats, and which grants make a lease."""

from __future__ import annotations

import math

import attrs

from chorus.protocols.ballot.context import OutOfTurn
from chorus.protocols.ballot.messages import Heartbeat
from chorus.protocols.ballot.profiles import lease_of
from chorus.protocols.ballot.roster import Voter
from chorus.protocols.ballot.tenure import Tenure
from tests.protocols.ballot.kit import LEASE, NOW, Booth, booth, grant, office, transfer
from tests.protocols.replication.support import A, B, C, D, E, roster
from tests.support import PureTestCase

ROSTER = roster(A, B, C)
ACTING = lease_of(LEASE)


class TenureCase(PureTestCase):
    def begin(self, *voters: Voter, token: bool = False) -> None:
        self.booth: Booth = booth(A, voters)
        value = self.booth.log.roster
        handed = transfer(B, A, 4, value) if token else None
        self.tenure = Tenure(self.booth.context, office(A, 5, value, *voters), value, handed, NOW)

    def setUp(self) -> None:
        self.begin(A, B, C)

    def round(self, now: float, own_after: int = 0) -> Heartbeat:
        self.tenure.open_round(now, own_after)
        return self.tenure.heartbeat(B.peer)

    def grant(self, voter: Voter, asked: Heartbeat) -> None:
        self.tenure.receive(voter.peer, grant(voter, A, asked, self.booth.log.roster))


class Leases(TenureCase):
    def test_counted_from_the_sending_of_the_round(self) -> None:
        asked = self.round(NOW)
        self.assertIsNone(self.tenure.settle(NOW + 0.3))
        self.assertFalse(self.tenure.has_lease)
        self.grant(B, asked)
        self.assertEqual(self.tenure.settle(NOW + 0.3), NOW + LEASE)
        self.assertEqual(self.tenure.lease_until, NOW + ACTING)

    def test_a_majority_of_one_round(self) -> None:
        self.begin(A, B, C, D, E)
        first = self.round(NOW)
        self.grant(B, first)
        second = self.round(NOW + 0.25)
        self.grant(C, second)
        self.tenure.settle(NOW + 0.3)
        self.assertFalse(self.tenure.has_lease)
        self.grant(D, second)
        self.tenure.settle(NOW + 0.3)
        self.assertEqual(self.tenure.lease_until, NOW + 0.25 + ACTING)

    def test_an_older_round_makes_it_no_shorter(self) -> None:
        first, second = self.round(NOW), self.round(NOW + 0.25)
        self.grant(B, second)
        self.tenure.settle(NOW + 0.3)
        self.grant(B, first)
        self.assertIsNone(self.tenure.settle(NOW + 0.3))
        self.assertEqual(self.tenure.lease_until, NOW + 0.25 + ACTING)

    def test_a_grant_that_comes_too_late_makes_none(self) -> None:
        asked = self.round(NOW)
        self.grant(B, asked)
        self.tenure.settle(NOW + ACTING)
        self.assertFalse(self.tenure.has_lease)

    def test_the_own_grant_counts_once_its_write_is_durable(self) -> None:
        self.booth.outbox.append(())
        asked = self.round(NOW, self.booth.outbox.ticket)
        self.grant(B, asked)
        self.tenure.settle(NOW)
        self.assertFalse(self.tenure.has_lease)
        self.booth.outbox.persisted(1)
        self.tenure.settle(NOW)
        self.assertTrue(self.tenure.has_lease)

    def test_one_voter_grants_to_itself(self) -> None:
        self.begin(A)
        self.round(NOW)
        self.tenure.settle(NOW)
        self.assertEqual(self.tenure.lease_until, NOW + ACTING)

    def test_an_admin_that_a_roster_removes_does_not_count(self) -> None:
        self.booth.log.roster = roster(B, C, D, epoch=2)
        asked = self.round(NOW)
        self.grant(B, asked)
        self.tenure.settle(NOW)
        self.assertFalse(self.tenure.has_lease)
        self.grant(C, asked)
        self.tenure.settle(NOW)
        self.assertTrue(self.tenure.has_lease)

    def test_the_wait_for_the_first_one_ends(self) -> None:
        self.assertEqual((self.tenure.expires, self.tenure.lease_until), (NOW + LEASE, -math.inf))


class Grants(TenureCase):
    def test_forged_ones(self) -> None:
        asked = self.round(NOW)
        right = grant(B, A, asked, ROSTER)
        forged = {
            "by another": attrs.evolve(right, signature=grant(C, A, asked, ROSTER).signature),
            "for another": attrs.evolve(right, signature=grant(B, C, asked, ROSTER).signature),
            "of another round": grant(B, A, attrs.evolve(asked, round=2), ROSTER),
            "of another term": grant(B, A, attrs.evolve(asked, term=4), ROSTER),
            "of another roster": grant(B, A, asked, roster(A, B, C, epoch=2)),
            "empty": attrs.evolve(right, signature=b""),
        }
        for what, each in forged.items():
            error = self.assertRaises(OutOfTurn, self.tenure.receive, B.peer, attrs.evolve(each, round=1))
            self.assertEqual(error.reason, "forged_grant", what)
        self.tenure.settle(NOW)
        self.assertFalse(self.tenure.has_lease)

    def test_a_member_without_a_vote(self) -> None:
        asked = self.round(NOW)
        error = self.assertRaises(OutOfTurn, self.tenure.receive, D.peer, grant(D, A, asked, ROSTER))
        self.assertEqual(error.reason, "not_a_voter")

    def test_a_learner_that_was_asked_is_no_voter(self) -> None:
        asked = self.round(NOW)
        self.tenure.heartbeat(D.peer)
        self.grant(D, asked)
        self.tenure.settle(NOW)
        self.assertFalse(self.tenure.has_lease)
        self.assertEqual(self.tenure.granters(), {A.peer, D.peer})

    def test_a_granter_is_forgotten_with_its_last_round(self) -> None:
        self.grant(B, self.round(NOW))
        self.round(NOW + 0.25)
        self.tenure.settle(NOW + ACTING)
        self.assertEqual(self.tenure.granters(), {A.peer})

    def test_a_replayed_one_of_another_start(self) -> None:
        asked = self.round(NOW)
        old = attrs.evolve(asked, nonce=asked.nonce + 1)
        self.tenure.receive(B.peer, grant(B, A, old, ROSTER))
        self.tenure.settle(NOW)
        self.assertFalse(self.tenure.has_lease)

    def test_a_replayed_one_counts_once(self) -> None:
        self.begin(A, B, C, D, E)
        asked = self.round(NOW)
        for _ in range(5):
            self.grant(B, asked)
        self.tenure.settle(NOW)
        self.assertFalse(self.tenure.has_lease)

    def test_nonces_differ_between_tenures(self) -> None:
        first = self.round(NOW)
        other = Tenure(self.booth.context, office(A, 6, ROSTER, A, B), ROSTER, None, NOW)
        other.open_round(NOW, 0)
        self.assertNotEqual(first.nonce, other.heartbeat(B.peer).nonce)


class Shown(TenureCase):
    def test_the_certificate_until_the_first_grant(self) -> None:
        self.begin(A, B, C, token=True)
        first = self.round(NOW)
        self.assertEqual((first.certificate, first.rosters), (self.tenure.certificate, (ROSTER.encode(),)))
        self.assertIsNotNone(first.transfer)
        self.grant(B, first)
        second = self.round(NOW)
        self.assertEqual((second.certificate, second.rosters, second.transfer), (None, (), None))
        self.assertIsNotNone(self.tenure.heartbeat(C.peer).certificate)

    def test_again_after_a_refusal(self) -> None:
        asked = self.round(NOW)
        self.grant(B, asked)
        self.tenure.receive(B.peer, attrs.evolve(grant(B, A, asked, ROSTER), granted=False))
        self.assertIsNotNone(self.round(NOW).certificate)

    def test_a_new_roster_until_it_is_granted_under(self) -> None:
        self.grant(B, self.round(NOW))
        self.booth.log.roster = later = roster(A, B, C, D, epoch=2)
        asked = self.round(NOW + 0.25)
        self.assertEqual((asked.certificate, asked.rosters), (None, (later.encode(),)))
        self.grant(B, asked)
        self.assertEqual(self.round(NOW + 0.5).rosters, ())
        self.assertEqual(self.tenure.heartbeat(D.peer).rosters, (later.encode(), ROSTER.encode()))


class Settled(TenureCase):
    def test_another_roster_follows_only_after_a_lease_under_this_one(self) -> None:
        self.assertFalse(self.tenure.is_settled(ROSTER))
        old = self.round(NOW)
        self.grant(B, old)
        self.tenure.settle(NOW)
        self.assertTrue(self.tenure.is_settled(ROSTER))
        self.booth.log.roster = later = roster(A, B, C, D, epoch=2)
        self.tenure.receive(C.peer, grant(C, A, old, ROSTER))
        self.tenure.settle(NOW)
        self.assertFalse(self.tenure.is_settled(later))
        asked = self.round(NOW + 0.25)
        self.grant(B, asked)
        self.grant(C, asked)
        self.tenure.settle(NOW + 0.25)
        self.assertTrue(self.tenure.is_settled(later))
