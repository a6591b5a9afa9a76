"""Missing deliverables of a task, in the words of every view: how many, and the first reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from chorus.client import show

MAX_REASONS = 10
"""Shown; the document has more."""


@attrs.frozen
class Missing:
    """False where nothing is. A reason may stand for many."""

    total: int
    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.total > 0

    def lines(self) -> list[str]:
        """One line a reason; where they do not stand for all, a last one with the number."""
        shown = [f"missing: {reason}" for reason in self.reasons[:MAX_REASONS]]
        if self.total > len(shown):
            shown.append(f"missing: {self.total} in all")
        return shown

    def say(self) -> None:
        for line in self.lines():
            show.note(line)


def left_out(task: dict[str, Any]) -> Missing:
    """Deliverables that the task's agent could not keep: nobody has them."""
    reasons = list(task.get("artifacts_skipped") or [])
    return Missing(max(task.get("artifacts_skipped_total") or 0, len(reasons)), tuple(reasons))


def of(task: dict[str, Any]) -> Missing:
    """Also what its agent has and the node could not get."""
    found = left_out(task)
    absent = task.get("artifacts_absent") or 0
    if not absent:
        return found
    files = "1 file is" if absent == 1 else f"{absent} files are"
    return both(found, absent, [f"{files} still with the agent, the node could not get them yet and goes on trying"])


def both(found: Missing, further: int, reasons: Sequence[str]) -> Missing:
    return Missing(found.total + further, (*found.reasons, *reasons))
