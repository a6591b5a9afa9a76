"""Ends of faults that last: each comes after its time, or when everything is healed, and only once."""

from __future__ import annotations

from collections.abc import Callable

from chorus.simulation.world import World


class Undoing:
    """Faults under way in one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._undo: dict[int, Callable[[], None]] = {}
        self._faults = 0

    def later(self, delay_ns: int, undo: Callable[[], None]) -> None:
        """Call `undo` after that long, or at `all` if that comes first."""
        self._faults += 1
        number = self._faults
        self._undo[number] = undo

        def over() -> None:
            if number in self._undo:
                self._undo.pop(number)()

        self._world.after(delay_ns, over)

    def all(self) -> None:
        undo, self._undo = self._undo, {}
        for call in undo.values():
            call()
