"""One SQLite database: one writer thread that commits in groups, a few readers on snapshots.

A write is acknowledged (its Deferred fires) after the transaction that holds it is committed and synced, never before.
While one commit is on its way to the disk, further writes collect; they are the next transaction. So the cost of a
sync is shared by all that wait for it, and a lone write waits for nobody.
"""

from __future__ import annotations

import collections
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.store.check import CHECK_S, Check
from chorus.store.connection import open_reader
from chorus.store.errors import StoreBusy, StoreClosed, StoreDamaged, StoreLost, needs_new_connection
from chorus.store.writer import Outcomes, StoreCounters, StoreJob, Work, Writer, failure

T = TypeVar("T")

MAX_WAITING_WRITES = 10_000
"""Further ones are refused (`StoreBusy`): a disk that slow will not catch up by being asked more."""
MAX_WAITING_READS = 10_000
MAX_GROUP = 512
"""Writes of one transaction; bounds how long the first of them waits for the rest."""
READERS = 2
LOOK_S = 1.0
"""Between two looks at the file while nothing is written."""


class Store(Protocol):
    """The database as the rest of the program uses it."""

    def write(self, work: Work[T]) -> Deferred[T]:
        """Run `work(connection)` in a transaction on the writer's thread; fires with its result once that is durable.

        `work` fails alone: its changes are undone, those of others stay. It must have no other effect than through
        the connection, since it is run again when the transaction it was in has to be repeated. Never commit in it.
        Fails with `StoreUnavailable`, or with what `work` raised.
        """

    def erase(self, work: Work[T]) -> Deferred[T]:
        """As `write`, for work that removes what must be gone: when it fires, the write-ahead log holds no older page
        either. Fails with `StoreBusy` where a reader kept that from being emptied; then the work is done all the
        same, and asked for again it empties the log."""

    def read(self, work: Work[T]) -> Deferred[T]:
        """Run `work(connection)` on one consistent snapshot that holds every write acknowledged before this call."""


class _Queue:
    """A bounded queue of jobs for threads; `take` waits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: collections.deque[StoreJob[Any]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: StoreJob[Any]) -> None:
        with self._changed:
            if self._closed:
                raise StoreClosed("the store is closed")
            if len(self._jobs) >= self._limit:
                raise StoreBusy(f"{self._limit} operations wait for the store already")
            self._jobs.append(job)
            self._changed.notify()

    def take(self, most: int, idle: Callable[[], object] | None = None) -> list[StoreJob[Any]]:
        """At least one job, in order; none once the queue is closed and empty. Calls `idle` every `LOOK_S` seconds
        while it waits."""
        with self._changed:
            while not self._jobs and not self._closed:
                if not self._changed.wait(None if idle is None else LOOK_S) and idle is not None:
                    idle()
            return [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._jobs)


class Database:
    """`Store` on a file. `open` first; `close` finishes what waits. `expected`: the file has been written before, so
    that a missing or an empty one is a loss and refused."""

    _log = Logger()

    def __init__(
        self, path: Path, reactor: IReactorFromThreads, *, readers: int = READERS, expected: bool = False
    ) -> None:
        self.path = path
        self._expected = expected
        self.counters = StoreCounters()
        self._reactor = reactor
        self._reader_count = readers
        self._writes = _Queue(MAX_WAITING_WRITES)
        self._reads = _Queue(MAX_WAITING_READS)
        self._threads: list[threading.Thread] = []
        self._opened = False
        self._unavailable = False
        self.damage: str | None = None
        """One line once the file was found not to hold what was written, or to be gone; it stays so until a restart."""

    @property
    def waiting_writes(self) -> int:
        return len(self._writes)

    @property
    def available(self) -> bool:
        """True if the last transaction reached the disk."""
        return not self._unavailable

    def open(self) -> Deferred[None]:
        """Open and migrate on the writer's thread. Fails with `StoreRefused` or `StoreUnavailable`."""
        opened: Deferred[None] = Deferred()
        self._opened = True
        self._spawn("store-writer", lambda: self._write_forever(opened))
        return opened

    def close(self) -> Deferred[None]:
        """Fires when every write asked for before is settled and the files are closed."""
        closed: Deferred[None] = Deferred()
        self._writes.close()
        self._reads.close()

        def wait() -> None:
            for thread in self._threads:  # the writer first, which may still be starting the readers
                thread.join()
            self._call(lambda: closed.callback(None))

        threading.Thread(target=wait, name="store-closing", daemon=True).start()
        return closed

    def write(self, work: Work[T]) -> Deferred[T]:
        return self._enqueue(self._writes, work)

    def erase(self, work: Work[T]) -> Deferred[T]:
        return self._enqueue(self._writes, work, erases=True)

    def read(self, work: Work[T]) -> Deferred[T]:
        return self._enqueue(self._reads, work)

    def _enqueue(self, queue: _Queue, work: Work[T], *, erases: bool = False) -> Deferred[T]:
        if not self._opened:
            return cast("Deferred[T]", fail(StoreClosed("the store is not open yet")))
        job: StoreJob[T] = StoreJob(work, Deferred(), erases)
        try:
            queue.put(job)
        except (StoreBusy, StoreClosed) as problem:
            return cast("Deferred[T]", fail(problem))
        return job.deferred

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        # Daemons, so that a program that ends without closing the store is not held up; what was acknowledged is safe.
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _call(self, function: Callable[[], object]) -> None:
        self._reactor.callFromThread(function)

    # The writer's thread

    def _write_forever(self, opened: Deferred[None]) -> None:
        writer = Writer(self.path, self.counters)
        try:
            writer.open(self._expected)
            check = Check(self.path, self._damaged)
            if not check.wait(CHECK_S):
                self._log.info("{path} is large: it is still being checked while the node runs", path=self.path)
            writer.migrate(self._expected)
        except Exception as problem:
            writer.close()
            self._writes.close()
            self._reads.close()
            refusal = failure(problem)
            self._call(lambda: opened.errback(refusal))
            return
        for number in range(self._reader_count):
            self._spawn(f"store-reader-{number}", self._read_forever)
        self._call(lambda: opened.callback(None))
        while jobs := self._writes.take(MAX_GROUP, lambda: self._look_for_loss(writer)):
            outcomes = writer.commit(jobs)
            self._look_for_damage(outcomes)
            if writer.trouble is not None and not self._unavailable and self.damage is None:
                self._log.error("store.unavailable {path}: {problem}", path=self.path, problem=str(writer.trouble))
            elif writer.trouble is None and self._unavailable:
                self._log.info("store.recovered {path}", path=self.path)
            self._unavailable = writer.trouble is not None
            self._call(lambda outcomes=outcomes: _settle(outcomes))  # type: ignore[misc]
        writer.close()

    def _look_for_loss(self, writer: Writer) -> None:
        if (line := writer.look()) is not None:
            self._lost(line)

    # Any of the threads

    def _lost(self, line: str) -> None:
        if self.damage is None:
            self.damage = line
            self._log.error("{problem}", event="store.lost", path=str(self.path), problem=line)

    def _look_for_damage(self, outcomes: Outcomes) -> None:
        for _, outcome in outcomes:
            if not isinstance(outcome, Failure):
                continue
            if isinstance(outcome.value, StoreLost):
                self._lost(str(outcome.value))
            elif isinstance(outcome.value, StoreDamaged):
                self._damaged(str(outcome.value))

    def _damaged(self, line: str) -> None:
        if self.damage is None:
            self.damage = line
            self._log.error(
                "{path} is damaged: {problem}; stop the node and restore the file from a backup",
                event="store.damaged",
                path=str(self.path),
                problem=line,
            )

    # A reader's thread

    def _read_forever(self) -> None:
        connection: sqlite3.Connection | None = None
        while jobs := self._reads.take(1):
            outcome: object
            try:
                if connection is None:
                    connection = open_reader(self.path)
                connection.execute("BEGIN")
                try:
                    outcome = jobs[0].work(connection)
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                self.counters.reads += 1
            except BaseException as problem:
                if connection is not None and needs_new_connection(problem):
                    connection.close()
                    connection = None
                outcome = failure(problem)
            self._look_for_damage([(jobs[0], outcome)])
            self._call(lambda job=jobs[0], outcome=outcome: _settle([(job, outcome)]))  # type: ignore[misc]
        if connection is not None:
            connection.close()


def _settle(outcomes: Outcomes) -> None:
    for job, outcome in outcomes:
        if isinstance(outcome, Failure):
            job.deferred.errback(outcome)
        else:
            job.deferred.callback(outcome)
