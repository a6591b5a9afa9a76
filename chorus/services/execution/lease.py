"""The holder's side of a lease: renewed in time, or the sandbox is killed before the giver may give the task away.

It counts from the moment a renewal was *sent* that was acknowledged (spec/tasks.md, "Lease"; `chorus/tasks/leases.py`
has the times).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from chorus.protocols.task_messages import Renew
from chorus.protocols.tasks import MAX_PENDING_RENEWALS
from chorus.tasks import leases
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.services.execution.conversation import Conversation
    from chorus.services.execution.row import AttemptRow


class HeldLease:
    """`lost` is called at the deadline; `wanted` says whether an acknowledged renewal may still put that off."""

    def __init__(
        self,
        row: AttemptRow,
        conversation: Conversation,
        clock: IReactorTime,
        wall: Callable[[], float],
        *,
        lost: Callable[[], None],
        wanted: Callable[[], bool],
    ) -> None:
        self._row = row
        self._conversation = conversation
        self._clock = clock
        self._wall = wall
        self._wanted = wanted
        self._held_from = float("-inf")
        self._tags: dict[int, float] = {}
        """When each renewal was sent that is not answered yet."""
        self._next_tag = 1
        self._renewal = Timer(clock, self.renew)
        self._deadline = Timer(clock, lost)

    def hold(self, sent_at: float) -> None:
        """The lease is good from `sent_at` (this clock) on."""
        self._held_from = max(sent_at, self._held_from)
        left = leases.kill_at(self._held_from, self._row.record.lease_s) - self._clock.seconds()
        self._deadline.arm(left)
        self._row.record = attrs.evolve(self._row.record, lease_until=self._wall() + left)

    def hold_on(self) -> None:
        """The lease is good until the time that the row says: an earlier process of this agent renewed it."""
        self._deadline.arm(self._row.record.lease_until - self._wall())

    def renew(self) -> None:
        """Renew the lease now, where the conversation allows it, and in time from now on."""
        self._renewal.arm(leases.renewal_interval(self._row.record.lease_s))
        if not self._conversation.may_say(Renew) or len(self._tags) >= MAX_PENDING_RENEWALS:
            return
        tag = self._next_tag
        self._next_tag += 1
        self._tags[tag] = self._clock.seconds()
        self._conversation.say(Renew(tag))

    def renewed(self, tag: int) -> None:
        """The scheduler has acknowledged a renewal."""
        sent_at = self._tags.pop(tag, None)
        if sent_at is not None and self._wanted():
            self.hold(sent_at)
            self._row.renewed()

    def interrupt(self) -> None:
        """The conversation has ended, and with it what was not answered."""
        self._renewal.cancel()
        self._tags.clear()

    def release(self) -> None:
        """Stop renewing, and forget the deadline."""
        self._renewal.cancel()
        self._deadline.cancel()
