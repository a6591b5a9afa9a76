from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTCP, IReactorTime, IReactorUDP
from twisted.internet.task import LoopingCall
from zope.interface.verify import verifyObject

from chorus.simulation.clock import EPOCH_NS, NodeClock
from chorus.simulation.net.reactor import THREAD_MAX, SimReactor
from chorus.simulation.world import SECOND, World
from tests.support import PureTestCase


class Clocks(PureTestCase):
    @given(
        st.integers(0, 10**12),
        st.integers(-500_000, 500_000),
        st.lists(st.tuples(st.integers(0, 10**11), st.integers(-500_000, 500_000)), max_size=4),
        st.integers(0, 10**12),
    )
    def test_the_time_to_wait_is_the_first_at_which_the_clock_shows_it(
        self, offset: int, drift: int, steps: list[tuple[int, int]], ahead: int
    ) -> None:
        world = World(1)
        clock = NodeClock(world, offset_ns=offset, drift=drift)
        for ns, rate in steps:
            before = clock.node_ns
            world.run_until(world.now_ns + ns)
            clock.set_drift(rate)
            self.assertGreaterEqual(clock.node_ns, before)
        target = clock.node_ns + ahead
        world.run_until(clock.true_ns(target))
        self.assertGreaterEqual(clock.node_ns, target)
        self.assertLessEqual(clock.node_ns, target + 1)

    def test_only_the_wall_clock_jumps(self) -> None:
        world = World(1)
        clock = NodeClock(world, offset_ns=5)
        clock.jump_wall(-3 * SECOND)
        self.assertEqual((clock.node_ns, clock.wall_ns()), (5, EPOCH_NS + 5 - 3 * SECOND))


class Timers(PureTestCase):
    def setUp(self) -> None:
        self.world = World(1)
        self.reactor = SimReactor(self.world)
        self.seen: list[object] = []

    def note(self, what: object = None) -> None:
        self.seen.append((what, round(self.reactor.seconds(), 5)))

    def test_it_is_a_reactor(self) -> None:
        self.assertTrue(IReactorTime.implementedBy(SimReactor))
        verifyObject(IReactorTime, self.reactor)
        verifyObject(IReactorTCP, self.reactor)
        verifyObject(IReactorUDP, self.reactor)
        verifyObject(IDelayedCall, self.reactor.callLater(1, self.note))

    def test_calls_come_in_their_order_each_at_its_time(self) -> None:
        self.reactor.callLater(2, self.note, "b")
        self.reactor.callLater(1, self.note, "a")
        self.reactor.callLater(2, self.note, what="c")
        self.world.run_for(3)
        self.assertEqual(self.seen, [("a", 1), ("b", 2), ("c", 2)])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_cancelled_call_does_not_come(self) -> None:
        call = self.reactor.callLater(1, self.note)
        call.cancel()
        self.assertFalse(call.active())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.world.run_for(2)
        self.assertEqual(self.seen, [])
        self.assertRaises(AlreadyCancelled, call.cancel)
        done = self.reactor.callLater(0, self.note)
        self.world.run_for(1)
        self.assertRaises(AlreadyCalled, done.reset, 1)

    def test_a_call_can_be_moved_both_ways_any_number_of_times(self) -> None:
        later = self.reactor.callLater(1, self.note, "later")
        later.reset(5)
        later.delay(1)
        sooner = self.reactor.callLater(9, self.note, "sooner")
        sooner.reset(4)
        sooner.reset(2)
        sooner.reset(3)
        self.assertEqual(sooner.getTime(), 3)
        self.world.run_for(10)
        self.assertEqual(self.seen, [("sooner", 3), ("later", 6)])

    def test_a_moved_call_leaves_few_places_behind(self) -> None:
        call = self.reactor.callLater(1, self.note)
        for _ in range(1000):
            call.reset(1)
        self.assertLess(self.world.pending, 5)
        self.world.run_for(2)
        self.assertEqual(len(self.seen), 1)

    def test_a_loop_without_delay_does_not_stop_time(self) -> None:
        def again() -> None:
            self.reactor.callLater(0, again)

        again()
        self.assertTrue(self.world.run_until(100_000))
        self.assertGreater(self.world.events, 50)

    def test_an_exception_is_logged_and_the_others_go_on(self) -> None:
        self.reactor.callLater(0, lambda: 1 / 0)
        self.reactor.callLater(1, self.note)
        self.world.run_for(2)
        self.assertEqual((len(self.flushLoggedErrors(ZeroDivisionError)), self.reactor.errors), (1, 1))
        self.assertEqual(len(self.seen), 1)

    def test_a_fast_clock_calls_early_in_true_time(self) -> None:
        reactor = SimReactor(self.world, NodeClock(self.world, drift=100_000_000))
        times = list[int]()
        reactor.callLater(11, lambda: times.append(self.world.now_ns))
        self.world.run_for(20)
        self.assertAlmostEqual(times[0] / SECOND, 10, places=5)

    def test_a_clock_that_slows_down_calls_no_earlier_than_it_shows(self) -> None:
        reactor = SimReactor(self.world, NodeClock(self.world))
        shown = list[float]()
        reactor.callLater(10, lambda: shown.append(reactor.seconds()))
        self.world.run_for(5)
        reactor.clock.set_drift(-500_000_000)
        self.world.run_for(20)
        self.assertAlmostEqual(shown[0], 10, places=5)

    def test_a_paused_node_is_late_with_everything_and_keeps_the_order(self) -> None:
        self.reactor.callLater(1, self.note, "a")
        self.reactor.callLater(2, self.note, "b")
        self.reactor.callLater(5, self.note, "c")
        self.world.run_for(0.5)
        self.reactor.pause(3 * SECOND)
        self.world.at(SECOND, lambda: self.reactor.enter(lambda: self.note("packet")))
        self.world.run_for(9)
        self.assertEqual([what for what, _ in self.seen], ["packet", "a", "b", "c"])
        self.assertEqual([at for _, at in self.seen][:3], [3.5, 3.5, 3.5])

    def test_a_killed_node_does_nothing(self) -> None:
        self.reactor.callLater(1, self.note)
        self.reactor.kill()
        self.reactor.enter(self.note)
        self.world.run_for(2)
        self.assertEqual(self.seen, [])

    def test_threads_are_calls_that_take_a_while(self) -> None:
        done = self.reactor.in_thread(lambda x: x + 1, 41)
        self.assertNoResult(done)
        self.world.run_until(THREAD_MAX + 1)
        self.assertEqual(self.successResultOf(done), 42)
        failed = self.reactor.in_thread(lambda: 1 / 0)
        self.world.run_for(1)
        self.failureResultOf(failed, ZeroDivisionError)

    def test_a_looping_call_keeps_its_rhythm(self) -> None:
        loop = LoopingCall(self.note, "tick")
        loop.clock = self.reactor
        loop.start(1, now=False)
        self.world.run_for(3.5)
        loop.stop()
        self.assertEqual([at for _, at in self.seen], [1, 2, 3])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
