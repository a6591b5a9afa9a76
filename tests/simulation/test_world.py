from __future__ import annotations

from chorus.simulation.trace import Trace
from chorus.simulation.world import SECOND, World, nanoseconds
from tests.support import PureTestCase


class Time(PureTestCase):
    def test_events_happen_in_the_order_of_time_then_of_asking(self) -> None:
        world, seen = World(1), list[str]()
        world.at(20, lambda: seen.append("late"))
        world.at(10, lambda: seen.append("first"))
        world.at(10, lambda: seen.append("second"))
        self.assertTrue(world.run_until(15))
        self.assertEqual((seen, world.now_ns, world.pending), (["first", "second"], 15, 1))
        world.run_until(20)
        self.assertEqual((seen[-1], world.events), ("late", 3))

    def test_an_event_sees_its_own_time_and_the_past_is_now(self) -> None:
        world, seen = World(1), list[int]()
        world.at(7, lambda: world.at(3, lambda: seen.append(world.now_ns)))
        world.run_until(100)
        self.assertEqual(seen, [7])

    def test_a_bound_on_events_leaves_time_where_it_is(self) -> None:
        world = World(1)

        def again() -> None:
            world.after(1, again)

        again()
        self.assertFalse(world.run_until(1000, max_events=10))
        self.assertEqual((world.events, world.now_ns), (10, 10))

    def test_an_exception_is_the_callers_and_the_event_is_gone(self) -> None:
        world = World(1)
        world.at(1, lambda: 1 / 0)
        world.at(2, lambda: None)
        self.assertRaises(ZeroDivisionError, world.run_until, 5)
        self.assertTrue(world.run_until(5))
        self.assertEqual(world.events, 2)

    def test_a_watcher_is_called_every_so_many_events_and_at_the_end(self) -> None:
        world, seen = World(1), list[int]()
        world.watch(lambda: seen.append(world.events), every=2)
        for ns in range(5):
            world.at(ns, lambda: None)
        world.run_until(9)
        self.assertEqual(seen, [2, 4, 5])

    def test_seconds(self) -> None:
        world = World(1)
        world.run_for(1.5)
        self.assertEqual((world.now_ns, world.now, nanoseconds(0.1)), (3 * SECOND // 2, 1.5, 100_000_000))


class Chance(PureTestCase):
    def test_streams_depend_on_seed_and_name_alone(self) -> None:
        world = World(5)
        first = world.rng("link", 1, 2).random()
        world.rng("other").random()
        self.assertEqual(World(5).rng("link", 1, 2).random(), first)
        self.assertEqual(len({first, World(6).rng("link", 1, 2).random(), world.rng("link", 12).random()}), 3)

    def order(self, seed: int) -> list[tuple[int, int]]:
        world, seen = World(seed, shuffle_ties=True), list[tuple[int, int]]()
        for number in range(3):
            for lane in range(8):
                world.at(50, lambda lane=lane, number=number: seen.append((lane, number)), lane)
        world.run_until(50)
        return seen

    def test_shuffled_ties_mix_lanes_and_keep_the_order_of_each(self) -> None:
        orders = [self.order(seed) for seed in range(5)]
        self.assertEqual(orders[0], self.order(0))
        self.assertGreater(len({tuple(lane for lane, _ in order) for order in orders}), 3)
        for order in orders:
            for lane in range(8):
                self.assertEqual([number for which, number in order if which == lane], [0, 1, 2])


class Hash(PureTestCase):
    def test_every_part_of_an_entry_counts(self) -> None:
        entries = [(1, 0, "in", b"a"), (2, 0, "in", b"a"), (1, 1, "in", b"a"), (1, 0, "out", b"a"), (1, 0, "in", b"b")]
        digests = set()
        for entry in entries:
            trace = Trace()
            trace.record(*entry)
            digests.add(trace.hexdigest())
        self.assertEqual(len(digests), len(entries))

    def test_the_last_entries_can_be_read(self) -> None:
        trace = Trace(keep=2)
        for ns in range(3):
            trace.record(ns * SECOND, 4, "in", b"abc")
        self.assertEqual(([entry.ns for entry in trace.last], trace.entries), ([SECOND, 2 * SECOND], 3))
        self.assertIn("node 4", str(trace.last[0]))
