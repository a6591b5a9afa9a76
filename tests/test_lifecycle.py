from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail

from chorus.errors import UserError
from chorus.lifecycle import Sequence, Step, StepFailed
from tests.support import PureTestCase


class SequenceTests(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.sequence = Sequence(self.time)
        self.seen: list[str] = []

    def step(self, name: str, **kw: object) -> Step:
        return Step(name, start=lambda: self.seen.append(f"+{name}"), stop=lambda: self.seen.append(f"-{name}"), **kw)  # type: ignore[arg-type]

    def start(self, step: Step) -> bool:
        return self.successResultOf(ensureDeferred(self.sequence.start(step)))

    def test_stops_in_reverse(self) -> None:
        for name in "abc":
            self.assertTrue(self.start(self.step(name)))
        self.successResultOf(ensureDeferred(self.sequence.stop(30)))
        self.assertEqual(self.seen, ["+a", "+b", "+c", "-c", "-b", "-a"])

    def test_fatal_step_keeps_its_own_error(self) -> None:
        broken = Step("port", start=lambda: fail(UserError("port 9000 is in use")))
        self.failureResultOf(ensureDeferred(self.sequence.start(broken)), UserError)

    def test_unexpected_error_names_the_step(self) -> None:
        broken = Step("store", start=lambda: fail(OSError("no space")))
        failure = self.failureResultOf(ensureDeferred(self.sequence.start(broken)), StepFailed)
        self.assertEqual(str(failure.value), "store failed to start: no space")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_other_steps_survive(self) -> None:
        broken = Step("mDNS", start=lambda: fail(OSError("no multicast")), fatal=False)
        self.assertFalse(self.start(broken))

    def test_a_start_that_hangs_is_given_up(self) -> None:
        hung = ensureDeferred(self.sequence.start(Step("hung", start=Deferred, limit_s=3)))
        self.assertNoResult(hung)
        self.time.advance(3)
        self.failureResultOf(hung, StepFailed)
        self.flushLoggedErrors()

    def test_a_start_that_is_given_up_is_no_failure(self) -> None:
        """Whether or not the node could do without the step: nothing goes on after a cancellation."""
        for fatal in (True, False):
            starting = Deferred.fromCoroutine(self.sequence.start(Step("slow", start=Deferred, fatal=fatal)))
            starting.cancel()
            self.failureResultOf(starting, CancelledError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_stop_that_hangs_does_not_hold_the_rest(self) -> None:
        self.start(self.step("first"))
        self.start(Step("hung", stop=Deferred, limit_s=5))
        self.start(Step("broken", stop=lambda: fail(OSError("gone"))))
        done = ensureDeferred(self.sequence.stop(30))
        self.assertNoResult(done)
        self.time.advance(5)
        self.successResultOf(done)
        self.assertEqual(self.seen[-1], "-first")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_the_budget_bounds_all_steps_together(self) -> None:
        for name in "abcd":
            self.start(Step(name, stop=Deferred, limit_s=20))
        done = ensureDeferred(self.sequence.stop(30))
        self.time.pump([20, 10, 0.5, 0.5])
        self.successResultOf(done)
