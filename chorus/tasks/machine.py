"""The state machine of tasks: a pure function of the journal's entries (spec/tasks.md, "The admin's journal").

Every state, time and back-off comes from the entries, so every replica and every restart sees the same. An entry that
`check` would refuse changes nothing when it is in the journal all the same (two leaders' entries may cross there).

| entry | body | from | to |
| --- | --- | --- | --- |
| `task.queued` | spec, submitter, max_attempts? | nothing | queued |
| `task.submitted` | spec, submitter, max_attempts?, idempotency? | nothing, queued | submitted |
| `task.refused` | reason, detail | queued | refused |
| `task.assigned` | agent, attempt, lease_s | submitted | assigned; its fence is the entry's |
| `task.preparing` | fence | assigned | preparing |
| `task.started` | fence, sandbox?, image? | assigned, preparing | running |
| `task.lease_expired` | fence, agent_id? | owned | submitted, failed |
| `task.released` | fence, reason, detail? | owned | submitted, failed |
| `task.completed` | fence, result | owned | completed |
| `task.failed` | fence, reason, detail?, result? | owned | failed, submitted (retries, infrastructure) |
| `task.failed` | reason, detail? | submitted | failed |
| `task.moved` | to | submitted | moved: another member schedules it |
| `task.returned` | detail | moved | submitted |
| `task.settled` | state, reason?, detail?, result?, … | moved | completed, failed, cancelled |
| `task.cancelled` | by, reason | any but terminal and moved | cancelled |
| `task.collected` | fence, result | cancelled | cancelled, now with what the killed run left |
| `task.forgotten` | | terminal | nothing |

Owned is assigned, preparing or running. `idempotency` is {key, digest, expires_at}. A task whose dependency fails, is
cancelled or is refused fails with `dependency_failed` in the same step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from chorus.tasks import entries, transitions
from chorus.tasks.applied import Applied, Change
from chorus.tasks.errors import (
    AlreadySubmitted,
    DependencyCycle,
    IdempotencyConflict,
    IllegalEntry,
    IllegalTransition,
    UnknownDependency,
    UnknownTask,
)
from chorus.tasks.journal import Entry, Fence
from chorus.tasks.outcomes import dependency_failed, new
from chorus.tasks.state import State, TaskState

SNAPSHOT_VERSION = 1


@attrs.frozen
class _Key:
    task_id: str
    digest: str
    expires_at: float


@attrs.frozen
class Snapshot:
    """The machine at one index; `encode` may run on another thread."""

    index: int
    _tasks: tuple[TaskState, ...]
    _keys: tuple[tuple[tuple[str, str], _Key], ...]

    def encode(self) -> bytes:
        # One task at a time: encoding all of them in one call would hold up every other thread for as long.
        tasks = ",".join(json.dumps(task.to_json(), separators=(",", ":")) for task in self._tasks)
        keys = [[*name, key.task_id, key.digest, key.expires_at] for name, key in self._keys]
        head = f'"version":{SNAPSHOT_VERSION},"index":{self.index},"keys":{json.dumps(keys, separators=(",", ":"))}'
        return f'{{{head},"tasks":[{tasks}]}}'.encode()


class TaskMachine:
    """All tasks. `fence_of` is the journal's: the fence that the entry at an index gives."""

    def __init__(self, fence_of: Callable[[int], Fence]) -> None:
        self._fence_of = fence_of
        self._tasks: dict[str, TaskState] = {}
        self._open: dict[str, None] = {}
        self._dependents: dict[str, dict[str, None]] = {}
        self._keys: dict[tuple[str, str], _Key] = {}
        self._before: dict[str, TaskState | None] = {}
        """Each task that the entry being applied has changed, as it was before."""
        self.index = 0
        """Of the last entry applied."""

    # Reading

    def get(self, task_id: str) -> TaskState:
        """Raises `UnknownTask`."""
        try:
            return self._tasks[task_id]
        except KeyError:
            raise UnknownTask(task_id) from None

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def find(self, task_id: str) -> TaskState | None:
        return self._tasks.get(task_id)

    def is_over(self, task_id: str) -> bool:
        """True if the task is in a terminal state, or gone."""
        return task_id not in self._tasks or self._tasks[task_id].terminal

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[TaskState]:
        """Every task, oldest submission first."""
        return iter(self._tasks.values())

    def newest_first(self) -> Iterator[TaskState]:
        return reversed(self._tasks.values())

    def unfinished(self) -> list[TaskState]:
        """Tasks in no terminal state, oldest submission first."""
        return [self._tasks[task_id] for task_id in self._open]

    def submitted_before(self, submitter: str, key: str, digest: str, now: float) -> str | None:
        """The task that this idempotency key stands for. Raises `IdempotencyConflict` when its body was another."""
        known = self._keys.get((submitter, key))
        if known is None or known.expires_at <= now:
            return None
        if known.digest != digest:
            raise IdempotencyConflict(key, known.task_id)
        return known.task_id

    def check(self, entry: Entry) -> None:
        """Raise the `IllegalEntry` that says why this entry may not be appended now."""
        self._next(self.index + 1, entry)

    # For the journal

    def apply(self, index: int, entry: Entry) -> Applied:
        """Take in the entry at `index`. Entries of other machines (`member.…`) and old indexes change nothing."""
        self._before = {}
        if index > self.index:
            self.index = index
            try:
                if entry.kind.startswith("task."):
                    self._take_in(self._next(index, entry), entry)
            except IllegalEntry as problem:
                return Applied(index, entry, self._tasks.get(entry.subject), refusal=problem)
        return Applied(index, entry, self._tasks.get(entry.subject), self._changes(entry.subject))

    def _take_in(self, after: TaskState | None, entry: Entry) -> None:
        if after is None:
            self._before[entry.subject] = self._tasks.pop(entry.subject)
            return
        if after is self._tasks.get(after.id):
            return
        if entry.kind == "task.submitted":
            self._remember_key(entry, after)
        self._store(after)
        if after.terminal:
            self._settle_dependents(after, entry.time)
        elif after.state is State.SUBMITTED:
            self._fail_if_dependency_failed(after, entry.time)

    def _changes(self, first: str) -> tuple[Change, ...]:
        found = [Change(before, self._tasks.get(task_id)) for task_id, before in self._before.items()]
        found.sort(key=lambda each: (each.task_id != first, each.after.created_index if each.after is not None else 0))
        return tuple(found)

    def snapshot(self) -> Snapshot:
        return Snapshot(self.index, tuple(self._tasks.values()), tuple(self._keys.items()))

    def restore(self, data: bytes) -> None:
        """Become the machine that wrote `data`. Raises ValueError for a snapshot of another version."""
        document = json.loads(data)
        if document["version"] != SNAPSHOT_VERSION:
            raise ValueError(f"a snapshot of version {document['version']}, this program reads {SNAPSHOT_VERSION}")
        self._tasks, self._open, self._dependents, self._keys = {}, {}, {}, {}
        for each in document["tasks"]:
            self._store(TaskState.from_json(each))
        for submitter, key, task_id, digest, expires_at in document["keys"]:
            self._keys[submitter, key] = _Key(task_id, digest, expires_at)
        self._before = {}
        self.index = document["index"]

    def _store(self, task: TaskState) -> None:
        before = self._tasks.get(task.id)
        self._before.setdefault(task.id, before)
        # A queued task may be submitted with other dependencies than it was queued with.
        gone = set(before.waiting_for) - task.waiting_for if before is not None else set()
        self._tasks[task.id] = task
        if task.terminal:
            self._open.pop(task.id, None)
        else:
            self._open[task.id] = None
            for dependency in sorted(task.waiting_for):
                self._dependents.setdefault(dependency, {})[task.id] = None
        for dependency in sorted(gone):
            waiting = self._dependents.get(dependency)
            if waiting is not None:
                waiting.pop(task.id, None)
                if not waiting:
                    del self._dependents[dependency]

    def _remember_key(self, entry: Entry, task: TaskState) -> None:
        # In order of submission and with one life for all of them, the oldest expire first.
        while self._keys and (oldest := next(iter(self._keys))) and self._keys[oldest].expires_at <= entry.time:
            del self._keys[oldest]
        found = entries.idempotency(entry.body)
        if found is not None:
            key, digest, expires_at = found
            self._keys.pop((task.submitter, key), None)
            self._keys[task.submitter, key] = _Key(task.id, digest, expires_at)

    def _settle_dependents(self, first: TaskState, time: float) -> None:
        """Free the tasks that waited for `first`, or fail them, and those that waited for them."""
        waiting = [first]
        while waiting:
            done = waiting.pop()
            for task_id in sorted(self._dependents.pop(done.id, ()), key=lambda each: self._tasks[each].created_index):
                task = self._tasks[task_id]
                # A queued task's dependencies are looked at when it is submitted.
                if task.terminal or task.state is State.QUEUED or done.id not in task.waiting_for:
                    continue
                if done.state is State.COMPLETED:
                    task = attrs.evolve(task, waiting_for=task.waiting_for - {done.id}, updated_at=time)
                else:
                    task = dependency_failed(task, done, time)
                    waiting.append(task)
                self._store(task)

    def _fail_if_dependency_failed(self, task: TaskState, time: float) -> None:
        for dependency in task.depends_on:
            done = self._tasks.get(dependency)
            if dependency in task.waiting_for and done is not None and done.terminal:
                failed = dependency_failed(task, done, time)
                self._store(failed)
                self._settle_dependents(failed, time)
                return

    # The task after the entry, the same object for no change, None for no task

    def _next(self, index: int, entry: Entry) -> TaskState | None:
        if entry.kind in transitions.TRANSITIONS:
            after = transitions.after(self.get(entry.subject), entry)
            return attrs.evolve(after, fence=self._fence_of(index)) if entry.kind == "task.assigned" else after
        if entry.kind == "task.submitted":
            return self._submitted(index, entry)
        if entry.kind == "task.queued":
            return self._queued(index, entry)
        if entry.kind != "task.forgotten":
            raise IllegalEntry(f"unknown kind of entry {entry.kind!r}")
        if not (task := self.get(entry.subject)).terminal:
            raise IllegalTransition(f"task {task.id} is {task.state}: only a finished one is forgotten")
        return None

    def _queued(self, index: int, entry: Entry) -> TaskState:
        known = self._tasks.get(entry.subject)
        return known if known is not None else new(State.QUEUED, index, entry, frozenset(entries.dependencies(entry)))

    def _submitted(self, index: int, entry: Entry) -> TaskState:
        known = self._tasks.get(entry.subject)
        if known is not None and known.state is not State.QUEUED:
            return known
        dependencies = entries.dependencies(entry)
        for dependency in dependencies:
            if dependency not in self._tasks and dependency != entry.subject:
                raise UnknownDependency(entry.subject, dependency)
        self._refuse_cycle(entry.subject, dependencies)
        submitter = entries.text(entry.body, "submitter")
        if (found := entries.idempotency(entry.body)) is not None:
            existing = self.submitted_before(submitter, found[0], found[1], entry.time)
            if existing is not None and existing != entry.subject:
                raise AlreadySubmitted(existing)
        waiting = frozenset(each for each in dependencies if self._tasks[each].state is not State.COMPLETED)
        task = new(State.SUBMITTED, index, entry, waiting)
        if known is None:
            return task
        return attrs.evolve(task, created_at=known.created_at, created_index=known.created_index)

    def _refuse_cycle(self, task_id: str, dependencies: Sequence[str]) -> None:
        if task_id not in self._dependents and task_id not in dependencies:
            return  # nobody waits for it, so it closes no circle
        came_from: dict[str, str] = dict.fromkeys(dependencies, task_id)
        waiting = list(came_from)
        while waiting:
            each = waiting.pop()
            if each == task_id:
                raise DependencyCycle(_cycle(task_id, came_from))
            task = self._tasks.get(each)
            for dependency in sorted(task.waiting_for) if task is not None and not task.terminal else ():
                if dependency not in came_from:
                    came_from[dependency] = each
                    waiting.append(dependency)


def _cycle(task_id: str, came_from: Mapping[str, str]) -> tuple[str, ...]:
    path = [task_id]
    each = came_from[task_id]
    while each != task_id:
        path.append(each)
        each = came_from[each]
    return (task_id, *reversed(path[1:]), task_id)
