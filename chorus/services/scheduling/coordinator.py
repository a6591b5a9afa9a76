"""The coordinator: takes tasks in, has them placed, keeps custody of them, answers the API about them.

This node is the scheduler of every task it accepted. What must not be lost goes through the journal first: a
submission is answered after its commit, an assignment is sent after its commit, a result is acknowledged after its
commit (docs/architecture.md, "The way of a task").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, cast

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chorus.errors import UserError
from chorus.protocols.task_messages import InputBlob
from chorus.seams import JSON
from chorus.services.blobs.named import NamedBlobs
from chorus.services.scheduling import documents as task_documents
from chorus.services.scheduling.change_feed import ChangeFeed
from chorus.services.scheduling.counters import Counters
from chorus.services.scheduling.custodies import Custodies
from chorus.services.scheduling.intake import BlobsHere, Forbidden, Intake, IntakeSettings
from chorus.tasks import entries
from chorus.tasks.blobs import input_blob
from chorus.tasks.leases import LEASE_S
from chorus.tasks.spec import LimitPolicy
from chorus.tasks.state import OWNED, State, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.internet.interfaces import IReactorTime

    from chorus.http.ports import Subscription
    from chorus.identity import PeerId
    from chorus.seams import Document, Redactor, Roles
    from chorus.services.scheduling.custody import Custody
    from chorus.services.scheduling.events import TaskEvents
    from chorus.services.scheduling.store import StoredEvents
    from chorus.services.task_streams import SchedulerChannel, TaskStreams
    from chorus.tasks.errors import IllegalEntry
    from chorus.tasks.events import TaskEvent
    from chorus.tasks.journal import Entry, Journal
    from chorus.tasks.machine import Applied, TaskMachine

MAX_LIST = 200
"""Summaries of one page."""

CANCEL = "task.cancel"
"""The action that `Roles` is asked about; reading needs membership alone (spec/cluster.md, "Authorisation")."""


class UnknownCursor(UserError):
    code = "unknown_cursor"


class UnknownState(UserError):
    code = "unknown_state"


class UnknownInput(UserError):
    code = "unknown_input"


class Elsewhere(Protocol):
    """`services/handover/service.py`: tasks that other members schedule for this node."""

    def seen(self, task: TaskState) -> TaskState: ...

    async def cancel(self, task: TaskState, by: str, reason: str) -> None: ...


class Placing(Protocol):
    """`services/scheduling/placement.py`: finds agents for what is ready."""

    def schedule(self) -> None: ...

    def agents_changed(self) -> None: ...

    def waiting(self, task_id: str) -> str | None: ...

    def stranded(self) -> Sequence[tuple[str, Sequence[str]]]: ...

    def agent_id(self, agent: str) -> str | None: ...

    def task_changed(self, task: TaskState) -> None: ...

    def task_forgotten(self, task_id: str) -> None: ...

    def outcome(self, agent: str, *, well: bool) -> None: ...

    def freed(self, agent: str) -> None: ...

    def stop(self) -> None: ...


@attrs.frozen
class CoordinatorSettings:
    policy: LimitPolicy = attrs.field(factory=LimitPolicy)
    lease_s: float = LEASE_S
    max_attempts: int = 3
    idempotency_days: float = 7.0


class CoordinatorService(Service):
    """Implements `http.ports.TaskPort`. `announce` gets every change of state, for `chorus/tasks`; `result_known` every
    task with a new result; `bring` waits for what a result names before it is recorded (both are `Collection`'s);
    `hindrance` says why this node takes nothing new, as (reason, one line).
    `absent` tells blobs that are not here.

    `placement` is set by the caller after construction (each needs the other). `entry_applied` watches the journal,
    which is started (replayed) before this service is.
    """

    name = "coordinator"
    _log = Logger()
    placement: Placing

    def __init__(
        self,
        *,
        journal: Journal,
        machine: TaskMachine,
        events: TaskEvents,
        stored_events: StoredEvents,
        streams: TaskStreams,
        blobs: BlobsHere,
        redactor: Redactor,
        roles: Roles,
        clock: IReactorTime,
        wall: Callable[[], float],
        random: Callable[[int], bytes],
        settings: CoordinatorSettings,
        announce: Callable[[Document], None] = lambda _: None,
        result_known: Callable[[TaskState], None] = lambda _: None,
        bring: Callable[[Mapping[str, JSON]], Awaitable[None]] = lambda _: succeed(None),
        hindrance: Callable[[], tuple[str, str] | None] = lambda: None,
        elsewhere: Elsewhere | None = None,
        absent: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._journal = journal
        self._elsewhere = elsewhere
        self._machine = machine
        self._events = events
        self._stored_events = stored_events
        self._streams = streams
        self._blobs = blobs
        self._redactor = redactor
        self._roles = roles
        self._wall = wall
        self._absent = absent
        self.settings = settings
        self._clock = clock
        self._listing = DeferredLock()
        self._ignored: dict[int, IllegalEntry] = {}
        self._running = False
        self.counters = Counters()
        self.named = NamedBlobs()
        """Blobs that may not be removed."""
        self._intake = Intake(
            machine=machine,
            events=events,
            blobs=blobs,
            redactor=redactor,
            roles=roles,
            wall=wall,
            random=random,
            settings=IntakeSettings(settings.policy, settings.max_attempts, settings.idempotency_days),
            counters=self.counters,
            append=self.append,
            named=self.named,
            hindrance=hindrance,
        )
        self._custodies = Custodies(
            machine=machine,
            events=events,
            clock=clock,
            wall=wall,
            lease_s=settings.lease_s,
            append=self.append,
            bring=bring,
            named=self.named,
            ended=self._custody_ended,
        )
        self._feed = ChangeFeed(
            machine=machine,
            events=events,
            custodies=self._custodies,
            named=self.named,
            counters=self.counters,
            clock=clock,
            placement=lambda: self.placement,
            agent_id=self._agent_id,
            announce=announce,
            result_known=result_known,
        )

    # life

    async def start(self) -> None:
        """Take up every task where the journal left it: leases begin anew, agents resume."""
        tasks = list(self._machine)
        last = await self._stored_events.last_states([task.id for task in tasks])
        for task in tasks:
            self._feed.restore(task, last.get(task.id))
        owned = [task for task in tasks if task.state in OWNED]
        for task in owned:
            received = await self._stored_events.received(task.id)
            self._custodies.take(task, received, await self._input_bytes(task))
        self._running = True
        self._streams.resumed = self._custodies.resumed
        if owned:
            self._log.info(
                "tasks with agents: {count}; their leases begin anew",
                event="coordinator.restarted",
                count=len(owned),
            )
        self.placement.schedule()

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self.start())

    def stopService(self) -> Deferred[None]:
        """Stop placing and listening; agents keep their tasks and resume with the next process."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._running = False
        self._streams.resumed = None
        self.placement.stop()
        self._custodies.detach()
        return self._events.stop()

    # http.ports.TaskPort

    def submit(self, body: object, submitter: str) -> Deferred[Document]:
        return Deferred.fromCoroutine(self._submit(body, submitter))

    def get(self, task_id: str) -> Deferred[Document]:
        return Deferred.fromCoroutine(self._get(task_id))

    def list(self, *, state: str | None, limit: int, after: str | None) -> Deferred[Document]:
        return Deferred.fromCoroutine(self._list(state, limit, after))

    def cancel(self, task_id: str, by: str, reason: str) -> Deferred[Document]:
        return Deferred.fromCoroutine(self._cancel(task_id, by, reason))

    def watch(
        self, task_id: str, after: int, deliver: Callable[[TaskEvent], None], ended: Callable[[], None]
    ) -> Deferred[Subscription]:
        return Deferred.fromCoroutine(self._watch(task_id, after, deliver, ended))

    async def _get(self, task_id: str) -> Document:
        return self.document(self._machine.get(task_id))

    async def _watch(
        self, task_id: str, after: int, deliver: Callable[[TaskEvent], None], ended: Callable[[], None]
    ) -> Subscription:
        self._machine.get(task_id)
        return self._events.watch(task_id, after, deliver, ended)

    async def _list(self, state: str | None, limit: int, after: str | None) -> Document:
        if state is not None and state not in set(State):
            raise UnknownState(f"{state!r} is no state; the states are {', '.join(State)}")
        limit = max(1, min(limit, MAX_LIST))
        await self._listing.acquire()
        try:
            # Each page in a turn of its own: readers who come together hold up nobody else for longer than one does.
            await deferLater(self._clock, 0)
            return self._page(state, limit, after)
        finally:
            self._listing.release()

    def _page(self, state: str | None, limit: int, after: str | None) -> Document:
        tasks = self._machine.newest_first()
        if after is not None:
            if after not in self._machine:
                raise UnknownCursor("the page before ended at a task that is gone: start again without a cursor")
            while next(tasks).id != after:
                pass
        page: list[TaskState] = []
        more = False
        for task in tasks:
            if state is None or task.state == state:
                if len(page) == limit:
                    more = True
                    break
                page.append(task)
        names: dict[str, str | None] = {}
        return {
            "tasks": cast("JSON", [self._summary(task, names) for task in page]),
            "next": page[-1].id if more else None,
        }

    def _summary(self, task: TaskState, names: dict[str, str | None]) -> Document:
        """`names` of agents that were asked for already."""
        task = self._seen(task)
        if task.agent is not None and task.agent not in names:
            names[task.agent] = self._agent_id(task.agent)
        return task_documents.summary(
            task, waiting=self.placement.waiting(task.id), agent_id=names.get(task.agent or "")
        )

    async def _submit(self, body: object, submitter: str) -> Document:
        return self.document(self._machine.get(await self._intake.submit(body, submitter)))

    async def _cancel(self, task_id: str, by: str, reason: str) -> Document:
        if not self._roles.may(by, CANCEL):
            raise Forbidden(f"{by} may not cancel tasks")
        task = self._machine.get(task_id)
        reason = self._redactor.redact(reason, context="task.cancel.reason").value
        if task.state is State.MOVED and self._elsewhere is not None:
            await self._elsewhere.cancel(task, by, reason)
        else:
            await self.append(entries.cancelled(self._wall(), task_id, by, reason))
        return self.document(self._machine.get(task_id))

    async def take_over(self, task_id: str, spec: object, submitter: str, handed_by: PeerId, most: int) -> int:
        """As `Intake.take_over`: this node becomes the scheduler of another member's task."""
        return await self._intake.take_over(task_id, spec, submitter, handed_by, most)

    def agent_id_of(self, task: TaskState) -> str | None:
        """The name of the agent that has, or had, the task."""
        return None if task.agent is None else self._agent_id(task.agent)

    def _seen(self, task: TaskState) -> TaskState:
        """The task, with what another member that schedules it told of it."""
        return task if self._elsewhere is None else self._elsewhere.seen(task)

    def document(self, task: TaskState) -> Document:
        task = self._seen(task)
        return task_documents.document(
            task,
            waiting=self.placement.waiting(task.id),
            received=self._custodies.received(task),
            agent_id=self._agent_id,
            absent=self._absent,
        )

    def _agent_id(self, agent: str) -> str | None:
        found = self._custodies.agent_id(agent)
        return found if found is not None else self.placement.agent_id(agent)

    # for placement and custody

    @property
    def machine(self) -> TaskMachine:
        return self._machine

    @property
    def is_up(self) -> bool:
        return self._running

    def custodies_of(self, agent: str) -> int:
        """Tasks of ours that this agent has."""
        return self._custodies.count(agent)

    @property
    def active(self) -> int:
        """Tasks that are not over."""
        return len(self._machine.unfinished())

    async def append(self, entry: Entry) -> int:
        """Check, commit, and tell everybody what changed. Raises `IllegalEntry` or what the journal raises."""
        self._machine.check(entry)
        index = await self._journal.append(entry)
        # Another entry may have come between the check and the commit; then this one changed nothing.
        ignored = self._ignored.pop(index, None)
        if ignored is not None:
            raise ignored
        return index

    async def input_of(self, task: TaskState) -> InputBlob | None:
        sha256 = input_blob(task.spec)
        if sha256 is None:
            return None
        found = await self._blobs.stat(sha256)
        size = (found or {}).get("size")
        if not isinstance(size, int):
            raise UnknownInput(f"the input {sha256} is not here any more")
        return InputBlob(sha256, size)

    async def assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> Custody:
        """Commit the assignment to the agent at the other end of `channel`, and take custody."""
        return await self._custodies.assign(task, channel, agent_id, await self._input_bytes(task))

    async def _input_bytes(self, task: TaskState) -> int:
        try:
            blob = await self.input_of(task)
        except UnknownInput:
            return 0
        return 0 if blob is None else blob.size

    def _custody_ended(self, custody: Custody) -> None:
        if self._running:
            if not custody.collecting:
                self.placement.freed(custody.agent)
            self.placement.agents_changed()
            self.placement.schedule()

    # what changed

    def is_settled(self, task_id: str) -> bool:
        """Whether the task is over and its last state event is queued (or written)."""
        return self._feed.is_settled(task_id)

    def entry_applied(self, index: int, entry: Entry, applied: Applied) -> None:
        """Watcher of the journal: tell of every task that this entry changed."""
        if applied.ignored is not None:
            self._ignored[index] = applied.ignored
        else:
            self._feed.changed(applied.changed)
