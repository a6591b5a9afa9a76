"""The schemas and the readers say the same."""

from __future__ import annotations

import json

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from jsonschema_rs import meta as metaschema

from chorus.fields import fields_of
from chorus.messages import PAYLOADS, BadEnvelope, Envelope, UnknownType, decode, encode
from chorus.messages.schema import envelope_schema, payload_schema
from tests.messages.values import ME, envelope, full, payloads, refused
from tests.support import PureTestCase

WHOLE = Draft202012Validator(envelope_schema())
EACH = {name: Draft202012Validator(payload_schema(payload)) for name, payload in PAYLOADS.items()}


class Schemas(PureTestCase):
    def test_they_are_schemas(self) -> None:
        for schema in (envelope_schema(), *map(payload_schema, PAYLOADS.values())):
            metaschema.validate(schema)
            self.assertEqual(json.loads(json.dumps(schema)), schema)

    def test_they_list_every_member(self) -> None:
        for payload in PAYLOADS.values():
            schema = payload_schema(payload)
            self.assertEqual(list(schema["properties"]), [each.name for each in attrs.fields(payload)])
            self.assertEqual(set(schema["required"]), {each.name for each in fields_of(payload) if each.needed})
            self.assertEqual(schema["x-topics"], list(payload.TOPICS))
        names = {"sender": "from"}
        self.assertEqual(
            set(envelope_schema()["properties"]), {names.get(each.name, each.name) for each in attrs.fields(Envelope)}
        )

    @given(payloads(), st.sampled_from([{}, {"project": "p", "thread": "t", "to_roles": ("r",), "priority": 0}]))
    @settings(max_examples=200, deadline=None)
    def test_what_is_encoded_follows_them(self, payload, members):
        whole = json.loads(encode(envelope(payload, **members)))
        EACH[payload.TYPE].validate(whole["data"])
        WHOLE.validate(whole)

    def test_members_that_are_null(self) -> None:
        for name, payload in PAYLOADS.items():
            whole = json.loads(encode(envelope(full(payload))))
            for member in fields_of(payload):
                changed = {**whole, "data": {**whole["data"], member.name: None}}
                self.agree(name, changed, not member.needed)
                del changed["data"][member.name]
                self.agree(name, changed, not member.needed)

    def test_every_wrong_member_is_refused_by_both(self) -> None:
        for name, payload in PAYLOADS.items():
            whole = json.loads(encode(envelope(full(payload))))
            self.agree(name, whole, True)
            for member in fields_of(payload):
                for wrong in refused(member.shape):
                    self.agree(name, {**whole, "data": {**whole["data"], member.name: wrong}}, False)

    def test_every_wrong_member_of_the_envelope_is_refused_by_both(self) -> None:
        payload = full(PAYLOADS["WhoIsAdmin"])
        whole = json.loads(encode(envelope(payload, from_role="r", project="p", thread="t")))
        for member in fields_of(Envelope):
            for wrong in refused(member.shape):
                self.agree_on_envelope({**whole, member.name: wrong}, False)
            self.agree_on_envelope({name: whole[name] for name in whole if name != member.name}, not member.needed)
        for name in ("from", "data"):
            self.agree_on_envelope({each: whole[each] for each in whole if each != name}, False)
            self.agree_on_envelope({**whole, name: []}, False)
        self.agree_on_envelope({**whole, "later": [1, {}], "data": {**whole["data"], "later": 1}}, True)

    def test_unknown_types_are_not_refused(self) -> None:
        whole = json.loads(encode(envelope(full(PAYLOADS["WhoIsAdmin"]))))
        whole |= {"type": "Later", "data": {"anything": 1}}
        WHOLE.validate(whole)
        with self.assertRaises(UnknownType):
            decode(json.dumps(whole).encode(), ME)

    @given(
        st.sampled_from(list(PAYLOADS)),
        st.data(),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
    )
    @settings(max_examples=300, deadline=None)
    def test_what_a_reader_takes_its_schema_takes(self, name, data, value):
        whole = json.loads(encode(envelope(full(PAYLOADS[name]))))
        whole["data"][data.draw(st.sampled_from(list(whole["data"])))] = value
        try:
            decode(json.dumps(whole).encode(), ME)
        except BadEnvelope:
            return
        WHOLE.validate(whole)

    def agree(self, name: str, whole: dict[str, object], good: bool) -> None:
        self.agree_on_envelope(whole, good)
        self.assertEqual(EACH[name].is_valid(whole["data"]), good, (name, whole["data"]))

    def agree_on_envelope(self, whole: dict[str, object], good: bool) -> None:
        self.assertEqual(WHOLE.is_valid(whole), good, whole)
        if good:
            decode(json.dumps(whole).encode(), ME)
        else:
            with self.assertRaises(BadEnvelope, msg=str(whole)):
                decode(json.dumps(whole).encode(), ME)
