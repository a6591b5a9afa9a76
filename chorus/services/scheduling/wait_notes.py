"""Notes to watchers on why a task waits: one for each task, and again for a group's first when the reason changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.tasks.groups import DemandGroup, Standing

if TYPE_CHECKING:
    from collections.abc import Callable

NOTES_A_TURN = 64
"""Notes in one turn of the reactor."""
NOTE_S = 30.0
"""Between two events that say why the tasks of one group wait; their documents are always up to date."""
MAX_NOTED = 16
"""Tasks of one group that get such an event when the reason changes: a member that flaps cannot fill the histories of
thousands."""


class WaitNotes:
    """`say(task_id, detail)` writes one. It is called by `some` alone, for at most `NOTES_A_TURN` tasks a call."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._groups: dict[DemandGroup, None] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def parked(self, group: DemandGroup, now: float) -> None:
        """The group is parked, or has got another task since."""
        if group.standing is Standing.OPEN or not group.size:
            return
        if group.noted is None or (group.noted != group.detail and now - group.noted_at >= NOTE_S):
            if group.noted is not None:
                group.unnoted += [each for each in group.first(MAX_NOTED) if each not in group.unnoted]
            group.noted, group.noted_at = group.detail, now
        if group.unnoted:
            self._groups[group] = None

    def some(self, waits: Callable[[str, DemandGroup], bool]) -> None:
        """Write some of the notes that are due; `waits` says whether a task still waits in a group."""
        for _ in range(NOTES_A_TURN):
            group = self._next()
            if group is None:
                return
            task_id = group.unnoted.pop(0)
            if waits(task_id, group):
                self._say(task_id, group.detail or "")

    def _next(self) -> DemandGroup | None:
        while self._groups:
            group = next(iter(self._groups))
            if group.standing is not Standing.OPEN and group.unnoted:
                return group
            del self._groups[group]
        return None
