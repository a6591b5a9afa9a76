"""A small client of a journal on a simulated disk, and what must hold of it whatever the disk and the client do.

The client submits tasks, gives them away, and reports results, also under fences that are no longer current and for
tasks that have ended, as agents do that come back late. A second, much smaller model of the task machine says what each
entry may have changed.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import attrs
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.simulation.clock import BILLION
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.ledger.clients import LedgerClients
from chorus.simulation.ledger.journal import FILE, DiskFailed, SimJournal
from chorus.tasks import entries, ids
from chorus.tasks.applied import Applied
from chorus.tasks.journal import Entry, Fence
from chorus.tasks.outcomes import MAX_ASSIGNMENTS
from chorus.tasks.state import OWNED, TERMINAL, State, TaskState

if TYPE_CHECKING:
    from chorus.simulation.node import SimNode

BETWEEN: Final = 0.05
"""Seconds between two entries on average."""

TASKS: Final = 12
"""Tasks at once: few, so that entries about one task meet."""

RETRY: Final = 1.0
"""Seconds until a node whose disk refused starts its journal again."""


@attrs.frozen
class _Known:
    """The model's knowledge of a task."""

    state: State
    fence: Fence | None = None
    attempt: int = 0
    result: object = None


class LedgerWatch:
    """The checks of one node's journal, over all its starts."""

    def __init__(self, judge: Judge, node: SimNode) -> None:
        self._judge = judge
        self._node = node
        self._acknowledged: dict[int, Entry] = {}
        self._fences: dict[Fence, tuple[str, str]] = {}
        self._read: list[Entry] = []
        """Entries that the last start found: synced by that start."""
        self.acknowledged = 0
        self.refused = 0

    def started(self, journal: SimJournal) -> None:
        """Nothing that was acknowledged is missing, and what was read once is read again."""
        for index, entry in self._acknowledged.items():
            found = journal.entries[index - 1] if index <= len(journal.entries) else None
            if found != entry:
                self._judge.accuse("ledger.durable", f"{self._node} lost entry {index}: {entry.kind} {entry.subject}")
        if journal.entries[: len(self._read)] != self._read:
            self._judge.accuse("ledger.prefix", f"{self._node} reads another journal than before")
        self._read = list(journal.entries)
        self.model = Model()
        for index, entry in enumerate(journal.entries, 1):
            self.model.apply(entry, journal.fence_of(index))
        self._compare(journal, "ledger.replay")

    def appended(self, journal: SimJournal, index: int, entry: Entry) -> None:
        """Called at the acknowledgement."""
        self.acknowledged += 1
        self._acknowledged[index] = entry
        durable = self._node.disk.durable(FILE)
        if durable is None or len(durable) < self._node.disk.size(FILE):
            self._judge.accuse("ledger.durable", f"{self._node} acknowledged entry {index} before it was durable")
        fence = journal.fence_of(index)
        self.model.apply(entry, fence)
        task = _task(journal, entry.subject)
        if task is not None and task.fence is not None and task.state is State.ASSIGNED:
            self._own(task.fence, entry.subject, task.agent or "")
        self._compare_task(journal, entry)

    def _own(self, fence: Fence, task_id: str, agent: str) -> None:
        before = self._fences.setdefault(fence, (task_id, agent))
        if before != (task_id, agent):
            self._judge.accuse("ledger.one_owner", f"{self._node}: fence {fence} belongs to {before} and {agent}")

    def _compare_task(self, journal: SimJournal, entry: Entry) -> None:
        known = self.model.tasks.get(entry.subject)
        task = _task(journal, entry.subject)
        if known is None or task is None:
            if (known is None) != (task is None):
                self._judge.accuse("ledger.transitions", f"{entry.kind} of {entry.subject}: {task} is not {known}")
            return
        if (task.state, task.fence) == (known.state, known.fence) and task.result == known.result:
            return
        detail = f"{entry.kind} {dict(entry.body)} made {task.state} under {task.fence} of {known}"
        if known.state is State.COMPLETED:
            self._judge.accuse("ledger.result_once", detail)
        elif entry.body.get("fence") not in (None, str(known.fence)):
            self._judge.accuse("ledger.fence", detail)
        else:
            self._judge.accuse("ledger.transitions", detail)

    def _compare(self, journal: SimJournal, invariant: str) -> None:
        for task in journal.machine:
            known = self.model.tasks.get(task.id)
            if known is None or (task.state, task.fence) != (known.state, known.fence):
                self._judge.accuse(invariant, f"{self._node}: {task.id} is {task.state}, not {known}")


def _task(journal: SimJournal, task_id: str) -> TaskState | None:
    return journal.machine.get(task_id) if task_id in journal.machine else None


class Model:
    """The task machine in a few lines, for the entries that `LedgerClient` writes."""

    def __init__(self) -> None:
        self.tasks: dict[str, _Known] = {}
        self._keys: dict[str, str] = {}

    def _is_new(self, entry: Entry) -> bool:
        """Not what an idempotency key stands for already: no run is as long as a key lives."""
        found = entries.idempotency(entry.body)
        return found is None or self._keys.setdefault(found[0], entry.subject) == entry.subject

    def apply(self, entry: Entry, fence: Fence) -> None:
        known = self.tasks.get(entry.subject)
        kind = entry.kind.removeprefix("task.")
        if known is None:
            if kind == "submitted" and self._is_new(entry):
                self.tasks[entry.subject] = _Known(State.SUBMITTED)
            return
        owned = known.state in OWNED and entry.body.get("fence") == str(known.fence)
        after = known
        if kind == "assigned" and known.state is State.SUBMITTED and entry.body["attempt"] == known.attempt + 1:
            after = _Known(State.ASSIGNED, fence, known.attempt + 1)
        elif kind == "preparing" and owned and known.state is State.ASSIGNED:
            after = attrs.evolve(known, state=State.PREPARING)
        elif kind == "started" and owned:
            after = attrs.evolve(known, state=State.RUNNING)
        elif kind == "completed" and owned:
            after = attrs.evolve(known, state=State.COMPLETED, result=entry.body["result"])
        elif kind == "released" and owned and known.attempt >= MAX_ASSIGNMENTS:
            after = attrs.evolve(known, state=State.FAILED)
        elif kind == "released" and owned:
            after = _Known(State.SUBMITTED, None, known.attempt)
        elif kind == "cancelled" and known.state not in TERMINAL:
            after = attrs.evolve(known, state=State.CANCELLED)
        self.tasks[entry.subject] = after


class LedgerClient:
    """Runs on one node; `attach` is called at each start."""

    journal: type[SimJournal] = SimJournal
    clients_type: type[LedgerClients] = LedgerClients

    def __init__(self, judge: Judge, node: SimNode) -> None:
        self.watch = LedgerWatch(judge, node)
        self.clients = self.clients_type(judge, node, self.watch.appended)
        self.quiet = False
        self._node = node
        self._current: SimJournal | None = None
        self._tasks: list[str] = []
        self._fences: list[tuple[str, Fence]] = []
        """Every fence ever given, to come back late with."""

    def hush(self) -> None:
        """Nothing new is asked of the journal."""
        self.quiet = self.clients.quiet = True

    def check(self) -> int:
        """Checks the clients' histories of the whole run; returns the number of their operations."""
        return self.clients.check(self._current)

    def attach(self, node: SimNode) -> None:
        rng = node.world.rng("ledger", node.number, node.starts)
        self._open(node, rng)

    def _open(self, node: SimNode, rng: random.Random) -> None:
        journal = self.journal(node.disk, node.reactor, rng)
        try:
            journal.start()
        except DiskFailed:
            self.watch.refused += 1
            node.reactor.callLater(RETRY, self._open, node, rng)
            return
        self._current = journal
        self.watch.started(journal)
        self.clients.opened(journal, node.world.rng("clients", node.number, node.starts, journal.start_count))
        self._turn(node, journal, rng)

    def _turn(self, node: SimNode, journal: SimJournal, rng: random.Random) -> None:
        if self.quiet or not node.running:
            return
        if not journal.open:
            self._open_again(node, journal, rng)
            return
        entry = self._draw(node, journal, rng)
        if entry is not None:
            done = journal.append(entry)
            done.addCallback(self._acknowledged, journal)
            done.addErrback(self._refused, node, journal, rng)
        if journal.open:
            node.reactor.callLater(rng.expovariate(1 / BETWEEN), self._turn, node, journal, rng)

    def _acknowledged(self, applied: Applied, journal: SimJournal) -> None:
        self.watch.appended(journal, applied.index, applied.entry)
        if applied.entry.kind == "task.assigned":
            self._fences.append((applied.entry.subject, journal.fence_of(applied.index)))

    def _refused(self, failure: Failure, node: SimNode, journal: SimJournal, rng: random.Random) -> None:
        failure.trap(ChorusError)  # type: ignore[no-untyped-call]
        self.watch.refused += 1
        self._open_again(node, journal, rng)

    def _open_again(self, node: SimNode, journal: SimJournal, rng: random.Random) -> None:
        if self._current is journal:
            self._current = None
            node.reactor.callLater(RETRY, self._open, node, rng)

    def _draw(self, node: SimNode, journal: SimJournal, rng: random.Random) -> Entry | None:
        now = node.clock.wall_ns() / BILLION
        if len(self._tasks) < TASKS or rng.random() < 0.1:
            task_id = ids.make(now, rng.randbytes)
            self._tasks = [*self._tasks[-TASKS + 1 :], task_id]
            return entries.submitted(now, task_id, {"commands": ["true"]}, "simulation", max_attempts=50)
        task_id = rng.choice(self._tasks)
        task = _task(journal, task_id)
        attempt = task.attempt + 1 if task is not None else 1
        fence = task.fence if task is not None else None
        if self._fences and rng.random() < 0.3:
            task_id, fence = rng.choice(self._fences[-40:])
        kind = rng.randrange(5)
        if kind == 0 or fence is None:
            return entries.assigned(now, task_id, agent=f"agent {rng.randrange(3)}", attempt=attempt, lease_s=30.0)
        if kind == 1:
            return entries.started(now, task_id, fence) if attempt % 2 else entries.preparing(now, task_id, fence)
        if kind == 2:
            return entries.completed(now, task_id, fence, {"exit_code": 0, "n": rng.randrange(1 << 30)})
        if kind == 3:
            return entries.released(now, task_id, fence, "draining")
        return entries.cancelled(now, task_id, "simulation", "drawn") if rng.random() < 0.2 else None
