"""Named blobs: those of a task (its input, what its result names), or of one that is being accepted or recorded.

A named blob is not removed. Asking and removing is one step (`BlobService.remove` asks after the last thing it
waits for), and whoever accepts a name claims the blob before it looks whether it is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chorus.tasks.blobs import input_blob, result_blobs

if TYPE_CHECKING:
    from chorus.tasks.state import TaskState


class NamedBlobs:
    """`sha256 in named` says whether somebody names it now."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._count

    @contextmanager
    def claim(self, blobs: Iterable[str]) -> Iterator[None]:
        """Keep the blob named inside of the `with` block."""
        claimed = frozenset(blobs)
        self._add(claimed)
        try:
            yield
        finally:
            self._remove(claimed)

    def changed(self, before: TaskState | None, task: TaskState | None) -> None:
        """Update the names of a task from its old to its new state; None stands for no task."""
        old, new = blobs_of(before), blobs_of(task)
        self._add(new - old)
        self._remove(old - new)

    def _add(self, blobs: Iterable[str]) -> None:
        for sha256 in blobs:
            self._count[sha256] += 1

    def _remove(self, blobs: Iterable[str]) -> None:
        for sha256 in blobs:
            self._count[sha256] -= 1
            if not self._count[sha256]:
                del self._count[sha256]


def blobs_of(task: TaskState | None) -> frozenset[str]:
    """Everything that a task names."""
    if task is None:
        return frozenset()
    found = {sha256 for sha256, _ in result_blobs(task.result)}
    source = input_blob(task.spec)
    return frozenset(found | ({source} if source is not None else set()))
