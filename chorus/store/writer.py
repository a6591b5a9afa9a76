"""The writer's side of the store: transactions that hold many jobs, on one connection, on one thread.

All that a transaction holds is acknowledged after its commit, and only while the file is the one under its name and
nobody else wrote to it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from chorus.store.ballast import Ballast
from chorus.store.check import damaged, refuse_cut
from chorus.store.connection import BUSY_TIMEOUT_MS, migrate, open_writer, refuse_lost
from chorus.store.errors import (
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreLost,
    StoreRefused,
    is_damage,
    needs_new_connection,
    translate,
)
from chorus.store.whereabouts import Whereabouts

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

WORTH_EMPTYING = 256 * 1024
"""Bytes of the log for which a full store is tidied up."""
EMPTYING_MS = 200
"""How long that waits for readers."""


@attrs.define
class StoreCounters:
    """For the metrics; only ever grow."""

    writes: int = 0
    commits: int = 0
    failed_writes: int = 0
    reads: int = 0
    unavailable: int = 0


@attrs.frozen(eq=False)
class StoreJob(Generic[T]):
    work: Work[T]
    deferred: Deferred[T]
    erases: bool = False
    """True if the log must hold nothing older when it is settled."""


Outcomes = list[tuple[StoreJob[Any], object]]


class Writer:
    """The writer's connection; every method runs on its thread."""

    def __init__(self, path: Path, counters: StoreCounters) -> None:
        self._path = path
        self._counters = counters
        self._whereabouts = Whereabouts(path)
        self._ballast = Ballast(path)
        self._connection: sqlite3.Connection | None = None
        self.trouble: BaseException | None = None
        """The error that kept the last transaction from the disk."""
        self.lost: str | None = None
        """One line once the file under the database's name is another one, or none, or was changed by others:
        nothing is acknowledged then."""

    def open(self, expected: bool) -> None:
        if expected:
            refuse_lost(self._path)
        refuse_cut(self._path)
        with _refusing_damage(self._path):
            self._connection = open_writer(self._path)
        self._settle()

    def migrate(self, expected: bool) -> None:
        assert self._connection is not None
        self.look()
        with _refusing_damage(self._path):
            migrate(self._connection, self._path, expected=expected)
        self._whereabouts.expect_move()
        self._settle()
        self._ballast.keep()

    def look(self) -> str | None:
        """`lost`, looked at anew, while no transaction is under way."""
        if self.lost is None:
            self.lost = self._whereabouts.trouble()
        return self.lost

    def _settle(self) -> None:
        """After own work on the files."""
        if self.lost is None:
            self.lost = self._whereabouts.settle()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def commit(self, jobs: list[StoreJob[Any]]) -> Outcomes:
        """Settle all `jobs`: one transaction; where one of them fails, one with a savepoint for each; where that cannot
        be committed either, a transaction for each."""
        self._counters.writes += len(jobs)
        self.trouble = None
        try:
            outcomes = self._transaction(jobs, _run)
        except _JobFailed as failed:
            outcomes = [(jobs[0], failed.failure)] if len(jobs) == 1 else self._transaction(jobs, _run_in_savepoint)
        if outcomes is None:
            outcomes = [self._alone(job) for job in jobs] if len(jobs) > 1 else [(jobs[0], self._unavailable())]
        if self.trouble is None and any(job.erases for job in jobs):
            outcomes = self._erase_log(outcomes)
        self._counters.failed_writes += sum(isinstance(outcome, Failure) for _, outcome in outcomes)
        return outcomes

    def _erase_log(self, outcomes: Outcomes) -> Outcomes:
        """Empty the log; where that is not possible now, the jobs that wanted it fail."""
        assert self._connection is not None
        self._whereabouts.expect_move()
        try:
            busy = bool(self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        except sqlite3.OperationalError:
            busy = True
        self._settle()
        if not busy:
            return outcomes
        refused = failure(StoreBusy("a reader keeps the log of the store from being emptied"))
        return [(job, refused if job.erases else outcome) for job, outcome in outcomes]

    def _alone(self, job: StoreJob[Any]) -> tuple[StoreJob[Any], object]:
        try:
            outcomes = self._transaction([job], _run)
        except _JobFailed as failed:
            return job, failed.failure
        return (job, self._unavailable()) if outcomes is None else outcomes[0]

    def _unavailable(self) -> Failure:
        assert self.trouble is not None
        self._counters.unavailable += 1
        return failure(self.trouble)

    def _transaction(
        self, jobs: list[StoreJob[Any]], run: Callable[[sqlite3.Connection, StoreJob[Any]], object]
    ) -> Outcomes | None:
        """The jobs' outcomes, durable; None when the transaction was lost (`trouble` says why)."""
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [(job, run(connection, job)) for job in jobs]
            connection.execute("COMMIT")
            self._settle()
            self._refuse_lost()
        except _JobFailed as failed:
            self._abandon(failed)
            raise
        except BaseException as problem:
            self.trouble = problem
            self._abandon(problem)
            return None
        self._counters.commits += 1
        self.trouble = None
        return outcomes

    def _connected(self) -> sqlite3.Connection:
        self.look()
        self._refuse_lost()
        if self._connection is None:
            try:
                self._connection = open_writer(self._path)
            except StoreRefused as problem:
                raise StoreDamaged(str(problem)) from None
            self._settle()
            self._refuse_lost()
        return self._connection

    def _refuse_lost(self) -> None:
        if self.lost is not None:
            raise StoreLost(self.lost)

    def _abandon(self, problem: BaseException) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            broken = needs_new_connection(problem)
        except sqlite3.Error:
            broken = True
        self._settle()
        if broken:
            self._whereabouts.expect_move()
            self._connection = None
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        elif isinstance(translate(problem), StoreFull):
            self._make_room(connection)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """The disk is full: move the log into the database, by means of the bytes kept for that."""
        log = self._path.with_name(self._path.name + "-wal")
        with contextlib.suppress(OSError):
            if log.stat().st_size >= WORTH_EMPTYING and self._ballast.give():
                self._whereabouts.expect_move()
                self._empty_log(connection)
                self._settle()
                self._ballast.keep(again=True)

    @staticmethod
    def _empty_log(connection: sqlite3.Connection) -> None:
        """As far as the disk allows, and readers within a moment."""
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute(f"PRAGMA busy_timeout = {EMPTYING_MS}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


@contextlib.contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as problem:
        if is_damage(problem):
            raise damaged(path, str(problem)) from None
        raise


class _JobFailed(Exception):
    """A job raised, and the transaction is as good as before."""

    def __init__(self, problem: BaseException) -> None:
        super().__init__()
        self.failure = failure(problem)


def _run(connection: sqlite3.Connection, job: StoreJob[Any]) -> object:
    """The job's result. Raises `_JobFailed` for the job's own failure, anything else for what breaks the transaction.

    No savepoint: each statement lets another Python thread in, so two more for every job are felt, and jobs rarely
    fail.
    """
    try:
        result = job.work(connection)
    except BaseException as problem:
        if translate(problem) is not problem or not connection.in_transaction:
            raise
        raise _JobFailed(problem) from None
    if not connection.in_transaction:
        raise AssertionError("a write ended the transaction that it was given")
    return result


def _run_in_savepoint(connection: sqlite3.Connection, job: StoreJob[Any]) -> object:
    """The job's result, or the Failure that undid it alone. Raises what breaks the transaction."""
    connection.execute("SAVEPOINT job")
    try:
        result = _run(connection, job)
    except _JobFailed as failed:
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return failed.failure
    connection.execute("RELEASE job")
    return result


def failure(problem: BaseException) -> Failure:
    """As whoever asked the store hears of it."""
    return Failure(translate(problem))  # type: ignore[no-untyped-call]
