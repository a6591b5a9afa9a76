"""Text of indexed decisions: summary and kind encrypted, words as keyed hashes, with a key for each role.

To lose a role is to lose its key: pages of SQLite may keep copies of deleted text, also with `secure_delete` (of cells
that once moved to another page), and such copies say nothing without the key. Functions for `Store.write` and
`Store.read`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Mapping
from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from chorus.entropy import RandomBytes
from chorus.ucxl.record import Decision
from chorus.ucxl.words import searched

SWEPT: Final = 200
"""Texts that one write removes: it takes some milliseconds, and others wait for it."""
_WORD_BYTES: Final = 6


def add(connection: sqlite3.Connection, row_id: int, decision: Decision, random: RandomBytes) -> bool:
    """Of the decision with this row. False where its text was there."""
    connection.execute("INSERT OR IGNORE INTO decision_keys VALUES (?, ?)", (decision.role, random(32)))
    known = keys(connection)
    row = connection.execute("SELECT sealed FROM decision_texts WHERE id = ?", (row_id,)).fetchone()
    if row is not None and unsealed(row[0], decision.role, known) is not None:
        return False
    forget(connection, row_id)  # Under a key that was lost: the role was lost and granted again.
    key = known[decision.role]
    plain = json.dumps([decision.kind, decision.summary]).encode()
    sealed = SecretBox(key).encrypt(plain, random(SecretBox.NONCE_SIZE))
    hashes = [hash_of(key, word) for word in searched(decision)]
    connection.execute(
        "INSERT INTO decision_texts VALUES (?, ?, ?, ?)",
        (row_id, decision.role, bytes(sealed), b"".join(each.to_bytes(_WORD_BYTES, "big") for each in hashes)),
    )
    connection.executemany("INSERT OR IGNORE INTO decision_words VALUES (?, ?)", [(each, row_id) for each in hashes])
    return True


def keys(connection: sqlite3.Connection) -> dict[str, bytes]:
    """By role."""
    return {role: bytes(key) for role, key in connection.execute("SELECT role, key FROM decision_keys")}


def hash_of(key: bytes, word: str) -> int:
    """A word as the index has it."""
    return int.from_bytes(hashlib.blake2b(word.encode(), key=key, digest_size=_WORD_BYTES).digest(), "big")


def unsealed(sealed: bytes | None, role: str, known: Mapping[str, bytes]) -> tuple[str, str] | None:
    """Kind and summary; None without the key. The text of a key that was lost waits for `sweep`."""
    if sealed is None or role not in known:
        return None
    try:
        kind, summary = json.loads(SecretBox(known[role]).decrypt(sealed))
    except CryptoError:
        return None
    return str(kind), str(summary)


def shred(connection: sqlite3.Connection, kept: Collection[str]) -> int:
    """Forget the keys of all roles but `kept`, for good: no text under them can be read or searched any more. Run it by
    `Store.erase`, and then `sweep` until that returns 0. Returns the number of keys."""
    lost = [role for (role,) in connection.execute("SELECT role FROM decision_keys").fetchall() if role not in kept]
    before = connection.execute("PRAGMA secure_delete").fetchone()[0]
    connection.execute("PRAGMA secure_delete = ON")
    try:
        connection.executemany("UPDATE decision_keys SET key = zeroblob(32) WHERE role = ?", [(role,) for role in lost])
        connection.executemany("DELETE FROM decision_keys WHERE role = ?", [(role,) for role in lost])
    finally:
        connection.execute(f"PRAGMA secure_delete = {before}")
    return len(lost)


def sweep(connection: sqlite3.Connection) -> int:
    """Remove some of the texts whose key is gone; returns how many."""
    gone = connection.execute(
        "SELECT id FROM decision_texts WHERE role NOT IN (SELECT role FROM decision_keys) LIMIT ?", (SWEPT,)
    ).fetchall()
    for (row_id,) in gone:
        forget(connection, row_id)
    return len(gone)


def forget(connection: sqlite3.Connection, row_id: int) -> None:
    """Remove the text of a row, if there is one."""
    row = connection.execute("SELECT words FROM decision_texts WHERE id = ?", (row_id,)).fetchone()
    if row is not None:
        hashes = [row[0][at : at + _WORD_BYTES] for at in range(0, len(row[0]), _WORD_BYTES)]
        connection.executemany(
            "DELETE FROM decision_words WHERE word = ? AND id = ?",
            [(int.from_bytes(each, "big"), row_id) for each in hashes],
        )
        connection.execute("DELETE FROM decision_texts WHERE id = ?", (row_id,))
