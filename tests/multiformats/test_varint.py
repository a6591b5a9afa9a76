from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.multiformats import varint
from tests.support import PureTestCase, vectors


class VarintTests(PureTestCase):
    def test_published_valid(self) -> None:
        for row in vectors("multiformats.json")["varint"]["valid"]:
            encoded = bytes.fromhex(row["hex"])
            self.assertEqual(varint.encode(row["value"]), encoded)
            self.assertEqual(varint.decode(encoded), (row["value"], len(encoded)))
            self.assertEqual(varint.peek(b"xx" + encoded + b"y", 2), (row["value"], 2 + len(encoded)))

    def test_published_invalid(self) -> None:
        for row in vectors("multiformats.json")["varint"]["invalid"]:
            with self.assertRaises(varint.VarintError, msg=row["why"]):
                varint.decode(bytes.fromhex(row["hex"]))

    def test_peek_waits_only_while_a_continuation_can_be_legal(self) -> None:
        for length in range(9):
            self.assertIsNone(varint.peek(b"\xff" * length))
        with self.assertRaises(varint.VarintError):
            varint.peek(b"\xff" * 9)

    def test_maximum_is_enforced_before_the_end(self) -> None:
        """A length over the limit is refused without waiting for its last byte."""
        with self.assertRaises(varint.VarintError):
            varint.peek(b"\xff\xff", 0, 1024)
        with self.assertRaises(varint.VarintError):
            varint.peek(b"\x7f", 0, 126)
        self.assertEqual(varint.peek(b"\x7f", 0, 127), (127, 1))

    def test_the_ends_of_a_byte(self) -> None:
        for value, encoded in ((0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (16383, b"\xff\x7f")):
            self.assertEqual(varint.encode(value), encoded)
            self.assertEqual(varint.peek(b"\x80" + encoded, 1), (value, 1 + len(encoded)))
        self.assertIsNone(varint.peek(b"", 0))
        with self.assertRaises(varint.VarintError):
            varint.peek(b"\x80\x00")

    def test_encode_refuses_what_does_not_fit(self) -> None:
        for value in (-1, 2**63):
            with self.assertRaises(ValueError):
                varint.encode(value)

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, varint.MAX_VALUE), st.binary(max_size=4), st.binary(max_size=4))
    def test_round_trip(self, value: int, before: bytes, after: bytes) -> None:
        encoded = varint.encode(value)
        buffer = memoryview(before + encoded + after)
        self.assertEqual(varint.decode(buffer, len(before)), (value, len(before) + len(encoded)))
        for cut in range(len(encoded)):
            self.assertIsNone(varint.peek(encoded[:cut]))

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=12))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever decodes is the one encoding of its value."""
        try:
            value, end = varint.decode(data)
        except varint.VarintError:
            return
        self.assertEqual(varint.encode(value), data[:end])
