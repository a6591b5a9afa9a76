"""The pure cores of `/chorus/tasks/1.0.0`: bytes, turns, limits."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus import strictjson
from chorus.errors import LimitExceeded, PeerError
from chorus.multiformats import varint
from chorus.protocols import task_messages as wire
from chorus.protocols.task_messages import (
    Accept,
    Ack,
    Assign,
    Cancel,
    Continue,
    Decline,
    FrameBuffer,
    InputBlob,
    Message,
    Offer,
    Output,
    Progress,
    Released,
    Renew,
    Renewed,
    Result,
    ResultArtifact,
    ResultEntry,
    Resume,
    Stale,
    Started,
    TaskProtocolError,
    decode,
    encode,
)
from chorus.protocols.tasks import MAX_PENDING_RENEWALS, ExecutorSession, SchedulerSession, SessionState, WrongTurn
from chorus.tasks import ids
from chorus.tasks.journal import Fence
from tests.support import PureTestCase

if TYPE_CHECKING:
    from chorus.tasks.terms import StreamName

TASK = ids.make(1_763_700_000, bytes)
FENCE = Fence(0, 3, 17)
SHA = "ab" * 32
FAST = settings(deadline=None, max_examples=60)

numbers = st.integers(0, wire.MAX_NUMBER)
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=wire.MAX_WORD)
texts = st.text(st.characters(codec="utf-8"), max_size=200)
shas = st.binary(min_size=32, max_size=32).map(bytes.hex)
fences = st.builds(Fence, *[st.integers(0, 10**12)] * 3)
seconds = st.floats(0, 3600)
rights = st.one_of(st.none(), st.integers(0, 0o777)), st.one_of(st.none(), seconds)
artifacts = st.builds(ResultArtifact, texts.filter(bool), shas, numbers, *rights)
entries = st.builds(ResultEntry, texts.filter(bool), st.one_of(st.none(), texts.filter(bool)), *rights)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Offer,
        st.just(TASK),
        st.integers(1, 3),
        st.dictionaries(texts, st.one_of(texts, st.booleans(), st.lists(texts)), max_size=4),
        st.one_of(st.none(), st.builds(InputBlob, shas, numbers)),
    ),
    st.builds(Accept),
    st.builds(Decline, words, texts),
    st.builds(Assign, fences, seconds),
    st.builds(Started, words, st.one_of(st.none(), texts), seconds),
    st.builds(Output, st.sampled_from(["stdout", "stderr"]), numbers, st.binary(min_size=1, max_size=300)),
    st.builds(Progress, words, st.dictionaries(texts, texts, max_size=2)),
    st.builds(Renew, numbers),
    st.builds(Renewed, numbers),
    st.builds(Cancel, texts),
    st.builds(
        Result,
        words,
        st.one_of(st.none(), st.integers(-255, 255)),
        texts,
        words,
        st.one_of(st.none(), texts),
        seconds,
        seconds,
        numbers,
        numbers,
        st.one_of(st.none(), shas),
        st.one_of(st.none(), shas),
        st.lists(st.sampled_from(["stdout", "stderr"]), max_size=2).map(tuple),
        st.lists(artifacts, max_size=3).map(tuple),
        st.lists(texts, max_size=3).map(tuple),
        st.lists(texts, max_size=3).map(tuple),
        words,
        st.one_of(st.none(), texts),
        st.lists(entries, max_size=3).map(tuple),
        numbers,
    ),
    st.builds(Released, words, texts),
    st.builds(Resume, st.just(TASK), fences),
    st.builds(Continue, numbers, numbers, seconds),
    st.builds(Ack),
    st.builds(Stale),
)
RESULT = Result("exit", 0, "", "bubblewrap", None, 1.0, 2.0)


def frame(body: Any) -> bytes:
    payload = body if isinstance(body, bytes) else strictjson.canonical(body)
    return varint.encode(len(payload)) + payload


def pair(max_output: int | None = None) -> tuple[SchedulerSession, ExecutorSession]:
    return SchedulerSession(max_output), ExecutorSession()


def active(max_output: int | None = None) -> tuple[SchedulerSession, ExecutorSession]:
    scheduler, executor = pair(max_output)
    scheduler.send(Offer(TASK, 1, {"title": "x"}))
    executor.receive_data(scheduler.data_to_send())
    executor.send(Accept())
    scheduler.receive_data(executor.data_to_send())
    scheduler.send(Assign(FENCE, 30.0))
    executor.receive_data(scheduler.data_to_send())
    return scheduler, executor


class CodecTest(PureTestCase):
    @FAST
    @given(messages)
    def test_round_trip(self, message: Message) -> None:
        buffer = FrameBuffer()
        (payload,) = buffer.receive_data(encode(message))
        self.assertEqual(decode(payload), message)
        self.assertFalse(buffer.partial)

    @FAST
    @given(st.lists(messages, max_size=5), st.data())
    def test_however_it_is_cut(self, said: list[Message], data: st.DataObject) -> None:
        stream = b"".join(encode(message) for message in said)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        buffer = FrameBuffer()
        heard: list[Message] = []
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            heard += [decode(payload) for payload in buffer.receive_data(stream[begin:end])]
        self.assertEqual(heard, said)

    def test_byte_by_byte(self) -> None:
        buffer = FrameBuffer()
        stream = encode(Offer(TASK, 1, {"a": "b" * 500}, InputBlob(SHA, 5)))
        found = [payload for byte in stream for payload in buffer.receive_data(bytes([byte]))]
        self.assertEqual(len(found), 1)

    @FAST
    @given(st.binary(max_size=300))
    def test_garbage_is_a_peer_error(self, data: bytes) -> None:
        """No message comes of it: it is refused, or the rest of a frame is waited for."""
        for session in pair():
            state = session.state
            with contextlib.suppress(PeerError):
                self.assertEqual(session.receive_data(data), [])
            self.assertEqual(session.state, state)

    @FAST
    @given(messages.filter(lambda message: not isinstance(message, Output)), st.data())
    def test_mutated_fields_are_a_peer_error_or_a_message(self, message: Message, data: st.DataObject) -> None:
        body = wire.to_json(message)
        key = data.draw(st.sampled_from(sorted(body)))
        body[key] = data.draw(
            st.one_of(st.none(), st.booleans(), st.integers(-10, 10), st.text(max_size=5), st.just([{}]))
        )
        try:
            found = wire.from_json(body)
        except PeerError:
            return
        self.assertIsInstance(found, Message)

    def test_frame_limit_is_refused_before_it_is_buffered(self) -> None:
        buffer = FrameBuffer()
        with self.assertRaises(PeerError):
            buffer.receive_data(varint.encode(wire.MAX_FRAME + 1))

    def test_a_frame_over_the_limit_is_not_sent(self) -> None:
        with self.assertRaises(LimitExceeded):
            encode(Offer(TASK, 1, {"title": "x" * wire.MAX_FRAME}))

    def test_output_limit(self) -> None:
        payload = encode(Output("stdout", 0, b"x" * wire.MAX_OUTPUT))
        (found,) = FrameBuffer().receive_data(payload)
        self.assertEqual(len(decode(found).data), wire.MAX_OUTPUT)  # type: ignore[attr-defined]
        with self.assertRaises(LimitExceeded):
            decode(b"\x01\x00" + b"x" * (wire.MAX_OUTPUT + 16))

    def test_artifact_limit(self) -> None:
        body = wire.to_json(RESULT)
        row = {"path": "a", "sha256": SHA, "size": 1}
        wire.from_json({**body, "artifacts": [row] * wire.MAX_ARTIFACTS})
        with self.assertRaises(LimitExceeded):
            wire.from_json({**body, "artifacts": [row] * (wire.MAX_ARTIFACTS + 1)})

    def test_note_limit(self) -> None:
        body = wire.to_json(RESULT)
        wire.from_json({**body, "caveats": ["x"] * wire.MAX_NOTES})
        with self.assertRaises(LimitExceeded):
            wire.from_json({**body, "caveats": ["x"] * (wire.MAX_NOTES + 1)})

    def test_word_text_progress_number_and_lease_limits(self) -> None:
        for body in (
            {"type": "decline", "reason": "x" * (wire.MAX_WORD + 1)},
            {"type": "decline", "reason": "full", "detail": "x" * (wire.MAX_TEXT + 1)},
            {"type": "progress", "phase": "a", "data": {"k": "x" * wire.MAX_PROGRESS}},
            {"type": "renew", "tag": wire.MAX_NUMBER + 1},
            {"type": "assign", "fence": "0.1.2", "lease_s": wire.MAX_LEASE_S + 1},
            {"type": "assign", "fence": "0.1." + "9" * 30, "lease_s": 30},
        ):
            with self.assertRaises(PeerError, msg=str(body)):
                wire.from_json(body)  # type: ignore[arg-type]

    def test_refused_shapes(self) -> None:
        table: list[Any] = [
            b"",
            b"\x00",
            b"\x01",
            b"\x01\x00",
            b"\x03\x00x",
            b"[]",
            b"{}",
            b"{",
            b'{"type":"ack","type":"ack"}',
            b'{"type":NaN}',
            b'{"type":"renew","tag":' + b"9" * 5000 + b"}",
            b'{"type":"cancel","reason":"\\ud800"}',
            b"{" * 2000,
            {"type": "output", "stream": "stdout", "offset": 0},
            {"type": ["ack"]},
            {"type": "nothing"},
            {"type": "renew"},
            {"type": "renew", "tag": True},
            {"type": "renew", "tag": 1.5},
            {"type": "assign", "fence": "1.2", "lease_s": 30},
            {"type": "assign", "fence": "1.2.-3", "lease_s": 30},
            {"type": "assign", "fence": "1.2.٣", "lease_s": 30},
            {"type": "assign", "fence": "1.2.3", "lease_s": -1},
            {"type": "resume", "task_id": "../../etc", "fence": "1.2.3"},
            {"type": "offer", "task_id": TASK, "attempt": 1, "spec": []},
            {"type": "offer", "task_id": TASK, "attempt": 1, "spec": {}, "input": {"sha256": SHA.upper(), "size": 1}},
            {"type": "decline", "reason": ""},
        ]
        for body in table:
            with self.assertRaises(PeerError, msg=str(body)[:80]):
                decode(body if isinstance(body, bytes) else strictjson.canonical(body))

    def test_unknown_fields_are_passed_over(self) -> None:
        self.assertEqual(wire.from_json({"type": "ack", "since": "1.1"}), Ack())


class ConversationTest(PureTestCase):
    def test_a_whole_task(self) -> None:
        scheduler, executor = active()
        executor.send(Started("docker", "chorus-python-dev", 5.0))
        executor.send(Output("stdout", 0, b"abc"))
        executor.send(Output("stderr", 0, b"x"))
        executor.send(Output("stdout", 3, b"def"))
        executor.send(Renew(1))
        heard = scheduler.receive_data(executor.data_to_send())
        self.assertEqual([message.TYPE for message in heard], ["started", "output", "output", "output", "renew"])
        scheduler.send(Renewed(1))
        self.assertEqual(executor.receive_data(scheduler.data_to_send()), [Renewed(1)])
        executor.send(RESULT)
        self.assertEqual(scheduler.receive_data(executor.data_to_send()), [RESULT])
        scheduler.send(Ack())
        self.assertEqual(executor.receive_data(scheduler.data_to_send()), [Ack()])
        self.assertTrue(scheduler.ended)
        self.assertTrue(executor.ended)

    def test_decline_ends_it(self) -> None:
        scheduler, executor = pair()
        scheduler.send(Offer(TASK, 1, {}))
        executor.receive_data(scheduler.data_to_send())
        executor.send(Decline("full", "3 of 3"))
        scheduler.receive_data(executor.data_to_send())
        self.assertTrue(scheduler.ended)
        with self.assertRaises(WrongTurn):
            scheduler.send(Assign(FENCE, 30))
        with self.assertRaises(TaskProtocolError):
            scheduler.receive_data(encode(Accept()))

    def test_resume_goes_on_from_the_offsets(self) -> None:
        scheduler, executor = pair()
        executor.send(Resume(TASK, FENCE))
        scheduler.receive_data(executor.data_to_send())
        scheduler.send(Continue(10, 4, 30.0))
        executor.receive_data(scheduler.data_to_send())
        executor.send(Output("stdout", 10, b"x"))
        scheduler.receive_data(executor.data_to_send())
        with self.assertRaises(TaskProtocolError):
            scheduler.receive_data(encode(Output("stderr", 3, b"x")))

    def test_resume_of_a_cancelled_task_takes_no_output(self) -> None:
        scheduler, executor = pair()
        executor.send(Resume(TASK, FENCE))
        scheduler.receive_data(executor.data_to_send())
        scheduler.send(Cancel("by user"))
        executor.receive_data(scheduler.data_to_send())
        with self.assertRaises(TaskProtocolError):
            scheduler.receive_data(encode(Output("stdout", 0, b"x")))

    def test_cancel_and_renewed_cross_a_result(self) -> None:
        scheduler, executor = active()
        executor.send(Renew(1))
        scheduler.receive_data(executor.data_to_send())
        executor.send(RESULT)
        scheduler.send(Renewed(1))
        scheduler.send(Cancel("late"))
        self.assertEqual(executor.receive_data(scheduler.data_to_send()), [])
        self.assertEqual(scheduler.receive_data(executor.data_to_send()), [RESULT])

    def test_what_crosses_stale_is_passed_over(self) -> None:
        scheduler, executor = active()
        executor.send(Output("stdout", 0, b"late"))
        executor.send(RESULT)
        scheduler.send(Stale())
        self.assertEqual(scheduler.receive_data(executor.data_to_send()), [])
        self.assertEqual(executor.receive_data(scheduler.data_to_send()), [Stale()])

    def test_gap_overlap_and_excess_of_output(self) -> None:
        for offset, data in ((1, b"x"), (0, b"123456")):
            scheduler, _ = active(max_output=5)
            with self.assertRaises(PeerError):
                scheduler.receive_data(encode(Output("stdout", offset, data)))
        scheduler, _ = active(max_output=5)
        scheduler.receive_data(encode(Output("stdout", 0, b"12345")))
        with self.assertRaises(LimitExceeded):
            scheduler.receive_data(encode(Output("stdout", 5, b"6")))

    def test_renewals_are_bounded_at_both_ends(self) -> None:
        scheduler, executor = active()
        for tag in range(MAX_PENDING_RENEWALS):
            executor.send(Renew(tag))
        with self.assertRaises(WrongTurn):
            executor.send(Renew(99))
        scheduler.receive_data(executor.data_to_send())
        with self.assertRaises(LimitExceeded):
            scheduler.receive_data(encode(Renew(100)))

    def test_a_renewal_that_was_never_sent(self) -> None:
        _, executor = active()
        with self.assertRaises(TaskProtocolError):
            executor.receive_data(encode(Renewed(7)))

    def test_a_refused_send_changes_nothing(self) -> None:
        _, executor = active()
        with self.assertRaises(LimitExceeded):
            executor.send(
                Result("exit", 0, "", "d", None, 0, 0, artifacts=(ResultArtifact("p" * 2000, SHA, 1),) * 1000)
            )
        self.assertIs(executor.state, SessionState.ACTIVE)
        self.assertEqual(executor.data_to_send(), b"")

    def test_every_pair_of_state_and_message_is_decided(self) -> None:
        """Whatever arrives in whatever state is heard, passed over, or a typed error; never anything else."""
        samples: list[Message] = [
            Offer(TASK, 1, {}),
            Accept(),
            Decline("full"),
            Assign(FENCE, 1),
            Started("d"),
            Output("stdout", 0, b"x"),
            Progress("p"),
            Renew(1),
            Renewed(1),
            Cancel(),
            RESULT,
            Released("draining"),
            Resume(TASK, FENCE),
            Continue(0, 0, 1),
            Ack(),
            Stale(),
        ]
        refused = 0
        for make in (SchedulerSession, ExecutorSession):
            for state in SessionState:
                for message in samples:
                    session = make()
                    session.state = state
                    try:
                        session.receive_data(encode(message))
                    except PeerError:
                        refused += 1
                        self.assertIs(session.state, state)
        self.assertGreater(refused, 150)

    @FAST
    @given(st.data())
    def test_two_ends_never_surprise_each_other(self, data: st.DataObject) -> None:
        """Random legal talk, randomly delivered: each end hears all that the other said, in order, but what crossed its
        own last word; and both know whether it is over."""
        talk = Talk()
        talk.say(talk.scheduler, Offer(TASK, 1, {}))
        for _ in range(data.draw(st.integers(1, 40))):
            end = data.draw(st.sampled_from([talk.scheduler, talk.executor]))
            stream: StreamName = data.draw(st.sampled_from(["stdout", "stderr"]))
            legal = [message for message in talk.choices(stream) if end.may_send(type(message))]
            if legal:
                talk.say(end, data.draw(st.sampled_from(legal)))
            if data.draw(st.booleans()):
                talk.deliver()
        talk.deliver()
        talk.deliver()
        crossed = (Started, Output, Progress, Renew, Result, Released)
        self.assertEqual(talk.heard_by_scheduler, _but(talk.said_by_executor, talk.heard_by_scheduler, crossed))
        self.assertEqual(
            talk.heard_by_executor, _but(talk.said_by_scheduler, talk.heard_by_executor, (Renewed, Cancel))
        )
        self.assertEqual(talk.scheduler.ended, talk.executor.ended)


class Talk:
    """Two ends, and everything that was said and heard."""

    def __init__(self) -> None:
        self.scheduler, self.executor = pair()
        self.said_by_scheduler: list[Message] = []
        self.said_by_executor: list[Message] = []
        self.heard_by_scheduler: list[Message] = []
        self.heard_by_executor: list[Message] = []
        self._offsets = {"stdout": 0, "stderr": 0}
        self._tag = 0

    def choices(self, stream: StreamName) -> list[Message]:
        return [
            Accept(),
            Decline("full"),
            Assign(FENCE, 1),
            Started("d"),
            Output(stream, self._offsets[stream], b"xy"),
            Progress("p"),
            Renew(self._tag),
            Cancel(),
            RESULT,
            Released("draining"),
            Stale(),
            Ack(),
        ]

    def say(self, end: SchedulerSession | ExecutorSession, message: Message) -> None:
        try:
            end.send(message)
        except WrongTurn:
            return
        (self.said_by_scheduler if end is self.scheduler else self.said_by_executor).append(message)
        if isinstance(message, Output):
            self._offsets[message.stream] += 2
        if isinstance(message, Renew):
            self._tag += 1

    def deliver(self) -> None:
        for message in self.scheduler.receive_data(self.executor.data_to_send()):
            self.heard_by_scheduler.append(message)
            if isinstance(message, Renew) and self.scheduler.may_send(Renewed):
                self.say(self.scheduler, Renewed(message.tag))
        self.heard_by_executor += self.executor.receive_data(self.scheduler.data_to_send())


def _but(said: list[Message], heard: list[Message], crossed: tuple[type[Message], ...]) -> list[Message]:
    """What was said, without what crossed: it is at the end, and of kinds that may."""
    left = list(heard)
    found: list[Message] = []
    for message in said:
        if left and left[0] == message:
            found.append(left.pop(0))
        elif not isinstance(message, crossed):
            found.append(message)
    return found
