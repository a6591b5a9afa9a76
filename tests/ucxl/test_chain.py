"""The verifier of a chain: everything that is wrong or missing is named."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from chorus import strictjson
from chorus.ucxl.chain import MAX_FAULTS, ChainReport, ClaimedVersion, verify_chain
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Head, Version
from tests.support import PureTestCase
from tests.ucxl.samples import ALICE, BOB, HASH, chain, decision


def claimed(record: Decision) -> ClaimedVersion:
    return ClaimedVersion(record.seq, record.content_hash, record.encode())


def unread(record: Decision) -> ClaimedVersion:
    version = Version.of(record, ALICE, ciphertext=HASH, size=1, epoch=1)
    return ClaimedVersion(record.seq, record.content_hash, None, version.encode())


def head(record: Decision) -> bytes:
    return Head.of(record, ALICE).encode()


class ChainTests(PureTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.chain = chain(4)
        self.address = self.chain[0].address

    def faults(self, report: ChainReport) -> list[tuple[str, int]]:
        self.assertFalse(report.clean)
        return [(fault.code, fault.seq) for fault in report.faults]

    def test_clean_in_any_order(self) -> None:
        for versions in (self.chain, self.chain[::-1], self.chain[2:] + self.chain[:2]):
            report = verify_chain(self.address, map(claimed, versions), [head(self.chain[3])])
            self.assertEqual((report.clean, report.latest, report.verified), (True, 4, 4))

    def test_nothing_is_not_clean(self) -> None:
        self.assertFalse(verify_chain(self.address, []).clean)

    def test_a_forged_record(self) -> None:
        forged = self.chain[1].encode().replace(b"Version 2.", b"Version 9.")
        versions = [claimed(self.chain[0]), ClaimedVersion(2, self.chain[1].content_hash, forged)]
        self.assertEqual(self.faults(verify_chain(self.address, versions)), [("bad_record", 2)])

    def test_a_record_under_another_hash_number_or_address(self) -> None:
        record = self.chain[0]
        for version, code in (
            (ClaimedVersion(1, HASH, record.encode()), "wrong_hash"),
            (ClaimedVersion(2, record.content_hash, record.encode()), "wrong_number"),
            (claimed(decision(task="t-2")), "foreign_address"),
            (claimed(decision(BOB)), "foreign_address"),
        ):
            self.assertEqual(self.faults(verify_chain(self.address, [version]))[0], (code, version.seq))

    def test_a_hole_and_a_hidden_end(self) -> None:
        versions = [claimed(each) for each in (self.chain[0], self.chain[3])]
        self.assertEqual(self.faults(verify_chain(self.address, versions)), [("missing", 4)])
        report = verify_chain(self.address, map(claimed, self.chain[:3]), [head(self.chain[3])])
        self.assertEqual(self.faults(report), [("hidden", 4)])
        self.assertEqual(self.faults(verify_chain(self.address, map(claimed, self.chain[1:]))), [("missing", 2)])
        self.assertTrue(verify_chain(self.address, map(claimed, self.chain[1:]), complete=False).clean)

    def test_a_number_of_astronomic_height_costs_nothing(self) -> None:
        record = decision(seq=2**53 - 1, prev=HASH)
        self.assertEqual(self.faults(verify_chain(self.address, [claimed(record)])), [("missing", 2**53 - 1)])

    def test_numbers_may_be_skipped_and_links_may_not(self) -> None:
        second = decision(seq=2, prev=None)
        fifth = decision(seq=5, prev=second.content_hash)
        report = verify_chain(self.address, map(claimed, [second, fifth]), [head(fifth)])
        self.assertEqual((report.clean, report.latest), (True, 5), report.faults)
        for prev in (fifth.content_hash, decision(seq=4, prev=HASH).content_hash):
            versions = [claimed(second), claimed(fifth), claimed(decision(seq=4, prev=prev))]
            self.assertFalse(verify_chain(self.address, versions).clean)

    def test_a_broken_link(self) -> None:
        other = decision(seq=3, prev=HASH)
        versions = [*map(claimed, self.chain[:2]), claimed(other)]
        report = verify_chain(self.address, versions)
        self.assertEqual(self.faults(report), [("broken_link", 3)])
        self.assertIn(self.chain[1].content_hash, report.faults[0].contents)

    def test_equivocation_shows_both(self) -> None:
        fork = decision(seq=4, prev=self.chain[2].content_hash, summary="Coffee.")
        both = {self.chain[3].content_hash, fork.content_hash}
        for report in (
            verify_chain(self.address, map(claimed, [*self.chain, fork])),
            verify_chain(self.address, map(claimed, self.chain), [head(fork)]),
            verify_chain(self.address, map(claimed, self.chain[:3]), [head(fork), head(self.chain[3])]),
        ):
            fault = next(each for each in report.faults if each.code == "equivocation")
            self.assertEqual((fault.seq, set(fault.contents)), (4, both))

    def test_versions_that_may_not_be_read(self) -> None:
        versions = [claimed(self.chain[0]), unread(self.chain[1]), claimed(self.chain[2])]
        report = verify_chain(self.address, versions)
        self.assertEqual((report.clean, report.verified, report.unread), (True, 2, 1))
        thief = Version.of(decision(BOB), BOB, ciphertext=HASH, size=1, epoch=1).encode()
        for version in (None, b"", thief):
            claim = ClaimedVersion(2, self.chain[1].content_hash, None, version)
            report = verify_chain(self.address, [claimed(self.chain[0]), claim])
            self.assertEqual(self.faults(report), [("unproven", 2)])

    def test_forged_heads(self) -> None:
        good = json.loads(head(self.chain[3]))
        forged = strictjson.canonical({**good, "seq": 5})
        foreign = Head.of(decision(task="t-2"), ALICE).encode()
        for bad in (forged, foreign, b"{}", b"\xff"):
            report = verify_chain(self.address, map(claimed, self.chain), [bad])
            self.assertEqual(self.faults(report), [("bad_head", 0)])

    def test_faults_are_bounded(self) -> None:
        report = verify_chain(self.address, [ClaimedVersion(n, HASH, b"{}") for n in range(3 * MAX_FAULTS)])
        self.assertEqual(len(report.faults), MAX_FAULTS)

    @given(st.integers(0, 3), st.integers(0, 10**6), st.integers(1, 255))
    def test_any_changed_byte_is_found(self, number: int, at: int, flip: int) -> None:
        data = bytearray(CHAIN[number].encode())
        data[at % len(data)] ^= flip
        versions = [claimed(each) for each in CHAIN]
        versions[number] = ClaimedVersion(number + 1, CHAIN[number].content_hash, bytes(data))
        self.assertFalse(verify_chain(CHAIN[0].address, versions).clean)


CHAIN = chain(4)
