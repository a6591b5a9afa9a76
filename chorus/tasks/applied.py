"""The journal's interface: entries are appended, and subscribers hear of what each entry did.

A journal commits an entry, applies it to the task machine and calls its subscribers, in this order and in one step.
Every node has the subscribers of `Audience.NODE`; those of `Audience.SCHEDULER` are called only at the node that
schedules, after the others (docs/architecture.md, "The way of a task").
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.tasks.errors import IllegalEntry
    from chorus.tasks.journal import Entry, Fence
    from chorus.tasks.state import TaskState


class Audience(Enum):
    """The nodes at which a subscriber is called."""

    NODE = auto()
    """Every node: the read model, state events, local watchers."""
    SCHEDULER = auto()
    """The node that schedules: placement, custodies, results to fetch, announcements, counters."""


@attrs.frozen
class Change:
    """One task before and after an entry; None where there is no such task."""

    before: TaskState | None
    after: TaskState | None

    @property
    def task_id(self) -> str:
        task = self.after or self.before
        assert task is not None
        return task.id

    @property
    def moved(self) -> bool:
        """True if the task is in another state, or under another owner, than before."""
        return self.after is not None and (
            self.before is None
            or (self.before.state, self.before.fence, self.before.attempt)
            != (self.after.state, self.after.fence, self.after.attempt)
        )


@attrs.frozen
class Applied:
    """The effect of the entry at `index`."""

    index: int
    entry: Entry
    task: TaskState | None = None
    """The entry's task after it; None where there is none, or no more."""
    changes: tuple[Change, ...] = ()
    """The entry's own task first, then its dependents in order of submission."""
    refusal: IllegalEntry | None = None
    """Why the entry changed nothing, where the machine refused it."""


Subscriber = Callable[[Applied], None]


class Journal(Protocol):
    """The record of what must not fork."""

    def append(self, entry: Entry) -> Deferred[Applied]:
        """Fires once the entry is durable and applied, and all subscribers have been called. Fails with `NotLeader`,
        `NoQuorum` or `OutcomeUnknown`."""

    def subscribe(self, audience: Audience, subscriber: Subscriber) -> None:
        """Have `subscriber` called with each entry that is applied from now on, replays excepted, in the order of
        indexes. Subscribers of one audience are called in the order in which they subscribed."""

    def fence_of(self, index: int) -> Fence:
        """The fence that the entry at `index` gives."""
