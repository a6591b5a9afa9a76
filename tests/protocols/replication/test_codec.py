"""Bytes of /chorus/journal/1.0.0."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from chorus.errors import ChorusError, LimitExceeded
from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.delimited import DelimitedDecoder, delimit
from chorus.protocols.proto import journal_pb2 as wire
from chorus.protocols.replication.codec import BadJournalMessage, decode, encode
from chorus.protocols.replication.limits import MAX_BATCH, MAX_BATCH_ENTRIES, MAX_ENTRY, MAX_FRAME, MAX_INDEX
from chorus.protocols.replication.messages import Append, AppendReply, EntryKind, JournalMessage, LogEntry, Pull, Pulled
from tests.protocols.replication.support import entries
from tests.support import PureTestCase

PREV = LogPosition(2, 40)
MESSAGES: tuple[JournalMessage, ...] = (
    Append(3, PREV, 39, entries(2, 2, 3, first=41)),
    Append(1, LogPosition(), 0),
    AppendReply(3, True, 43),
    AppendReply(0, False, 0),
    Pull(PREV),
    Pull(LogPosition()),
    Pulled(43, entries(2, 3, first=41), prev=PREV),
    Pulled(43, snapshot=True),
)
numbers = st.integers(0, MAX_INDEX // 2)
positions = st.builds(LogPosition, numbers, numbers)
parts = st.lists(st.tuples(numbers, st.sampled_from(EntryKind), st.binary(max_size=20)), max_size=5)


def following(prev: LogPosition, found: list[tuple[int, EntryKind, bytes]]) -> tuple[LogEntry, ...]:
    return tuple(LogEntry(prev.index + 1 + at, *each) for at, each in enumerate(found))


messages = st.one_of(
    st.builds(lambda t, p, c, e: Append(t, p, c, following(p, e)), numbers, positions, numbers, parts),
    st.builds(AppendReply, numbers, st.booleans(), numbers),
    st.builds(Pull, positions),
    st.builds(lambda p, c, e, s: Pulled(c, following(p, e), s, p), positions, numbers, parts, st.booleans()),
)


class Codec(PureTestCase):
    def test_each_message_comes_back(self) -> None:
        for message in MESSAGES:
            self.assertEqual(decode(encode(message)), message)

    @given(messages)
    def test_any_message_comes_back(self, message: JournalMessage) -> None:
        self.assertEqual(decode(encode(message)), message)

    def test_a_stream_that_is_split_at_every_byte(self) -> None:
        stream = b"".join(delimit(encode(message)) for message in MESSAGES)
        for at in range(len(stream) + 1):
            decoder, found = DelimitedDecoder(MAX_FRAME), []
            for part in (stream[:at], stream[at:]):
                decoder.feed(part)
                while (data := decoder.next_message()) is not None:
                    found.append(decode(data))
            self.assertEqual(tuple(found), MESSAGES, at)

    def test_a_message_that_is_cut_at_any_byte(self) -> None:
        for message in MESSAGES:
            data = encode(message)
            for at in range(len(data)):
                with contextlib.suppress(BadJournalMessage):
                    self.assertNotEqual(decode(data[:at]), message)

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        with contextlib.suppress(ChorusError):
            decode(data)

    def test_no_message(self) -> None:
        for data in (b"", b"\xff", wire.Frame().SerializeToString(), b"\x7a\x00"):
            self.assertRaises(BadJournalMessage, decode, data)

    def test_an_entry_of_a_later_kind(self) -> None:
        frame = wire.Frame(append=wire.Append(term=1, entries=[wire.Entry(term=1, kind=3)]))
        self.assertRaises(BadJournalMessage, decode, frame.SerializeToString())

    def test_what_newer_members_say_besides_is_passed_over(self) -> None:
        data = wire.Frame(reply=wire.AppendReply(term=1, ok=True, match=2)).reply.SerializeToString() + b"\x78\x01"
        self.assertEqual(decode(b"\x12" + bytes([len(data)]) + data), AppendReply(1, True, 2))


class Limits(PureTestCase):
    def over(self, limit: str, frame: wire.Frame) -> None:
        error = self.assertRaises(LimitExceeded, decode, frame.SerializeToString())
        self.assertEqual(error.limit, limit)

    def test_numbers(self) -> None:
        large = wire.Position(term=MAX_INDEX + 1)
        deep = wire.Position(index=MAX_INDEX)
        for frame in (
            wire.Frame(append=wire.Append(term=MAX_INDEX + 1)),
            wire.Frame(append=wire.Append(commit=2**64 - 1)),
            wire.Frame(append=wire.Append(prev=large)),
            wire.Frame(append=wire.Append(entries=[wire.Entry(term=MAX_INDEX + 1)])),
            wire.Frame(append=wire.Append(prev=deep, entries=[wire.Entry(term=1)])),
            wire.Frame(reply=wire.AppendReply(match=MAX_INDEX + 1)),
            wire.Frame(pull=wire.Pull(after=large)),
            wire.Frame(pulled=wire.Pulled(commit=MAX_INDEX + 1)),
        ):
            self.over("journal.number", frame)
        highest = AppendReply(MAX_INDEX, True, MAX_INDEX)
        self.assertEqual(decode(encode(highest)), highest)

    def test_an_entry(self) -> None:
        largest = Append(1, PREV, 0, (LogEntry(41, 3, EntryKind.ENTRY, bytes(MAX_ENTRY)),))
        self.assertEqual(decode(encode(largest)), largest)
        self.over("journal.entry", wire.Frame(append=wire.Append(entries=[wire.Entry(data=bytes(MAX_ENTRY + 1))])))

    def test_the_number_of_entries(self) -> None:
        most = Append(3, PREV, 0, entries(*[3] * MAX_BATCH_ENTRIES, first=41))
        self.assertEqual(decode(encode(most)), most)
        many = [wire.Entry(term=1)] * (MAX_BATCH_ENTRIES + 1)
        self.over("journal.entries", wire.Frame(append=wire.Append(entries=many)))

    def test_a_whole_batch_fits_into_a_frame(self) -> None:
        share = MAX_BATCH // MAX_BATCH_ENTRIES
        batch = tuple(LogEntry(MAX_INDEX - 511 + at, MAX_INDEX, EntryKind.ROSTER, bytes(share)) for at in range(512))
        message = Append(MAX_INDEX, LogPosition(MAX_INDEX, MAX_INDEX - 512), MAX_INDEX, batch)
        self.assertLess(len(encode(message)), MAX_FRAME - MAX_ENTRY)
        error = self.assertRaises(LimitExceeded, decode, bytes(MAX_FRAME + 1))
        self.assertEqual(error.limit, "journal.frame")
