from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from chorus.errors import LimitExceeded
from chorus.multiformats import varint
from chorus.protocols.stream import StreamClosed, StreamReset
from chorus.protocols.streamio import READ_HIGH_WATER, EndOfStream, IncompleteRead, StreamIO, StreamTimeout
from tests.protocols.stream_fakes import FakeStream
from tests.support import PureTestCase


class Reading(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.stream = FakeStream()
        self.io = StreamIO(self.stream, self.time)

    def start(self, coroutine) -> Deferred:
        return Deferred.fromCoroutine(coroutine)

    def test_exact_reads_wait_for_the_last_byte_and_leave_the_rest(self) -> None:
        reading = self.start(self.io.read_exactly(4))
        self.stream.arrive(b"abc")
        self.assertNoResult(reading)
        self.stream.arrive(b"de")
        self.assertEqual(self.successResultOf(reading), b"abcd")
        self.assertEqual(self.successResultOf(self.start(self.io.read_some(10))), b"e")

    def test_what_came_before_the_read_is_returned_at_once(self) -> None:
        self.stream.arrive(b"abcd")
        self.assertEqual(self.successResultOf(self.start(self.io.read_exactly(4))), b"abcd")

    def test_clean_end_and_end_in_the_middle_differ(self) -> None:
        self.stream.arrive(b"\x01a")
        self.stream.arrive_eof()
        self.assertEqual(self.successResultOf(self.start(self.io.read_delimited(10))), b"a")
        self.failureResultOf(self.start(self.io.read_delimited(10)), EndOfStream)
        self.assertFalse(self.stream.was_reset)

        other = FakeStream()
        io = StreamIO(other, self.time)
        other.arrive(b"\x05ab")
        reading = self.start(io.read_delimited(10))
        other.arrive_eof()
        self.failureResultOf(reading, IncompleteRead)
        self.assertTrue(other.was_reset)

    def test_a_length_over_the_limit_is_refused_before_the_body(self) -> None:
        reading = self.start(self.io.read_delimited(100))
        self.stream.arrive(varint.encode(101))
        self.failureResultOf(reading, LimitExceeded)
        self.assertTrue(self.stream.was_reset)

    def test_ghsa_xqvc_92cf_94j4_a_length_of_2_to_the_62_is_refused(self) -> None:
        reading = self.start(self.io.read_delimited(1 << 20))
        self.stream.arrive(varint.encode(2**62))
        self.failureResultOf(reading, LimitExceeded)

    def test_read_all_is_bounded(self) -> None:
        reading = self.start(self.io.read_all(5))
        self.stream.arrive(b"abc")
        self.stream.arrive(b"de")
        self.stream.arrive_eof()
        self.assertEqual(self.successResultOf(reading), b"abcde")

        other = FakeStream()
        reading = self.start(StreamIO(other, self.time).read_all(5))
        other.arrive(b"abcdef")
        self.failureResultOf(reading, LimitExceeded)

    def test_a_read_that_takes_too_long_resets_the_stream(self) -> None:
        reading = self.start(self.io.read_exactly(1, timeout=3.0))
        self.time.advance(2.9)
        self.assertNoResult(reading)
        self.time.advance(0.2)
        self.failureResultOf(reading, StreamTimeout)
        self.assertIsInstance(self.stream.reset_with, StreamTimeout)

    def test_one_byte_at_a_time_does_not_push_the_limit_back(self) -> None:
        reading = self.start(self.io.read_exactly(100, timeout=5.0))
        for _ in range(4):
            self.time.advance(1)
            self.stream.arrive(b"x")
        self.time.advance(1)
        self.failureResultOf(reading, StreamTimeout)

    def test_an_infinite_limit_leaves_no_timer(self) -> None:
        reading = self.start(self.io.read_exactly(1, timeout=math.inf))
        self.assertEqual(self.time.getDelayedCalls(), [])
        self.stream.arrive(b"x")
        self.successResultOf(reading)

    def test_reset_ends_reads_present_and_future_and_drops_the_buffer(self) -> None:
        self.stream.arrive(b"ab")
        reading = self.start(self.io.read_exactly(3))
        self.stream.end(StreamReset())
        self.failureResultOf(reading, StreamReset)
        self.failureResultOf(self.start(self.io.read_exactly(1)), StreamReset)

    def test_a_cancelled_read_leaves_the_bytes_and_no_timer(self) -> None:
        reading = self.start(self.io.read_exactly(4))
        self.stream.arrive(b"ab")
        reading.cancel()
        self.failureResultOf(reading)
        self.stream.arrive(b"cd")
        self.assertEqual(self.successResultOf(self.start(self.io.read_exactly(4))), b"abcd")

    def test_nobody_reading_holds_the_peer_back(self) -> None:
        self.stream.arrive(bytes(READ_HIGH_WATER + 1))
        self.assertTrue(self.stream.reading_paused)
        self.stream.arrive(bytes(10))
        self.assertEqual(len(self.successResultOf(self.start(self.io.read_exactly(READ_HIGH_WATER + 11)))), 65547)
        self.assertFalse(self.stream.reading_paused)

    def test_two_reads_at_a_time_are_a_bug_of_the_caller(self) -> None:
        reading = self.start(self.io.read_exactly(1))
        self.failureResultOf(self.start(self.io.read_exactly(1)), RuntimeError)
        self.stream.arrive(b"x")
        self.successResultOf(reading)

    @settings(deadline=None, max_examples=100)
    @given(
        messages=st.lists(st.binary(max_size=300), max_size=12),
        cuts=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    )
    def test_messages_survive_any_segmentation(self, messages: list[bytes], cuts: list[int]) -> None:
        stream = FakeStream()
        io = StreamIO(stream, self.time)
        encoded = b"".join(varint.encode(len(m)) + m for m in messages)

        async def read() -> list[bytes]:
            found = []
            while True:
                try:
                    found.append(await io.read_delimited(300, timeout=math.inf))
                except EndOfStream:
                    return found

        reading = self.start(read())
        position = 0
        while position < len(encoded):
            size = cuts[position % len(cuts)]
            stream.arrive(encoded[position : position + size])
            position += size
        stream.arrive_eof()
        self.assertEqual(self.successResultOf(reading), messages)


class Writing(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.stream = FakeStream()
        self.io = StreamIO(self.stream, self.time)

    def test_a_write_waits_while_the_peer_does_not_take_it(self) -> None:
        self.stream.receiver.pause_writing()
        writing = Deferred.fromCoroutine(self.io.write_delimited(b"abc"))
        self.assertEqual(self.stream.sent, b"\x03abc")
        self.assertNoResult(writing)
        self.stream.receiver.resume_writing()
        self.successResultOf(writing)

    def test_a_peer_that_never_takes_it_is_reset(self) -> None:
        self.stream.receiver.pause_writing()
        writing = Deferred.fromCoroutine(self.io.write(b"abc", timeout=2))
        self.time.advance(2)
        self.failureResultOf(writing, StreamTimeout)
        self.assertTrue(self.stream.was_reset)

    def test_a_reset_ends_a_waiting_write(self) -> None:
        self.stream.receiver.pause_writing()
        writing = Deferred.fromCoroutine(self.io.write(b"abc"))
        self.stream.end(StreamReset())
        self.failureResultOf(writing, StreamReset)
        self.failureResultOf(Deferred.fromCoroutine(self.io.write(b"x")), StreamReset)

    def test_write_after_the_end(self) -> None:
        self.stream.end(None)
        self.failureResultOf(Deferred.fromCoroutine(self.io.write(b"x")), StreamClosed)

    def test_finish_waits_for_the_peers_end_and_drops_what_it_still_sends(self) -> None:
        self.stream.arrive(bytes(READ_HIGH_WATER + 1))
        finishing = Deferred.fromCoroutine(self.io.finish())
        self.assertTrue(self.stream.write_closed)
        self.assertFalse(self.stream.reading_paused)
        self.stream.arrive(bytes(READ_HIGH_WATER + 1))
        self.assertFalse(self.stream.reading_paused)
        self.assertNoResult(finishing)
        self.stream.end(None)
        self.successResultOf(finishing)
        self.successResultOf(Deferred.fromCoroutine(self.io.closed()))

    def test_finish_of_a_stream_that_broke(self) -> None:
        self.stream.end(StreamReset())
        self.failureResultOf(Deferred.fromCoroutine(self.io.finish()), StreamReset)

    def test_finish_has_a_time_limit(self) -> None:
        finishing = Deferred.fromCoroutine(self.io.finish(timeout=1))
        self.time.advance(1)
        self.failureResultOf(finishing, StreamTimeout)
