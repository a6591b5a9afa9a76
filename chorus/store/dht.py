"""Records, providers and table entries of the DHT. Functions for `Store.write` and `Store.read`; times in Unix seconds.

Nothing is evicted: what would pass a limit is refused (`DhtFull`). Usage is counted in the transaction that changes it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence

import attrs

from chorus.errors import LocalError, PeerError

MAX_PROVIDERS_A_PEER = 100_000
"""Blobs that one peer can announce here."""
MAX_PROVIDERS = 1_000_000
"""Rows of all providers; about 200 MB."""
OUTDATED_S = 24 * 3600.0
"""Seconds that a record stays which a replaced one named, for readers that are on their way (amendments 32)."""
ALL = ""
ALL_PROVIDERS = "p:"
OWN = ""
"""Sender and publisher of this node's own records."""


class DhtFull(LocalError):
    """A quota of the DHT's store is used up; the record is refused."""

    code = "dht_full"
    http_status = 507


class RecordOutdated(PeerError):
    """A better record, or a record of another author, is held under this key; the new one is refused."""

    code = "record_outdated"


@attrs.frozen
class Quotas:
    """Most bytes (keys and values) and rows: of all records, and of one author, one sender, or the copies that one
    sender passes on."""

    total_bytes: int = 1 << 30
    total_records: int = 1_000_000
    one_bytes: int = 64 << 20
    one_records: int = 100_000


@attrs.frozen
class HeldRecord:
    """One value under a key. A key has several where its namespace keeps variants."""

    key: bytes
    value: bytes
    author: str | None
    sender: str
    """The peer that stored it here first; `OWN` for own ones, which count in the quota of all records alone."""
    publisher: str
    """The peer that put it first, as the sender says; another one than the sender of a copy that was passed on."""
    stored_at: float
    """When it was stored, or confirmed by somebody, last."""
    expires_at: float | None
    published_at: float | None = None
    """When this node put it to the closest servers last; None for others' records."""

    @property
    def size(self) -> int:
        return len(self.key) + len(self.value)


@attrs.frozen
class HeldProvider:
    key: bytes
    peer: str
    addresses: tuple[str, ...]
    stored_at: float
    published_at: float | None = None
    """When this node announced itself last; None for others."""


@attrs.frozen
class RecordRules:
    """A namespace's rules for one key; `replaces(held, new)`."""

    replaces: Callable[[bytes, bytes], bool]
    variants: int = 1
    outdates: Callable[[bytes], bytes | None] = lambda held: None
    """Key of the record that a value names, which nobody needs once all that name it are replaced."""


_RECORD = "key, value, author, sender, publisher, stored_at, expires_at, published_at"
_PROVIDER = "key, peer, addresses, stored_at, published_at"


# Records


def keep(connection: sqlite3.Connection, new: HeldRecord, rules: RecordRules, quotas: Quotas) -> list[HeldRecord]:
    """Store `new` beside or instead of what is held; returns what is held afterwards. A value that is held already
    is confirmed. Raises `RecordOutdated` or `DhtFull`; the store then undoes what was changed."""
    held = records(connection, new.key)
    for each in held:
        if each.value == new.value:
            _confirm(connection, each, new)
            return records(connection, new.key)
    replaced = [each for each in held if rules.replaces(each.value, new.value)]
    kept = [each for each in held if each not in replaced]
    if any(rules.replaces(new.value, each.value) for each in kept) or len(kept) >= rules.variants:
        raise RecordOutdated("another record is held under this key, and this one does not replace it")
    for each in replaced:
        _delete(connection, each)
    _charge(connection, new, quotas)
    connection.execute(
        f"INSERT INTO dht_records (digest, {_RECORD}, names) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            _digest(new.value),
            new.key,
            new.value,
            new.author,
            new.sender,
            new.publisher,
            new.stored_at,
            new.expires_at,
            new.published_at,
            rules.outdates(new.value),
        ),
    )
    for each in replaced:
        _outdate(connection, rules.outdates(each.value), new.stored_at + OUTDATED_S)
    return [*kept, new]


def _outdate(connection: sqlite3.Connection, key: bytes | None, at: float) -> None:
    """Unless another record that is held here names it, by whomever: nobody ends what is not theirs."""
    connection.execute(
        "UPDATE dht_records SET expires_at = min(coalesce(expires_at, ?), ?), published_at = NULL WHERE key = ?"
        " AND NOT EXISTS (SELECT 1 FROM dht_records WHERE names = ?)",
        (at, at, key, key),
    )


def _confirm(connection: sqlite3.Connection, held: HeldRecord, new: HeldRecord) -> None:
    connection.execute(
        "UPDATE dht_records SET stored_at = ?, expires_at = coalesce(?, expires_at),"
        " published_at = coalesce(?, published_at)"
        " WHERE key = ? AND digest = ?",
        (new.stored_at, new.expires_at, new.published_at, held.key, _digest(held.value)),
    )


def records(connection: sqlite3.Connection, key: bytes) -> list[HeldRecord]:
    """All values under `key`, in a stable order; expired ones included until they are swept."""
    found = connection.execute(f"SELECT {_RECORD} FROM dht_records WHERE key = ? ORDER BY digest", (key,))
    return [HeldRecord(*row) for row in found]


def page(connection: sqlite3.Connection, after: bytes, most: int) -> list[HeldRecord]:
    """Records of keys behind `after`, in the order of keys: `most`, and the rest of the last one's key."""
    last = connection.execute(
        "SELECT key FROM dht_records WHERE key > ? ORDER BY key LIMIT 1 OFFSET ?", (after, most - 1)
    ).fetchone()
    until = "" if last is None else " AND key <= ?"
    bounds = (after,) if last is None else (after, last[0])
    found = connection.execute(f"SELECT {_RECORD} FROM dht_records WHERE key > ?{until} ORDER BY key, digest", bounds)
    return [HeldRecord(*row) for row in found]


def published(connection: sqlite3.Connection, key: bytes, value: bytes, now: float) -> None:
    """This node's own record was put to the closest servers."""
    connection.execute(
        "UPDATE dht_records SET published_at = ? WHERE key = ? AND digest = ? AND published_at IS NOT NULL",
        (now, key, _digest(value)),
    )


def unpublished(connection: sqlite3.Connection, before: float, most: int) -> list[HeldRecord]:
    """Own records that were put last before then, the oldest first."""
    found = connection.execute(
        f"SELECT {_RECORD} FROM dht_records WHERE published_at IS NOT NULL AND published_at < ?"
        " ORDER BY published_at LIMIT ?",
        (before, most),
    )
    return [HeldRecord(*row) for row in found]


def sweep(connection: sqlite3.Connection, now: float, most: int) -> list[bytes]:
    """Delete expired records, at most so many; returns their keys."""
    found = connection.execute(
        f"SELECT {_RECORD} FROM dht_records WHERE expires_at IS NOT NULL AND expires_at <= ? LIMIT ?", (now, most)
    ).fetchall()
    expired = [HeldRecord(*row) for row in found]
    for each in expired:
        _delete(connection, each)
    return [each.key for each in expired]


def usage(connection: sqlite3.Connection, who: str = ALL) -> tuple[int, int]:
    """(records, bytes) of all, or of `s:` + sender, `c:` + sender of copies, `a:` + author, `p:` + provider."""
    row = connection.execute("SELECT records, bytes FROM dht_usage WHERE who = ?", (who,)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _delete(connection: sqlite3.Connection, record: HeldRecord) -> None:
    connection.execute("DELETE FROM dht_records WHERE key = ? AND digest = ?", (record.key, _digest(record.value)))
    for who in _payers(record):
        _add(connection, who, -1, -record.size)


def _charge(connection: sqlite3.Connection, record: HeldRecord, quotas: Quotas) -> None:
    for who in _payers(record):
        rows, size = usage(connection, who)
        most_rows, most_size = (
            (quotas.total_records, quotas.total_bytes) if who == ALL else (quotas.one_records, quotas.one_bytes)
        )
        if rows + 1 > most_rows or size + record.size > most_size:
            whose = {"": "all records", "s": "one sender", "c": "copies of one sender", "a": "one author"}[who[:1]]
            raise DhtFull(f"the quota of {whose} is used up: {rows} records, {size} bytes")
    for who in _payers(record):
        _add(connection, who, 1, record.size)


def _payers(record: HeldRecord) -> Iterable[str]:
    yield ALL
    if record.sender == OWN:
        return
    yield f"{'s' if record.publisher == record.sender else 'c'}:{record.sender}"
    if record.author is not None:
        yield f"a:{record.author}"


def _add(connection: sqlite3.Connection, who: str, rows: int, size: int) -> None:
    connection.execute(
        "INSERT INTO dht_usage (who, records, bytes) VALUES (?, ?, ?)"
        " ON CONFLICT (who) DO UPDATE SET records = records + excluded.records, bytes = bytes + excluded.bytes",
        (who, rows, size),
    )
    if rows < 0:
        connection.execute("DELETE FROM dht_usage WHERE who = ? AND records <= 0", (who,))


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:16]


# Providers


def provide(connection: sqlite3.Connection, new: HeldProvider, most_a_key: int) -> None:
    """Store or renew one provider. Raises `DhtFull`."""
    if not connection.execute("SELECT 1 FROM dht_providers WHERE key = ? AND peer = ?", (new.key, new.peer)).fetchone():
        (of_key,) = connection.execute("SELECT count(*) FROM dht_providers WHERE key = ?", (new.key,)).fetchone()
        limits = (
            (of_key, most_a_key, "a key"),
            (usage(connection, f"p:{new.peer}")[0], MAX_PROVIDERS_A_PEER, "a peer"),
            (usage(connection, ALL_PROVIDERS)[0], MAX_PROVIDERS, "all"),
        )
        for rows, most, whose in limits:
            if rows >= most:
                raise DhtFull(f"{rows} providers of {whose} are stored already")
        _add(connection, f"p:{new.peer}", 1, 0)
        _add(connection, ALL_PROVIDERS, 1, 0)
    connection.execute(
        f"INSERT OR REPLACE INTO dht_providers ({_PROVIDER}) VALUES (?, ?, ?, ?, ?)",
        (new.key, new.peer, "\n".join(new.addresses), new.stored_at, new.published_at),
    )


def announced(connection: sqlite3.Connection, key: bytes, peer: str, now: float) -> None:
    """This node announced itself at the closest servers."""
    connection.execute(
        "UPDATE dht_providers SET stored_at = ?, published_at = ?"
        " WHERE key = ? AND peer = ? AND published_at IS NOT NULL",
        (now, now, key, peer),
    )


def withdraw(connection: sqlite3.Connection, key: bytes, peer: str) -> bool:
    """False when it was not stored."""
    cursor = connection.execute("DELETE FROM dht_providers WHERE key = ? AND peer = ?", (key, peer))
    if cursor.rowcount == 1:
        _add(connection, f"p:{peer}", -1, 0)
        _add(connection, ALL_PROVIDERS, -1, 0)
    return cursor.rowcount == 1


def providers(connection: sqlite3.Connection, key: bytes, since: float, most: int) -> list[HeldProvider]:
    """Providers of `key` stored since then, and this node; the newest first."""
    found = connection.execute(
        f"SELECT {_PROVIDER} FROM dht_providers WHERE key = ? AND (stored_at >= ? OR published_at IS NOT NULL)"
        " ORDER BY stored_at DESC, peer LIMIT ?",
        (key, since, most),
    )
    return [_provider(row) for row in found]


def unannounced(connection: sqlite3.Connection, before: float, most: int) -> list[HeldProvider]:
    """Own announcements made last before then."""
    found = connection.execute(
        f"SELECT {_PROVIDER} FROM dht_providers WHERE published_at IS NOT NULL AND published_at < ?"
        " ORDER BY published_at LIMIT ?",
        (before, most),
    )
    return [_provider(row) for row in found]


def sweep_providers(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Delete others' announcements stored last before then, at most so many; how many there were."""
    found = connection.execute(
        "SELECT key, peer FROM dht_providers WHERE stored_at < ? AND published_at IS NULL LIMIT ?", (before, most)
    ).fetchall()
    return sum(withdraw(connection, key, peer) for key, peer in found)


def _provider(row: tuple[bytes, str, str, float, float | None]) -> HeldProvider:
    key, peer, addresses, stored_at, published_at = row
    return HeldProvider(key, peer, tuple(addresses.split("\n")) if addresses else (), stored_at, published_at)


# Table


def save_peers(connection: sqlite3.Connection, peers: Sequence[tuple[str, Sequence[str]]]) -> None:
    """(peer id, addresses) of the routing table instead of those stored before."""
    connection.execute("DELETE FROM dht_peers")
    rows = [(peer, "\n".join(addresses)) for peer, addresses in peers]
    connection.executemany("INSERT OR REPLACE INTO dht_peers (peer, addresses) VALUES (?, ?)", rows)


def load_peers(connection: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    found = connection.execute("SELECT peer, addresses FROM dht_peers ORDER BY peer")
    return [(peer, addresses.split("\n") if addresses else []) for peer, addresses in found]
