"""SLIP-39: the published vectors, and what people do to shares."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.security import shamir
from chorus.security.shamir import DamagedShare, ForeignShare, MissingShare, ShareError, check, combine, split
from tests.support import PureTestCase, vectors

SECRET = bytes(range(32))


class Slip39Vectors(PureTestCase):
    def test_every_case(self) -> None:
        cases = vectors("slip39.json")["vectors"]
        self.assertEqual(len(cases), 45)
        for name, mnemonics, secret, _ in cases:
            with self.subTest(name):
                if secret:
                    self.assertEqual(combine(mnemonics, b"TREZOR").hex(), secret, name)
                else:
                    self.assertRaises(ShareError, combine, mnemonics, b"TREZOR")


class Shares(PureTestCase):
    def setUp(self) -> None:
        self.shares = split(SECRET, 3, 5)

    def test_any_three_of_five(self) -> None:
        for chosen in combinations(self.shares, 3):
            self.assertEqual(combine(chosen), SECRET)
        self.assertEqual(combine(self.shares), SECRET)
        self.assertTrue(all(len(share.split()) == 33 for share in self.shares))

    def test_as_people_type_them(self) -> None:
        typed = [f"  {share.upper()} \n".replace(" ", "  ") for share in self.shares[:3]]
        self.assertEqual(combine(typed), SECRET)
        self.assertEqual(check(typed), shamir.SharesFound(3, 3))

    def test_a_missing_share(self) -> None:
        for few in (self.shares[:2], (self.shares[0],) * 3):
            error = self.assertRaises(MissingShare, combine, few)
            self.assertRegex(str(error), r"^\d of the 3 shares that are needed: \d more (is|are) missing$")
        self.assertRaises(MissingShare, combine, ())
        self.assertEqual(check(self.shares[:2]).present, 2)

    def test_a_foreign_share(self) -> None:
        other = split(SECRET, 3, 5)
        error = self.assertRaises(ForeignShare, combine, (*self.shares[:2], other[2]))
        self.assertEqual(str(error), "share 3 is of another split than share 1")

    def test_a_wrong_word_anywhere(self) -> None:
        words = self.shares[0].split()
        for at in range(len(words)):
            for wrong in ("academic" if words[at] != "academic" else "acid", "chorus", ""):
                changed = " ".join((*words[:at], wrong, *words[at + 1 :]))
                error = self.assertRaises(DamagedShare, combine, (self.shares[1], changed, self.shares[2]))
                self.assertTrue(str(error).startswith("share 2 "))
                self.assertFalse(set(words) - {"share"} & set(str(error).split()))

    def test_more_work_than_is_sensible(self) -> None:
        share = altered(self.shares[0], iteration_exponent=shamir.MAX_EXPONENT + 1)
        self.assertRaises(DamagedShare, combine, [share])
        self.assertRaises(DamagedShare, combine, ["a" * (shamir.MAX_CHARACTERS + 1)])

    def test_how_many(self) -> None:
        for threshold, count in ((1, 1), (1, 3), (4, 3), (2, 17), (0, 0)):
            self.assertRaises(ShareError, split, SECRET, threshold, count)
        self.assertRaises(ValueError, split, b"short", 2, 3)

    @settings(max_examples=50)
    @given(st.lists(st.text(max_size=200), max_size=4))
    def test_any_text(self, texts: list[str]) -> None:
        error = self.assertRaises(ShareError, combine, texts)
        self.assertNotIn("\n", str(error))


def altered(share: str, **changes: int) -> str:
    """The same share with other parameters and a right checksum."""
    from dataclasses import replace

    from shamir_mnemonic import Share

    return str(replace(Share.from_mnemonic(share), **changes).mnemonic())
