"""Tasks on their way into the backlog: not read yet, or to be looked at again after the journal's back-off."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container
from itertools import islice
from typing import TYPE_CHECKING

from chorus.tasks.state import State, TaskState

if TYPE_CHECKING:
    from chorus.tasks.machine import TaskMachine

STEPS_A_TURN = 1000
READING_STEPS = 20
READ_CHARACTERS_A_STEP = 64
"""The share of one turn of the reactor that reading takes: each specification counts for 20 of 1,000 steps, and for one
more for so many characters of its description, in which the language is looked for. A few milliseconds in all."""


def waits(task: TaskState) -> bool:
    """True if the task needs an agent now, or will when its back-off ends."""
    return task.state is State.SUBMITTED and not task.waiting_for


class Arrivals:
    """`read` puts a task into the backlog; it is not called for one that is `placing`, whose last round is still
    ending."""

    def __init__(self, wall: Callable[[], float], placing: Container[str], read: Callable[[TaskState], None]) -> None:
        self._wall = wall
        self._placing = placing
        self._read = read
        self._ready: dict[str, None] = {}
        self._delayed: list[tuple[float, str]] = []

    def add(self, task_id: str) -> None:
        self._ready[task_id] = None

    def discard(self, task_id: str) -> None:
        self._ready.pop(task_id, None)

    def next(self, now: float) -> float | None:
        """When there is something to take in, on the caller's clock."""
        if any(task_id not in self._placing for task_id in self._ready):
            return now
        return self._delayed[0][0] if self._delayed else None

    def take_in(self, now: float, machine: TaskMachine) -> None:
        """One turn's worth."""
        while self._delayed and self._delayed[0][0] <= now:
            self.add(heapq.heappop(self._delayed)[1])
        wall, steps = self._wall(), STEPS_A_TURN
        for task_id in list(islice(self._ready, STEPS_A_TURN // READING_STEPS)):
            if task_id in self._placing:
                continue
            if steps <= 0:
                return
            del self._ready[task_id]
            task = machine.find(task_id)
            if task is None or not waits(task):
                continue
            if task.not_before > wall:
                heapq.heappush(self._delayed, (now + task.not_before - wall, task_id))
                continue
            steps -= READING_STEPS + len(str(task.spec.get("description", ""))) // READ_CHARACTERS_A_STEP
            self._read(task)
