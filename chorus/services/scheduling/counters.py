"""Counters of a scheduler's tasks, for the metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from chorus.observe.metrics import Histogram
from chorus.tasks.state import OWNED, State

if TYPE_CHECKING:
    from chorus.tasks.applied import Change
    from chorus.tasks.state import TaskState

DURATION_BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0)


@attrs.define
class TaskCounters:
    """Only ever grow."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    reassigned: int = 0
    """Tasks that went back to the queue: lease lost, handed back, tried again."""
    failed_by_reason: Counter[str] = attrs.field(factory=Counter)
    durations: Histogram = attrs.field(factory=lambda: Histogram(DURATION_BUCKETS))
    """Finished tasks by seconds from submission to end."""
    recovery_last: float = 0.0
    """Seconds from losing an agent to the start on the next one."""
    _lost_at: dict[str, float] = attrs.field(factory=dict, init=False)

    def changed(self, change: Change, now: float) -> None:
        """Count what became of a task; `now` on this node's boot clock."""
        before, task = change.before, change.after
        if task is None or not change.moved:
            return
        if task.terminal:
            self._lost_at.pop(task.id, None)
            self.durations.observe(max(0.0, task.updated_at - task.created_at))
            self._count_end(task)
        elif before is not None and before.state in OWNED and task.state is State.SUBMITTED:
            self.reassigned += 1
            self._lost_at[task.id] = now
        elif task.state is State.RUNNING and task.id in self._lost_at:
            self.recovered(now - self._lost_at.pop(task.id))

    def _count_end(self, task: TaskState) -> None:
        if task.state is State.COMPLETED:
            self.completed += 1
        elif task.state is State.FAILED:
            self.failed += 1
            self.failed_by_reason[task.reason or ""] += 1
        elif task.state is State.CANCELLED:
            self.cancelled += 1
        else:
            self.refused += 1

    def recovered(self, seconds: float) -> None:
        self.recovery_last = seconds
