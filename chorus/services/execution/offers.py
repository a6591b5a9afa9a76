"""Offers to an executor: declined with a reason at once, or a place is promised until the assignment comes.

An attempt is its scheduler's alone: what another member offers or assigns under the same id never touches it, and no
member takes more places, or keeps more here, than its share (`reservations`, `owed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.bounded import Bounded
from chorus.errors import UserError
from chorus.protocols.task_messages import Accept, Assign, Decline, Message, Offer, Released, TaskProtocolError
from chorus.sandbox.contract import Choice, ImageMissing, SandboxUnavailable
from chorus.services.execution.offer_rules import AgentProfile, OfferDeclined, suits
from chorus.services.execution.owed import by_scheduler, excess
from chorus.services.execution.preparation import detect, job_of
from chorus.services.execution.reservations import BINDING_S, Reservations
from chorus.services.execution.row import RunRecord
from chorus.tasks import leases
from chorus.tasks.journal import Fence
from chorus.tasks.spec import TaskSpec
from chorus.tasks.state import DRAINING
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.identity import PeerId
    from chorus.services.execution.attempt import Attempt
    from chorus.services.execution.owed import Owed
    from chorus.services.execution.workplace import Workplace
    from chorus.services.task_streams import ExecutorChannel

ASSIGN_S = 10.0
"""Seconds in which an offer must have become an assignment; a scheduler that committed nothing by then offers again.
The place is kept from others for `reservations.BINDING_S` of them alone."""
MAX_REMEMBERED = 1000
"""Declined tasks remembered, so that each is logged once."""
NO_FENCE = Fence(0, 0, 0)


@attrs.define
class _Reserved:
    """The offer that a place was promised for."""

    offer: Offer
    spec: TaskSpec
    limit: Timer
    """Of the wait for the assignment; its binding part first, once the place is accepted."""


class Offers:
    """`attempts` are those of this executor, by task and fence. `begin` gets what was assigned, with the time (on this
    clock) from which its lease counts; `load_changed` is called when the number of places taken changes; `blocked_by`
    says why this machine can take nothing new: a reason and one line."""

    _log = Logger()

    def __init__(
        self,
        place: Workplace,
        profile: AgentProfile,
        attempts: Mapping[tuple[str, Fence], Attempt],
        *,
        begin: Callable[[RunRecord, ExecutorChannel, float], None],
        load_changed: Callable[[], None],
        blocked_by: Callable[[], tuple[str, str] | None],
    ) -> None:
        self._place = place
        self._profile = profile
        self._attempts = attempts
        self._begin = begin
        self._wake_waiters = load_changed
        self._blocked_by = blocked_by
        self._reserved: dict[ExecutorChannel, _Reserved] = {}
        self._promises = Reservations(profile.max_tasks)
        """Promised places, by the same keys as `_reserved`."""
        self._last_declined: Bounded[tuple[PeerId, str], str] = Bounded(MAX_REMEMBERED)
        """The last reason for which a task of a scheduler was declined: the same again is not logged."""
        self.draining = False
        self.declined: Counter[str] = Counter()
        """By reason."""

    @property
    def executing(self) -> int:
        """Places that are taken by an attempt."""
        return sum(attempt.executing for attempt in self._attempts.values())

    @property
    def promised(self) -> int:
        """Places that are taken by a promise."""
        return self._promises.taken(self._place.clock.seconds())

    @property
    def owed(self) -> Mapping[PeerId, Owed]:
        """Runs and bytes that each scheduler has not acknowledged."""
        ended = [attempt for attempt in self._attempts.values() if not attempt.executing]
        return by_scheduler((attempt.record.scheduler, attempt.held) for attempt in ended)

    def withdraw(self) -> None:
        """Give up every promise: this process ends."""
        for channel in list(self._reserved):
            channel.reset()

    def offered(self, channel: ExecutorChannel, offer: Offer) -> None:
        """Decline at once, or promise a place and look at what would run it."""
        try:
            spec = TaskSpec.from_json(offer.spec)
            self._admit(channel.peer, offer, spec)
        except UserError as error:
            self._decline(channel, offer, "unusable_spec", str(error))
        except OfferDeclined as declined:
            self._decline(channel, offer, declined.reason, declined.detail)
        except Exception as error:
            self._broke(channel, offer, f"failed to judge the offer: {type(error).__name__}")
        else:
            self._reserve(channel, offer, spec)

    def _reserve(self, channel: ExecutorChannel, offer: Offer, spec: TaskSpec) -> None:
        self._reserved[channel] = _Reserved(offer, spec, self._after(ASSIGN_S, self._unassigned, channel))
        self._promises.promise(channel, channel.peer)
        channel.heard = lambda message: self._heard(channel, message)
        channel.closed = lambda error: self._release(channel)
        looking = Deferred.fromCoroutine(self._look(channel, offer, spec))
        looking.addErrback(lambda failure: self._look_broke(failure, channel, offer))

    def _admit(self, peer: PeerId, offer: Offer, spec: TaskSpec) -> None:
        name = self._profile.agent_id
        if self.draining:
            raise OfferDeclined("draining", f"{name} is shutting down")
        for attempt in self._attempts_at(offer.task_id):
            if attempt.record.scheduler != peer:
                raise OfferDeclined("other_scheduler", f"{name} has a task of this id from another scheduler")
            # Its scheduler offers it again, so the attempt here is void; it must be gone before another begins.
            attempt.lease_lost()
            raise OfferDeclined("busy_with_it", f"{name} is still ending an earlier attempt")
        if (blocked := self._blocked_by()) is not None:
            raise OfferDeclined(blocked[0], f"{name}: {blocked[1]}")
        if (kept := excess(self.owed, peer)) is not None:
            raise OfferDeclined("unacknowledged", f"{name} {kept}")
        if (full := self._full(peer)) is not None:
            raise OfferDeclined("full", full)
        suits(self._profile, spec, offer.input)

    def _full(self, peer: PeerId, but: ExecutorChannel | None = None) -> str | None:
        """The reason why `peer` gets no place, what it was promised on `but` apart."""
        taken = self.executing + self._promises.taken_from(peer, self._place.clock.seconds(), but)
        if taken >= self._profile.max_tasks:
            return f"{self._profile.agent_id} runs {taken} of {self._profile.max_tasks} tasks"
        return None

    def _attempts_at(self, task_id: str) -> list[Attempt]:
        """Those that execute."""
        return [each for each in self._attempts.values() if each.record.task_id == task_id and each.executing]

    async def _look(self, channel: ExecutorChannel, offer: Offer, spec: TaskSpec) -> None:
        """The last question before accepting: is there a sandbox, and an image as far as the offer says which?"""
        record = RunRecord(offer.task_id, NO_FENCE, offer.attempt, channel.peer, spec, offer.input, 0.0, 0.0)
        job = job_of(record, self._profile.agent_id, detect(spec, ()), None)
        try:
            choice: Choice | None = await self._place.sandboxes.choose(job)
        except ImageMissing as error:
            if offer.input is not None and spec.image is None and spec.language is None:
                # The files of the input may say another language: decided once they are here.
                choice = None
            else:
                self._refuse(channel, offer, "image_missing", str(error))
                return
        except SandboxUnavailable as error:
            self._refuse(channel, offer, "sandbox_unavailable", str(error))
            return
        reserved = self._reserved.get(channel)
        if reserved is not None and channel.may_send(Accept):
            # The place is taken from here on: meanwhile other offers may have passed this one.
            if (full := self._full(channel.peer, but=channel)) is not None:
                self._refuse(channel, offer, "full", full)
                return
            self._promises.accept(channel, self._place.clock.seconds())
            reserved.limit.cancel()
            reserved.limit = self._after(BINDING_S, self._binds_no_more, channel)
            channel.send(Accept())
            self._last_declined.pop((channel.peer, offer.task_id), None)
            self._wake_waiters()
            self._log.debug("accepted {task}", task=offer.task_id, choice=choice)

    def _look_broke(self, failure: Failure, channel: ExecutorChannel, offer: Offer) -> None:
        self._release(channel)
        self._broke(channel, offer, "failed to look for a sandbox", failure)

    def _broke(self, channel: ExecutorChannel, offer: Offer, what: str, failure: Failure | None = None) -> None:
        self._log.failure("internal error in an offer", failure=failure)
        try:
            self._decline(channel, offer, "sandbox_unavailable", f"{self._profile.agent_id} {what}")
        except Exception:
            self._log.failure("an offer could not be declined")
            channel.reset()

    def _refuse(self, channel: ExecutorChannel, offer: Offer, reason: str, detail: str) -> None:
        self._release(channel)
        self._decline(channel, offer, reason, detail)

    def _decline(self, channel: ExecutorChannel, offer: Offer, reason: str, detail: str) -> None:
        self.declined[reason] += 1
        key = (channel.peer, offer.task_id)
        if self._last_declined.get(key) != detail:
            self._log.info(
                "{task} declined: {detail}", event="task.declined", task=offer.task_id, reason=reason, detail=detail
            )
        self._last_declined.put(key, detail)
        if channel.may_send(Decline):
            channel.send(Decline(reason, detail[:1000]))

    def _heard(self, channel: ExecutorChannel, message: Message) -> None:
        if isinstance(message, Assign):
            self._assigned(channel, message)

    def _binds_no_more(self, channel: ExecutorChannel) -> None:
        """Others may have the place from now on; it is still there for this one if they do not take it."""
        self._reserved[channel].limit = self._after(ASSIGN_S - BINDING_S, self._unassigned, channel)
        self._wake_waiters()

    def _unassigned(self, channel: ExecutorChannel) -> None:
        self._release(channel)
        channel.reset()
        self._log.info("a task of {peer} was not assigned in time", event="task.not_assigned", peer=channel.peer)

    def _after(self, seconds: float, due: Callable[[ExecutorChannel], None], channel: ExecutorChannel) -> Timer:
        timer = Timer(self._place.clock, lambda: due(channel))
        timer.arm(seconds)
        return timer

    def _release(self, channel: ExecutorChannel) -> None:
        reserved = self._reserved.pop(channel, None)
        if self._promises.give_up(channel, self._place.clock.seconds()):
            self._wake_waiters()
        if reserved is not None:
            reserved.limit.cancel()

    # assignments

    def ended(self, attempt: Attempt) -> None:
        """An assigned attempt is over: its place may have been kept for nothing."""
        if attempt.came_to_nothing:
            self._lapsed(attempt.record.scheduler)

    def _lapsed(self, peer: PeerId) -> None:
        self._promises.lapse(peer, self._place.clock.seconds())

    def _assigned(self, channel: ExecutorChannel, assign: Assign) -> None:
        reserved = self._reserved.pop(channel)
        reserved.limit.cancel()
        now = self._place.clock.seconds()
        accepted_at = self._promises.use(channel, now)
        if not leases.is_lease(assign.lease_s):
            self._lapsed(channel.peer)
            channel.reset(TaskProtocolError(f"a lease of {assign.lease_s} s cannot be kept"))
            self._wake_waiters()
            return
        offer = reserved.offer
        known = self._attempts.get((offer.task_id, assign.fence))
        if known is not None and known.record.scheduler == channel.peer:
            # A repetition of what we have already; the attempt has (or finds) a conversation of its own.
            self._lapsed(channel.peer)
            channel.reset()
            self._wake_waiters()
            return
        if (taken := self._place_lost(offer.task_id, known)) is not None:
            late = now - accepted_at >= BINDING_S
            if late or any(each.record.scheduler == channel.peer for each in self._attempts_at(offer.task_id)):
                self._lapsed(channel.peer)
            self._hand_back(channel, taken)
            return
        lease_until = self._place.wall() + leases.kill_at(0.0, assign.lease_s)
        record = RunRecord(
            task_id=offer.task_id,
            fence=assign.fence,
            attempt=offer.attempt,
            scheduler=channel.peer,
            spec=reserved.spec,
            input=offer.input,
            lease_s=assign.lease_s,
            lease_until=lease_until,
        )
        self._begin(record, channel, accepted_at)

    def _place_lost(self, task_id: str, known: Attempt | None) -> str | None:
        """The reason why a promise cannot be kept: it was not used in time, or the name is taken."""
        if self.draining:
            return "the agent is shutting down"
        if known is not None or self._attempts_at(task_id):
            return "the agent has another attempt under this name"
        if self.executing >= self._profile.max_tasks:
            return "its place has been given to another task"
        return None

    def _hand_back(self, channel: ExecutorChannel, detail: str) -> None:
        """Nothing has begun, and nobody has failed: the task goes elsewhere at no cost."""
        channel.heard = lambda message: None
        channel.closed = lambda error: None
        if channel.may_send(Released):
            channel.send(Released(DRAINING, detail))
        else:
            channel.reset()
        self._wake_waiters()
