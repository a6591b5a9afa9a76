from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.simulation.ledger.linearizability import MAX_CONCURRENT, UNKNOWN, Operation, Undecided, linearizable, width
from chorus.simulation.ledger.spec import (
    NOTHING,
    AssignCall,
    CompleteCall,
    ReadCall,
    ReleaseCall,
    SubmitCall,
    Task,
    step,
)
from chorus.tasks.journal import Fence
from tests.support import PureTestCase


def register(value: Any, call: Any, answer: Any) -> Iterator[Any]:
    """("write", x) → None, ("read",) → the value, ("swap", old, new) → whether it was the old one."""
    if call[0] == "write":
        yield call[1]
    elif call[0] == "read":
        if answer in (UNKNOWN, value):
            yield value
    elif answer in (UNKNOWN, value == call[1]):
        yield call[2] if value == call[1] else value


def write(value: int, invoked: int, returned: int | None) -> Operation:
    return Operation(("write", value), UNKNOWN if returned is None else None, invoked, returned)


def read(value: int, invoked: int, returned: int) -> Operation:
    return Operation(("read",), value, invoked, returned)


def brute_force(history: Sequence[Operation], initial: Any) -> bool:
    """Every order of every choice of the unknown ones."""
    known = [operation for operation in history if operation.returned is not None]
    unknown = [operation for operation in history if operation.returned is None]
    for chosen in range(1 << len(unknown)):
        some = known + [operation for place, operation in enumerate(unknown) if chosen >> place & 1]
        if any(_in_time(order) and _legal(order, initial) for order in permutations(some)):
            return True
    return False


def _in_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.returned is not None and later.returned < earlier.invoked
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )


def _legal(order: Sequence[Operation], initial: Any) -> bool:
    value = initial
    for operation in order:
        after = list(register(value, operation.call, operation.answer))
        if not after:
            return False
        (value,) = after
    return True


class Registers(PureTestCase):
    def assertHolds(self, *history: Operation) -> None:
        self.assertTrue(linearizable(history, 0, register))
        self.assertTrue(brute_force(history, 0))

    def assertBroken(self, *history: Operation) -> None:
        self.assertFalse(linearizable(history, 0, register))
        self.assertFalse(brute_force(history, 0))

    def test_one_after_the_other(self) -> None:
        self.assertHolds()
        self.assertHolds(write(1, 1, 2), read(1, 3, 4))
        self.assertBroken(write(1, 1, 2), read(0, 3, 4))
        self.assertBroken(read(1, 1, 2), write(1, 3, 4))

    def test_what_overlaps_may_have_either_order(self) -> None:
        self.assertHolds(write(1, 1, 4), read(0, 2, 3))
        self.assertHolds(write(1, 1, 4), read(1, 2, 3))
        self.assertHolds(write(1, 1, 10), write(2, 2, 9), read(1, 11, 12))
        self.assertBroken(write(1, 1, 10), write(2, 2, 9), read(1, 11, 12), read(2, 13, 14))

    def test_a_value_that_was_seen_does_not_go_back(self) -> None:
        self.assertBroken(write(1, 1, 10), read(1, 2, 3), read(0, 4, 5))
        self.assertHolds(write(1, 1, 10), read(0, 2, 3), read(1, 4, 5))

    def test_what_is_unknown_may_have_happened_late_or_not_at_all(self) -> None:
        self.assertHolds(write(1, 1, None), read(0, 2, 3))
        self.assertHolds(write(1, 1, None), read(0, 2, 3), read(1, 4, 5))
        self.assertBroken(write(1, 1, None), read(1, 2, 3), read(0, 4, 5))
        self.assertBroken(write(1, 4, None), read(1, 2, 3))

    def test_a_swap_that_two_won(self) -> None:
        swaps = [Operation(("swap", 0, value), True, 1, 9) for value in (1, 2)]
        self.assertBroken(*swaps)
        self.assertHolds(swaps[0], Operation(("swap", 0, 2), False, 2, 8))

    def test_too_wide_a_history_is_not_searched(self) -> None:
        wide = [write(value, value, 100) for value in range(1, MAX_CONCURRENT + 2)]
        self.assertEqual(width(wide), MAX_CONCURRENT + 1)
        self.assertRaises(Undecided, linearizable, wide, 0, register)
        impossible = [*wide[:20], read(-1, 21, 100)]
        self.assertRaises(Undecided, linearizable, impossible, 0, register, max_visits=1000)

    def test_a_long_history_is_searched_fast(self) -> None:
        """Four at a time, a thousand of them: the memo keeps it linear."""
        history = [write(number, 2 * number, 2 * number + 7) for number in range(1000)]
        self.assertTrue(linearizable([*history, read(999, 3000, 3001)], 0, register))
        self.assertFalse(linearizable([*history, read(990, 3000, 3001)], 0, register))


@st.composite
def histories(draw: Any) -> list[Operation]:
    count = draw(st.integers(0, 5))
    moments = draw(st.permutations(range(2 * count)))
    made = []
    for place in range(count):
        invoked, returned = sorted(moments[2 * place : 2 * place + 2])
        value = st.integers(0, 2)
        call, answer = draw(
            st.one_of(
                st.tuples(st.tuples(st.just("write"), value), st.none()),
                st.tuples(st.tuples(st.just("read")), value),
                st.tuples(st.tuples(st.just("swap"), value, value), st.booleans()),
            )
        )
        open_ended = draw(st.integers(0, 3)) == 0
        made.append(Operation(call, UNKNOWN if open_ended else answer, invoked, None if open_ended else returned))
    return made


class AgainstBruteForce(PureTestCase):
    @settings(max_examples=150, deadline=None)
    @given(histories())
    def test_they_agree(self, history: list[Operation]) -> None:
        self.assertEqual(linearizable(history, 0, register), brute_force(history, 0))


class Tasks(PureTestCase):
    """The object that ledgers' histories are checked against."""

    one, two = Fence(0, 1, 5), Fence(0, 2, 9)

    def holds(self, *calls: tuple[Any, Any]) -> bool:
        """One after the other; what is `UNKNOWN` never returned."""
        history = [
            Operation(call, answer, 2 * place, None if answer is UNKNOWN else 2 * place + 1)
            for place, (call, answer) in enumerate(calls)
        ]
        return linearizable(history, NOTHING, step)

    def test_a_life(self) -> None:
        self.assertTrue(
            self.holds(
                (ReadCall(), NOTHING),
                (SubmitCall("a"), "a"),
                (SubmitCall("b"), "a"),
                (AssignCall("a", 2), None),
                (AssignCall("a", 1), self.one),
                (ReadCall(), Task("a", "assigned", 1, self.one)),
                (AssignCall("a", 2), None),
                (ReleaseCall("a", self.one), True),
                (ReleaseCall("a", self.one), False),
                (AssignCall("a", 2), self.two),
                (CompleteCall("a", self.one, 1), False),
                (CompleteCall("a", self.two, 2), True),
                (CompleteCall("a", self.two, 3), False),
                (ReadCall(), Task("a", "completed", 2, None, 2)),
            )
        )

    def test_what_cannot_be(self) -> None:
        submitted, given = (SubmitCall("a"), "a"), (AssignCall("a", 1), self.one)
        for wrong in (
            [submitted, (SubmitCall("b"), "b")],
            [submitted, (ReadCall(), NOTHING)],
            [submitted, (AssignCall("a", 1), None)],
            [submitted, given, (AssignCall("a", 2), self.two)],
            [submitted, given, (CompleteCall("a", self.two, 1), True)],
            [submitted, given, (CompleteCall("a", self.one, 1), False)],
            [submitted, given, (CompleteCall("a", self.one, 1), True), (CompleteCall("a", self.one, 2), True)],
            [submitted, given, (ReadCall(), Task("a", "assigned", 1, self.two))],
            [submitted, given, (ReadCall(), Task("a", "submitted"))],
        ):
            self.assertFalse(self.holds(*wrong), wrong)

    def test_what_nobody_heard(self) -> None:
        submitted, asked = (SubmitCall("a"), "a"), (AssignCall("a", 1), UNKNOWN)
        seen = (ReadCall(), Task("a", "assigned", 1, self.one))
        self.assertTrue(self.holds(submitted, asked, (ReadCall(), Task("a", "submitted")), seen))
        self.assertTrue(self.holds(submitted, asked, (AssignCall("a", 1), self.two)))
        self.assertTrue(self.holds(submitted, asked, (ReleaseCall("a", self.one), False)))
        self.assertTrue(self.holds(submitted, asked, seen, (ReleaseCall("a", self.one), True)))
        self.assertFalse(self.holds(submitted, asked, seen, (ReadCall(), Task("a", "submitted"))))
        self.assertFalse(self.holds(submitted, asked, seen, (ReadCall(), Task("a", "assigned", 1, self.two))))
        self.assertFalse(self.holds(submitted, asked, seen, (ReleaseCall("a", self.two), True)))
        self.assertTrue(self.holds((SubmitCall("b"), UNKNOWN), (SubmitCall("a"), "b")))
