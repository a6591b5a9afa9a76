"""Statements that are signed, and the certificate of an office."""

from __future__ import annotations

import itertools

import attrs
from hypothesis import given
from hypothesis import strategies as st

from chorus.protocols.ballot.certificates import (
    BadOffice,
    grant_statement,
    transfer_statement,
    verify_office,
    vote_statement,
)
from chorus.protocols.ballot.messages import OfficeCertificate, TransferNow
from tests.protocols.ballot.kit import office
from tests.protocols.ballot.net import Signer
from tests.protocols.replication.support import A, B, C, D, E, roster
from tests.support import PureTestCase

ROSTER = roster(A, B, C)
SIGNER = Signer(A.peer)


class Statements(PureTestCase):
    def test_no_field_runs_into_the_next(self) -> None:
        told = [
            vote_statement(ROSTER, 1, "12"),
            vote_statement(ROSTER, 11, "2"),
            grant_statement(ROSTER, 1, "12", 3, 4),
            grant_statement(ROSTER, 1, "12", 34, 0),
            grant_statement(ROSTER, 1, "12", 3, 40),
            transfer_statement(ROSTER.cluster, TransferNow(1, 1, "1", "2")),
            transfer_statement(ROSTER.cluster, TransferNow(1, 11, "", "2")),
        ]
        for one, other in itertools.combinations(told, 2):
            self.assertNotEqual(one, other)

    def test_cluster_epoch_and_roster_are_covered(self) -> None:
        others = [
            attrs.evolve(ROSTER, cluster="cd" * 32),
            attrs.evolve(ROSTER, epoch=2),
            attrs.evolve(ROSTER, lease_ms=3000),
            roster(A, B, D),
        ]
        for other in others:
            self.assertNotEqual(vote_statement(ROSTER, 1, A.peer), vote_statement(other, 1, A.peer))
            self.assertNotEqual(grant_statement(ROSTER, 1, A.peer, 1, 1), grant_statement(other, 1, A.peer, 1, 1))

    @given(st.lists(st.tuples(st.integers(0, 2**53), st.text(max_size=9)), min_size=2, max_size=2, unique=True))
    def test_different_votes_read_differently(self, pairs: list[tuple[int, str]]) -> None:
        first, second = (vote_statement(ROSTER, *pair) for pair in pairs)
        self.assertNotEqual(first, second)


class Offices(PureTestCase):
    def refused(self, certificate: OfficeCertificate, value: object = ROSTER) -> str:
        return str(self.assertRaises(BadOffice, verify_office, certificate, value, SIGNER))

    def test_a_majority_is_enough(self) -> None:
        for voters in ((A, B), (A, C), (B, C), (A, B, C)):
            verify_office(office(A, 5, ROSTER, *voters), ROSTER, SIGNER)

    def test_less_is_not(self) -> None:
        self.assertIn("no majority", self.refused(office(A, 5, ROSTER, A)))
        five = roster(A, B, C, D, E)
        self.assertIn("no majority", self.refused(office(A, 5, five, A, B), five))

    def test_a_majority_of_voters_and_not_of_names(self) -> None:
        self.assertIn("others than voters", self.refused(office(A, 5, ROSTER, A, D)))
        certificate = office(A, 5, ROSTER, A, B)
        twice = attrs.evolve(certificate, votes=(certificate.votes[0],) * 2)
        self.assertIn("twice", self.refused(twice))

    def test_an_admin_has_a_vote(self) -> None:
        self.assertIn("no voter", self.refused(office(D, 5, ROSTER, A, B)))

    def test_another_roster(self) -> None:
        certificate = office(A, 5, ROSTER, A, B)
        for value in (roster(A, B, C, epoch=2), roster(A, B, D)):
            self.assertIn("another roster", self.refused(certificate, value))

    def test_forged_votes(self) -> None:
        right = office(A, 5, ROSTER, A, B)
        votes = {
            "of another term": office(A, 4, ROSTER, A, B).votes,
            "for another": office(B, 5, ROSTER, A, B).votes,
            "of another cluster": office(A, 5, attrs.evolve(ROSTER, cluster="cd" * 32), A, B).votes,
            "by another": tuple((voter, Signer(C.peer).sign(b"")) for voter, _ in right.votes),
            "empty": tuple((voter, b"") for voter, _ in right.votes),
        }
        for what, wrong in votes.items():
            self.assertIn("signature", self.refused(attrs.evolve(right, votes=wrong)), what)
            one_right = (right.votes[0], wrong[1])
            self.assertIn("signature", self.refused(attrs.evolve(right, votes=one_right)), what)
