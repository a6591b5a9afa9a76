"""The executor: carries out what is assigned to it, delivers every result until it is acknowledged.

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

from chorus.errors import ChorusError
from chorus.sandbox.files import volumes
from chorus.services.execution.attempt import Attempt
from chorus.services.execution.offer_rules import AgentProfile
from chorus.services.execution.offers import ASSIGN_S, Offers
from chorus.services.execution.row import RunRecord
from chorus.tasks.journal import Fence
from chorus.timer import Timer

if TYPE_CHECKING:
    from chorus.protocols.stream import Connection
    from chorus.services.execution.workplace import Workplace
    from chorus.services.task_streams import ExecutorChannel

__all__ = ["ASSIGN_S", "DRAIN_TAIL_S", "AgentProfile", "ExecutorService"]

DRAIN_TAIL_S = 5.0
"""The end of a drain's budget that is kept for handing back what has not finished."""


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
        blocked_by: Callable[[], tuple[str, str] | None] = lambda: None,
    ) -> None:
        """`blocked_by`: (reason, one line) while this machine can take nothing new."""
        self._place = attrs.evolve(place, name=profile.agent_id)
        self._profile = profile
        self._changed = changed
        self._attempts: dict[tuple[str, Fence], Attempt] = {}
        self._offers = Offers(
            self._place,
            profile,
            self._attempts,
            begin=self._begin,
            load_changed=self._wake_waiters,
            blocked_by=blocked_by,
        )
        self._quiet: list[Deferred[None]] = []
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
        """Places taken: executing, and promised so that it binds; not those that only wait for an acknowledgement."""
        return self._offers.executing + self._offers.promised

    @property
    def draining(self) -> bool:
        """True if it takes nothing more."""
        return self._offers.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._offers.draining = value

    @property
    def declined(self) -> Counter[str]:
        """Offers declined, by reason."""
        return self._offers.declined

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
                self._log.error("remains of an earlier run could not be removed: {error}", error=problem)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("remains of earlier runs cannot be removed")
        for key, record in records.items():
            self._take_back(record, kept=key in kept)
        self._place.streams.offered = self._offers.offered
        if records:
            self._log.info(
                "runs of an earlier process: {count}, taken back: {kept}",
                event="executor.restarted",
                count=len(records),
                kept=self.taken_back,
            )

    def _take_back(self, record: RunRecord, *, kept: bool) -> None:
        attempt = self._attempt(record)
        try:
            attempt.take_back(kept=kept)
        except Exception:
            # Its row stays for the next start.
            self._log.failure("the run of {task} cannot be taken back", task=record.task_id)
            self._drop(attempt)
        else:
            self.taken_back += kept

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self.start())

    def stopService(self) -> Deferred[None]:
        """Leave everything as it is for the next process of this agent (`drain` first, to leave nothing)."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.draining = True
        self._place.streams.offered = None
        self._offers.withdraw()
        for attempt in list(self._attempts.values()):
            attempt.detach()
        return succeed(None)

    def drain(self, budget: float) -> Deferred[None]:
        """Take nothing more; wait for what runs, hand back what has not finished in time. At most `budget` seconds."""
        return Deferred.fromCoroutine(self._drain(budget))

    async def _drain(self, budget: float) -> None:
        self.draining = True
        self._wake_waiters()
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
            limit = Timer(clock, lambda waiting=waiting: waiting.callback(None))  # type: ignore[misc]
            limit.arm(left)
            self._quiet.append(waiting)
            await waiting
            limit.cancel()

    def _wake_waiters(self) -> None:
        waiting, self._quiet = self._quiet, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)
        try:
            self._changed()
        except Exception:
            # A listener must not keep a place from being given back.
            self._log.failure("a change of the load could not be passed on")

    def peer_joined(self, connection: Connection) -> None:
        """A peer is there (again): deliver to it at once what it waits for (`Host.watch_peers`)."""
        for attempt in list(self._attempts.values()):
            if attempt.record.scheduler == connection.peer_id:
                attempt.connect()

    # attempts

    def _begin(self, record: RunRecord, channel: ExecutorChannel, accepted_at: float) -> None:
        self.last_activity = self._place.wall()
        self._log.info("assigned {task}", event="task.taken", task=record.task_id, fence=str(record.fence))
        attempt = self._attempt(record)
        try:
            attempt.begin(channel, accepted_at)
        except Exception:
            self._log.failure("{task} could not be started", task=record.task_id)
            channel.reset()
            self._offers.ended(attempt)
            self._drop(attempt)
            self._wake_waiters()

    def _drop(self, attempt: Attempt) -> None:
        """One that could not begin: its place is free, whatever is left of it."""
        self._attempts.pop((attempt.record.task_id, attempt.record.fence), None)
        try:
            attempt.detach()
        except Exception:
            self._log.failure("the partial start of {task} could not be undone", task=attempt.record.task_id)

    def _attempt(self, record: RunRecord) -> Attempt:
        attempt = Attempt(self._place, record, ended=self._ended, forgotten=self._forgotten)
        self._attempts[record.task_id, record.fence] = attempt
        return attempt

    def _ended(self, attempt: Attempt) -> None:
        self.leases_lost += attempt.lost_lease
        self._offers.ended(attempt)
        self.last_activity = self._place.wall()
        self._wake_waiters()

    def _forgotten(self, attempt: Attempt) -> None:
        self._attempts.pop((attempt.record.task_id, attempt.record.fence), None)
        self._wake_waiters()


def _alive(record: RunRecord, now: float) -> bool:
    """True if the lease of a run of an earlier process can still be its own, by wall time (the only one that spans
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
