from __future__ import annotations

import errno
import json
from pathlib import Path
from unittest import mock

from twisted.logger import capturedLogs

from chorus.identity import Identity, PeerId
from chorus.protocols.starts import LIVE_S, Start, StartRecord
from chorus.services.starts import FILE, FRESH_S, StartCount, Starts
from tests.support import PureTestCase

ALICE, BOB = Identity.from_seed(bytes([1] * 32)), Identity.from_seed(bytes([2] * 32))
LOW, MIDDLE, HIGH = bytes(16), b"\x80" * 16, b"\xff" * 16


class StartsCase(PureTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.now = 1_000_000.0
        self.lines: list[str] = []

    def starts(self, instance: bytes = MIDDLE) -> Starts:
        count = StartCount(self.folder)
        return Starts(ALICE, count, instance, wall=lambda: self.now, twin=self.lines.append)

    def kept(self) -> int:
        return int(json.loads((self.folder / FILE).read_text())["count"])

    def sealed(self, count: int, instance: bytes = HIGH, at: float | None = None, by: Identity = ALICE) -> bytes:
        return StartRecord(by.peer_id, Start(count, instance), self.now if at is None else at).seal(by)


class Counting(StartsCase):
    def test_each_start_counts(self) -> None:
        self.assertEqual([self.starts().own.count for _ in range(3)], [1, 2, 3])
        self.assertEqual(self.kept(), 3)

    def test_a_damaged_file_begins_again(self) -> None:
        for text in ("", "[]", "{", '{"count": -1}', '{"count": "5"}', '{"count": true}', '{"count": 1e3}', "[" * 200):
            (self.folder / FILE).write_text(text)
            (self.folder / FILE).chmod(0o600)
            self.assertEqual(StartCount(self.folder).next(), 1, text)

    def test_a_full_disk_stops_no_start(self) -> None:
        with capturedLogs() as said, mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left")):
            self.assertEqual(self.starts().own.count, 1)
        self.assertEqual([event["log_level"].name for event in said], ["warn"])


class Shown(StartsCase):
    def test_the_lower_of_two_stops_once_with_one_line(self) -> None:
        starts = self.starts()
        self.now += 10
        self.assertFalse(starts.shown(self.sealed(2)))
        self.assertFalse(starts.shown(self.sealed(3)))
        (line,) = self.lines
        self.assertIn("copy of this data directory", line)
        self.assertIn("CHORUS_DATA_DIR", line)
        self.assertNotIn("\n", line)

    def test_the_higher_one_goes_on(self) -> None:
        starts = self.starts()
        self.now += 10
        self.assertTrue(starts.shown(self.sealed(1, LOW)), "its twin should hear of it")
        self.assertEqual((self.lines, starts.own.count), ([], 1))

    def test_a_memory_raises_the_count_and_stops_nobody(self) -> None:
        starts = self.starts()
        before = starts.text()
        starts.shown(self.sealed(9, at=self.now - 5))
        self.assertEqual((self.lines, starts.own, self.kept()), ([], Start(10, MIDDLE), 10))
        self.assertNotEqual(starts.text(), before)
        self.assertEqual(StartRecord.open(starts.record()).start, Start(10, MIDDLE))
        self.assertEqual(self.starts().own.count, 11)

    def test_what_others_signed_or_nobody(self) -> None:
        starts = self.starts()
        self.now += 10
        good = self.sealed(9)
        for shown in (self.sealed(9, by=BOB), b"", b"x", good[:-1], starts.record()):
            self.assertFalse(starts.shown(shown))
        self.assertEqual((self.lines, starts.own.count), ([], 1))


class Saying(StartsCase):
    def test_a_record_is_of_a_moment_ago(self) -> None:
        starts = self.starts()
        for _ in range(3):
            self.now += FRESH_S * 0.9
            self.assertLess(self.now - StartRecord.open(starts.record()).at, FRESH_S)
        first = starts.record()
        self.assertIs(starts.record(), first)
        self.now -= 1000
        self.assertEqual(StartRecord.open(starts.record()).at, self.now)

    def test_text_and_bytes_are_the_same(self) -> None:
        starts, other = self.starts(), Starts(BOB, StartCount(self.folder), LOW, wall=lambda: self.now, twin=self.fail)
        for said in (starts.text(), starts.record()):
            other.received(ALICE.peer_id, said)
            self.assertEqual(other.other_of(ALICE.peer_id, None), starts.record())


class Heard(StartsCase):
    def setUp(self) -> None:
        super().setUp()
        self.starts_ = self.starts()
        self.shown: list[PeerId] = []
        self.starts_.watch(self.shown.append)

    def test_two_instances_of_a_peer_are_shown_to_it(self) -> None:
        one, two = self.sealed(1, LOW, self.now - 1, by=BOB), self.sealed(2, HIGH, by=BOB)
        self.starts_.received(BOB.peer_id, one)
        self.assertEqual(self.shown, [])
        self.starts_.received(BOB.peer_id, two)
        self.assertEqual(self.shown, [BOB.peer_id])
        self.assertEqual(self.starts_.other_of(BOB.peer_id, one), two)
        self.assertEqual(self.starts_.other_of(BOB.peer_id, two), one)
        self.assertEqual(self.starts_.other_of(BOB.peer_id, None), two)
        self.assertEqual(self.starts_.other_of(BOB.peer_id, b"nonsense"), two)

    def test_a_peer_that_started_anew_is_left_alone(self) -> None:
        self.starts_.received(BOB.peer_id, self.sealed(1, LOW, by=BOB))
        for _ in range(5):
            self.now += LIVE_S + 1
            self.starts_.received(BOB.peer_id, self.sealed(2, HIGH, by=BOB))
        self.assertEqual(self.shown, [])

    def test_nobody_speaks_for_another(self) -> None:
        for said in (self.sealed(1, by=ALICE), self.sealed(1, by=Identity.from_seed(bytes([3] * 32)))):
            self.starts_.received(BOB.peer_id, said)
        self.assertIsNone(self.starts_.other_of(BOB.peer_id, None))
        self.starts_.received(ALICE.peer_id, self.sealed(9))
        self.assertIsNone(self.starts_.other_of(ALICE.peer_id, None))

    def test_nonsense_is_passed_over(self) -> None:
        for said in (b"", "", "ä", "====", "a", b"\xff" * 100, "A" * 342):
            self.starts_.received(BOB.peer_id, said)
        self.assertEqual(self.shown, [])
