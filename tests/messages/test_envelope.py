"""The envelope and the types: payloads exactly as specified, and everything else refused."""

from __future__ import annotations

import json

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import PeerError
from chorus.messages import (
    COORDINATION,
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_NAMES,
    TASKS,
    AvailabilityBcast,
    BadEnvelope,
    CapabilityBcast,
    Envelope,
    ForeignSender,
    RoleAnnouncement,
    TaskUpdate,
    UnknownType,
    cut,
    decode,
    encode,
    redacted,
)
from tests.protocols.gossip_network import identity
from tests.support import PureTestCase

ME = str(identity(1).peer_id)

AVAILABILITY = AvailabilityBcast(
    node_id=ME,
    available_for_work=True,
    current_tasks=1,
    max_tasks=3,
    last_activity=1_700_000_000,
    status="working",
    timestamp=1_700_000_100,
)
CAPABILITY = CapabilityBcast(
    agent_id="node1",
    node_id=ME,
    version="0.5.0",
    capabilities=("gpu",),
    expertise=("python", "networking"),
    models=(),
    specialization="backend",
    max_tasks=3,
    current_tasks=1,
    timestamp=1_700_000_100,
    availability="working",
)
ROLE = RoleAnnouncement(
    agent_id="node1",
    node_id=ME,
    role="developer",
    expertise=("python",),
    capabilities=("gpu",),
    reports_to="lead1",
    specialization="backend",
    timestamp=1_700_000_100,
)
TASK = TaskUpdate(task_id="t-1", state="running", attempt=1, agent=ME, timestamp=1_700_000_100)


def envelope(data=AVAILABILITY, **members: object) -> Envelope:
    fields = {"type": data.TYPE, "id": "abcdefgh", "sender": ME, "timestamp": 1_700_000_100, "data": data, **members}
    return Envelope(**fields)


def changed(payload=AVAILABILITY, /, **members: object) -> bytes:
    """An envelope's JSON with members replaced; a `data.x` member changes the payload, `...` removes one."""
    whole = json.loads(encode(envelope(payload)))
    for path, value in members.items():
        target, name = (whole["data"], path[5:]) if path.startswith("data_") else (whole, path)
        name = "from" if name == "from_" else name
        if value is ...:
            target.pop(name)
        else:
            target[name] = value
    return json.dumps(whole).encode()


class Payloads(PureTestCase):
    def test_shapes_are_those_of_the_specification(self) -> None:
        shapes = {
            "AvailabilityBcast": "node_id available_for_work current_tasks max_tasks last_activity status timestamp",
            "CapabilityBcast": "agent_id node_id version capabilities expertise models specialization max_tasks "
            "current_tasks timestamp availability",
            "RoleAnnouncement": "agent_id node_id role expertise capabilities reports_to specialization timestamp",
        }
        for payload in (AVAILABILITY, CAPABILITY, ROLE):
            whole = json.loads(encode(envelope(payload)))
            self.assertEqual(set(whole["data"]), set(shapes[payload.TYPE].split()))
            self.assertEqual(whole["type"], payload.TYPE)
            self.assertEqual(whole["from"], ME)
            self.assertIsInstance(whole["data"]["timestamp"], int)
        self.assertEqual({payload.TOPICS[0] for payload in (AVAILABILITY, CAPABILITY, ROLE)}, {COORDINATION})
        self.assertEqual(TASK.TOPICS[0], TASKS)

    def test_round_trip(self) -> None:
        for payload in (AVAILABILITY, CAPABILITY, ROLE, TASK):
            full = envelope(
                payload,
                from_role="developer",
                to_roles=("reviewer", "tester"),
                required_expertise=("python",),
                project="team/tool",
                thread="t1",
                priority=9,
            )
            for sent in (envelope(payload), full):
                self.assertEqual(decode(encode(sent), identity(1).peer_id), sent)

    def test_encoding_is_canonical(self) -> None:
        raw = encode(envelope())
        self.assertEqual(raw, json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":")).encode())

    def test_unknown_members_are_passed_over(self) -> None:
        self.assertEqual(decode(changed(later="x", data_later=[1]), ME), envelope())

    def test_optional_members_may_be_null(self) -> None:
        self.assertEqual(decode(changed(project=None, from_role=None, to_roles=None), ME), envelope())

    def test_values_are_frozen(self) -> None:
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            AVAILABILITY.status = "ready"  # type: ignore[misc]


class Refused(PureTestCase):
    def test_members(self) -> None:
        rows = [
            {"type": ...},
            {"type": 1},
            {"type": ""},
            {"type": "with space"},
            {"type": "x" * 65},
            {"id": ...},
            {"id": "short"},
            {"id": "x" * 65},
            {"id": "not\nid-at-all"},
            {"timestamp": ...},
            {"timestamp": -1},
            {"timestamp": 1.5},
            {"timestamp": 2**41},
            {"timestamp": True},
            {"timestamp": "1700000000"},
            {"priority": 10},
            {"priority": -1},
            {"to_roles": "developer"},
            {"to_roles": [1]},
            {"to_roles": [""]},
            {"to_roles": ["x"] * (MAX_NAMES + 1)},
            {"project": "x" * (MAX_NAME + 1)},
            {"project": ""},
            {"thread": {}},
            {"data": ...},
            {"data": []},
            {"data": None},
            {"data_status": "sleepy"},
            {"data_status": ...},
            {"data_available_for_work": 1},
            {"data_current_tasks": -1},
            {"data_current_tasks": 1e3},
            {"data_max_tasks": 10**7},
            {"data_timestamp": None},
            {"data_node_id": ["x"]},
        ]
        for row in rows:
            with self.assertRaises(BadEnvelope, msg=str(row)):
                decode(changed(**row), ME)
        with self.assertRaises(BadEnvelope):
            decode(changed(CAPABILITY, data_expertise=["é" * MAX_NAME]), ME)

    def test_the_member_is_named(self) -> None:
        with self.assertRaises(BadEnvelope) as caught:
            decode(changed(data_status="sleepy"), ME)
        self.assertEqual(str(caught.exception), "data.status must be one of ready, working, busy")

    def test_in_the_name_of_another(self) -> None:
        other = str(identity(2).peer_id)
        for raw in (changed(from_=other), changed(data_node_id=other), changed(from_=...), changed(from_=None)):
            with self.assertRaises(ForeignSender):
                decode(raw, ME)
        with self.assertRaises(ForeignSender):
            decode(encode(envelope()), other)

    def test_unknown_type(self) -> None:
        with self.assertRaises(UnknownType) as caught:
            decode(changed(type="Later", data_anything={"a": 1}), ME)
        self.assertEqual(caught.exception.type, "Later")
        with self.assertRaises(ForeignSender):
            decode(changed(type="Later", from_="somebody"), ME)

    def test_json_itself(self) -> None:
        good = encode(envelope()).decode()
        deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
        rows = [
            "",
            "null",
            "[]",
            "{",
            good + good,
            good.replace('"priority":5', '"priority":5,"priority":5'),
            good.replace('"priority":5', '"priority":NaN'),
            good.replace('"priority":5', '"priority":Infinity'),
            good.replace('"priority":5', '"later":' + "9" * 5000),
            good.replace('"priority":5', '"later":' + deep),
            good.replace('"priority":5', '"later":[' + "{}," * MAX_CONTAINERS + "0]"),
            good.replace('"priority":5', '"later":"\\ud800"'),
            good.replace('"priority":5', '"later":"' + "x" * MAX_MESSAGE + '"'),
            "\ufeff" + good,
        ]
        for row in rows:
            with self.assertRaises(BadEnvelope, msg=row[:120]):
                decode(row.encode(), ME)
        with self.assertRaises(BadEnvelope):
            decode(b"\xff" + good.encode(), ME)

    @given(st.binary(max_size=200))
    @settings(max_examples=150, deadline=None)
    def test_any_bytes(self, raw):
        self.assert_refused_or_the_same_again(raw)

    def assert_refused_or_the_same_again(self, raw: bytes) -> None:
        """What is taken is what is written again from it."""
        try:
            found = decode(raw, ME)
        except PeerError:
            return
        self.assertEqual(decode(encode(found), ME), found)

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def test_damaged(self, data):
        raw = bytearray(encode(envelope(data.draw(st.sampled_from([AVAILABILITY, CAPABILITY, ROLE, TASK])))))
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(32, 126))
        self.assert_refused_or_the_same_again(bytes(raw))

    @given(
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda c: st.lists(c, max_size=3))
    )
    @settings(max_examples=150, deadline=None)
    def test_any_value_anywhere(self, value):
        for name in ("priority", "to_roles", "project", "type", "id", "data_status", "data_max_tasks", "data_node_id"):
            try:
                decode(changed(**{name: value}), ME)
            except BadEnvelope:
                continue

    def test_what_others_would_refuse_is_not_sent(self) -> None:
        for wrong in (
            envelope(attrs.evolve(AVAILABILITY, node_id="another")),
            envelope(attrs.evolve(CAPABILITY, expertise=("x",) * 65)),
            envelope(attrs.evolve(ROLE, role="\ud800")),
            envelope(priority=77),
        ):
            with self.assertRaises(BadEnvelope):
                encode(wrong)


class Texts(PureTestCase):
    def test_redaction_reaches_every_text_a_person_wrote(self) -> None:
        def redact(text: str) -> str:
            return text.replace("secret", "[REDACTED]")

        role = attrs.evolve(ROLE, role="secret role", expertise=("a secret", "b"), reports_to="secret")
        clean = redacted(envelope(role, project="secret", to_roles=("secret",), from_role="secret"), redact)
        self.assertNotIn("secret", str(clean))
        self.assertEqual(clean.data.expertise, ("a [REDACTED]", "b"))
        self.assertEqual((clean.data.node_id, clean.sender, clean.type), (ME, ME, ROLE.TYPE))
        self.assertEqual(redacted(envelope(), lambda text: "x"), envelope(), "nothing in it is free text")
        task = redacted(envelope(attrs.evolve(TASK, title="my secret", detail="the secret")), redact).data
        self.assertEqual((task.title, task.detail, task.agent), ("my [REDACTED]", "the [REDACTED]", ME))

    def test_cut(self) -> None:
        self.assertEqual(cut("short", 10), "short")
        for text in ("x" * 50, "é" * 50, "🙂" * 50):
            for maximum in range(3, 20):
                self.assertLessEqual(len(cut(text, maximum).encode()), maximum)
