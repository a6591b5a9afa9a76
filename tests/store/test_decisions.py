"""The index of decisions: chains, versions, searches, text of lost roles."""

from __future__ import annotations

import random
from pathlib import Path
from unittest import mock

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.store import decision_texts, decisions
from chorus.store.inline import InlineDatabase
from chorus.ucxl.address import Address
from chorus.ucxl.query import DecisionQuery, UnknownDecision
from chorus.ucxl.record import Decision
from tests.support import PureTestCase
from tests.ucxl.samples import ALICE, BOB, HASH, NOW, chain, decision


class IndexCase(PureTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.entropy = random.Random(1).randbytes
        self.path = Path(self.mktemp())
        store = InlineDatabase(self.path)
        self.addCleanup(store.close)
        assert store._connection is not None
        self.connection = store._connection

    def record(self, *records: Decision) -> None:
        for each in records:
            self.assertTrue(decisions.record(self.connection, each, self.entropy))

    def found(self, text: str = "", pattern: str | None = None, **conditions: str | int) -> list[str]:
        """Summaries of all pages."""
        query = DecisionQuery.of(None if pattern is None else Address.parse(pattern), text, **conditions)
        found: list[str] = []
        after = None
        while True:
            page = decisions.search(self.connection, query, 3, after)
            self.assertLessEqual(len(page.decisions), 3)
            found += [each.summary or "?" for each in page.decisions]
            if (after := page.next) is None:
                return found


class ChainTests(IndexCase):
    def setUp(self) -> None:
        super().setUp()
        self.chain = chain(5)
        self.place = self.chain[0].place
        self.record(*self.chain)

    def at(self, temporal: str) -> int | None:
        found = decisions.version_at(self.connection, Address.parse(f"{self.place}/{temporal}"))
        return found and found.seq

    def test_versions(self) -> None:
        for temporal, seq in (
            *(("*^", 5), ("*~", 1), ("~~0", 5), ("~~4", 1), ("^^0", 1), ("^^4", 5)),
            (f"={self.chain[2].content_hash}", 3),
            (f"={HASH}", None),
            ("@2027-01-15T08:00:00Z", 1),
            ("@2027-01-15T08:01:59.9Z", 2),
            ("@2027-01-15T07:59:59.999Z", None),
            ("@2099-01-01T00:00:00Z", 5),
        ):
            with self.subTest(temporal=temporal):
                self.assertEqual(self.at(temporal), seq)
        self.assertRaises(UnknownDecision, self.at, "~~5")
        self.assertRaises(UnknownDecision, self.at, "^^5")
        unknown = Address.parse("ucxl://a:r@p:t")
        self.assertIsNone(decisions.version_at(self.connection, unknown))
        self.assertIsNone(decisions.newest(self.connection, unknown))

    def test_pages_of_a_chain(self) -> None:
        first = decisions.versions(self.connection, self.place, 2)
        self.assertEqual([each.seq for each in first], [5, 4])
        rest = decisions.versions(self.connection, self.place, 9, below=4)
        self.assertEqual([each.seq for each in rest], [3, 2, 1])
        self.assertEqual(rest[2].address, str(self.place))

    def test_other_chains_are_apart(self) -> None:
        self.record(decision(path="docs"), decision(task="t-2"), decision(BOB))
        self.assertEqual(len(decisions.versions(self.connection, self.place, 9)), 5)

    def test_of_a_fork_the_first_that_was_seen_stays(self) -> None:
        fork = decision(seq=5, prev=self.chain[3].content_hash, summary="Coffee.")
        self.record(fork)
        found = decisions.versions(self.connection, self.place, 2)
        self.assertEqual([each.content for each in found], [self.chain[4].content_hash, fork.content_hash])
        newest = decisions.newest(self.connection, self.place)
        assert newest is not None
        self.assertEqual(newest.content, self.chain[4].content_hash)

    def test_what_is_noticed_first_and_read_later(self) -> None:
        record = decision(task="t-9")
        self.assertTrue(decisions.notice(self.connection, record.place, 1, record.content_hash, NOW + 999))
        self.assertFalse(decisions.notice(self.connection, record.place, 1, record.content_hash, NOW + 999))
        (row,) = decisions.versions(self.connection, record.place, 9)
        self.assertEqual((row.time, row.kind, row.summary), (NOW + 999, None, None))
        self.record(record)
        self.assertFalse(decisions.record(self.connection, record, self.entropy))
        (row,) = decisions.versions(self.connection, record.place, 9)
        self.assertEqual((row.time, row.kind, row.summary), (NOW, "note", "Tea, not coffee."))
        self.assertEqual(decisions.counts(self.connection), (6, 6))


class SearchTests(IndexCase):
    def setUp(self) -> None:
        super().setUp()
        self.record(
            decision(task="t-1", summary="Grüner TEE at noon", created=NOW),
            decision(task="t-2", summary="Coffee at noon", created=NOW + 1, path="docs/a"),
            decision(BOB, task="t-1", summary="Tee at five", created=NOW + 2, project="other"),
            decision(BOB, task="t-3", summary="No drinks", created=NOW + 3, path="docs"),
            decision(BOB, task="t-4", summary="Cake", rationale="With coffee.", created=NOW + 4, path="docsx"),
        )

    def test_conditions(self) -> None:
        everything = ["Cake", "No drinks", "Tee at five", "Coffee at noon", "Grüner TEE at noon"]
        alice, bob = str(ALICE.peer_id), str(BOB.peer_id)
        for expected, text, pattern, conditions in (
            (everything, "", None, {}),
            (everything, "", "ucxl://any:any@any:any", {}),
            (everything[:3], "", f"ucxl://{bob}:any@any:any", {}),
            (everything[3:], "", None, {"agent": alice}),
            (["Tee at five"], "", "ucxl://any:any@other:any", {}),
            (["Tee at five", "Grüner TEE at noon"], "", None, {"task": "t-1"}),
            (["Tee at five"], "", None, {"task": "t-1", "agent": bob}),
            (["No drinks", "Coffee at noon"], "", "ucxl://any:any@any:any/docs", {}),
            (["Coffee at noon"], "", "ucxl://any:any@any:any/docs/a", {}),
            ([], "", None, {"role": "admin"}),
            (everything, "", None, {"role": "developer"}),
            (everything[:2], "", None, {"since": NOW + 3}),
            (everything[3:], "", None, {"until": NOW + 2}),
            (everything[2:4], "", None, {"since": NOW + 1, "until": NOW + 3}),
            (["Tee at five", "Grüner TEE at noon"], "tee", None, {}),
            (["Grüner TEE at noon"], "NOON grüner", None, {}),
            (["Cake", "Coffee at noon"], "coffee!", None, {}),
            (["Coffee at noon"], "coffee", "ucxl://any:any@any:any/docs", {}),
            ([], "coffee tee", None, {}),
            ([], "absent", None, {}),
            (["Coffee at noon"], "coffee", None, {"until": NOW + 2}),
        ):
            for rare in (decisions.RARE, 0):
                for scanned in (decisions.SCANNED, 2):
                    patches = (
                        mock.patch.object(decisions, "RARE", rare),
                        mock.patch.object(decisions, "SCANNED", scanned),
                    )
                    with self.subTest(text=text, pattern=pattern, rare=rare, **conditions), patches[0], patches[1]:
                        self.assertEqual(self.found(text, pattern, **conditions), expected)  # type: ignore[arg-type]

    def test_a_page_looks_at_so_many(self) -> None:
        """It is short then, and says where to go on."""
        with mock.patch.object(decisions, "SCANNED", 2), mock.patch.object(decisions, "RARE", 0):
            query = DecisionQuery.of(None, "grüner")
            page = decisions.search(self.connection, query, 3)
            self.assertEqual(page.decisions, ())
            page = decisions.search(self.connection, query, 3, page.next)
            self.assertEqual(page.decisions, ())
            page = decisions.search(self.connection, query, 3, page.next)
            self.assertEqual((len(page.decisions), page.next), (1, None))

    def test_only_readable_ones_are_found_by_text(self) -> None:
        other = decision(task="t-7", summary="Secret tee")
        decisions.notice(self.connection, other.place, 1, other.content_hash, NOW + 9)
        self.assertEqual(self.found("secret"), [])
        self.assertEqual(self.found(task="t-7"), ["?"])

    def test_cursors_of_others_are_refused(self) -> None:
        for after in ("", "x", "1", "1.x", "-1.2", "1.2.3", "9" * 50 + ".1", "١.1"):
            self.assertRaises(decisions.BadCursor, decisions.search, self.connection, DecisionQuery(), 3, after)

    def test_the_oldest_goes_where_the_index_is_full(self) -> None:
        with mock.patch.object(decisions, "MAX_INDEXED", 4), mock.patch.object(decisions, "COUNTED_EVERY", 1):
            self.record(decision(task="t-8", summary="Water", created=NOW + 9))
        self.assertEqual(self.found(), ["Water", "Cake", "No drinks", "Tee at five"])
        self.assertEqual(self.found("noon"), [])
        words = self.connection.execute("SELECT count(DISTINCT id) FROM decision_words").fetchone()[0]
        self.assertEqual((words, decisions.counts(self.connection)), (4, (4, 4)))


DRINKS = [
    decision(task=f"d-{number}", project="drinks", summary=words, created=NOW + number % 3)
    for number, words in enumerate(("tea", "tea milk", "milk", "tea milk ice", "ice", "ice tea", "none"))
]


class SearchByHandTests(IndexCase):
    def setUp(self) -> None:
        super().setUp()
        self.record(*DRINKS)

    @settings(max_examples=40)
    @given(st.lists(st.sampled_from(("tea", "milk", "ice")), max_size=2), st.integers(0, 3), st.integers(1, 9))
    def test_as_a_search_by_hand(self, asked: list[str], rare: int, scanned: int) -> None:
        with mock.patch.object(decisions, "RARE", rare), mock.patch.object(decisions, "SCANNED", scanned):
            self.assertEqual(
                sorted(self.found(" ".join(asked), project="drinks")),
                sorted(each.summary for each in DRINKS if set(asked) <= set(each.summary.split())),
            )


class LostRoleTests(IndexCase):
    def setUp(self) -> None:
        super().setUp()
        self.developer = [decision(task=f"t-{n}", summary=f"Plain word {n}") for n in range(3)]
        reviewer = attrs.evolve(decision(task="t-8"), signature=b"")
        self.reviewer = attrs.evolve(
            reviewer, role="reviewer", address=reviewer.address.replace("developer", "reviewer"), summary="Hidden gem"
        ).signed(ALICE)
        self.record(*self.developer, self.reviewer)

    def test_text_is_gone_at_once_and_removed_after(self) -> None:
        self.assertEqual(self.found("gem"), ["Hidden gem"])
        self.assertEqual(decision_texts.shred(self.connection, {"developer"}), 1)
        self.assertEqual(self.found("gem"), [])
        self.assertEqual(self.found(role="reviewer"), ["?"])
        self.assertEqual(len(self.found("plain")), 3)
        with mock.patch.object(decision_texts, "SWEPT", 1):
            self.assertEqual([decision_texts.sweep(self.connection) for _ in range(2)], [1, 0])
        self.assertEqual(decisions.counts(self.connection), (4, 3))
        self.assertEqual(decision_texts.shred(self.connection, {"developer"}), 0)

    def test_a_role_that_is_granted_again_before_the_sweep(self) -> None:
        decision_texts.shred(self.connection, {"developer"})
        self.record(self.reviewer)
        self.assertEqual(self.found("gem"), ["Hidden gem"])
        self.assertEqual(decision_texts.sweep(self.connection), 0)

    def test_no_text_in_the_file(self) -> None:
        """Neither before nor after: summaries are encrypted, and words hashed with the key of their role."""
        (key,) = self.connection.execute("SELECT key FROM decision_keys WHERE role = 'reviewer'").fetchone()
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = self.path.read_bytes()
        self.assertIn(bytes(key), data)
        self.assertNotIn(b"Hidden", data)
        self.connection.execute("PRAGMA secure_delete = OFF")
        decision_texts.shred(self.connection, {"developer"})
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.assertNotIn(bytes(key), self.path.read_bytes())
        self.assertEqual(self.connection.execute("PRAGMA secure_delete").fetchone()[0], 0)
