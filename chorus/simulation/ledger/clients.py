"""Clients of a journal behind a network: their requests and answers are recorded, and must be linearizable.

They submit under idempotency keys, assign, release, complete and read, several at a time about the same few tasks. An
operation is *ok* with its answer, *fails* when the journal was closed (it did nothing), and is *unknown* when the node
died or its disk refused: it may have happened, and may turn up after a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.simulation.clock import BILLION
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.ledger.journal import DiskFailed, SimJournal
from chorus.simulation.ledger.linearizability import UNKNOWN, Operation, Undecided, linearizable
from chorus.simulation.ledger.spec import (
    ASSIGNED,
    NOTHING,
    AssignCall,
    CompleteCall,
    ReadCall,
    ReleaseCall,
    SubmitCall,
    Task,
    step,
)
from chorus.tasks import entries, ids
from chorus.tasks.applied import Applied
from chorus.tasks.journal import Entry, Fence, NoQuorum
from chorus.tasks.machine import TaskMachine

if TYPE_CHECKING:
    import random

    from chorus.seams import JSON
    from chorus.simulation.node import SimNode

BETWEEN: Final = 0.15
"""Seconds between two operations on average."""

TRAVEL: Final = 0.15
"""Seconds at most from a client to the node, and back: long beside a sync, so that operations overlap."""

KEYS: Final = 3
"""Idempotency keys in use at once."""

LIFE: Final = 25
"""Operations about one key, after which another takes its place: a search is short, and a crash is in most of them."""

SUBMITTER: Final = "clients"
DIGEST: Final = "the same body"


@attrs.define
class _OpenCall:
    call: Any
    invoked: int
    answer: Any = UNKNOWN
    returned: int | None = None
    failed: bool = False


class ClientHistory:
    """Operations of clients on one key, and their knowledge of it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.task_id: str | None = None
        self.attempt = 0
        self.fences: list[Fence] = []
        self._asked: list[_OpenCall] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._asked)

    def invoke(self, call: Any) -> _OpenCall:
        self._order += 1
        self._asked.append(_OpenCall(call, self._order))
        return self._asked[-1]

    def ok(self, asked: _OpenCall, answer: Any) -> None:
        self._order += 1
        asked.answer, asked.returned = answer, self._order
        if isinstance(asked.call, SubmitCall):
            self.task_id = answer
        elif isinstance(asked.call, AssignCall) and answer is not None:
            self.attempt = max(self.attempt, asked.call.attempt)
            self.fences.append(answer)
        elif isinstance(asked.call, ReadCall):
            self.attempt = max(self.attempt, answer.attempt)

    def fail(self, asked: _OpenCall) -> None:
        asked.failed = True

    def operations(self) -> list[Operation]:
        """Those that may have happened; a read of which nobody heard says nothing."""
        return [
            Operation(asked.call, asked.answer, asked.invoked, asked.returned)
            for asked in self._asked
            if not asked.failed and not (asked.returned is None and isinstance(asked.call, ReadCall))
        ]


class LedgerClients:
    """Of one node's journal, over all its starts. `appended` is told of each entry that was acknowledged."""

    def __init__(self, judge: Judge, node: SimNode, appended: Callable[[SimJournal, int, Entry], None]) -> None:
        self.quiet = False
        self.between = BETWEEN
        self.histories: list[ClientHistory] = []
        self.unknown = 0
        """Operations of which a disk that refused leaves nobody an answer; those of dead nodes come on top."""
        self.undecided = 0
        """Histories that were too wide to be searched."""
        self._judge = judge
        self._node = node
        self._appended = appended
        self._results = 0

    def opened(self, journal: SimJournal, rng: random.Random) -> None:
        """A start of the journal: clients speak to it from now on."""
        self._turn(journal, rng)

    def _turn(self, journal: SimJournal, rng: random.Random) -> None:
        if self.quiet or not journal.open:
            return
        history = self._draw_history(rng)
        call = self._draw(history, rng)
        asked = history.invoke(call)
        self._node.reactor.callLater(rng.random() * TRAVEL, self._arrived, journal, rng, history, asked)
        self._node.reactor.callLater(rng.expovariate(1 / self.between), self._turn, journal, rng)

    def _draw_history(self, rng: random.Random) -> ClientHistory:
        recent = [history for history in self.histories[-KEYS:] if len(history) < LIFE]
        if len(recent) < KEYS:
            recent.append(ClientHistory(f"key {len(self.histories)}"))
            self.histories.append(recent[-1])
        return rng.choice(recent)

    def _draw(self, history: ClientHistory, rng: random.Random) -> Any:
        kind = rng.randrange(8)
        if history.task_id is None or kind == 0:
            return SubmitCall(ids.make(self._now(), rng.randbytes)) if kind < 6 else ReadCall()
        if kind <= 2:
            return AssignCall(history.task_id, history.attempt + rng.choice((0, 1, 1, 1)))
        if history.fences and kind <= 4:
            return ReleaseCall(history.task_id, rng.choice(history.fences[-2:]))
        if history.fences and kind == 5 and rng.random() < 0.4:
            self._results += 1
            return CompleteCall(history.task_id, rng.choice(history.fences[-2:]), self._results)
        return ReadCall()

    def _now(self) -> float:
        return self._node.clock.wall_ns() / BILLION

    # At the node

    def _arrived(self, journal: SimJournal, rng: random.Random, history: ClientHistory, asked: _OpenCall) -> None:
        done: Deferred[Any] = maybeDeferred(self._do, journal, history.key, asked.call)
        done.addCallbacks(
            lambda answer: self._node.reactor.callLater(rng.random() * TRAVEL, history.ok, asked, answer),
            lambda failure: self._refused(failure, history, asked),
        )

    def _refused(self, failure: Failure, history: ClientHistory, asked: _OpenCall) -> None:
        failure.trap(ChorusError)  # type: ignore[no-untyped-call]
        if failure.check(NoQuorum):  # type: ignore[no-untyped-call]
            history.fail(asked)
        else:
            failure.trap(DiskFailed)  # type: ignore[no-untyped-call]
            self.unknown += 1

    def _do(self, journal: SimJournal, key: str, call: Any) -> Any:
        if isinstance(call, ReadCall):
            return see(self.seen(journal), key)
        entry = self._entry(key, call)
        return journal.append(entry).addCallback(self._answer, journal, key, call)

    def _entry(self, key: str, call: Any) -> Entry:
        now = self._now()
        if isinstance(call, SubmitCall):
            spec: dict[str, JSON] = {"commands": ["true"]}
            return entries.submitted(now, call.candidate, spec, SUBMITTER, max_attempts=50, idempotency=(key, DIGEST))
        if isinstance(call, AssignCall):
            return entries.assigned(now, call.task_id, agent="one", attempt=call.attempt, lease_s=30.0)
        if isinstance(call, ReleaseCall):
            return entries.released(now, call.task_id, call.fence, "draining")
        return entries.completed(now, call.task_id, call.fence, {"exit_code": 0, "n": call.result})

    def _answer(self, applied: Applied, journal: SimJournal, key: str, call: Any) -> Any:
        """The node's answer when the entry is in the journal: it looks at the task afterwards."""
        self._appended(journal, applied.index, applied.entry)
        task = see(journal.machine, key)
        if isinstance(call, SubmitCall):
            return task.task_id
        if isinstance(call, AssignCall):
            fence = journal.fence_of(applied.index)
            return fence if task.fence == fence else None
        if isinstance(call, ReleaseCall):
            return applied.changes != ()
        return task.result == call.result

    def seen(self, journal: SimJournal) -> TaskMachine:
        """The task as readers see it: nothing that is not committed."""
        return journal.machine

    # After the run

    def check(self, journal: SimJournal | None) -> int:
        """Read every key once more, and look for an order of each; returns the number of operations that have one."""
        count = 0
        for history in self.histories:
            if journal is not None and journal.open:
                history.ok(history.invoke(ReadCall()), see(self.seen(journal), history.key))
            operations = history.operations()
            count += len(operations)
            try:
                holds = linearizable(operations, NOTHING, step)
            except Undecided:
                self.undecided += 1
                continue
            if not holds:
                listed = "\n".join(map(str, operations))
                self._judge.accuse("ledger.linearizable", f"{self._node}, {history.key}: in no order is this\n{listed}")
        return count


def see(machine: TaskMachine, key: str) -> Task:
    """The task of a key as a reader sees it."""
    task_id = machine.submitted_before(SUBMITTER, key, DIGEST, 0.0)
    if task_id is None:
        return NOTHING
    task = machine.get(task_id)
    fence = task.fence if task.state == ASSIGNED else None
    result: Any = (task.result or {}).get("n")
    return Task(task_id, str(task.state), task.attempt, fence, result)
