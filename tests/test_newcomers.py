from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.newcomers import Newcomers
from tests.support import PureTestCase

ONE, TWO = ("one", 2), ("two", 3)


class NewcomersTest(PureTestCase):
    def pool(self, most: int, *members: str) -> Newcomers[str]:
        pool: Newcomers[str] = Newcomers(most)
        for member in members:
            pool.add(member)
        return pool

    def test_nobody_is_in_the_way_while_there_is_room(self) -> None:
        self.assertIsNone(self.pool(3, "a", "b").in_the_way())
        self.assertEqual(self.pool(3, "a", "b", "c").in_the_way(), "a")

    def test_progress_goes_to_the_end_of_the_line(self) -> None:
        pool = self.pool(3, "a", "b", "c")
        pool.progressed("a")
        pool.progressed("b")
        self.assertEqual(pool.in_the_way(), "c")

    def test_who_left_does_not_come_back_by_progress(self) -> None:
        pool = self.pool(2, "a", "b")
        pool.remove("a")
        pool.remove("a")
        pool.progressed("a")
        self.assertEqual((len(pool), "a" in pool, "b" in pool), (1, False, True))

    def test_a_full_group_gives_way_to_its_own(self) -> None:
        pool = self.pool(10, "x")
        for member in ("a", "b"):
            pool.add(member, [ONE])
        self.assertEqual(pool.in_the_way([ONE]), "a")
        self.assertIsNone(pool.in_the_way([TWO]))
        self.assertIsNone(pool.in_the_way())
        pool.remove("a")
        self.assertIsNone(pool.in_the_way([ONE]))

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from([(), (ONE,), (ONE, TWO)]))))
    def test_never_more_than_fit(self, steps: list[tuple[int, int, tuple[tuple[str, int], ...]]]) -> None:
        pool: Newcomers[int] = Newcomers(4)
        groups: dict[int, set[str]] = {}
        for step, (what, number, wanted) in enumerate(steps):
            if what == 0:
                while (evicted := pool.in_the_way(wanted)) is not None:
                    pool.remove(evicted)
                    del groups[evicted]
                pool.add(step, wanted)
                groups[step] = {name for name, _ in wanted}
            elif groups:
                member = sorted(groups)[number % len(groups)]
                if what == 1:
                    pool.progressed(member)
                else:
                    pool.remove(member)
                    del groups[member]
            self.assertEqual(len(pool), len(groups))
            self.assertLessEqual(len(pool), 4)
            for name, most in (ONE, TWO):
                self.assertLessEqual(sum(name in names for names in groups.values()), most)
        for member in groups:
            pool.remove(member)
        self.assertEqual((len(pool), len(pool._by_group)), (0, 0))
