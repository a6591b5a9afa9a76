"""One event of a task's history, as watchers and the API get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from chorus.seams import Document


@attrs.frozen
class TaskEvent:
    """One line of a task's history. `id` grows by one per task from 1 and survives restarts."""

    id: int
    type: str
    """`state`, `output`, `progress` or `note`."""
    time: float
    data: Document
    """state: {state, reason?, detail?, agent?, attempt?, fence?, sandbox?}; output: {stream, offset, text} or
    {stream, offset, base64} when they are not UTF-8 or that is shorter; progress: {phase, …}; note: {text}."""
