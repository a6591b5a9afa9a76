"""Shapes and objects: what is read is written again the same, all else is refused with its place and the limits."""

from __future__ import annotations

import json
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from jsonschema_rs import meta as metaschema

from chorus.fields import (
    AnyObject,
    Base64,
    Flag,
    Integer,
    ListOf,
    Nullable,
    Number,
    Object,
    OneOf,
    Refusal,
    Shape,
    Tagged,
    Text,
    Variants,
    field,
    fields_of,
    nullable,
)
from tests.support import PureTestCase


@attrs.frozen
class Inner:
    size: int = field(Integer(0, 9, whole_floats=True))
    name: str | None = field(Text(8, 1), default=None)


@attrs.frozen
class Outer:
    word: str = field(Text(4, 1, "[a-z]+", "a small word"), "What it is called.")
    inner: Inner | None = field(Object(Inner, closed=True), default=None)
    rows: tuple[Inner, ...] = field(ListOf(Object(Inner), 3), default=())
    tags: tuple[str, ...] = field(ListOf(OneOf(("a", "b")), 2, distinct=True), default=("a",))
    share: float = field(Number(0, 1), default=0.5)
    more: Any = field(AnyObject(20), factory=dict)
    flag: bool = field(Flag(), default=False)


@attrs.frozen
class Started(Tagged):
    TYPE = "started"
    at: float = field(Number(0, 9))
    why: str | None = field(Nullable(Text(3, unit="characters")))
    note: str = field(Text(3), default="")


SHAPES: tuple[Shape, ...] = (
    Text(4),
    Text(4, 1, nul=False),
    Text(None),
    Text(4, 2, "[ab]+|c{3}", "letters"),
    Text(4, unit="characters"),
    Integer(-2, 5),
    Integer(0, 5, "seconds", whole_floats=True),
    Number(-1.5, 2),
    Flag(),
    OneOf(("a", "b")),
    ListOf(Text(2), 2),
    ListOf(Integer(0, 3), 3, distinct=True),
    AnyObject(30),
    Base64(4),
    Object(Inner),
    Object(Inner, closed=True),
    Object(Started, nulls=True),
    Object(Outer, closed=True),
    Nullable(Integer(0, 1)),
)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text("abcé\0\ud800/", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["size", "name", "word", "inner", "rows", "tags", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
JSON_TEXT = st.characters(codec="utf-8")


def refusal(shape: Shape, value: object) -> Refusal:
    try:
        shape.read(value)
    except Refusal as found:
        return found
    raise AssertionError(f"{shape} took {value!r}")


class Shapes(PureTestCase):
    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(SHAPES), values)
    def test_any_value_is_read_or_refused(self, shape: Shape, value: object) -> None:
        try:
            found = shape.read(value)
        except Refusal as refused:
            self.assertNotIn("\n", str(refused))
            self.assertTrue(refused.expected)
            return
        self.assertEqual(shape.read(shape.write(found)), found)

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(SHAPES), values)
    def test_what_is_read_follows_the_schema(self, shape: Shape, value: object) -> None:
        if isinstance(shape, Object) and shape.nulls:
            return
        try:
            shape.read(value)
            text = json.dumps(value, allow_nan=False).encode().decode()
            json.dumps(value, ensure_ascii=False).encode()
        except (Refusal, ValueError):
            return
        Draft202012Validator(shape.schema()).validate(json.loads(text))

    def test_schemas_are_schemas(self) -> None:
        for shape in SHAPES:
            metaschema.validate(shape.schema())
            if not isinstance(shape, Nullable):
                metaschema.validate(nullable(shape.schema()))
            self.assertEqual(json.loads(json.dumps(shape.schema())), shape.schema())

    def test_each_limit(self) -> None:
        for shape, good, bad, text in (
            (Text(4), "éé", "ééé", "is 6 bytes long, the most is 4"),
            (Text(4, unit="characters"), "éééé", "é" * 5, "is 5 characters long, the most is 4"),
            (Text(4, 1), "a", "", "must not be empty"),
            (Text(4), "", 5, "must be a string, not 5"),
            (Text(4), "\0", "\ud800", "holds half of a surrogate pair"),
            (Text(4, nul=False), "a", "a\0", "must not hold a NUL character"),
            (Text(9, 3, "a+", "some a"), "aaa", "aa", "'aa' is not some a"),
            (Text(9, 3, "a+", "some a"), "aaa", "aab", "'aab' is not some a"),
            (Integer(0, 5), 5, 6, "is 6, must be from 0 to 5"),
            (Integer(0, 5), 5, 5.0, "must be a whole number, not 5.0"),
            (Integer(0, 5, whole_floats=True), 5.0, 5.5, "must be a whole number, not 5.5"),
            (Integer(0, 5), 1, True, "must be a whole number, not True"),
            (Number(0, 5), 5, 5.1, "is 5.1, must be from 0 to 5"),
            (Number(0, 5), 0, float("nan"), "is nan, must be from 0 to 5"),
            (Number(0, 5), 0, False, "must be a number, not False"),
            (Flag(), True, 1, "must be true or false, not 1"),
            (OneOf(("a", "b")), "a", ["a"], "['a'] is not one of a, b"),
            (ListOf(Flag(), 1), [True], [True, True], "has 2 items, the most is 1"),
            (ListOf(Flag(), 1), [], {}, "must be a list, not {}"),
            (Base64(2), "YWE=", "YWFh", "is 3 bytes, the most is 2"),
            (Base64(2), "", "YW-=", "is not base64"),
            (Base64(2, 1), "YQ==", "", "must not be empty"),
            (Base64(2), "", "YWFhYWFh", "is 8 bytes long, the most is 4"),
            (AnyObject(7), {"a": 1}, {"a": 10}, "has 8 bytes, the most is 7"),
            (AnyObject(), {}, [], "must be an object, not []"),
        ):
            shape.read(good)
            self.assertEqual(str(refusal(shape, bad)), text)

    def test_what_passed_a_limit_is_told(self) -> None:
        for shape, value, over in (
            (Text(4), "x" * 5, (5, 4)),
            (Text(4, 1, "x+", "x"), "x" * 5, None),
            (Integer(1, 5), 6, (6, 5)),
            (Integer(1, 5), 0, None),
            (ListOf(Flag(), 1), [True] * 2, (2, 1)),
            (AnyObject(1), {}, (2, 1)),
        ):
            self.assertEqual(refusal(shape, value).over, over)

    def test_a_large_value_is_shown_cut(self) -> None:
        self.assertLess(len(str(refusal(Flag(), "x" * 10_000))), 100)
        self.assertIn("too many digits", str(refusal(Flag(), 10**5000)))


class Objects(PureTestCase):
    @settings(max_examples=100, deadline=None)
    @given(
        st.fixed_dictionaries(
            {"word": st.from_regex("[a-z]{1,4}", fullmatch=True)},
            optional={
                "inner": st.fixed_dictionaries({"size": st.integers(0, 9)}, optional={"name": st.just("n")}),
                "rows": st.lists(st.fixed_dictionaries({"size": st.integers(0, 9)}), max_size=3),
                "tags": st.lists(st.sampled_from("ab"), unique=True, max_size=2),
                "share": st.floats(0, 1),
                "flag": st.booleans() | st.none(),
            },
        )
    )
    def test_round_trip(self, document: dict[str, Any]) -> None:
        shape = Object(Outer, closed=True)
        found = shape.read(document)
        self.assertEqual(shape.read(shape.write(found)), found)
        Draft202012Validator(shape.schema()).validate(document)

    def test_the_place_is_named(self) -> None:
        shape = Object(Outer, closed=True)
        for document, path, text in (
            ([], "", "must be an object, not []"),
            ({}, "word", "is missing"),
            ({"word": None}, "word", "is missing"),
            ({"word": "UP"}, "word", "'UP' is not a small word"),
            ({"word": "a", "tag": 1}, "tag", "unknown field; did you mean tags?"),
            ({"word": "a", "zzz": 1}, "zzz", "unknown field; known fields are word, inner"),
            ({"word": "a", "inner": {"seize": 1}}, "inner.seize", "did you mean size?"),
            ({"word": "a", "inner": {"size": 10}}, "inner.size", "must be from 0 to 9"),
            ({"word": "a", "rows": [{"size": 1}, {"size": "x"}]}, "rows[1].size", "a whole number, not 'x'"),
            ({"word": "a", "rows": [{"size": 1}, 5]}, "rows[1]", "must be an object, not 5"),
            ({"word": "a", "tags": ["a", "a"]}, "tags[1]", "'a' appears twice"),
        ):
            found = refusal(shape, document)
            self.assertEqual(found.path, path)
            self.assertIn(text, str(found))

    def test_unknown_members_are_passed_over_unless_it_is_closed(self) -> None:
        self.assertEqual(Object(Inner).read({"size": 1, "later": 2}), Inner(1))
        self.assertEqual(refusal(Object(Inner, closed=True), {"size": 1, "l\n": 2}).path, "'l\\n'")

    def test_null(self) -> None:
        self.assertEqual(Object(Inner).read({"size": 1, "name": None}), Inner(1))
        self.assertEqual(Object(Inner).write(Inner(1)), {"size": 1})
        own = Variants((Started,), nulls=True)
        self.assertEqual(own.read({"type": "started", "at": 1, "why": None}), Started(1.0, None))
        self.assertEqual(own.write(Started(1.0, None)), {"type": "started", "at": 1.0, "why": None, "note": ""})
        for document, path in (
            ({"type": "started", "at": 1}, "started.why"),
            ({"type": "started", "at": 1, "why": None, "note": None}, "started.note"),
            ({"type": "ended"}, "type"),
            ({"type": ["started"]}, "type"),
            ({}, "type"),
            ([], ""),
        ):
            with self.assertRaises(Refusal) as caught:
                own.read(document)
            self.assertEqual(caught.exception.path, path)

    def test_members_and_what_they_say(self) -> None:
        (word, inner, *_) = fields_of(Outer)
        self.assertEqual((word.name, word.needed, inner.needed), ("word", True, False))
        properties = Object(Outer).schema()["properties"]
        self.assertEqual(properties["word"]["description"], "What it is called.")
        self.assertEqual(properties["tags"]["default"], ["a"])
        self.assertEqual(properties["inner"]["type"], ["object", "null"])
        self.assertEqual(properties["inner"]["properties"]["name"]["description"], "At most 8 bytes of UTF-8.")
