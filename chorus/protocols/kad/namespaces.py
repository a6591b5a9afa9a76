"""Namespaces of value records: who may write what under which key. Pure.

A key is `/name/rest`; `rest` may hold any bytes. A key of another form, or of a namespace that is not registered here,
is refused before anything else is done with it (CVE-2026-45783).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from chorus.errors import LimitExceeded, PeerError
from chorus.protocols.kad.params import MAX_KEY, MAX_VALUE


class BadRecordKey(PeerError):
    """A key that is not `/name/rest` with a namespace that this node takes."""

    code = "bad_record_key"


class BadRecordValue(PeerError):
    """A value that its namespace refuses."""

    code = "bad_record_value"


class Namespace(Protocol):
    """Rules of one kind of record. `now` is in Unix seconds."""

    @property
    def lifetime_s(self) -> float | None:
        """Seconds after which a holder drops a record that was not put again; None: never while it is a member."""

    @property
    def variants(self) -> int:
        """Distinct values that a holder keeps under one key: 2 where both sides of a fork are evidence, else 1."""

    def validate(self, key: bytes, value: bytes, now: float) -> None:
        """Raises a `ChorusError` for a value that must not stand under the key."""

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The index of the best of valid values; the same value whatever their order."""

    def replaces(self, key: bytes, held: bytes, new: bytes) -> bool:
        """True if a holder takes the valid `new` in the place of what it has."""

    def author(self, key: bytes, value: bytes) -> str | None:
        """The peer whose quota a value counts in; None: that of its sender alone."""


def split(key: bytes) -> tuple[str, bytes]:
    """Name and rest of a key. Raises `BadRecordKey`, or `LimitExceeded` for one that is too long."""
    if len(key) > MAX_KEY:
        raise LimitExceeded("kad.MAX_KEY", len(key), MAX_KEY)
    parts = key.split(b"/", 2)
    if len(parts) < 3 or parts[0] or not parts[1] or not parts[2] or not parts[1].isascii():
        raise BadRecordKey("a record's key is /namespace/rest")
    return parts[1].decode(), parts[2]


class Namespaces:
    """The namespaces that a node takes, by name."""

    def __init__(self, by_name: Mapping[str, Namespace]) -> None:
        self._by_name = dict(by_name)

    def of(self, key: bytes) -> Namespace:
        """Raises `BadRecordKey`, or `LimitExceeded`."""
        name, _ = split(key)
        namespace = self._by_name.get(name)
        if namespace is None:
            raise BadRecordKey(f"this node takes no records of the namespace {name[:32]!r}")
        return namespace

    def check(self, key: bytes, value: bytes, now: float) -> Namespace:
        """The namespace of a valid record. Raises what `of` raises, `LimitExceeded`, and the namespace's error."""
        namespace = self.of(key)
        if len(value) > MAX_VALUE:
            raise LimitExceeded("kad.MAX_VALUE", len(value), MAX_VALUE)
        namespace.validate(key, value, now)
        return namespace
