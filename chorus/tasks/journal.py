"""The journal's values: entries, the fences that they give, and why an entry cannot be appended.

State changes only in the pure `apply(index, entry)` of a state machine. A single node's journal commits locally with
fences (0, start count, index); the interface is `tasks/applied.py` (spec/tasks.md, "The admin's journal").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from chorus.errors import ChorusError

if TYPE_CHECKING:
    from chorus.seams import JSON


@attrs.frozen(order=True)
class Fence:
    """Orders owners of a task: (epoch, term, index). A result under any but the current fence is stale."""

    epoch: int
    term: int
    index: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.term}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Fence:
        """Inverse of `str`. Raises ValueError."""
        epoch, term, index = text.split(".")
        return cls(int(epoch), int(term), int(index))


@attrs.frozen
class Entry:
    """One journal entry: its kind (`task.submitted`, …), the record it is about, its body, and Unix time in seconds."""

    kind: str
    subject: str
    body: Mapping[str, JSON]
    time: float


class NotLeader(ChorusError):
    """This node may not append; `hint` names the one that may, when known."""

    code = "not_leader"

    def __init__(self, hint: str | None = None) -> None:
        super().__init__(f"the journal is led by {hint}" if hint else "the journal has no known leader")
        self.hint = hint


class NoQuorum(ChorusError):
    """Nobody can commit now."""

    code = "no_quorum"


class OutcomeUnknown(ChorusError):
    """The entry may or may not be committed: ask again by id."""

    code = "outcome_unknown"
