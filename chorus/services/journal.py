"""The journal of a single node: committed in its own store, replayed at each start.

Fences are (0, start count, index). The start count is made durable before the first entry of a start is taken, so no
fence is ever given twice, whatever the clock did. The replicated journal keeps this interface.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from chorus.errors import LocalError
from chorus.store import journal as table
from chorus.tasks.applied import Audience
from chorus.tasks.journal import Entry, Fence, NoQuorum
from chorus.tasks.machine import TaskMachine

if TYPE_CHECKING:
    import sqlite3

    from chorus.store.database import Store
    from chorus.tasks.applied import Applied, Subscriber
    from chorus.tasks.machine import Snapshot

SNAPSHOT_EVERY = 5000
"""Entries between snapshots, or as many as there are tasks when these are more: so snapshots cost every entry the
same, and replaying the entries after one takes about as long as reading it."""
SNAPSHOT_AT_STOP = 200
"""Entries since the last snapshot that make one worth while when the node stops."""


class JournalUnreadable(LocalError):
    """The kept journal cannot be replayed by this program."""

    code = "journal_unreadable"


class LocalJournal(Service):
    """`chorus.tasks.applied.Journal`, and the `machine` that it replays into at `startService` and drives from then on.

    `append` fails with `NoQuorum` when the journal is not open, and with `StoreUnavailable` when the disk failed; then
    the entry is not acknowledged, and after an I/O error in the middle of a sync it may still turn up at the next
    start: ask again by id.
    """

    _log = Logger()
    name = "journal"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._starts: list[tuple[int, int]] = []
        self._subscribers: dict[Audience, list[Subscriber]] = {audience: [] for audience in Audience}
        self._snapshot_index = 0
        self._snapshot_running: Deferred[None] | None = None
        self._open = False
        self.machine = TaskMachine(self.fence_of)
        self.start_count = 0
        self.appended = 0
        """Entries since the start, for the metrics."""

    def subscribe(self, audience: Audience, subscriber: Subscriber) -> None:
        """Calls `subscriber` in the same step that applies an entry; a node alone is always the one that schedules."""
        self._subscribers[audience].append(subscriber)

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._replay())

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._close())

    def append(self, entry: Entry) -> Deferred[Applied]:
        if not self._open:
            return fail(NoQuorum("the journal is not open"))
        written = self._store.write(lambda connection: table.append(connection, entry))
        # Writes are acknowledged in the order of their commits, so entries are applied in the order of their indexes.
        return written.addCallback(self._apply, entry)

    def fence_of(self, index: int) -> Fence:
        """Of an entry of any start, also of those that a snapshot replaced."""
        position = bisect.bisect_right(self._starts, (index, 1 << 62)) - 1
        return Fence(0, self._starts[position][1] if position >= 0 else 0, index)

    async def _replay(self) -> None:
        machine = self.machine
        self.start_count = await self._store.write(table.begin_start)
        self._starts, snapshot, entries = await self._store.read(_everything)
        if snapshot is not None:
            self._snapshot_index, data = snapshot
            try:
                machine.restore(data)
            except (ValueError, KeyError, TypeError) as problem:
                raise JournalUnreadable(f"the journal's snapshot cannot be read: {problem}") from problem
        ignored = 0
        for index, entry in entries:
            try:
                ignored += machine.apply(index, entry).refusal is not None
            except (ValueError, KeyError, TypeError, AttributeError) as problem:
                raise JournalUnreadable(f"entry {index} of the journal cannot be read: {problem}") from problem
        self._open = True
        self._log.info(
            "entries replayed: {entries}, up to index {index}, start {start}",
            event="journal.replayed",
            entries=len(entries),
            index=machine.index,
            start=self.start_count,
            ignored=ignored,
        )

    def _apply(self, index: int, entry: Entry) -> Applied:
        applied = self.machine.apply(index, entry)
        self.appended += 1
        if applied.refusal is not None:
            self._log.info(
                "{kind} of {subject} changes nothing: {reason}",
                event="journal.ignored",
                kind=entry.kind,
                subject=entry.subject,
                reason=str(applied.refusal),
                index=index,
            )
        for audience in Audience:
            for subscriber in self._subscribers[audience]:
                try:
                    subscriber(applied)
                except Exception:
                    self._log.failure("a subscriber of the journal failed on {kind}", kind=entry.kind)
        if index - self._snapshot_index >= max(SNAPSHOT_EVERY, len(self.machine)):
            self.snapshot()
        return applied

    def snapshot(self) -> Deferred[None]:
        """Keep the machine as it is now and drop the entries that made it so. Fires when done; a failure is logged."""
        if self._snapshot_running is not None:
            return self._snapshot_running
        taken = self.machine.snapshot()
        if taken.index == self._snapshot_index:
            return succeed(None)
        running = self._snapshot_running = Deferred()
        Deferred.fromCoroutine(self._keep(taken, running))
        return running

    async def _keep(self, taken: Snapshot, kept: Deferred[None]) -> None:
        try:
            # Encoding takes a while; on a reader's thread it holds up no write.
            data = await self._store.read(lambda _: taken.encode())
            await self._store.write(lambda connection: table.put_snapshot(connection, taken.index, data))
            self._snapshot_index = taken.index
        except Exception as problem:
            # Nothing is lost by it: the entries are still there.
            self._log.warn(
                "a snapshot of the journal failed: {reason}", event="journal.snapshot_failed", reason=str(problem)
            )
        self._snapshot_running = None
        kept.callback(None)

    async def _close(self) -> None:
        was_open, self._open = self._open, False
        if was_open and self.machine.index - self._snapshot_index >= SNAPSHOT_AT_STOP:
            await self.snapshot()


def _everything(
    connection: sqlite3.Connection,
) -> tuple[list[tuple[int, int]], tuple[int, bytes] | None, list[tuple[int, Entry]]]:
    snapshot = table.snapshot(connection)
    return table.starts(connection), snapshot, list(table.entries(connection, snapshot[0] if snapshot else 0))
