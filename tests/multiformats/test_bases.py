from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.multiformats import base58, multibase, multihash
from tests.support import PureTestCase, vectors


class Base58Tests(PureTestCase):
    def test_published(self) -> None:
        for row in vectors("multiformats.json")["base58btc"]:
            data = bytes.fromhex(row["hex"])
            self.assertEqual(base58.encode(data), row["base58"])
            self.assertEqual(base58.decode(row["base58"]), data)

    def test_refusals(self) -> None:
        for text in ("0", "O", "I", "l", "a b", "é", "1" * (base58.MAX_TEXT + 1)):
            with self.assertRaises(ValueError):
                base58.decode(text)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=64))
    def test_round_trip(self, data: bytes) -> None:
        self.assertEqual(base58.decode(base58.encode(data)), data)

    def test_the_longest_text(self) -> None:
        self.assertEqual(base58.decode("1" * base58.MAX_TEXT), bytes(base58.MAX_TEXT))


class MultibaseTests(PureTestCase):
    def test_every_digit_of_every_base(self) -> None:
        for base in multibase.BASES.values():
            self.assertEqual(len(set(base.alphabet)), 2**base.bits if base.bits else len(base.alphabet), base.name)
            text = base.alphabet * 8
            self.assertEqual(multibase.encode(base.name, multibase.decode(base.prefix + text)), base.prefix + text)

    def test_the_last_digits_of_base64(self) -> None:
        for base, text in (
            ("base64", "m+/8"),
            ("base64url", "u-_8"),
            ("base64pad", "M+/8="),
            ("base64urlpad", "U-_8="),
        ):
            self.assertEqual(multibase.encode(base, b"\xfb\xff"), text)
            self.assertEqual(multibase.decode(text), b"\xfb\xff")

    def test_the_longest_text(self) -> None:
        self.assertEqual(multibase.decode("9" + "0" * (multibase.MAX_TEXT - 1)), bytes(multibase.MAX_TEXT - 1))
        with self.assertRaises(multibase.MultibaseError):
            multibase.decode("9" + "0" * multibase.MAX_TEXT)

    def test_published(self) -> None:
        for name, group in vectors("multiformats.json")["multibase"].items():
            data = group["input_escaped"].encode().decode("unicode_escape").encode()
            for row in group["rows"]:
                if row["encoding"] == "base256emoji":
                    with self.assertRaises(multibase.MultibaseError):
                        multibase.decode(row["text"])
                    continue
                self.assertEqual(multibase.decode(row["text"]), data, (name, row))
                if name != "case_insensitivity":
                    self.assertEqual(multibase.encode(row["encoding"], data), row["text"], (name, row))

    def test_refusals(self) -> None:
        over_limit = "f" + "00" * (multibase.MAX_TEXT // 2)
        for text in ("", "?", "bA1", "m=", "MAA", "MAA=", "MAAAA====", "b1", "mAB", "f0", "0111", over_limit):
            with self.assertRaises(multibase.MultibaseError, msg=text):
                multibase.decode(text)

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(sorted(multibase.BASES)), st.binary(max_size=40))
    def test_round_trip(self, base: str, data: bytes) -> None:
        self.assertEqual(multibase.decode(multibase.encode(base, data)), data)

    @settings(max_examples=200, deadline=None)
    @given(
        st.text(max_size=40)
        | st.sampled_from(sorted(multibase.BASES.values(), key=lambda base: base.name)).flatmap(
            lambda base: st.text(base.alphabet + "=", max_size=20).map(lambda text: base.prefix + text)
        )
    )
    def test_any_text(self, text: str) -> None:
        """Refused, or bytes that the same base writes in the same way, but for the case where that says nothing."""
        try:
            data = multibase.decode(text)
        except multibase.MultibaseError:
            return
        (base,) = [each for each in multibase.BASES.values() if each.prefix == text[0]]
        again = base.prefix + base.encode(data)
        self.assertEqual(*((again.lower(), text.lower()) if base.folds_case else (again, text)))


class MultihashTests(PureTestCase):
    def test_published(self) -> None:
        for row in vectors("multiformats.json")["multihash_sha2_256"]:
            code, digest = multihash.decode(bytes.fromhex(row["multihash"]))
            self.assertEqual(code, multihash.SHA2_256)
            self.assertEqual(digest, hashlib.sha256(row["input"].encode()).digest()[: int(row["bits"]) // 8])
            self.assertEqual(multihash.encode(code, digest).hex(), row["multihash"])

    def test_cve_2020_35909_refusals(self) -> None:
        for text in (
            "",
            "12",
            "1220",
            "122100",
            "12ff",
            "1220" + "00" * 31,
            "1220" + "00" * 33,
            "0041" + "00" * 65,
            "8100",
        ):
            with self.assertRaises(multihash.MultihashError, msg=text):
                multihash.decode(bytes.fromhex(text))

    def test_sha2_256(self) -> None:
        digest = hashlib.sha256(b"x").digest()
        self.assertEqual(multihash.decode(multihash.sha2_256(b"x")), (multihash.SHA2_256, digest))
        longer = multihash.encode(multihash.SHA2_256, digest + b"x")
        self.assertRaisesRegex(multihash.MultihashError, "at most 32 bytes, not 33", multihash.decode, longer)

    def test_the_longest_digests(self) -> None:
        for code, size in ((multihash.IDENTITY, multihash.MAX_DIGEST), (multihash.SHA2_256, 32), (0x13, 64), (0, 0)):
            raw = multihash.encode(code, b"d" * size)
            self.assertEqual(multihash.decode(raw), (code, b"d" * size))
            for wrong in (raw + b"d", raw[:-1], multihash.encode(code, b"d" * 65)):
                self.assertRaises(multihash.MultihashError, multihash.decode, wrong)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=80))
    def test_cve_2020_35909_any_bytes(self, data: bytes) -> None:
        try:
            code, digest = multihash.decode(data)
        except multihash.MultihashError:
            return
        self.assertEqual(multihash.encode(code, digest), data)
