"""The event log: durable before it is told, whole however it is cut, bounded whatever the disk does."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed

from chorus.errors import LocalError
from chorus.identity import Identity
from chorus.protocols.stream import StreamClosed, StreamReset
from chorus.services.execution.output import WINDOW, Spool
from chorus.services.loopback import HIGH_WATER as STREAM_HIGH_WATER
from chorus.services.loopback import loopback
from chorus.services.scheduling.events import (
    HIGH_WATER,
    MAX_BATCH,
    MAX_EVENT_OUTPUT,
    MAX_WATCHERS,
    RETRY_S,
    NewEvent,
    TaskEvents,
    TooManyWatchers,
)
from chorus.services.scheduling.output_text import MIN_BASE64, escapes, unfinished
from chorus.services.scheduling.watches import PAGE
from chorus.tasks.events import TaskEvent
from tests.support import PureTestCase


class MemoryStore:
    """An event store whose writes tests let through."""

    def __init__(self) -> None:
        self.events: dict[str, list[TaskEvent]] = {}
        self.hold = False
        self.broken = False
        self.held: list[tuple[Deferred[Any], Sequence[NewEvent]]] = []
        self.batches: list[int] = []
        self.reads = 0

    def append(self, new: Sequence[NewEvent]) -> Deferred[Any]:
        if self.broken:
            return fail(LocalError("disk full"))
        self.batches.append(len(new))
        if self.hold:
            waiting: Deferred[Any] = Deferred()
            self.held.append((waiting, list(new)))
            return waiting
        return succeed(self._add(new))

    def _add(self, new: Sequence[NewEvent]) -> list[TaskEvent]:
        added = []
        for event in new:
            own = self.events.setdefault(event.task_id, [])
            own.append(TaskEvent(len(own) + 1, event.type, event.time, event.data))
            added.append(own[-1])
        return added

    def release(self) -> None:
        held, self.held = self.held, []
        for waiting, new in held:
            waiting.callback(self._add(new))

    def read(self, task_id: str, after: int, limit: int) -> Deferred[Any]:
        self.reads += 1
        return succeed(self.events.get(task_id, [])[after : after + limit])


class EventsCase(PureTestCase):
    def setUp(self) -> None:
        self.fake = self.clock()
        self.store = MemoryStore()
        self.over: set[str] = set()
        self.events = TaskEvents(self.store, self.fake, lambda: 5.0, self.over.__contains__)

    def turn(self, turns: int = 5) -> None:
        for _ in range(turns):
            self.fake.advance(0)

    def watch(self, after: int = 0) -> tuple[list[int], list[bool], Any]:
        seen: list[int] = []
        ended: list[bool] = []
        watch = self.events.watch("t", after, lambda event: seen.append(event.id), lambda: ended.append(True))
        return seen, ended, watch

    def text(self, stream: str = "stdout") -> bytes:
        import base64

        found = b""
        for event in self.store.events.get("t", []):
            if event.type == "output" and event.data["stream"] == stream:
                self.assertEqual(event.data["offset"], len(found))
                text = event.data.get("text")
                found += str(text).encode() if text is not None else base64.b64decode(str(event.data["base64"]))
        return found


class WritingTest(EventsCase):
    def test_nothing_is_told_before_it_is_durable(self) -> None:
        self.store.hold = True
        seen, _, _ = self.watch()
        self.events.append("t", "note", {"text": "x"})
        self.turn()
        self.assertEqual(seen, [])
        self.store.release()
        self.assertEqual(seen, [1])

    def test_what_comes_during_a_write_shares_the_next_one(self) -> None:
        self.store.hold = True
        self.events.append("t", "note", {})
        self.turn()
        for _ in range(50):
            self.events.append("t", "note", {})
        self.store.release()
        self.turn()
        self.store.release()
        self.assertEqual(self.store.batches, [1, 50])

    def test_a_batch_is_bounded(self) -> None:
        for _ in range(MAX_BATCH + 10):
            self.events.append("t", "note", {})
        self.turn()
        self.assertEqual(self.store.batches, [MAX_BATCH, 10])

    def test_output_in_small_pieces_becomes_few_events(self) -> None:
        self.store.hold = True
        for n in range(10_000):
            self.events.append_output("t", "stdout", n * 20, b"0123456789abcdefghi\n")
        self.turn()
        self.store.hold = False
        self.store.release()
        self.turn()
        self.assertEqual(len(self.text()), 200_000)
        self.assertLessEqual(len(self.store.events["t"]), 200_000 // (MAX_EVENT_OUTPUT - 20) + 2)

    def test_joining_does_not_touch_what_is_being_written(self) -> None:
        self.store.hold = True
        self.events.append_output("t", "stdout", 0, b"abc")
        self.turn()
        self.events.append_output("t", "stdout", 3, b"def")
        self.store.release()
        self.turn()
        self.store.release()
        self.assertEqual([event.data["text"] for event in self.store.events["t"]], ["abc", "def"])

    def test_a_store_that_refuses_is_tried_again_and_nothing_is_lost(self) -> None:
        self.store.broken = True
        seen, _, _ = self.watch()
        self.events.append("t", "note", {})
        self.events.append_output("t", "stdout", 0, b"abc")
        self.turn()
        self.events.append_output("t", "stdout", 3, b"def")
        self.fake.advance(RETRY_S)
        self.turn()
        self.assertEqual((seen, self.events.write_failures), ([], 2))
        self.store.broken = False
        self.fake.advance(RETRY_S)
        self.turn()
        self.assertEqual(self.text(), b"abcdef")
        self.assertEqual(seen, list(range(1, len(seen) + 1)))

    def test_congestion_begins_and_ends(self) -> None:
        self.store.broken = True
        relieved: list[bool] = []
        size = 0
        while not self.events.congested:
            self.events.append_output("t", "stdout", size, b"x" * 50_000)
            size += 50_000
        self.assertLessEqual(size, HIGH_WATER + 50_000)
        self.events.when_relieved(lambda: relieved.append(True))
        self.turn()
        self.assertEqual(relieved, [])
        self.store.broken = False
        self.fake.advance(RETRY_S)
        self.turn(20)
        self.assertEqual((relieved, self.events._pending_bytes), ([True], 0))
        self.assertEqual(len(self.text()), size)

    def test_flushed_and_stop(self) -> None:
        self.events.append_output("t", "stdout", 0, b"ab\xc3")
        stopped = self.events.stop()
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.text(), b"ab\xc3")
        self.successResultOf(self.events.flushed())

    def test_stop_does_not_wait_for_a_store_that_refuses(self) -> None:
        self.store.broken = True
        self.events.append("t", "note", {})
        self.turn()
        self.successResultOf(self.events.stop())

    @settings(deadline=None, max_examples=60)
    @given(st.text(st.characters(codec="utf-8"), max_size=60), st.lists(st.integers(1, 6), max_size=40), st.booleans())
    def test_text_stays_text_however_it_is_cut(self, text: str, sizes: list[int], hold: bool) -> None:
        self.setUp()
        self.store.hold = hold
        data = text.encode()
        offset = 0
        for size in [*sizes, len(data)]:
            piece = data[offset : offset + size]
            if piece:
                self.events.append_output("t", "stdout", offset, piece)
            offset += len(piece)
            self.turn(1)
        for _ in range(50):
            self.turn(1)
            self.store.release()
        self.events.append("t", "state", {"state": "completed"})
        for _ in range(3):
            self.turn(1)
            self.store.release()
        self.assertEqual(self.text(), data)
        self.assertTrue(all("text" in e.data for e in self.store.events.get("t", []) if e.type == "output"))

    def test_binary_that_happens_to_be_text_takes_the_smaller_form(self) -> None:
        for data, form in (
            (bytes(MIN_BASE64), "base64"),
            (bytes(MIN_BASE64 - 1), "text"),
            (b"\n" * 4096, "base64"),
            (b"a line of forty characters, more or less\n" * 100, "text"),
            (b"\x1b[32mgreen words\x1b[0m and more of them\n" * 100, "text"),
            ("\u20ac\x7f".encode() * 300, "text"),
        ):
            self.setUp()
            self.events.append_output("t", "stdout", 0, data)
            self.turn()
            (event,) = self.store.events["t"]
            self.assertIn(form, event.data, data[:20])
            self.assertEqual(self.text(), data)

    @given(st.text(st.characters(codec="utf-8"), max_size=200))
    @settings(deadline=None, max_examples=60)
    def test_escapes_are_what_json_adds(self, text: str) -> None:
        written = json.dumps(text, ensure_ascii=False).encode()
        self.assertEqual(len(text.encode()) + escapes(text.encode()) + 2, len(written))

    def test_the_unfinished_end(self) -> None:
        for data, expected in (
            (b"", 0),
            (b"abc", 0),
            ("ä".encode(), 0),
            ("ä".encode()[:1], 1),
            ("€".encode()[:2], 2),
            ("\U0001f600".encode()[:3], 3),
            ("\U0001f600".encode(), 0),
            (b"\x80\x80\x80\x80", 0),
            (b"\xff", 0),
            (b"\xc0", 0),
        ):
            self.assertEqual(unfinished(b"x" + data), expected, data)


class WatchingTest(EventsCase):
    def test_far_behind_is_read_by_the_page(self) -> None:
        for _ in range(PAGE * 3 + 5):
            self.events.append("t", "note", {})
        self.turn()
        seen, _, watch = self.watch()
        self.assertEqual(seen, list(range(1, PAGE * 3 + 6)))
        watch.stop()

    def test_pause_in_the_middle_of_a_delivery(self) -> None:
        for _ in range(10):
            self.events.append("t", "note", {})
        self.turn()
        seen: list[int] = []

        def deliver(event: TaskEvent) -> None:
            seen.append(event.id)
            if len(seen) == 4:
                watches[0].pause()

        watches: list[Any] = []
        self.store.hold = False
        watch = self.events.watch("t", 10, deliver, lambda: None)
        watches.append(watch)
        for _ in range(6):
            self.events.append("t", "note", {})
        self.turn()
        self.assertEqual(seen, [11, 12, 13, 14])
        watch.resume()
        self.assertEqual(seen, [11, 12, 13, 14, 15, 16])
        watch.stop()

    def test_ends_only_when_the_last_event_is_written(self) -> None:
        self.store.hold = True
        self.events.append("t", "state", {"state": "completed"})
        self.over.add("t")
        seen, ended, _ = self.watch()
        self.turn()
        self.assertEqual((seen, ended), ([], []))
        self.store.release()
        self.turn()
        self.assertEqual((seen, ended), ([1], [True]))

    def test_ends_when_something_follows_the_terminal_state(self) -> None:
        seen, ended, _ = self.watch()
        self.events.append("t", "state", {"state": "cancelled"})
        self.events.append("t", "note", {"text": "afterwards"})
        self.over.add("t")
        self.turn()
        self.assertEqual((seen, ended, self.events.watchers), ([1, 2], [True], 0))

    def test_watchers_are_bounded(self) -> None:
        watches = [self.watch()[2] for _ in range(MAX_WATCHERS)]
        self.assertRaises(TooManyWatchers, self.watch)
        watches.pop().stop()
        watches.append(self.watch()[2])
        for watch in watches:
            watch.stop()
        self.assertEqual((self.events.watchers, self.events._watches), (0, {}))

    def test_a_thousand_watchers_of_one_task_read_nothing_when_they_keep_up(self) -> None:
        watches = [self.watch() for _ in range(1000)]
        self.turn()
        reads = self.store.reads
        for _ in range(20):
            self.events.append("t", "note", {})
            self.turn()
        self.assertTrue(all(seen == list(range(1, 21)) for seen, _, _ in watches))
        self.assertEqual(self.store.reads, reads)
        for _, _, watch in watches:
            watch.stop()


class SpoolTest(PureTestCase):
    def spool(self) -> Spool:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        return Spool(self.directory, maybeDeferred)  # type: ignore[arg-type]

    def read(self, spool: Spool, offset: int, limit: int) -> bytes:
        return self.successResultOf(Deferred.fromCoroutine(spool.read("stdout", offset, limit)))

    def test_recent_from_memory_and_old_from_the_file(self) -> None:
        spool = self.spool()
        data = b"".join(b"%07d\n" % n for n in range(WINDOW))
        for start in range(0, len(data), 50_000):
            spool.append("stdout", start, data[start : start + 50_000])
        self.assertEqual(spool.size("stdout"), len(data))
        self.assertIsNone(spool.recent("stdout", 0, 10))
        self.assertEqual(spool.recent("stdout", len(data) - 10, 100), data[-10:])
        self.assertEqual(self.read(spool, 12345, 1000), data[12345:13345])
        self.assertEqual((self.directory / "stdout").read_bytes(), data)

    def test_repetitions_are_passed_over_and_a_new_process_goes_on(self) -> None:
        spool = self.spool()
        spool.append("stdout", 0, b"abcdef")
        again = Spool(self.directory, maybeDeferred)  # type: ignore[arg-type]
        self.assertEqual(again.size("stdout"), 6)
        again.append("stdout", 3, b"defghi")
        again.append("stdout", 0, b"abc")
        self.assertEqual((self.directory / "stdout").read_bytes(), b"abcdefghi")
        self.assertEqual(self.read(again, 0, 100), b"abcdefghi")

    def test_a_disk_that_refuses_is_told_and_holds_nothing(self) -> None:
        spool = self.spool()
        self.directory.rmdir()
        spool.append("stdout", 0, b"x")
        spool.append("stdout", 1, b"y" * 1000)
        self.failureResultOf(Deferred.fromCoroutine(spool.flushed()), OSError)
        self.assertEqual(spool._streams["stdout"].unwritten, [])

    def test_what_a_full_disk_did_not_take_is_written_later(self) -> None:
        told: list[OSError] = []
        spool = self.spool()
        spool = Spool(self.directory, maybeDeferred, told.append)  # type: ignore[arg-type]
        spool.append("stdout", 0, b"abc")
        write = os.pwrite

        def full(fd: int, data: bytes, offset: int) -> int:
            if offset >= 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, data[: 5 - offset], offset)

        with mock.patch("os.pwrite", full):
            spool.append("stdout", 3, b"defg")
            spool.append("stdout", 7, b"hi")
            self.failureResultOf(Deferred.fromCoroutine(spool.flushed()), OSError)
            spool.retry()
        self.assertEqual((self.directory / "stdout").read_bytes(), b"abcde")
        self.assertEqual([error.errno for error in told], [errno.ENOSPC] * 2)
        spool.retry()
        self.successResultOf(Deferred.fromCoroutine(spool.flushed()))
        self.assertEqual((self.directory / "stdout").read_bytes(), b"abcdefghi")
        self.assertEqual(spool._streams["stdout"].unwritten, [])


class Receiver:
    def __init__(self) -> None:
        self.data = b""
        self.eof = 0
        self.closed: list[Any] = []
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.eof += 1

    def stream_closed(self, error: Any) -> None:
        self.closed.append(error)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False


class LoopbackTest(PureTestCase):
    def setUp(self) -> None:
        self.fake = self.clock()
        peer = Identity.from_seed(bytes(32)).peer_id
        self.near, self.far = loopback(peer, "/x", self.fake)
        self.one, self.other = Receiver(), Receiver()
        self.near.set_receiver(self.one)
        self.far.set_receiver(self.other)

    def turn(self) -> None:
        for _ in range(10):
            self.fake.advance(0)

    def test_bytes_in_order_and_never_in_the_writers_turn(self) -> None:
        self.near.write(b"a")
        self.near.write(b"b")
        self.assertEqual(self.other.data, b"")
        self.turn()
        self.assertEqual(self.other.data, b"ab")

    def test_half_close_then_close(self) -> None:
        self.near.write(b"last")
        self.near.write_eof()
        self.turn()
        self.assertEqual((self.other.data, self.other.eof, self.other.closed), (b"last", 1, []))
        self.assertRaises(StreamClosed, self.near.write, b"x")
        self.far.write(b"answer")
        self.far.write_eof()
        self.turn()
        self.assertEqual((self.one.data, self.one.closed, self.other.closed), (b"answer", [None], [None]))

    def test_close_drops_what_still_comes(self) -> None:
        self.near.close()
        self.far.write(b"late")
        self.turn()
        self.far.close()
        self.turn()
        self.assertEqual((self.one.data, self.one.closed, self.other.closed), (b"", [None], [None]))

    def test_reset_reaches_both_once(self) -> None:
        self.near.write(b"lost")
        self.near.reset()
        self.near.reset()
        self.far.reset()
        self.turn()
        self.assertEqual(self.other.data, b"")
        self.assertEqual(
            ([e.remote for e in self.one.closed], [e.remote for e in self.other.closed]), ([False], [True])
        )
        self.assertIsInstance(self.one.closed[0], StreamReset)

    def test_a_reader_that_pauses_stops_the_writer(self) -> None:
        self.far.pause_reading()
        self.near.write(b"x" * (STREAM_HIGH_WATER + 1))
        self.turn()
        self.assertTrue(self.one.paused)
        self.assertEqual(self.other.data, b"")
        self.far.resume_reading()
        self.turn()
        self.assertFalse(self.one.paused)
        self.assertEqual(len(self.other.data), STREAM_HIGH_WATER + 1)
