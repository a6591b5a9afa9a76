"""The executor: answers offers, carries out what is assigned, delivers every result until it is acknowledged.

Admission is decided at the offer, with a reason when declined, so that the scheduler tries the next agent at once.
After a restart it takes back the sandboxes whose lease is still its own, removes the rest, and goes on delivering.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

from chorus.errors import ChorusError, UserError
from chorus.protocols.task_messages import Accept, Assign, Decline, Message, Offer
from chorus.sandbox import volumes
from chorus.sandbox.contract import Choice, ImageMissing, Limits, SandboxUnavailable
from chorus.services.attempt import Attempt
from chorus.services.preparation import detect, job_of
from chorus.services.run_record import RunRecord
from chorus.tasks import leases
from chorus.tasks.journal import Fence
from chorus.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from chorus.identity import PeerId
    from chorus.protocols.stream import Connection
    from chorus.services.task_streams import ExecutorChannel
    from chorus.services.workplace import Workplace

ASSIGN_S = 30.0
"""Seconds a place is kept after `accept`; a scheduler that committed nothing by then offers again."""
DRAIN_TAIL_S = 5.0
"""The end of a drain's budget that is kept for handing back what has not finished."""
MAX_TOLD = 1000
"""Declined tasks remembered, so that each is logged once."""
NO_FENCE = Fence(0, 0, 0)


@attrs.frozen
class AgentProfile:
    """What this agent is: what it tells others, and what its offers are judged by."""

    agent_id: str
    max_tasks: int = 3
    role: str | None = None
    expertise: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    specialization: str = "general"
    maximum: Limits | None = None
    """The largest limits it runs; None takes whatever was admitted."""


class _Reservation:
    """A place promised to an offer until its assignment comes."""

    def __init__(self, offer: Offer, spec: TaskSpec, channel: ExecutorChannel, limit: IDelayedCall) -> None:
        self.offer = offer
        self.spec = spec
        self.channel = channel
        self.limit: IDelayedCall = limit
        self.accepted_at = 0.0


class ExecutorService(Service):
    """`changed` is called when the number of tasks, or the readiness for more, changes (availability broadcast)."""

    name = "executor"
    _log = Logger()

    def __init__(
        self,
        place: Workplace,
        profile: AgentProfile,
        *,
        changed: Callable[[], None] = lambda: None,
        hindrance: Callable[[], tuple[str, str] | None] = lambda: None,
    ) -> None:
        """`hindrance`: (reason, one line) while this machine can take nothing new."""
        self._hindrance = hindrance
        self._place = attrs.evolve(place, name=profile.agent_id)
        self._profile = profile
        self._changed = changed
        self._reserved: dict[ExecutorChannel, _Reservation] = {}
        self._attempts: dict[tuple[str, Fence], Attempt] = {}
        self._quiet: list[Deferred[None]] = []
        self.draining = False
        self._told: dict[tuple[PeerId, str], str] = {}
        """Why which task of which scheduler was last declined: the same again is no news for the log."""
        self.declined: Counter[str] = Counter()
        """Offers declined, by reason."""
        self.last_activity = 0.0
        """Unix seconds when a task last began or ended here; 0 before the first since the start."""
        self.leases_lost = 0
        self.taken_back = 0

    # what others ask

    @property
    def profile(self) -> AgentProfile:
        return self._profile

    @property
    def current_tasks(self) -> int:
        """Places taken: promised and executing; not those that only wait for an acknowledgement."""
        return len(self._reserved) + sum(attempt.executing for attempt in self._attempts.values())

    @property
    def unacknowledged(self) -> int:
        """Attempts that are over and whose scheduler has not said so yet."""
        return sum(not attempt.executing for attempt in self._attempts.values())

    # life

    async def start(self) -> None:
        """Take back what a previous process left; then answer offers. Raises what the store raises."""
        records = {(record.task_id, str(record.fence)): record for record in await self._place.runs.all()}
        now = self._place.wall()

        def keep(task_id: str, fence: str) -> bool:
            record = records.get((task_id, fence))
            return record is not None and record.outcome is None and _alive(record, now)

        kept: set[tuple[str, str]] = set()
        try:
            kept = set(await self._place.sandboxes.reconcile(keep))
        except CancelledError:
            # The start is given up: the node was asked to stop meanwhile.
            raise
        except ChorusError as error:
            self._log.error("sandboxes of an earlier run cannot be looked for: {error}", error=error)
        except Exception:
            # What a task left must never keep an agent from starting.
            self._log.failure("sandboxes of an earlier run cannot be looked for")
        known = {f"{task_id}-{fence}" for task_id, fence in records}
        try:
            for problem in await self._place.in_thread(_remove_strays, self._place.directory, known):
                self._log.error("an earlier run stays: {error}", error=problem)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("what earlier runs left cannot be removed")
        for key, record in records.items():
            attempt = self._attempt(record)
            taken = key in kept
            self.taken_back += taken
            attempt.take_back(kept=taken)
        self._place.streams.offered = self._offered
        if records:
            self._log.info(
                "runs of an earlier process: {count}, taken back: {kept}",
                event="executor.restarted",
                count=len(records),
                kept=self.taken_back,
            )

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self.start())

    def stopService(self) -> Deferred[None]:
        """Leave everything as it is for the next process of this agent (`drain` first, to leave nothing)."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.draining = True
        self._place.streams.offered = None
        for channel in list(self._reserved):
            channel.reset()
        for attempt in list(self._attempts.values()):
            attempt.detach()
        return succeed(None)

    def drain(self, budget: float) -> Deferred[None]:
        """Take nothing more; wait for what runs, hand back what has not finished in time. At most `budget` seconds."""
        return Deferred.fromCoroutine(self._drain(budget))

    async def _drain(self, budget: float) -> None:
        self.draining = True
        self._changed()
        tail = min(DRAIN_TAIL_S, budget / 2)
        await self._until_quiet(budget - tail, executing=True)
        for attempt in list(self._attempts.values()):
            attempt.hand_back()
        await self._until_quiet(tail, executing=False)

    async def _until_quiet(self, seconds: float, *, executing: bool) -> None:
        """Wait until nothing executes (or nothing at all is left), at most so long."""
        clock = self._place.clock
        end = clock.seconds() + max(0.0, seconds)
        while self.current_tasks if executing else self._attempts:
            left = end - clock.seconds()
            if left <= 0:
                return
            waiting: Deferred[None] = Deferred()
            limit = clock.callLater(left, waiting.callback, None)
            self._quiet.append(waiting)
            await waiting
            if limit.active():
                limit.cancel()

    def _stirred(self) -> None:
        waiting, self._quiet = self._quiet, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)
        self._changed()

    def peer_joined(self, connection: Connection) -> None:
        """A peer is there (again): deliver to it at once what it waits for (`Host.watch_peers`)."""
        for attempt in list(self._attempts.values()):
            if attempt.record.scheduler == connection.peer_id:
                attempt.connect()

    # offers

    def _offered(self, channel: ExecutorChannel, offer: Offer) -> None:
        limit = self._place.clock.callLater(ASSIGN_S, self._unassigned, channel)
        try:
            spec = TaskSpec.from_json(offer.spec)
            self._admit(channel.peer, offer, spec)
        except UserError as error:
            limit.cancel()
            self._decline(channel, offer, "unusable_spec", str(error))
            return
        except _Declined as declined:
            limit.cancel()
            self._decline(channel, offer, declined.reason, declined.detail)
            return
        # The place is taken from here on: what follows waits, and other offers must not pass it meanwhile.
        self._reserved[channel] = _Reservation(offer, spec, channel, limit)
        channel.heard = lambda message: self._heard(channel, message)
        channel.closed = lambda error: self._release(channel)
        Deferred.fromCoroutine(self._look(channel, offer, spec)).addErrback(self._look_broke, channel, offer)

    def _admit(self, peer: PeerId, offer: Offer, spec: TaskSpec) -> None:
        profile = self._profile
        if self.draining:
            raise _Declined("draining", f"{profile.agent_id} is shutting down")
        for (task_id, _), attempt in self._attempts.items():
            if task_id == offer.task_id and attempt.executing:
                # The scheduler offers it again, so the attempt here is void; it must be gone before another begins.
                attempt.lease_lost()
                raise _Declined("busy_with_it", f"{profile.agent_id} is still ending an earlier attempt")
        if (hindered := self._hindrance()) is not None:
            raise _Declined(hindered[0], f"{profile.agent_id}: {hindered[1]}")
        if self.current_tasks >= profile.max_tasks:
            raise _Declined("full", f"{profile.agent_id} runs {self.current_tasks} of {profile.max_tasks} tasks")
        if not spec.commands:
            raise _Declined("no_model", f"{profile.agent_id} has no AI provider to plan the commands")
        required = spec.required
        if required.role is not None and required.role != profile.role:
            raise _Declined("wrong_role", f"{profile.agent_id} is not {required.role}")
        for name in ("expertise", "capabilities"):
            known = {each.lower() for each in getattr(profile, name)}
            missing = [each for each in getattr(required, name) if each.lower() not in known]
            if missing:
                raise _Declined(f"missing_{name}", f"{profile.agent_id} lacks {', '.join(missing)}")
        if profile.maximum is not None:
            for field in attrs.fields(Limits):
                asked, most = getattr(spec.limits, field.name), getattr(profile.maximum, field.name)
                if asked > most:
                    raise _Declined("over_limits", f"{profile.agent_id} gives at most {field.name} {most}, not {asked}")

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
        reservation = self._reserved.get(channel)
        if reservation is not None and channel.may_send(Accept):
            reservation.accepted_at = self._place.clock.seconds()
            channel.send(Accept())
            self._told.pop((channel.peer, offer.task_id), None)
            self._stirred()
            self._log.debug("accepted {task}", task=offer.task_id, choice=choice)

    def _look_broke(self, failure: Failure, channel: ExecutorChannel, offer: Offer) -> None:
        self._log.failure("an offer broke", failure=failure)
        self._refuse(channel, offer, "sandbox_unavailable", f"{self._profile.agent_id} failed to look for a sandbox")

    def _refuse(self, channel: ExecutorChannel, offer: Offer, reason: str, detail: str) -> None:
        self._decline(channel, offer, reason, detail)
        self._release(channel)

    def _decline(self, channel: ExecutorChannel, offer: Offer, reason: str, detail: str) -> None:
        self.declined[reason] += 1
        key = (channel.peer, offer.task_id)
        if self._told.pop(key, None) != detail:
            self._log.info(
                "{task} declined: {detail}", event="task.declined", task=offer.task_id, reason=reason, detail=detail
            )
        self._told[key] = detail
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]
        if channel.may_send(Decline):
            channel.send(Decline(reason, detail[:1000]))

    def _heard(self, channel: ExecutorChannel, message: Message) -> None:
        if isinstance(message, Assign):
            self._assigned(channel, message)

    def _unassigned(self, channel: ExecutorChannel) -> None:
        self._log.info("an accepted task was not assigned in time", event="task.not_assigned")
        channel.reset()

    def _release(self, channel: ExecutorChannel) -> None:
        reservation = self._reserved.pop(channel, None)
        if reservation is not None:
            if reservation.limit.active():
                reservation.limit.cancel()
            self._stirred()

    # assignments

    def _assigned(self, channel: ExecutorChannel, assign: Assign) -> None:
        reservation = self._reserved.pop(channel)
        reservation.limit.cancel()
        offer = reservation.offer
        key = (offer.task_id, assign.fence)
        if key in self._attempts:
            # A repetition of what we have already; the attempt has (or finds) a conversation of its own.
            channel.reset()
            return
        lease_until = self._place.wall() + leases.kill_at(0.0, assign.lease_s)
        record = RunRecord(
            task_id=offer.task_id,
            fence=assign.fence,
            attempt=offer.attempt,
            scheduler=channel.peer,
            spec=reservation.spec,
            input=offer.input,
            lease_s=assign.lease_s,
            lease_until=lease_until,
        )
        self.last_activity = self._place.wall()
        self._log.info("assigned {task}", event="task.taken", task=offer.task_id, fence=str(assign.fence))
        self._attempt(record).begin(channel, reservation.accepted_at)

    def _attempt(self, record: RunRecord) -> Attempt:
        attempt = Attempt(self._place, record, ended=self._ended, forgotten=self._forgotten)
        self._attempts[record.task_id, record.fence] = attempt
        return attempt

    def _ended(self, attempt: Attempt) -> None:
        self.leases_lost += attempt.lost_lease
        self.last_activity = self._place.wall()
        self._stirred()

    def _forgotten(self, attempt: Attempt) -> None:
        self._attempts.pop((attempt.record.task_id, attempt.record.fence), None)
        self._stirred()


class _Declined(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _alive(record: RunRecord, now: float) -> bool:
    """Whether the lease of a run of an earlier process can still be its own, by wall time (the only one that spans
    reboots); a clock that was set back makes it look longer than any lease, and then it is not trusted."""
    return record.language is not None and 0.0 < record.lease_until - now <= record.lease_s


def _remove_strays(parent: Path, known: set[str]) -> list[str]:
    """Directories of attempts that have no row: their process died before it was written, or after it was deleted. Why
    some of them stay."""
    problems = []
    if parent.is_dir():
        for path in parent.iterdir():
            if path.name not in known:
                try:
                    volumes.remove_tree(path)
                except OSError as error:
                    problems.append(f"{path}: {error}")
    return problems
