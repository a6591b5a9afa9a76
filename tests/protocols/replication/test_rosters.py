"""Rosters of the log."""

from __future__ import annotations

import attrs

from chorus.protocols.ballot.roster import BadRoster, read_roster
from chorus.protocols.replication.messages import EntryKind, LogEntry
from chorus.protocols.replication.refusals import BadAppend, RosterRefused
from chorus.protocols.replication.rosters import Rosters, check_successor, successor
from tests.protocols.replication.support import VOTERS, A, Authority, B, C, entry, roster, roster_entry
from tests.support import PureTestCase

ONE, TWO, THREE = roster(A), roster(A, B, epoch=5), roster(A, B, C, epoch=9)
AUTHORITY = Authority()


class InForce(PureTestCase):
    def known(self) -> Rosters:
        return Rosters(2, ONE, (roster_entry(5, 1, TWO), entry(6, 1), roster_entry(9, 2, THREE)))

    def test_from_its_entry_on(self) -> None:
        known = self.known()
        self.assertEqual([known.at(index) for index in (2, 4, 5, 8, 9, 99)], [ONE, ONE, TWO, TWO, THREE, THREE])
        self.assertEqual((known.in_force, known.index), (THREE, 9))

    def test_a_cut_brings_the_former_one_back(self) -> None:
        known = self.known()
        self.assertFalse(known.cut(9))
        self.assertTrue(known.cut(8))
        self.assertEqual((known.in_force, known.index), (TWO, 5))
        known.append(10, THREE)
        self.assertTrue(known.cut(1))
        self.assertEqual(known.in_force, ONE)

    def test_compaction_keeps_the_one_in_force_at_the_base(self) -> None:
        known = self.known()
        known.compact(7)
        self.assertEqual([known.at(index) for index in (7, 8, 9)], [TWO, TWO, THREE])
        known.cut(7)
        self.assertEqual(known.in_force, TWO)
        known.restart(20, THREE)
        self.assertEqual((known.at(20), known.index), (THREE, 20))

    def test_a_corrupt_store(self) -> None:
        self.assertRaises(BadRoster, Rosters, 0, ONE, (LogEntry(1, 1, EntryKind.ROSTER, b"{"),))


class Successors(PureTestCase):
    def test_one_voter_more_or_less(self) -> None:
        grown = successor(ONE, (B, A), 7, AUTHORITY)
        self.assertEqual((grown.voters, grown.epoch, grown.lease_ms), ((A, B), 7, ONE.lease_ms))
        self.assertTrue(AUTHORITY.verify(read_roster(grown.encode())))
        self.assertEqual(successor(grown, (B,), 9, AUTHORITY).voters, (B,))

    def test_the_epoch_stays_above_former_ones(self) -> None:
        recovered = attrs.evolve(ONE, epoch=1000)
        self.assertEqual(successor(recovered, (A, B), 7, AUTHORITY).epoch, 1001)

    def test_refused(self) -> None:
        wiped = attrs.evolve(A, store="f" * 32)
        eight = attrs.evolve(A, peer=A.peer[:-1] + "Z")
        for former, voters in (
            (ONE, ()),
            (ONE, (A,)),
            (ONE, (B,)),
            (ONE, (A, B, C)),
            (THREE, (A,)),
            (ONE, (wiped,)),
            (ONE, (A, wiped)),
            (ONE, (A, B, B)),
            (roster(*VOTERS), (*VOTERS, eight)),
        ):
            self.assertRaises(RosterRefused, successor, former, voters, 7, AUTHORITY)

    def test_a_node_without_the_key(self) -> None:
        authority = Authority()
        authority.key = False
        self.assertRaises(RosterRefused, successor, ONE, (A, B), 7, authority)


class OfAnotherNode(PureTestCase):
    def test_taken(self) -> None:
        self.assertEqual(check_successor(ONE, roster_entry(5, 1, TWO), AUTHORITY), TWO)

    def test_refused(self) -> None:
        for value in (
            attrs.evolve(TWO, signature=b"t" * 64),
            attrs.evolve(TWO, cluster="cd" * 32),
            attrs.evolve(TWO, epoch=1),
        ):
            self.assertRaises(BadAppend, check_successor, ONE, roster_entry(5, 1, value), AUTHORITY)
        for data in (b"", b"{}", TWO.encode() + b" ", b"[" * 5000):
            entry_of = LogEntry(5, 1, EntryKind.ROSTER, data)
            self.assertRaises(BadAppend, check_successor, ONE, entry_of, AUTHORITY)
