from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus import strictjson
from chorus.errors import PeerError
from chorus.strictjson import JSONError, canonical, loads
from tests.support import PureTestCase


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


class StrictJSONTests(PureTestCase):
    def refuse(self, data: bytes | str, *words: str, **options: int) -> None:
        with self.assertRaises(JSONError) as caught:
            loads(data, **options)  # type: ignore[arg-type]
        for word in words:
            self.assertIn(word, str(caught.exception))
        self.assertLess(len(str(caught.exception)), 300)
        self.assertNotIn("\n", str(caught.exception))

    def test_duplicate_keys(self) -> None:
        self.refuse(b'{"a": {"b": 1, "c": 2, "b": 3}}', '"b" appears twice')
        self.refuse(b'{"a": 1, "\\u0061": 2}', '"a" appears twice')
        self.assertEqual(loads(b'{"a": {"a": 1}}'), {"a": {"a": 1}})

    def test_constants(self) -> None:
        for text in (b"NaN", b"[Infinity]", b"-Infinity"):
            self.refuse(text, "is not JSON")
        self.refuse(b"1e999", "too large")

    def test_cve_2020_10735_digits(self) -> None:
        for text, word in (
            (b"1" * 1_000_000, "integer"),
            (b"1." + b"1" * 999_990, "characters"),
            (b"[-" + b"9" * 5000 + b"]", "integer"),
        ):
            self.assert_cheap(lambda text=text, word=word: self.refuse(text, word), 15)

    def test_integers(self) -> None:
        self.assertEqual(loads(str(2**53 - 1)), 2**53 - 1)
        self.assertEqual(loads(str(1 - 2**53)), 1 - 2**53)
        self.refuse(str(2**53), "2^53")
        self.refuse(str(-(2**53)), "2^53")

    def test_a_number_has_64_characters_at_most(self) -> None:
        self.assertEqual(loads("0." + "1" * 62), float("0." + "1" * 62))
        self.refuse("0." + "1" * 63, "more than 64 characters")
        self.refuse("-0." + "1" * 62, "more than 64 characters")

    def test_brackets_that_do_not_close_are_no_depth(self) -> None:
        """What closed is not counted, nor what stands in strings."""
        for text in ("[[", "[[],[],[],[", '[{"a":"]]"},{"b":"[[["}', '[["[","]","{","}"'):
            self.refuse(text, "not JSON", max_depth=2)
        for text in ("[[[", '[{"a":[', '["]","}",[['):
            self.refuse(text, "deeper than 2", max_depth=2)

    def test_deeper_than_the_parser_goes(self) -> None:
        """Where a caller lets more pass than the parser can hold."""
        self.refuse(b"[" * 3000 + b"]" * 3000, "deeper than 4000", max_depth=4000)

    def test_depth(self) -> None:
        self.assertIsNotNone(loads(b"[" * 32 + b"]" * 32))
        self.refuse(b"[" * 33 + b"]" * 33, "deeper than 32")
        self.refuse(b'{"a":' * 100_000, "deeper")
        self.refuse(b"[" * 1_000_000, "deeper")
        self.assertEqual(loads('["' + "[" * 100 + '\\"["]'), ["[" * 100 + '"['])
        self.refuse(b"[[]]", "deeper than 1", max_depth=1)

    @settings(deadline=None, max_examples=500)
    @given(
        st.text(alphabet='{}[]":,\\a', max_size=40)
        | st.text(alphabet='[]"\\', max_size=12).map(lambda text: f"[{text}]"),
        st.integers(1, 5),
    )
    def test_depth_of_any_text(self, text: str, maximum: int) -> None:
        try:
            depth = depth_of(json.loads(text))
        except ValueError:
            return
        if depth > maximum:
            self.refuse(text, "deeper", max_depth=maximum)
        else:
            loads(text, max_depth=maximum)

    @settings(deadline=None, max_examples=500)
    @given(
        st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\u", "u", "d83d", "x", '\\"']), max_size=8).map(
            "".join
        )
    )
    def test_surrogates_in_any_text(self, text: str) -> None:
        try:
            value = json.loads(f'["{text}"]')
        except ValueError:
            return
        if any("\ud800" <= character <= "\udfff" for character in value[0]):
            self.refuse(f'["{text}"]', "surrogate")
        else:
            self.assertEqual(loads(f'["{text}"]'), value)

    def test_arrays_and_objects_in_all(self) -> None:
        text = b'{"[[[": [[], {}, "[{\\"["]}'
        self.assertEqual(loads(text, max_containers=4), {"[[[": [[], {}, '[{"[']})
        self.refuse(text, "more than 3 arrays and objects", max_containers=3)
        self.assertEqual(len(loads(b"[" + b"[]," * 100_000 + b"0]")), 100_001, "where nobody says how many")  # type: ignore[arg-type]

    def test_the_dearest_text_of_32_kib(self) -> None:
        """As long as a message of pub/sub may be; the reactor waits for it, so it costs some turns of a loop a byte."""
        pair = r'["\ud83d\ude00",'
        for start, item in (("[", "[]"), ("[", "1"), ("[", "1e1"), (pair, "[{}]"), (pair, '{"":0}'), ("[", r'"\""')):
            text = start + ",".join([item] * (32_000 // (len(item) + 1))) + "]"
            self.assert_cheap(lambda text=text: loads(text.encode(), max_depth=8), 15)

    def test_length(self) -> None:
        self.refuse(b" " * 11, "longer than 10", max_bytes=10)
        self.refuse("ä" * 6, "longer than 10", max_bytes=10)
        for text in (b'"' + b"x" * 8 + b'"', '"xxxxxxxx"', '"' + "ä" * 4 + '"'):
            self.assertEqual(len(loads(text, max_bytes=10)) % 4, 0)  # type: ignore[arg-type]
        for longer in (b'"' + b"x" * 9 + b'"', '"xxxxxxxxx"', '"' + "ä" * 4 + 'x"'):
            self.refuse(longer, "longer than 10", max_bytes=10)

    def test_surrogates(self) -> None:
        for text in (b'"\\ud800"', b'"\\udc00\\ud800"', b'{"\\uDbff": 1}', b'[[{"a": "\\udfff"}]]'):
            self.refuse(text, "surrogate")
        for text in (
            b'"\\ud83d\\\\\\ude00"',
            b'"\\ud83d\\ud83d\\ude00\\ude00"',
            b'"\\ud83d \\ude00"',
            '"\ud83d\ude00"',
        ):
            self.refuse(text, "surrogate")
        self.assertEqual(loads(b'"\\ud83d\\ude00"'), "\U0001f600")
        self.assertEqual(loads(b'"\\\\ud800"'), "\\ud800")

    def test_encoding(self) -> None:
        self.refuse(b"\xff", "UTF-8")
        self.refuse(b'"\xed\xa0\x80"', "UTF-8")
        self.refuse(b"\xef\xbb\xbf1", "byte order mark")
        self.refuse('"\n"', "not JSON")
        for text in (b"", b"{", b"[1,]", b"{'a':1}", b"1 2", b"// x\n1", b"01", b"+1", b'"\\x"'):
            self.refuse(text, "not JSON")

    def test_cost_stays_linear(self) -> None:
        for text in (b'"\\' * 500_000, b'"' * 1_000_000, b'\\"' * 500_000, b'"' + b"\\" * 999_999):
            self.assert_cheap(lambda text=text: self.refuse(text), 50)

    def test_the_callers_error(self) -> None:
        with self.assertRaises(PeerError):
            loads(b"{", error=PeerError)

    def test_canonical(self) -> None:
        self.assertEqual(canonical({"b": 1.0, "a": "\u20ac\n"}), '{"a":"€\\n","b":1}'.encode())
        for bad in (float("nan"), 2**60, "\ud800"):
            with self.assertRaises(ValueError):
                canonical(bad)

    values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: abs(f) < 2**53)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=15,
    )

    @settings(deadline=None, max_examples=150)
    @given(values)
    def test_round_trip(self, value: object) -> None:
        text = canonical(value)  # type: ignore[arg-type]
        self.assertEqual(loads(text), value)
        self.assertEqual(canonical(loads(json.dumps(value))), text)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0dD8aeE+-.1tfn \n', max_size=60).map(str.encode))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        try:
            value = strictjson.loads(data)
        except JSONError:
            return
        self.assertEqual(value, json.loads(data))
