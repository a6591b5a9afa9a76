"""Ended runs that an executor keeps until their schedulers acknowledge them (pure).

An outcome is kept for a scheduler that is away, for days if need be, so none is dropped to make room. Instead nothing
more is taken from a scheduler that lets too much lie here: an honest one acknowledges within seconds of its return.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from chorus.identity import PeerId

MAX_RUNS = 64
"""Of one scheduler. Quick tasks end by the dozen while acknowledgements are on their way; a silent one stops here."""
MAX_BYTES = 256 * 1024 * 1024
"""Of one scheduler: output and artifacts of its runs together. What runs already when it is reached still comes on top,
at most the limits of as many tasks as the executor has places."""
MAX_RUNS_IN_ALL = 512
MAX_BYTES_IN_ALL = 1024 * 1024 * 1024
"""Of all schedulers. Above these only those are heard that owe nothing, so that the silence of some locks nobody else
out."""


@attrs.frozen
class Owed:
    """Of one scheduler: runs and bytes that it has not acknowledged."""

    runs: int = 0
    size: int = 0
    """Bytes."""

    def __add__(self, other: Owed) -> Owed:
        return Owed(self.runs + other.runs, self.size + other.size)

    @property
    def words(self) -> str:
        return f"{self.runs} ended run{'s' if self.runs != 1 else ''} of {self.size} bytes"


def by_scheduler(ended: Iterable[tuple[PeerId, int]]) -> Mapping[PeerId, Owed]:
    """From (scheduler, bytes) of each run that has ended."""
    found: dict[PeerId, Owed] = {}
    for scheduler, size in ended:
        found[scheduler] = found.get(scheduler, Owed()) + Owed(1, size)
    return found


def excess(owed: Mapping[PeerId, Owed], scheduler: PeerId) -> str | None:
    """The reason why nothing more is taken from `scheduler` now."""
    own = owed.get(scheduler, Owed())
    if own.runs >= MAX_RUNS or own.size >= MAX_BYTES:
        return f"keeps {own.words} that their scheduler has not acknowledged"
    in_all = sum(owed.values(), Owed())
    if own.runs and (in_all.runs >= MAX_RUNS_IN_ALL or in_all.size >= MAX_BYTES_IN_ALL):
        return f"keeps {in_all.words} that their schedulers have not acknowledged"
    return None
