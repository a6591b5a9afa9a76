"""Omitted deliverables: their number, and the first reasons; so a million of them need no million lines."""

from __future__ import annotations

from collections.abc import Iterable


class Omissions:
    """Keeps at most `most` reasons, and counts all."""

    def __init__(self, most: int, reasons: Iterable[str] = (), total: int = 0) -> None:
        """`total` of those that `reasons` speak of already; a reason may stand for many."""
        self._most = most
        self._reasons = list(reasons)
        self._total = max(total, len(self._reasons))

    def note(self, reason: str, count: int = 1, *, first: bool = False) -> None:
        """`first`: before all others, for what must not be cut off behind a hundred single files."""
        self._total += count
        if first:
            self._reasons.insert(0, reason)
        elif len(self._reasons) < self._most:
            self._reasons.append(reason)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(self._reasons[: self._most])

    @property
    def total(self) -> int:
        return self._total
