"""Words, queries and numbers of versions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chorus.errors import UserError
from chorus.ucxl.address import Address, AddressError, Exactly, First, InForce, Latest
from chorus.ucxl.query import MAX_QUERY_WORDS, DecisionQuery, UnknownDecision, number_of
from chorus.ucxl.record import DecisionArtifact
from chorus.ucxl.words import MAX_WORD, MAX_WORDS, searched, words
from tests.support import PureTestCase
from tests.ucxl.samples import HASH, decision


class WordTests(PureTestCase):
    def test_words(self) -> None:
        self.assertEqual(words(["Grüner TEE, tee; a_b ﬁne x²"], 99), ("grüner", "tee", "a", "b", "fine", "x2"))
        self.assertEqual(words(["a b", "b c d"], 3), ("a", "b", "c"))
        self.assertEqual(words(["x" * 100], 1), ("x" * MAX_WORD,))
        self.assertEqual(words(["… - _"], 1), ())

    def test_words_of_a_decision(self) -> None:
        artifacts = tuple(
            DecisionArtifact(name=f"f{n}", sha256=f"{n:064}", size=0, stored=HASH, key="AGE-SECRET-KEY-1")
            for n in range(300)
        )
        found = searched(decision(rationale=" ".join(f"w{n}" for n in range(1000)), artifacts=artifacts))
        self.assertEqual(found[:4], ("tea", "not", "coffee", "note"))
        self.assertEqual(len(found), MAX_WORDS + 300)
        self.assertEqual(found[MAX_WORDS:], tuple(each.sha256 for each in artifacts))

    @given(st.text())
    def test_a_text_is_found_by_its_words(self, text: str) -> None:
        found = words([text], 1000)
        self.assertEqual(words([" ".join(found)], 1000), found)


class QueryTests(PureTestCase):
    def test_a_pattern_and_conditions(self) -> None:
        pattern = Address.parse("ucxl://any:r@any:t/a/b%20c")
        self.assertEqual(
            DecisionQuery.of(pattern, "X y", project="p", agent="any", since=3),
            DecisionQuery(role="r", task="t", project="p", path="a/b%20c", since=3, words=("x", "y")),
        )
        self.assertEqual(DecisionQuery.of(None), DecisionQuery())

    def test_refusals(self) -> None:
        self.assertRaises(AddressError, DecisionQuery.of, Address.parse("ucxl://a:r@p:t/*^"))
        self.assertRaises(UserError, DecisionQuery.of, Address.parse("ucxl://a:r@p:t"), role="other")
        self.assertRaises(UserError, DecisionQuery.of, None, " ".join(f"w{n}" for n in range(MAX_QUERY_WORDS + 1)))
        self.assertRaises(UserError, DecisionQuery.of, None, "?")


class NumberTests(PureTestCase):
    def test_numbers(self) -> None:
        for temporal, number in ((None, 5), (Latest(), 5), (Latest(4), 1), (First(), 1), (First(4), 5)):
            self.assertEqual(number_of(temporal, 5), number)
        for temporal in (InForce(0), Exactly(HASH)):
            self.assertIsNone(number_of(temporal, 5))
        for temporal in (Latest(5), First(5)):
            self.assertRaises(UnknownDecision, number_of, temporal, 5)
