"""`chorus.services.pubsub.turns`: one piece of work a reactor turn."""

from __future__ import annotations

from chorus.services.pubsub.turns import TurnQueue
from tests.support import PureTestCase


class Queue(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.turns = TurnQueue(self.time)
        self.done: list[str] = []

    def piece(self, name: str, again: int = 0) -> None:
        """Add work of `again` more turns than one."""

        def turn() -> None:
            nonlocal again
            self.done.append(name)
            if again:
                again -= 1
                self.turns.add(turn)

        self.turns.add(turn)

    def test_one_a_turn_in_the_order_of_coming(self) -> None:
        self.piece("a", 2)
        self.piece("b")
        self.piece("c", 1)
        self.mark(6)
        self.time.advance(0)
        self.assertEqual("".join(self.done), "a|b|c|a|c|a|")
        self.assertEqual(self.time.getDelayedCalls(), [])

    def mark(self, turns: int) -> None:
        """Note the end of each of the next reactor turns."""
        self.time.callLater(0, self.done.append, "|")
        if turns > 1:
            self.time.callLater(0, self.mark, turns - 1)

    def test_once_however_often_it_is_added(self) -> None:
        for _ in range(3):
            self.turns.add(self._call)
        self.time.advance(0)
        self.time.advance(0)
        self.assertEqual(self.done, ["called"])

    def _call(self) -> None:
        self.done.append("called")

    def test_removed(self) -> None:
        self.piece("a")
        self.turns.add(self._call)
        self.turns.remove(self._call)
        self.turns.remove(self._call)
        self.time.advance(0)
        self.assertEqual(self.done, ["a"])
        self.turns.add(self._call)
        self.turns.remove(self._call)
        self.assertEqual(self.time.getDelayedCalls(), [])

    def test_one_that_fails_does_not_stop_the_others(self) -> None:
        self.turns.add(lambda: self.done.remove("nothing"))
        self.piece("b")
        self.assertRaises(ValueError, self.time.advance, 0)
        self.time.advance(0)
        self.assertEqual(self.done, ["b"])
