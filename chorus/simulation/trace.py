"""The events of a run as one hash: equal for equal runs, whatever the interpreter's hash seed."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

import attrs

LAST: Final = 200
"""Entries kept for a report: about the last frames of every node of a small run."""


@attrs.frozen
class TraceEntry:
    ns: int
    """True time."""
    node: int
    kind: str
    size: int
    digest: str
    """Of the payload; 16 hexadecimal digits."""

    def __str__(self) -> str:
        return f"{self.ns / 1e9:14.9f} node {self.node:<4} {self.kind:<12} {self.size:>7} B {self.digest}"


class Trace:
    """A rolling hash of (time, node, kind, payload). With `keep`, the last entries can be read too.

    Give it what crosses a node's border (segments, datagrams, disk operations, faults, deliveries), not every timer.
    """

    def __init__(self, *, keep: int | None = LAST) -> None:
        self.entries = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self.last: deque[TraceEntry] = deque(maxlen=keep if keep is not None else 0)

    def record(self, ns: int, node: int, kind: str, payload: bytes = b"") -> None:
        self.entries += 1
        self._hash.update(b"%d %d %s %d\n" % (ns, node, kind.encode(), len(payload)))
        self._hash.update(payload)
        if self.last.maxlen:
            digest = hashlib.blake2b(payload, digest_size=8).hexdigest()
            self.last.append(TraceEntry(ns, node, kind, len(payload), digest))

    def hexdigest(self) -> str:
        """Of everything up to now; 32 hexadecimal digits."""
        return self._hash.hexdigest()
