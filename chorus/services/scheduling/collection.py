"""Fetches the blobs of results (artifacts, whole outputs) to the scheduler: they must not depend on one agent's disk.

A result is recorded, and its agent let go, once its blobs are here; `FETCH_S` bounds that wait. Slower blobs, and those
of an agent that is gone, follow in the background; a reader who asks for one meanwhile has it fetched at once. Nothing
is fetched for a result that passes the limits of its task.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.backoff import Backoff
from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.services.scheduling.fair_places import FairPlaces
from chorus.services.scheduling.results import excess
from chorus.tasks.blobs import result_blobs
from chorus.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chorus.seams import JSON
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.tasks.applied import Change
    from chorus.tasks.state import TaskState

FETCH_S = 20.0
"""Seconds that the record of a result waits for its blobs; less than its agent waits for the acknowledgement."""
MAX_FETCHING = 4
MAX_FETCHING_PER_HOLDER = 2
"""Results whose blobs are fetched at once, in all and from one agent: two that stall hold up nobody else's."""
MAX_AT_ONCE = 2
"""Fetches in the background at once: they share the connections with tasks' live output."""
RETRY = Backoff(2.0, 300.0)
MAX_TRIES = 12
"""About half an hour of trying; after that a reader of the blob asks the agent once more."""


@attrs.frozen
class _WantedBlob:
    sha256: str
    size: int
    holder: PeerId
    tries: int = 0


class Collection(Service):
    name = "collection"
    _log = Logger()

    def __init__(self, context: SchedulerContext, own: PeerId) -> None:
        self._machine = context.ledger.machine
        self._blobs = context.blobs
        self._own = own
        self._clock = context.clock
        self._queue: deque[_WantedBlob] = deque()
        self._holders: dict[str, PeerId] = {}
        self._running_fetches = 0
        self._turn = Timer(context.clock, self._next)
        self._places = FairPlaces(context.clock, MAX_FETCHING, MAX_FETCHING_PER_HOLDER)
        self._timers: dict[str, tuple[Timer, _WantedBlob]] = {}
        self._up = False

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._up = True
        for task in self._machine:
            self._take_result(task)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._up = False
        self._queue.clear()
        for timer, _ in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._turn.cancel()

    def fetch_result_blobs(self, result: Mapping[str, JSON], holder: PeerId | None = None) -> Deferred[None]:
        """Fires when everything that `result` names is here, could not be had, or takes too long. Never fails. It is
        fetched from its agent, or from `holder`."""
        fetching = Deferred.fromCoroutine(self._fetch_all(result, holder or self._holder(result)))
        return fetching.addTimeout(FETCH_S, self._clock).addErrback(self._not_all)

    async def _fetch_all(self, result: Mapping[str, JSON], holder: PeerId | None) -> None:
        if holder is None:
            return
        async with self._places.place(holder):
            for sha256, size in result_blobs(result):
                await self._fetch(sha256, size, holder)

    async def _fetch(self, sha256: str, size: int, holder: PeerId) -> None:
        if await self._blobs.stat(sha256) is None:
            await self._blobs.fetch(sha256, size, [holder])

    def _not_all(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError | DeferredTimeout | OSError):
            self._log.info("a result is recorded before all of its blobs are here: {error}", error=failure.value)
        else:
            self._log.failure("internal error while fetching the blobs of a result", failure=failure)

    def _holder(self, result: Mapping[str, JSON] | None) -> PeerId | None:
        """The agent that a result came from, unless that is this node."""
        agent = (result or {}).get("agent")
        return PeerId.parse(agent) if isinstance(agent, str) and agent != str(self._own) else None

    def changed(self, change: Change) -> None:
        """A task's result is new, or another one."""
        before, task = change.before, change.after
        if task is not None and task.result is not None and (before is None or before.result is not task.result):
            self._take_result(task)

    def _take_result(self, task: TaskState) -> None:
        # Where another member scheduled the task, that member has fetched them, and its agent is not within reach.
        holder = PeerId.parse(task.scheduler) if task.scheduler is not None else self._holder(task.result)
        if holder is None or excess(task.spec, task.result or {}) is not None:
            return
        for sha256, size in result_blobs(task.result):
            if sha256 not in self._holders:
                self._holders[sha256] = holder
                self._blobs.remember_holder(sha256, holder)
                self._queue.append(_WantedBlob(sha256, size, holder))
        self._go_on()

    def peer_joined(self, peer: PeerId) -> None:
        """Try again now what this peer has."""
        for sha256, (timer, wanted) in list(self._timers.items()):
            if wanted.holder == peer:
                timer.cancel()
                del self._timers[sha256]
                self._queue.append(wanted)
        self._go_on()

    def _go_on(self) -> None:
        """Have the next turn of the reactor begin what there is room for: never inside another fetch's end."""
        if self._up and self._queue and not self._turn.armed:
            self._turn.arm(0)

    def _next(self) -> None:
        while self._up and self._queue and self._running_fetches < MAX_AT_ONCE:
            self._running_fetches += 1
            wanted = self._queue.popleft()
            Deferred.fromCoroutine(self._collect(wanted)).addBoth(self._ended, wanted)

    def _ended(self, found: object, wanted: _WantedBlob) -> None:
        self._running_fetches -= 1
        self._go_on()
        if isinstance(found, Failure):
            self._holders.pop(wanted.sha256, None)
            self._log.failure("internal error while fetching blob {blob}", blob=wanted.sha256, failure=found)

    async def _collect(self, wanted: _WantedBlob) -> None:
        try:
            await self._fetch(wanted.sha256, wanted.size, wanted.holder)
        except (ChorusError, OSError) as error:
            self._later(wanted, error)
        else:
            self._holders.pop(wanted.sha256, None)

    def _later(self, wanted: _WantedBlob, error: Exception) -> None:
        tries = wanted.tries + 1
        if not self._up:
            return
        if tries >= MAX_TRIES:
            self._log.error("blob {blob} of a result could not be fetched: {error}", blob=wanted.sha256, error=error)
            return
        delay = RETRY.ceiling(tries + 1)
        again = attrs.evolve(wanted, tries=tries)
        timer = Timer(self._clock, lambda: self._again(again))
        timer.arm(delay)
        self._timers[wanted.sha256] = (timer, again)

    def _again(self, wanted: _WantedBlob) -> None:
        self._timers.pop(wanted.sha256, None)
        self._queue.append(wanted)
        self._go_on()
