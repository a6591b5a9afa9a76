"""The index of decisions. Functions for `Store.write` and `Store.read`; content hashes are lower-case hexadecimal.

Address fields are kept of every decision, text only of those that this node may read (spec/amendments.md 34);
`decision_texts` has that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from chorus.entropy import RandomBytes, system_random
from chorus.errors import UserError
from chorus.store import decision_texts
from chorus.ucxl.address import Address, Exactly, InForce
from chorus.ucxl.query import DecisionPage, DecisionQuery, IndexedDecision, number_of
from chorus.ucxl.record import Decision

MAX_INDEXED: Final = 500_000
"""Decisions in the index; above it the oldest go."""
COUNTED_EVERY: Final = 1024
"""New rows between two looks at how many there are, since SQLite counts by reading: so many more may be there."""
RARE: Final = 1_000
"""Decisions of a word up to which a search reads them all and sorts: a few milliseconds."""
SCANNED: Final = 5_000
"""Decisions that one page looks at, where no rare word leads to them; then it is short and has a next one."""
_LAST: Final = 2**63 - 1
_COLUMNS: Final = "d.id, d.content, d.agent, d.role, d.project, d.task, d.path, d.seq, d.time, t.sealed"
_CHAIN: Final = "d.task = ? AND d.agent = ? AND d.project = ? AND d.role = ? AND d.path = ?"
_DRIVERS: Final = ("task", "agent", "project", "role")
"""Columns with an index that a search may follow, the most selective first."""

Row = tuple[int, bytes, str, str, str, str, str, int, int, bytes | None]


class BadCursor(UserError):
    """`after` is none that an earlier page gave."""

    code = "unknown_cursor"

    def __init__(self) -> None:
        super().__init__("after must be the `next` of the page before")


def notice(connection: sqlite3.Connection, address: Address, seq: int, content: str, now: int) -> bool:
    """Keep that a decision exists, whose text is not known. False where it was known."""
    cursor = connection.execute(
        "INSERT OR IGNORE INTO decisions (content, task, agent, project, role, path, seq, time)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (bytes.fromhex(content), *_place(address), seq, now),
    )
    if cursor.rowcount == 1 and cursor.lastrowid is not None and cursor.lastrowid % COUNTED_EVERY == 0:
        _make_room(connection)
    return cursor.rowcount == 1


def record(connection: sqlite3.Connection, decision: Decision, random: RandomBytes = system_random) -> bool:
    """Keep a decision that this node may read, with its text. False where that was known."""
    content = decision.content_hash
    notice(connection, decision.place, decision.seq, content, decision.created)
    (row_id,) = connection.execute("SELECT id FROM decisions WHERE content = ?", (bytes.fromhex(content),)).fetchone()
    connection.execute("UPDATE decisions SET time = ? WHERE id = ?", (decision.created, row_id))
    return decision_texts.add(connection, row_id, decision, random)


def newest(connection: sqlite3.Connection, address: Address) -> IndexedDecision | None:
    """The version with the highest number; of a fork the one that was seen first."""
    return next(iter(versions(connection, address, 1)), None)


def versions(
    connection: sqlite3.Connection, address: Address, limit: int, below: int | None = None
) -> list[IndexedDecision]:
    """Versions under an address, whatever version it names, the newest first; only numbers under `below`."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM decisions d LEFT JOIN decision_texts t ON t.id = d.id"
        f" WHERE {_CHAIN} AND d.seq < ? ORDER BY d.seq DESC, d.id LIMIT ?",
        (*_place(address), _LAST if below is None else below, limit),
    )
    return _indexed(connection, found)


def version_at(connection: sqlite3.Connection, address: Address) -> IndexedDecision | None:
    """The version that an address names, as far as the index knows the chain; None where it knows nothing of that.

    Raises `UnknownDecision` for a number outside of the chain.
    """
    temporal = address.temporal
    value: bytes | int
    if isinstance(temporal, Exactly):
        condition, value = "d.content = ?", bytes.fromhex(temporal.content)
    elif isinstance(temporal, InForce):
        condition, value = "d.time <= ?", temporal.at_us // 1_000_000
    else:
        last = newest(connection, address)
        number = None if last is None else number_of(temporal, last.seq)
        if number is None:
            return None
        condition, value = "d.seq = ?", number
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM decisions d LEFT JOIN decision_texts t ON t.id = d.id"
        f" WHERE {_CHAIN} AND {condition} ORDER BY d.seq DESC, d.id LIMIT 1",
        (*_place(address), value),
    )
    return next(iter(_indexed(connection, found)), None)


def search(connection: sqlite3.Connection, query: DecisionQuery, limit: int, after: str | None = None) -> DecisionPage:
    """One page of at most `limit`, the newest first. Raises `BadCursor`."""
    start = _cursor(after)
    if query.until is not None:
        start = min(start, (query.until, -1))
    keys = decision_texts.keys(connection)
    words = [[decision_texts.hash_of(key, word) for key in keys.values()] for word in query.words]
    if words and not keys:
        return DecisionPage(decisions=())
    conditions, values = _conditions(query, start)
    rare = _rarest(connection, words)
    if rare is not None:
        # Words are compared before any row of a decision is read.
        end, row_id = None, "w.id"
        source = (
            f"(SELECT DISTINCT id FROM decision_words WHERE word IN ({_marks(rare)})) w"
            " CROSS JOIN decisions d ON d.id = w.id"
        )
    else:
        row_id = "d.id"
        source = f"decisions d INDEXED BY {_index(query)}"
        end = _end_of_window(connection, query, start)
        if end is not None:
            conditions.append("(d.time, d.id) >= (?, ?)")
            values += end
    for hashes in words:
        conditions.append(f"EXISTS (SELECT 1 FROM decision_words WHERE word IN ({_marks(hashes)}) AND id = {row_id})")
        values += hashes
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM {source} LEFT JOIN decision_texts t ON t.id = d.id"
        f" WHERE {' AND '.join(conditions)} ORDER BY d.time DESC, d.id DESC LIMIT ?",
        (*(rare or ()), *values, limit + 1),
    ).fetchall()
    if len(rows) > limit:
        rows = rows[:limit]
        end = (rows[-1][8], rows[-1][0])
    return DecisionPage(decisions=tuple(_indexed(connection, rows)), next=None if end is None else f"{end[0]}.{end[1]}")


def counts(connection: sqlite3.Connection) -> tuple[int, int]:
    """Decisions in the index, and those of them whose text is there."""
    (total,) = connection.execute("SELECT count(*) FROM decisions").fetchone()
    (readable,) = connection.execute("SELECT count(*) FROM decision_texts").fetchone()
    return total, readable


def _make_room(connection: sqlite3.Connection) -> None:
    (total,) = connection.execute("SELECT count(*) FROM decisions").fetchone()
    for (row_id,) in connection.execute(
        "SELECT id FROM decisions ORDER BY time, id LIMIT ?", (max(0, total - MAX_INDEXED),)
    ).fetchall():
        decision_texts.forget(connection, row_id)
        connection.execute("DELETE FROM decisions WHERE id = ?", (row_id,))


def _rarest(connection: sqlite3.Connection, words: Sequence[Sequence[int]]) -> Sequence[int] | None:
    """Hashes of the word of the fewest decisions, if those are few."""
    found = [
        (
            connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM decision_words WHERE word IN ({_marks(hashes)}) LIMIT ?)",
                (*hashes, RARE + 1),
            ).fetchone()[0],
            hashes,
        )
        for hashes in words
    ]
    count, hashes = min(found, default=(RARE + 1, ()))
    return hashes if count <= RARE else None


def _conditions(query: DecisionQuery, start: tuple[int, int]) -> tuple[list[str], list[object]]:
    """Those on the time and on the fields of the address."""
    conditions = ["(d.time, d.id) < (?, ?)"]
    values: list[object] = [*start]
    if query.since is not None:
        conditions.append("d.time >= ?")
        values.append(query.since)
    for name in ("agent", "role", "project", "task"):
        if (value := getattr(query, name)) is not None:
            conditions.append(f"d.{name} = ?")
            values.append(value)
    if query.path is not None:
        conditions.append("(d.path = ? OR substr(d.path, 1, ?) = ?)")
        values += [query.path, len(query.path) + 1, f"{query.path}/"]
    return conditions, values


def _index(query: DecisionQuery) -> str:
    """Of the most selective condition; each has the time behind it."""
    return f"decisions_by_{next((name for name in _DRIVERS if getattr(query, name) is not None), 'time')}"


def _end_of_window(
    connection: sqlite3.Connection, query: DecisionQuery, start: tuple[int, int]
) -> tuple[int, int] | None:
    """The last of the decisions along the index that one page looks at; None where it looks at all of them."""
    column = _index(query).removeprefix("decisions_by_")
    driven = {} if column == "time" else {column: getattr(query, column)}
    conditions, values = _conditions(DecisionQuery(since=query.since, **driven), start)
    row = connection.execute(
        f"SELECT d.time, d.id FROM decisions d INDEXED BY {_index(query)} WHERE {' AND '.join(conditions)}"
        " ORDER BY d.time DESC, d.id DESC LIMIT 1 OFFSET ?",
        (*values, SCANNED - 1),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def _indexed(connection: sqlite3.Connection, rows: Iterable[Row]) -> list[IndexedDecision]:
    keys = decision_texts.keys(connection)
    found = []
    for _, content, agent, role, project, task, path, seq, time, sealed in rows:
        place = f"ucxl://{agent}:{role}@{project}:{task}" + (f"/{path}" if path else "")
        kind, summary = decision_texts.unsealed(sealed, role, keys) or (None, None)
        found.append(
            IndexedDecision(address=place, seq=seq, content=content.hex(), time=time, kind=kind, summary=summary)
        )
    return found


def _place(address: Address) -> tuple[str, ...]:
    """In the order of `_CHAIN`."""
    return (address.task, address.agent, address.project, address.role, address.path_text)


def _cursor(after: str | None) -> tuple[int, int]:
    if after is None:
        return _LAST, _LAST
    time, dot, row_id = after.partition(".")
    if not (dot and after.isascii() and time.isdecimal() and row_id.isdecimal() and len(after) < 40):
        raise BadCursor
    return min(int(time), _LAST), min(int(row_id), _LAST)


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
