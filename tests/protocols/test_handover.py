"""The messages of `/chorus/handover/1.0.0`."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.protocols import handover
from chorus.protocols.handover import (
    CancelTaken,
    Declined,
    Event,
    HandoverError,
    Message,
    Seek,
    Seen,
    Take,
    Taken,
    View,
    decode,
    encode,
)
from chorus.tasks import ids
from tests.support import PureTestCase

TASK = ids.make(1.0, bytes)
PEER = "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"
EXAMPLES: tuple[Message, ...] = (
    Seek((PEER,)),
    Seen(()),
    Take(TASK, {"commands": ["true"]}, "user", 7, True),
    Taken(),
    Declined("full", "128 tasks of yours are here already"),
    Event(1, "output", {"stream": "stdout", "offset": 0, "text": "é\n"}),
    View(state="submitted", attempt=0, updated_at=1.5),
    View(
        state="completed",
        attempt=2,
        updated_at=3.0,
        reason="exit",
        detail="",
        agent=PEER,
        agent_id="six",
        fence="0.1.9",
        sandbox="bubblewrap",
        image="x@sha256:0",
        started_at=1.0,
        ended_at=2.0,
        result={"exit_code": 0},
    ),
    CancelTaken(TASK, "user", "enough"),
)


def changed(message: Message, **members: Any) -> bytes:
    body = strictjson.loads(encode(message))
    assert isinstance(body, dict)
    return strictjson.canonical({**body, **members})


class HandoverMessageTests(PureTestCase):
    def test_every_message_comes_back_as_it_was(self) -> None:
        self.assertEqual({type(each) for each in EXAMPLES}, set(handover.MESSAGES))
        for message in EXAMPLES:
            self.assertEqual(decode(encode(message)), message)

    def test_members_of_a_later_version_are_passed_over(self) -> None:
        self.assertEqual(decode(changed(Taken(), later=1)), Taken())

    def test_what_is_wrong_is_named(self) -> None:
        take, view = EXAMPLES[2], EXAMPLES[6]
        for payload, named in (
            (b"[]", "an object"),
            (b'{"type":"steal"}', "type must be one of seek, seen, take"),
            (b'{"type":["take"]}', "type must be one of seek, seen, take"),
            (b"{", ""),
            (b"\xff", ""),
            (changed(take, task="../../etc"), "take.task"),
            (changed(take, task=None), "take.task"),
            (changed(take, spec=[]), "take.spec"),
            (changed(take, spec={"x": "y" * handover.MAX_DOCUMENT}), "take.spec"),
            (changed(take, submitter=""), "take.submitter"),
            (changed(take, after=-1), "take.after"),
            (changed(take, after=True), "take.after"),
            (changed(take, known="yes"), "take.known"),
            (changed(Seek(()), agents=[PEER] * 65), "seek.agents"),
            (changed(Seek(()), agents=["not a peer!"]), "seek.agents"),
            (changed(view, state="lost"), "view.state"),
            (changed(view, updated_at=-1), "view.updated_at"),
            (changed(view, updated_at=2.0**41), "view.updated_at"),
            (changed(view, fence="1.2"), "view.fence"),
            (changed(view, agent="\x1b[31m"), "view.agent"),
            (changed(EXAMPLES[5], kind="secret"), "event.kind"),
            (changed(EXAMPLES[5], data={"x": "y" * handover.MAX_EVENT}), "event.data"),
            (changed(EXAMPLES[8], reason="x" * 3000), "cancel.reason"),
        ):
            with self.assertRaises(HandoverError) as caught:
                decode(payload)
            self.assertIn(named, str(caught.exception))

    def test_a_frame_that_the_receiver_would_refuse_is_not_sent(self) -> None:
        half = {"x": "y" * (handover.MAX_FRAME + 1)}
        with self.assertRaises(LimitExceeded):
            encode(Take(TASK, half, "user", 0, False))

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_message_or_refused(self, payload: bytes) -> None:
        try:
            message = decode(payload)
        except PeerError:
            return
        self.assertEqual(decode(encode(message)), message)

    @settings(deadline=None, max_examples=150)
    @given(
        st.sampled_from(EXAMPLES),
        st.data(),
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 2**53 - 1) | st.floats(-9, 9) | st.text(max_size=6),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
            max_leaves=5,
        ),
    )
    def test_any_value_of_a_member_is_read_or_refused(self, message: Message, data: st.DataObject, value: Any) -> None:
        body = strictjson.loads(encode(message))
        assert isinstance(body, dict)
        member = data.draw(st.sampled_from(sorted(body)))
        try:
            raw = strictjson.canonical({**body, member: value})
        except ValueError:
            return  # half of a pair is no JSON
        try:
            found = decode(raw)
        except HandoverError as refusal:
            self.assertNotIn("\n", str(refusal))
            return
        self.assertEqual(decode(encode(found)), found)
