from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from chorus.protocols.perf import CHUNK, PerfError, PerfResponder, upload
from chorus.protocols.ping import PingMismatch, PingResponder, ping
from chorus.protocols.streamio import StreamIO, StreamTimeout
from tests.protocols.stream_fakes import FakeStream
from tests.support import PureTestCase


class Responding(PureTestCase):
    @settings(deadline=None, max_examples=100)
    @given(chunks=st.lists(st.binary(max_size=100), max_size=20))
    def test_whole_pings_come_back_and_no_more(self, chunks: list[bytes]) -> None:
        stream = FakeStream()
        PingResponder(stream)
        for chunk in chunks:
            stream.arrive(chunk)
        sent = b"".join(chunks)
        self.assertEqual(stream.sent, sent[: len(sent) - len(sent) % 32])

    def test_a_peer_that_does_not_read_its_echoes_is_not_read_either(self) -> None:
        stream = FakeStream()
        PingResponder(stream)
        stream.receiver.pause_writing()
        self.assertTrue(stream.reading_paused)
        stream.receiver.resume_writing()
        self.assertFalse(stream.reading_paused)

    def test_the_end_is_answered(self) -> None:
        stream = FakeStream()
        PingResponder(stream)
        stream.arrive_eof()
        self.assertTrue(stream.closed)


class Pinging(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.stream = FakeStream()
        self.pinging = Deferred.fromCoroutine(ping(StreamIO(self.stream, self.time), self.time, lambda n: b"r" * n))

    def test_the_round_trip_is_measured(self) -> None:
        self.assertEqual(self.stream.sent, b"r" * 32)
        self.time.advance(0.25)
        self.stream.arrive(b"r" * 32)
        self.assertEqual(self.successResultOf(self.pinging), 0.25)

    def test_other_bytes_reset_the_stream(self) -> None:
        self.stream.arrive(b"r" * 31 + b"x")
        self.failureResultOf(self.pinging, PingMismatch)
        self.assertIsInstance(self.stream.reset_with, PingMismatch)

    def test_silence_resets_the_stream(self) -> None:
        self.time.advance(10)
        self.failureResultOf(self.pinging, StreamTimeout)


class Perf(PureTestCase):
    @settings(deadline=None, max_examples=50)
    @given(size=st.integers(0, 3 * CHUNK), first=st.integers(1, 20), uploaded=st.integers(0, 500))
    def test_answers_with_as_many_bytes_as_asked(self, size: int, first: int, uploaded: int) -> None:
        stream = FakeStream()
        responder = PerfResponder(stream)
        request = struct.pack(">Q", size) + bytes(uploaded)
        stream.arrive(request[:first])
        stream.arrive(request[first:])
        self.assertEqual(stream.sent, b"")
        stream.arrive_eof()
        self.assertEqual(len(stream.sent), size)
        self.assertEqual(responder.received, uploaded)
        self.assertTrue(stream.closed)

    def test_an_endless_answer_is_made_only_as_fast_as_it_is_read(self) -> None:
        stream = FakeStream()
        PerfResponder(stream)
        stream.arrive(b"\xff" * 8)
        write = stream.write

        def write_and_block(data: bytes) -> None:
            write(data)
            stream.receiver.pause_writing()

        stream.write = write_and_block
        stream.arrive_eof()
        self.assertEqual(len(stream.sent), CHUNK)
        stream.receiver.resume_writing()
        self.assertEqual(len(stream.sent), 2 * CHUNK)
        stream.end()

    def test_an_end_before_the_size_is_an_error(self) -> None:
        stream = FakeStream()
        PerfResponder(stream)
        stream.arrive(bytes(7))
        stream.arrive_eof()
        self.assertIsInstance(stream.reset_with, PerfError)

    def test_upload_sends_every_byte_and_waits_for_the_answer(self) -> None:
        stream = FakeStream()
        uploading = Deferred.fromCoroutine(upload(StreamIO(stream, self.clock()), 250, bytes(100)))
        self.assertEqual(stream.sent, struct.pack(">Q", 8) + bytes(250))
        self.assertTrue(stream.write_closed)
        stream.arrive(b"12345678")
        self.assertEqual(self.successResultOf(uploading), b"12345678")
