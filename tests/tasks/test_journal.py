"""The journal's values: fences in order and as text, and what its refusals say."""

from __future__ import annotations

from chorus.tasks.journal import Fence, NoQuorum, NotLeader, OutcomeUnknown
from tests.support import PureTestCase


class Fences(PureTestCase):
    def test_in_order_of_epoch_then_term_then_index(self) -> None:
        ordered = [Fence(0, 1, 9), Fence(0, 2, 1), Fence(0, 2, 10), Fence(1, 0, 0)]
        self.assertEqual(sorted(reversed(ordered)), ordered)

    def test_as_text_and_back(self) -> None:
        self.assertEqual(str(Fence(1, 20, 300)), "1.20.300")
        self.assertEqual(Fence.parse("1.20.300"), Fence(1, 20, 300))
        for wrong in ("", "1.2", "1.2.3.4", "1.2.x"):
            self.assertRaises(ValueError, Fence.parse, wrong)


class Refusals(PureTestCase):
    def test_who_leads_is_named_where_it_is_known(self) -> None:
        for hint, text in (("n1", "the journal is led by n1"), (None, "the journal has no known leader")):
            error = NotLeader(hint)
            self.assertEqual((error.hint, str(error), error.code), (hint, text, "not_leader"))

    def test_each_has_its_code(self) -> None:
        self.assertEqual((NoQuorum.code, OutcomeUnknown.code), ("no_quorum", "outcome_unknown"))
