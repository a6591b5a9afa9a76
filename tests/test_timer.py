"""`chorus.timer`."""

from __future__ import annotations

from chorus.timer import Periodic, Timer
from tests.support import PureTestCase


class Timers(PureTestCase):
    def test_armed_anew_it_is_due_once(self) -> None:
        time, due = self.clock(), list[float]()
        timer = Timer(time, lambda: due.append(time.seconds()))
        self.assertIsNone(timer.at)
        timer.arm(5)
        timer.arm(2)
        self.assertEqual(timer.at, time.seconds() + 2)
        time.advance(10)
        self.assertEqual((len(due), timer.armed, timer.at), (1, False, None))

    def test_a_body_that_fails_runs_again(self) -> None:
        time = self.clock()
        loop = Periodic(time, "the body", lambda: 1 // 0, lambda: 1.0)
        loop.start()
        time.pump([0.5] * 7)
        loop.stop()
        self.assertEqual((loop.errors, len(self.flushLoggedErrors(ZeroDivisionError))), (3, 3))

    def test_run_is_now_and_from_here_on(self) -> None:
        time, ran = self.clock(), list[float]()
        begun = time.seconds()
        loop = Periodic(time, "the body", lambda: ran.append(time.seconds() - begun), lambda: 2.0)
        loop.start(first=1.5)
        time.advance(1)
        loop.run()
        time.pump([0.5] * 8)
        loop.stop()
        self.assertEqual(ran, [1.0, 3.0, 5.0])

    def test_a_time_that_the_body_sets_stays(self) -> None:
        time, ran = self.clock(), list[float]()
        begun = time.seconds()

        def body() -> None:
            ran.append(time.seconds() - begun)
            if len(ran) == 1:
                loop.start(0.5)

        loop = Periodic(time, "the body", body, lambda: 30.0)
        loop.start(first=1.0)
        time.pump([0.5] * 70)
        loop.stop()
        self.assertEqual(ran, [1.0, 1.5, 31.5])

    def test_a_body_that_stops_it_has_the_last_word(self) -> None:
        def body() -> None:
            loop.stop()

        loop = Periodic(self.clock(), "the body", body, lambda: 1.0)
        loop.run()
        self.assertFalse(loop.timer.armed)
