"""The store without threads: each operation is done, and its Deferred fired, before the call returns.

For the simulation and for tests, which run on one thread and a virtual clock.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from chorus.store.connection import migrate, open_writer
from chorus.store.errors import StoreClosed, translate
from chorus.store.writer import Work

T = TypeVar("T")


class InlineDatabase:
    """`chorus.store.database.Store` on a file. Opening raises what `Database.open` fails with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = open_writer(path)
        self._connection.execute("PRAGMA synchronous = OFF")
        migrate(self._connection, path)

    def write(self, work: Work[T]) -> Deferred[T]:
        return self._run(work, "COMMIT")

    def erase(self, work: Work[T]) -> Deferred[T]:
        return self._run(work, "COMMIT")

    def read(self, work: Work[T]) -> Deferred[T]:
        return self._run(work, "ROLLBACK")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, work: Work[T], end: str) -> Deferred[T]:
        connection = self._connection
        if connection is None:
            return fail(StoreClosed("the store is closed"))
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute(end)
        except Exception as problem:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return fail(translate(problem))
        return succeed(result)
