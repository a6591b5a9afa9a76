"""Subscribers of the journal that publish changes, once each, after the commit: state events, log, topic, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from chorus.services.scheduling.documents import differs, logged, state_event
from chorus.tasks.applied import Audience
from chorus.tasks.state import State

if TYPE_CHECKING:
    from chorus.seams import Document
    from chorus.services.scheduling.collection import Collection
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.custodies import Custodies
    from chorus.services.scheduling.decisions import TaskDecisions
    from chorus.services.scheduling.placement import Placement
    from chorus.tasks.applied import Change
    from chorus.tasks.state import TaskState


@attrs.frozen
class StateEvents:
    """The `state` event of each change, into the history of its task and the log. `agent_id` names a peer."""

    _context: SchedulerContext
    _agent_id: Callable[[str], str | None]
    _log = Logger()

    def event(self, task: TaskState) -> Document:
        return state_event(task, self._agent_id(task.agent) if task.agent is not None else None)

    async def restore(self) -> None:
        """Append the events of changes after whose commit the last process ended."""
        machine = self._context.ledger.machine
        tasks = list(machine)
        last = await self._context.stored.last_states([task.id for task in tasks])
        for task in tasks:
            if differs(last.get(task.id), task):
                self._context.events.append(task.id, "state", self.event(task))

    def changed(self, change: Change) -> None:
        task = change.after
        if task is not None and change.moved:
            event = self.event(task)
            self._context.events.append(task.id, "state", event)
            self._log.info("task {task} is {state}", event=f"task.{task.state}", task=task.id, **logged(event))


def subscribe(
    context: SchedulerContext,
    state_events: StateEvents,
    placement: Placement,
    custodies: Custodies,
    collection: Collection,
    decisions: TaskDecisions,
    announce: Callable[[Document], None],
) -> None:
    """Subscribe every part to a task's changes, in this order. `announce` gets every change of state, for the topic
    `chorus/tasks`."""

    def announced(change: Change) -> None:
        task = change.after
        # Members of an earlier version refuse messages with a word they do not know: those states are not announced.
        if task is not None and change.moved and task.state not in {State.PREPARING, State.MOVED}:
            announce({"task_id": task.id, "title": task.spec.get("title") or "", **state_events.event(task)})

    def counted(change: Change) -> None:
        context.counters.changed(change, context.clock.seconds())

    def named(change: Change) -> None:
        context.named.changed(change.before, change.after)

    for audience, subscribers in (
        (Audience.NODE, (named, state_events.changed)),
        (
            Audience.SCHEDULER,
            (
                placement.changed,
                collection.changed,
                decisions.changed,
                custodies.changed,
                counted,
                announced,
            ),
        ),
    ):
        for changed in subscribers:
            context.ledger.subscribe(audience, changed)
