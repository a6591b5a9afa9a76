"""Who is told when a task has changed: its watchers, the topic `chorus/tasks`, the log, the metrics, its agent, and
placement. Told after the commit, and once: what the journal repeats or passes over is no change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from chorus.services.scheduling.documents import differs, logged, state_event
from chorus.tasks.state import DRAINING, OWN_FAILURES, OWNED, State, TaskState

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.http.ports import Document
    from chorus.seams import JSON
    from chorus.services.blobs.named import NamedBlobs
    from chorus.services.scheduling.counters import Counters
    from chorus.services.scheduling.custodies import Custodies
    from chorus.services.scheduling.events import TaskEvents
    from chorus.tasks.machine import TaskMachine


class Placed(Protocol):
    """What placement is told."""

    def task_changed(self, task: TaskState) -> None: ...

    def task_forgotten(self, task_id: str) -> None: ...

    def outcome(self, agent: str, *, well: bool) -> None: ...


class ChangeFeed:
    """`announce` gets every change of state, `result_known` every task with a new result; `agent_id` names a peer;
    `named` counts who names which blob."""

    _log = Logger()

    def __init__(
        self,
        *,
        machine: TaskMachine,
        events: TaskEvents,
        custodies: Custodies,
        named: NamedBlobs,
        counters: Counters,
        clock: IReactorTime,
        placement: Callable[[], Placed],
        agent_id: Callable[[str], str | None],
        announce: Callable[[Document], None],
        result_known: Callable[[TaskState], None],
    ) -> None:
        self._machine = machine
        self._events = events
        self._custodies = custodies
        self._named = named
        self._counters = counters
        self._clock = clock
        self._placement = placement
        self._agent_id = agent_id
        self._announce = announce
        self._result_known = result_known
        self._seen: dict[str, TaskState] = {}
        """Each task as it was when its last state event was queued."""

    def restore(self, task: TaskState, last: Mapping[str, JSON] | None) -> None:
        """Take up a task of an earlier process whose last state event was `last`."""
        self._named.changed(self._seen.get(task.id), task)
        self._seen[task.id] = task
        self._placement().task_changed(task)
        if differs(last, task):
            # The process ended between the commit and its event.
            self._events.append(task.id, "state", self._state_event(task))

    def is_settled(self, task_id: str) -> bool:
        """Whether the task is over and its last state event is queued (or written)."""
        seen = self._seen.get(task_id)
        return seen is None or seen.terminal

    def changed(self, task_ids: Iterable[str]) -> None:
        """Tell of these tasks, as far as they are not as they were. What fails for one of them is logged, and the
        others are told of all the same."""
        for task_id in task_ids:
            before = self._seen.pop(task_id, None)
            task = self._machine.get(task_id) if task_id in self._machine else None
            if task is not None:
                self._seen[task_id] = task
            if task is before:
                continue
            # First of all what has no other way to hear of it.
            self._named.changed(before, task)
            try:
                if task is None:
                    self._placement().task_forgotten(task_id)
                else:
                    self._placement().task_changed(task)
                    self._changed(before, task)
            except Exception:
                self._log.failure("telling of a change of {task} broke", task=task_id)

    def _changed(self, before: TaskState | None, task: TaskState) -> None:
        if task.result is not None and (before is None or before.result is not task.result):
            self._result_known(task)
        if before is not None and (before.state, before.fence, before.attempt) == (
            task.state,
            task.fence,
            task.attempt,
        ):
            return
        if task.state is State.CANCELLED and before is not None and before.state in OWNED:
            custody = self._custodies.of(task.id)
            if custody is not None:
                custody.cancel(task.detail or "")
        self._tell(before, task)

    def _tell(self, before: TaskState | None, task: TaskState) -> None:
        event = self._state_event(task)
        self._events.append(task.id, "state", event)
        self._counters.changed(before, task, self._clock.seconds())
        self._judge(before, task)
        self._log.info("task {task} is {state}", event=f"task.{task.state}", task=task.id, **logged(event))
        if task.state in {State.PREPARING, State.MOVED}:
            # For whoever asks here: members of an earlier version refuse messages with a word they do not know.
            return
        try:
            self._announce({"task_id": task.id, "title": task.spec.get("title") or "", **event})
        except Exception:
            self._log.failure("announcing {task} failed", task=task.id)

    def _judge(self, before: TaskState | None, task: TaskState) -> None:
        """Tell placement how the task's agent did."""
        if task.state is State.COMPLETED and task.agent is not None:
            self._placement().outcome(task.agent, well=True)
        elif (
            task.state is State.SUBMITTED
            and before is not None
            and before.state in OWNED
            and before.agent is not None
            and task.reason != DRAINING
        ):
            self._placement().outcome(before.agent, well=task.reason in OWN_FAILURES)

    def _state_event(self, task: TaskState) -> Document:
        return state_event(task, self._agent_id(task.agent) if task.agent is not None else None)
