"""The local journal's tables. Functions for `Store.write` and `Store.read`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from chorus.store import rows
from chorus.tasks.journal import Entry


def append(connection: sqlite3.Connection, entry: Entry) -> int:
    """Returns the entry's index: one more than the last, across snapshots too."""
    index = last_index(connection) + 1
    connection.execute(
        "INSERT INTO journal (entry_index, kind, subject, body, time) VALUES (?, ?, ?, ?, ?)",
        (index, entry.kind, entry.subject, rows.dump(dict(entry.body)), entry.time),
    )
    return index


def last_index(connection: sqlite3.Connection) -> int:
    """0 for a journal that never had an entry."""
    newest = connection.execute("SELECT max(entry_index) FROM journal").fetchone()[0]
    if newest is None:
        newest = connection.execute("SELECT max(entry_index) FROM journal_snapshot").fetchone()[0]
    return int(newest or 0)


def entries(connection: sqlite3.Connection, after: int) -> Iterator[tuple[int, Entry]]:
    """Those with an index over `after`, in order; consume them inside the same operation."""
    found = connection.execute(
        "SELECT entry_index, kind, subject, body, time FROM journal WHERE entry_index > ? ORDER BY entry_index",
        (after,),
    )
    for index, kind, subject, body, time in found:
        yield index, Entry(kind, subject, rows.load(body), time)


def begin_start(connection: sqlite3.Connection) -> int:
    """Count one more start of this node and return its number, from 1; entries appended from now on belong to it."""
    start = int(connection.execute("SELECT coalesce(max(start), 0) FROM journal_starts").fetchone()[0]) + 1
    connection.execute(
        "INSERT INTO journal_starts (start, first_index) VALUES (?, ?)", (start, last_index(connection) + 1)
    )
    return start


def starts(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """(first index, start number) of every start, in order."""
    return connection.execute("SELECT first_index, start FROM journal_starts ORDER BY start").fetchall()


def snapshot(connection: sqlite3.Connection) -> tuple[int, bytes] | None:
    row = connection.execute("SELECT entry_index, data FROM journal_snapshot").fetchone()
    return None if row is None else (row[0], row[1])


def put_snapshot(connection: sqlite3.Connection, index: int, data: bytes) -> None:
    """Keep the machine as it is after `index`, and drop the entries up to there."""
    connection.execute("INSERT OR REPLACE INTO journal_snapshot VALUES (1, ?, ?)", (index, data))
    connection.execute("DELETE FROM journal WHERE entry_index <= ?", (index,))
