"""Brings what results name (artifacts, whole outputs) to the scheduler, so that it does not hang on one agent's disk.

A result is recorded, and its agent let go, once its blobs are here; `BRING_S` bounds that wait. What takes longer, or
whose agent is gone, follows in the background, and whoever asks for it meanwhile has it fetched at once. Nothing is
fetched for a result that passes the limits of its task.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

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
from chorus.services.scheduling.result_limits import excess
from chorus.tasks.blobs import result_blobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from chorus.seams import JSON, Document
    from chorus.tasks.machine import TaskMachine
    from chorus.tasks.state import TaskState

BRING_S = 20.0
"""Seconds that the record of a result waits for its blobs; less than its agent waits for the acknowledgement."""
MAX_BRINGING = 4
MAX_BRINGING_PER_HOLDER = 2
"""Results whose blobs are brought at once, in all and from one agent: two that stall hold up nobody else's."""
MAX_AT_ONCE = 2
"""Fetches in the background at once: they share the connections with tasks' live output."""
RETRY = Backoff(2.0, 300.0)
MAX_TRIES = 12
"""About half an hour of trying; after that a reader of the blob asks the agent once more."""


class FetchingBlobs(Protocol):
    """What collection asks of the blob service."""

    def stat(self, sha256: str) -> Deferred[Document | None]: ...

    def fetch(self, sha256: str, size_limit: int, holders: Sequence[PeerId]) -> Deferred[Path]: ...

    def remember_holder(self, sha256: str, peer: PeerId) -> None: ...


@attrs.frozen
class _Wanted:
    sha256: str
    size: int
    holder: PeerId
    tries: int = 0


class Collection(Service):
    """`result_known` is called for every task whose result is new."""

    name = "collection"
    _log = Logger()

    def __init__(self, machine: TaskMachine, blobs: FetchingBlobs, own: PeerId, clock: IReactorTime) -> None:
        self._machine = machine
        self._blobs = blobs
        self._own = own
        self._clock = clock
        self._queue: deque[_Wanted] = deque()
        self._holders: dict[str, PeerId] = {}
        self._running_fetches = 0
        self._again_call: IDelayedCall | None = None
        self._bringing = FairPlaces(clock, MAX_BRINGING, MAX_BRINGING_PER_HOLDER)
        self._timers: dict[str, tuple[IDelayedCall, _Wanted]] = {}
        self._up = False

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._up = True
        for task in self._machine:
            self.result_known(task)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._up = False
        self._queue.clear()
        for timer, _ in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._again_call is not None:
            self._again_call.cancel()
            self._again_call = None

    def holders_of(self, sha256: str) -> list[PeerId]:
        """Who has a blob that some result names and that is not known to be here."""
        holder = self._holders.get(sha256)
        return [holder] if holder is not None else []

    def bring(self, result: Mapping[str, JSON], holder: PeerId | None = None) -> Deferred[None]:
        """Fires when everything that `result` names is here, could not be had, or takes too long. Never fails. It is
        had from its agent, or from `holder`."""
        bringing = Deferred.fromCoroutine(self._bring_all(result, holder or self._holder(result)))
        return bringing.addTimeout(BRING_S, self._clock).addErrback(self._not_all)

    async def _bring_all(self, result: Mapping[str, JSON], holder: PeerId | None) -> None:
        if holder is None:
            return
        async with self._bringing.place(holder):
            for sha256, size in result_blobs(result):
                if await self._blobs.stat(sha256) is None:
                    await self._blobs.fetch(sha256, size, [holder])

    def _not_all(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError | DeferredTimeout | OSError):
            self._log.info("a result is recorded before all of its blobs are here: {error}", error=failure.value)
        else:
            self._log.failure("bringing the blobs of a result broke", failure=failure)

    def _holder(self, result: Mapping[str, JSON] | None) -> PeerId | None:
        """The agent that a result came from, unless that is this node."""
        agent = (result or {}).get("agent")
        return PeerId.parse(agent) if isinstance(agent, str) and agent != str(self._own) else None

    def result_known(self, task: TaskState) -> None:
        # Where another member scheduled the task, that member has fetched them, and its agent is not within reach.
        holder = PeerId.parse(task.scheduler) if task.scheduler is not None else self._holder(task.result)
        if holder is None or excess(task.spec, task.result or {}) is not None:
            return
        for sha256, size in result_blobs(task.result):
            if sha256 not in self._holders:
                self._holders[sha256] = holder
                self._blobs.remember_holder(sha256, holder)
                self._queue.append(_Wanted(sha256, size, holder))
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
        if self._up and self._queue and self._again_call is None:
            self._again_call = self._clock.callLater(0, self._next)

    def _next(self) -> None:
        self._again_call = None
        while self._up and self._queue and self._running_fetches < MAX_AT_ONCE:
            self._running_fetches += 1
            wanted = self._queue.popleft()
            Deferred.fromCoroutine(self._bring(wanted)).addBoth(self._ended, wanted)

    def _ended(self, found: object, wanted: _Wanted) -> None:
        self._running_fetches -= 1
        self._go_on()
        if isinstance(found, Failure):
            self._holders.pop(wanted.sha256, None)
            self._log.failure("collecting {blob} broke", blob=wanted.sha256, failure=found)

    async def _bring(self, wanted: _Wanted) -> None:
        try:
            if await self._blobs.stat(wanted.sha256) is None:
                await self._blobs.fetch(wanted.sha256, wanted.size, [wanted.holder])
        except (ChorusError, OSError) as error:
            self._later(wanted, error)
        else:
            self._holders.pop(wanted.sha256, None)

    def _later(self, wanted: _Wanted, error: Exception) -> None:
        tries = wanted.tries + 1
        if not self._up:
            return
        if tries >= MAX_TRIES:
            self._log.error("a result's blob {blob} is not to be had: {error}", blob=wanted.sha256, error=error)
            return
        delay = RETRY.ceiling(tries + 1)
        again = attrs.evolve(wanted, tries=tries)
        self._timers[wanted.sha256] = (self._clock.callLater(delay, self._again, again), again)

    def _again(self, wanted: _Wanted) -> None:
        self._timers.pop(wanted.sha256, None)
        self._queue.append(wanted)
        self._go_on()
