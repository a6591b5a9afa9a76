"""The types: all there, each complete in itself, and said where they belong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
from hypothesis import given, settings

from chorus import messages
from chorus.fields import ListOf, Refusal, Text, fields_of
from chorus.fields.members import ADDRESS, MAX_HOPS, SHA256
from chorus.messages import (
    META_DISCUSSION,
    PAYLOADS,
    BadEnvelope,
    DecisionAnnouncement,
    MetaDiscussion,
    decode,
    encode,
    may_be_said,
    redacted,
)
from chorus.messages.topics import DYNAMIC, STATIC
from tests.messages.values import ADDRESS as SOMEWHERE
from tests.messages.values import ME, envelope, full, payloads
from tests.support import PureTestCase

PAGE = Path(__file__).resolve().parents[2] / "docs/messages.md"


class Types(PureTestCase):
    def test_there_are_31(self) -> None:
        self.assertEqual(len(PAYLOADS), 31)
        for name, payload in PAYLOADS.items():
            self.assertEqual((payload.TYPE, payload.__name__), (name, name))
            self.assertIs(getattr(messages, name), payload)
            self.assertIn(name, messages.__all__)

    def test_each_is_frozen_documented_and_has_a_place(self) -> None:
        for payload in PAYLOADS.values():
            value = full(payload)
            first = attrs.fields(payload)[0].name
            with self.assertRaises(attrs.exceptions.FrozenInstanceError):
                setattr(value, first, getattr(value, first))
            self.assertTrue((payload.__doc__ or "").endswith("."), payload)
            for member in fields_of(payload):
                self.assertTrue(member.meaning.endswith((".", "…")), (payload, member.name))
            self.assertEqual(len(fields_of(payload)), len(attrs.fields(payload)), "every member is read")
            self.assertIn(payload.TOPICS[0], STATIC)
            self.assertEqual([topic for topic in payload.TOPICS if topic not in {*STATIC, *DYNAMIC}], [])

    def test_every_topic_has_a_type(self) -> None:
        used = {topic for payload in PAYLOADS.values() for topic in payload.TOPICS}
        self.assertEqual(used, {*STATIC, *DYNAMIC})

    def test_where_they_may_be_said(self) -> None:
        for topic, allowed in (
            (META_DISCUSSION, True),
            ("chorus/role/developer", True),
            ("chorus/role/Developer", False),
            ("chorus/project/team%2Ftool/issue/12", True),
            ("chorus/health", False),
            ("chorus/role/{role}", False),
            ("something/else", False),
        ):
            self.assertEqual(may_be_said(MetaDiscussion, topic), allowed, topic)

    @given(payloads())
    @settings(max_examples=200, deadline=None)
    def test_round_trip(self, payload):
        # A node's own id, as `from` says it.
        sent = envelope(payload)
        self.assertEqual(decode(encode(sent), ME), sent)

    def test_each_with_everything_in_it_fits_a_message(self) -> None:
        for payload in PAYLOADS.values():
            sent = envelope(full(payload), to_roles=("x" * 128,) * 8, thread="t", project="p", from_role="r")
            self.assertEqual(decode(encode(sent), ME), sent)

    def test_announcements_of_decisions_hold_the_address_alone(self) -> None:
        raw = encode(envelope(DecisionAnnouncement(address=SOMEWHERE)))
        self.assertEqual(json.loads(raw)["data"], {"address": SOMEWHERE})

    def test_discussions_end(self) -> None:
        whole = json.loads(encode(envelope(full(MetaDiscussion))))
        self.assertEqual(whole["data"]["hops"], MAX_HOPS)
        whole["data"]["hops"] += 1
        with self.assertRaises(BadEnvelope):
            decode(json.dumps(whole).encode(), ME)


class Words(PureTestCase):
    def test_addresses(self) -> None:
        good = [
            "ucxl://a:b@c:d",
            "ucxl://any:any@any:any/",
            "ucxl://a.b-c_d:r@p:t/@2026-01-02T03:04:05Z/x/y",
            "ucxl://a:b@c:d/=" + "0f" * 32 + "/",
            SOMEWHERE,
        ]
        bad = [
            "",
            "ucxl://",
            "http://a:b@c:d/",
            "ucxl://a@c:d/",
            "ucxl://a:b@c/",
            "ucxl://a:b@c:d e",
            "ucxl://a:b@c:d/\n",
            "ucxl://a:b@c:d/ü",
            "ucxl://" + "a" * 129 + ":b@c:d",
            "ucxl://a:b@c:d/" + "x" * 1024,
            "xucxl://a:b@c:d/",
        ]
        for address in good:
            self.assertEqual(ADDRESS.read(address), address)
        for address in bad:
            with self.assertRaises(Refusal, msg=address):
                ADDRESS.read(address)

    def test_hashes(self) -> None:
        self.assertEqual(SHA256.read("ab" * 32), "ab" * 32)
        for wrong in ("AB" * 32, "ab" * 31, "ab" * 33, "ab" * 32 + "\n"):
            with self.assertRaises(Refusal):
                SHA256.read(wrong)

    def test_bytes_count_not_characters(self) -> None:
        self.assertEqual(Text(4).read("éé"), "éé")
        with self.assertRaises(Refusal) as caught:
            Text(4).read("ééé")
        self.assertEqual(caught.exception.expected, "text of 0 to 4 bytes")

    def test_limits_name_the_list_and_the_item(self) -> None:
        self.assertEqual(ListOf(Text(3, 1), 2).expected, "a list of at most 2, each text of 1 to 3 bytes")


class Redaction(PureTestCase):
    def test_all_that_people_write_and_nothing_else(self) -> None:
        """Identifiers, peer ids, hashes, and words of a fixed set stay; everything else goes through the redactor."""
        for payload in PAYLOADS.values():
            before = full(payload)
            after = redacted(envelope(before), lambda _: "*").data
            for member in fields_of(payload):
                same = getattr(after, member.name) == getattr(before, member.name)
                shape = member.shape.item if isinstance(member.shape, ListOf) else member.shape
                kept = not (isinstance(shape, Text) and shape.pattern is None) and shape is not ADDRESS
                self.assertEqual(same, kept, (payload.TYPE, member.name))

    def test_an_address_with_a_secret_in_it_is_not_said(self) -> None:
        secret = DecisionAnnouncement(address="ucxl://a:b@c:d/*^/hunter2")
        clean = redacted(envelope(secret), lambda text: text.replace("hunter2", "[REDACTED by rule 7]"))
        with self.assertRaises(BadEnvelope):
            encode(clean)


class Page(PureTestCase):
    def test_lists_every_type_topic_and_member(self) -> None:
        text = PAGE.read_text()
        sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
        for topic in (*STATIC, *DYNAMIC):
            self.assertIn(f"| `{topic}` |", text)
        for name, payload in PAYLOADS.items():
            self.assertIn(f"| [{name}](#{name.lower()}) |", text)
            listed = re.findall(r"^\| `(\w+)` \|", sections[name], re.MULTILINE)
            self.assertEqual(listed, [member.name for member in fields_of(payload)])
