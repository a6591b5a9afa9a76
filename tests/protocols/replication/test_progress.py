"""One follower in the eyes of its admin."""

from __future__ import annotations

import attrs

from chorus.protocols.replication.limits import JournalLimits
from chorus.protocols.replication.progress import FollowerProgress, Mode
from tests.support import PureTestCase

LIMITS = JournalLimits(window=3, window_bytes=100)


def follower(following: int = 11) -> FollowerProgress:
    return FollowerProgress(LIMITS, following, 0.0)


def streaming(match: int = 10) -> FollowerProgress:
    found = follower(match + 1)
    found.agreed(match, 0.0)
    return found


class Window(PureTestCase):
    def test_one_probe_at_a_time(self) -> None:
        probed = follower()
        self.assertTrue(probed.open)
        probed.sent(12, 10, 0, 0.0)
        self.assertEqual((probed.open, probed.next), (False, 11))

    def test_messages_ahead_of_their_answers(self) -> None:
        ahead = streaming()
        for last in (11, 12, 13):
            self.assertTrue(ahead.open)
            ahead.sent(last, 10, 0, 0.0)
        self.assertEqual((ahead.open, ahead.next), (False, 14))
        self.assertTrue(ahead.agreed(12, 1.0))
        self.assertEqual((ahead.open, ahead.match, ahead.idle), (True, 12, False))
        self.assertFalse(ahead.agreed(12, 1.0))

    def test_bytes(self) -> None:
        ahead = streaming()
        ahead.sent(11, 100, 0, 0.0)
        self.assertFalse(ahead.open)
        ahead.agreed(11, 0.0)
        self.assertTrue(ahead.open)


class Answers(PureTestCase):
    def test_a_gap_sends_again_from_where_its_log_ends(self) -> None:
        lost = streaming()
        for last in (20, 30, 40):
            lost.sent(last, 1, 0, 0.0)
        self.assertTrue(lost.disagreed(10, 1.0))
        self.assertEqual((lost.mode, lost.next, lost.idle), (Mode.PROBING, 11, True))
        lost.sent(20, 1, 0, 1.0)
        self.assertFalse(lost.disagreed(10, 1.0), "the answer to the third one")
        lost.agreed(20, 2.0)
        self.assertEqual((lost.mode, lost.next), (Mode.STREAMING, 21))
        self.assertFalse(lost.disagreed(10, 2.0), "an old one")

    def test_an_old_yes_is_true_all_the_same(self) -> None:
        probed = streaming()
        probed.sent(20, 1, 0, 0.0)
        probed.silent(1.0)
        probed.sent(20, 1, 0, 1.0)
        self.assertTrue(probed.agreed(15, 1.1))
        self.assertEqual((probed.mode, probed.match, probed.next), (Mode.STREAMING, 15, 16))

    def test_the_next_one_never_rises_by_a_no(self) -> None:
        probed = follower()
        probed.sent(11, 1, 0, 0.0)
        self.assertFalse(probed.disagreed(10, 0.0))
        self.assertTrue(probed.disagreed(4, 0.0))
        self.assertEqual(probed.next, 5)


class Silence(PureTestCase):
    def test_it_backs_off(self) -> None:
        silent, times = follower(), []
        now = 0.0
        for _ in range(6):
            silent.sent(11, 0, 0, now)
            times.append(round(silent.due - now, 3))
            now = silent.due
            silent.silent(now)
        self.assertEqual(times, [0.3, 0.6, 1.2, 2.0, 2.0, 2.0])
        silent.agreed(11, now)
        silent.sent(12, 0, 0, now)
        self.assertAlmostEqual(silent.due - now, 0.3)

    def test_large_messages_have_longer(self) -> None:
        slow = follower()
        slow.sent(11, LIMITS.slowest, 0, 0.0)
        self.assertAlmostEqual(slow.due, 1.3)

    def test_all_of_a_window_is_sent_again(self) -> None:
        lost = streaming()
        lost.sent(11, 1, 0, 0.0)
        lost.sent(12, 1, 0, 0.0)
        lost.silent(1.0)
        self.assertEqual((lost.mode, lost.next, lost.idle), (Mode.PROBING, 11, True))

    def test_signs_of_life(self) -> None:
        idle = streaming()
        self.assertEqual(idle.due, LIMITS.idle_s)
        self.assertTrue(idle.untold(10))
        idle.sent(10, 0, 10, 5.0)
        self.assertFalse(idle.untold(11), "something is on its way")
        idle.agreed(10, 5.0)
        self.assertEqual((idle.untold(10), idle.untold(11)), (False, True))

    def test_a_snapshot_is_waited_for(self) -> None:
        waiting = follower()
        waiting.wait_for_snapshot(1.0)
        self.assertEqual((waiting.mode, waiting.due), (Mode.SNAPSHOT, 3.0))
        waiting.sent(10, 0, 0, 3.0)
        waiting.silent(4.0)
        self.assertIs(waiting.mode, Mode.SNAPSHOT)
        waiting.agreed(10, 5.0)
        self.assertIs(waiting.mode, Mode.STREAMING)


class Values(PureTestCase):
    def test_the_numbers(self) -> None:
        values = attrs.asdict(JournalLimits(), recurse=True)
        self.assertEqual(
            values,
            {
                "window": 16,
                "window_bytes": 1_048_576,
                "resend": {"first": 0.3, "most": 2.0, "low": 1.0, "high": 1.0},
                "slowest": 262_144,
                "tell_s": 0.005,
                "idle_s": 2.0,
                "snapshot_s": 10.0,
                "kept": 1024,
                "kept_bytes": 4_194_304,
            },
        )
