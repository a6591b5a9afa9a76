"""Turns of long work: one piece in each reactor turn, so that sockets are served in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

Turn = Callable[[], None]


class TurnQueue:
    """Calls what waits in the order in which it came, one a reactor turn: between two of them sockets are served.

    A timer for each would not do: all that are due run in the same reactor turn, and what a dozen peers hold adds up.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._waiting: dict[Turn, None] = {}
        self._timer = Timer(clock, self._next)

    def add(self, turn: Turn) -> None:
        """Call `turn` once, after those that wait already; it stands in the queue once, however often it is added."""
        self._waiting.setdefault(turn)
        self._arm()

    def remove(self, turn: Turn) -> None:
        """Forget it; no error if it does not wait."""
        self._waiting.pop(turn, None)
        if not self._waiting:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._waiting and not self._timer.armed:
            self._timer.arm(0)

    def _next(self) -> None:
        turn = next(iter(self._waiting))
        del self._waiting[turn]
        # First, so that a turn that fails does not stop the others.
        self._arm()
        turn()
