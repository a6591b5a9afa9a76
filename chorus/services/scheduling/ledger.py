"""The scheduler's access to the journal: reads tasks, appends entries, subscribes to changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from chorus.tasks.applied import Applied, Audience, Change, Journal
    from chorus.tasks.journal import Entry
    from chorus.tasks.machine import TaskMachine


@attrs.frozen
class Ledger:
    """`machine` has the tasks as the journal has made them."""

    _journal: Journal
    machine: TaskMachine
    _log = Logger()

    async def append(self, entry: Entry) -> Applied:
        """Durable, applied and known to all subscribers when it returns. Raises `IllegalEntry`, or what the journal
        raises; after an `IllegalEntry` nothing has changed."""
        self.machine.check(entry)
        applied = await self._journal.append(entry)
        # Another entry may have come between the check and the commit; then this one changed nothing.
        if applied.refusal is not None:
            raise applied.refusal
        return applied

    def subscribe(self, audience: Audience, changed: Callable[[Change], None]) -> None:
        """Call `changed` with each change of a task. An exception of it is logged, and it is called for the
        others all the same."""

        def apply(applied: Applied) -> None:
            for change in applied.changes:
                try:
                    changed(change)
                except Exception:
                    self._log.failure("a subscriber failed on a change of {task}", task=change.task_id)

        self._journal.subscribe(audience, apply)
