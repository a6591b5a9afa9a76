"""Invariants of the replicated journal: the ledger row of spec/simulation.md 5, over all replicas and their starts.

`ledger.prefix`: what one replica applied at an index, every one applies there. `ledger.durable`: a committed entry is
on the disks of a majority, and an acknowledged one is applied everywhere in the end. `ledger.term`: an admin commits
an older entry only together with one of its own term. `ledger.replay`, `ledger.one_owner`, `ledger.fence`,
`ledger.result_once`, `ledger.transitions`: as for one journal, held against the small model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from chorus.protocols.replication.messages import EntryKind, LogEntry
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.leadership.face import MemberFace
from chorus.simulation.leadership.serving import decode
from chorus.simulation.ledger.ledger import Model
from chorus.tasks.state import State, TaskState

if TYPE_CHECKING:
    from chorus.protocols.ballot.roster import Roster
    from chorus.simulation.leadership.storage import ReplicaSnapshot
    from chorus.tasks.applied import Applied
    from chorus.tasks.journal import Fence


@attrs.frozen
class _Outcome:
    """Of one index, as the first replica that applied it saw it."""

    entry: LogEntry
    fence: Fence | None
    task: TaskState | None


class ReplicaLedger:
    def __init__(self, judge: Judge, counters: Counter[str], members: Sequence[MemberFace]) -> None:
        self._members = members
        self.committed: dict[int, _Outcome] = {}
        self.last = 0
        """The highest index that any replica applied."""
        self.acknowledged_to = 0
        self._judge = judge
        self._counters = counters
        self._model = Model()
        self._snapshots: dict[int, bytes] = {}
        self._fences: dict[Fence, tuple[str, str]] = {}

    def started(self, member: MemberFace) -> None:
        """A snapshot stands for entries that others have committed."""
        index = member.applied.index
        known = self.committed.get(index)
        if known is not None and known.entry.term != member.applied.term:
            self._judge.accuse("ledger.prefix", f"{member} starts at {member.applied}, committed is {known.entry}")

    def applied(self, member: MemberFace, entry: LogEntry, applied: Applied | None) -> None:
        known = self.committed.get(entry.index)
        if known is None:
            self._first(member, entry, applied)
            return
        if known.entry != entry:
            detail = f"{member} applied {_short(entry)} where {_short(known.entry)} is committed"
            self._judge.accuse("ledger.prefix", detail)
        task = applied.task if applied is not None else None
        if task != known.task:
            self._judge.accuse("ledger.replay", f"{member} at {entry.index}: {task} is not {known.task}")

    def _first(self, member: MemberFace, entry: LogEntry, applied: Applied | None) -> None:
        replica = member.replica
        assert replica is not None
        if self.committed and entry.index != self.last + 1:
            self._judge.accuse("ledger.prefix", f"{member} applied {entry.index}, nobody {self.last + 1}")
        self.last = max(self.last, entry.index)
        self._counters["committed"] += 1
        if entry.term < replica.term:
            self._counters["committed of an older term"] += 1
            if replica.role == "admin" and replica.term_at(replica.commit) != replica.term:
                detail = (
                    f"{member} committed {_short(entry)} by counting, before an entry of its own term {replica.term}"
                )
                self._judge.accuse("ledger.term", detail)
        self._durable(member, entry)
        fence = member.fence_of(entry.index)
        task = applied.task if applied is not None else None
        self.committed[entry.index] = _Outcome(entry, fence, task)
        if applied is not None:
            self._judge_task(entry, fence, task)

    def _durable(self, member: MemberFace, entry: LogEntry) -> None:
        """On a majority, now, of the roster in force or of the committed one: the admin may have counted before it
        appended the roster that `member` has by now, and majorities of both share a voter."""
        replica = member.replica
        assert replica is not None
        told = []
        for roster in (replica.roster, replica.committed_roster):
            holders = self._holders(entry, roster)
            if holders >= roster.quorum:
                return
            told.append(f"{holders} of {len(roster.voters)}")
        detail = f"{member} applied {_short(entry)}: {' and '.join(dict.fromkeys(told))} voters have it on disk"
        self._judge.accuse("ledger.durable", detail)

    def _holders(self, entry: LogEntry, roster: Roster) -> int:
        by_peer = {each.peer: each for each in self._members}
        # A store that was lost after it had the entry counts: no majority is found without its vote that misses it.
        return sum(
            by_peer[voter.peer].voter != voter or by_peer[voter.peer].disk.image.holds(entry) for voter in roster.voters
        )

    def _judge_task(self, entry: LogEntry, fence: Fence, task: TaskState | None) -> None:
        change = decode(entry.data)
        before = self._model.tasks.get(change.subject)
        self._model.apply(change, fence)
        known = self._model.tasks.get(change.subject)
        if task is not None and task.fence is not None and task.state is State.ASSIGNED:
            owner = self._fences.setdefault(task.fence, (task.id, task.agent or ""))
            if owner != (task.id, task.agent or ""):
                self._judge.accuse("ledger.one_owner", f"fence {task.fence} belongs to {owner} and {task.agent}")
        if known is None or task is None:
            if (known is None) != (task is None):
                self._judge.accuse("ledger.transitions", f"{change.kind} of {change.subject}: {task} is not {known}")
            return
        if (task.state, task.fence, task.result) == (known.state, known.fence, known.result):
            return
        detail = f"{change.kind} {dict(change.body)} made {task.state} under {task.fence} of {before}"
        if before is not None and before.state is State.COMPLETED:
            self._judge.accuse("ledger.result_once", detail)
        elif change.body.get("fence") not in (None, str(known.fence)):
            self._judge.accuse("ledger.fence", detail)
        else:
            self._judge.accuse("ledger.transitions", detail)

    def acknowledged(self, member: MemberFace, entry: LogEntry) -> None:
        known = self.committed.get(entry.index)
        if known is None or known.entry != entry:
            self._judge.accuse("ledger.durable", f"{member} acknowledged {_short(entry)}, which is not committed")
        self.acknowledged_to = max(self.acknowledged_to, entry.index)
        self._counters["acknowledged"] += 1

    def snapshot(self, member: MemberFace, snapshot: ReplicaSnapshot) -> None:
        before = self._snapshots.setdefault(snapshot.position.index, snapshot.machine)
        if before != snapshot.machine:
            self._judge.accuse("ledger.replay", f"{member} has another snapshot at {snapshot.position}")

    def check_complete(self, members: Sequence[MemberFace]) -> None:
        """Everybody has applied what was acknowledged."""
        for member in members:
            if member.applied.index < self.acknowledged_to:
                detail = f"{member} has applied {member.applied.index} of {self.acknowledged_to} acknowledged entries"
                self._judge.accuse("ledger.durable", detail)


def _short(entry: LogEntry) -> str:
    return f"entry {entry.index} of term {entry.term} ({EntryKind(entry.kind).name}, {len(entry.data)} bytes)"
