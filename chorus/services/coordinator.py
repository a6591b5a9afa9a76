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
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from chorus.errors import UserError
from chorus.protocols.task_messages import Ack, InputBlob, Resume, Stale
from chorus.seams import JSON
from chorus.services import task_documents
from chorus.services.custody import Custody, Desk
from chorus.services.intake import BlobsHere, Forbidden, Intake, IntakeSettings
from chorus.services.state_events import differs, logged, state_event
from chorus.services.task_counters import Counters
from chorus.tasks import entries
from chorus.tasks.spec import LimitPolicy
from chorus.tasks.state import DRAINING, OWN_FAILURES, OWNED, State, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted.internet.interfaces import IReactorTime

    from chorus.http.ports import Document, Subscription, TaskEvent
    from chorus.sandbox.contract import StreamName
    from chorus.seams import Redactor, Roles
    from chorus.services.task_events import TaskEvents
    from chorus.services.task_store import StoredEvents
    from chorus.services.task_streams import SchedulerChannel, TaskStreams
    from chorus.tasks.errors import IllegalEntry
    from chorus.tasks.journal import Entry, Journal
    from chorus.tasks.machine import Applied, TaskMachine

MAX_LIST = 1000
"""Documents of one page; the API asks for fewer."""

READ, CANCEL = "task.read", "task.cancel"
"""Actions that `Roles` is asked about."""


class UnknownCursor(UserError):
    code = "unknown_cursor"


class UnknownState(UserError):
    code = "unknown_state"


class Placing(Protocol):
    """`services/placement.py`: finds agents for what is ready."""

    def schedule(self) -> None: ...

    def agents_changed(self) -> None: ...

    def waiting(self, task_id: str) -> str | None: ...

    def agent_id(self, agent: str) -> str | None: ...

    def settled(self, task: TaskState) -> None: ...

    def outcome(self, agent: str, *, well: bool) -> None: ...

    def freed(self, agent: str) -> None: ...

    def stop(self) -> None: ...


@attrs.frozen
class CoordinatorSettings:
    policy: LimitPolicy = attrs.field(factory=LimitPolicy)
    lease_s: float = 30.0
    max_attempts: int = 3
    idempotency_days: float = 7.0


class CoordinatorService(Service):
    """Implements `http.ports.Tasks`. `announce` gets every change of state, for `chorus/tasks`; `result_known` every
    task with a new result; `bring` waits for what a result names before it is recorded (both are `Collection`'s).

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
    ) -> None:
        self._journal = journal
        self._machine = machine
        self._events = events
        self._stored_events = stored_events
        self._streams = streams
        self._blobs = blobs
        self._redactor = redactor
        self._roles = roles
        self._clock = clock
        self._wall = wall
        self.settings = settings
        self._announce = announce
        self._result_known = result_known
        self._seen: dict[str, TaskState] = {}
        """Each task as it was when its last state event was queued."""
        self._custody: dict[str, Custody] = {}
        self._ignored: dict[int, IllegalEntry] = {}
        self._desk = Desk(clock, wall, events, self.append, machine.get, self._custody_ended, bring)
        self._running = False
        self.counters = Counters()
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
            accepted=self._schedule,
        )

    def _schedule(self) -> None:
        self.placement.schedule()

    # life

    async def start(self) -> None:
        """Take up every task where the journal left it: leases begin anew, agents resume."""
        tasks = list(self._machine)
        last = await self._stored_events.last_states([task.id for task in tasks])
        for task in tasks:
            self._seen[task.id] = task
            if differs(last.get(task.id), task):
                # The process ended between the commit and its event.
                self._events.append(task.id, "state", self._state_event(task))
        owned = [task for task in tasks if task.state in OWNED]
        for task in owned:
            assert task.fence is not None and task.agent is not None
            received = await self._stored_events.received(task.id)
            self._take_custody(task, received)
        self._running = True
        self._streams.resumed = self._resumed
        if owned:
            self._log.info(
                "{count} tasks are with agents: their leases begin anew",
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
        for custody in list(self._custody.values()):
            custody.detach()
        return self._events.stop()

    # http.ports.Tasks

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
        return {
            "tasks": cast("JSON", [self.document(task) for task in page]),
            "next": page[-1].id if more else None,
        }

    async def _submit(self, body: object, submitter: str) -> Document:
        return self.document(self._machine.get(await self._intake.submit(body, submitter)))

    async def _cancel(self, task_id: str, by: str, reason: str) -> Document:
        if not self._roles.may(by, CANCEL):
            raise Forbidden(f"{by} may not cancel tasks")
        self._machine.get(task_id)
        reason = self._redactor.redact(reason, context="task.cancel.reason")[0]
        await self.append(entries.cancelled(self._wall(), task_id, by, reason))
        return self.document(self._machine.get(task_id))

    def document(self, task: TaskState) -> Document:
        custody = self._custody.get(task.id)
        received: Mapping[str, int] | None = None
        if custody is not None and task.state in OWNED:
            received = dict(custody.received.items())
        return task_documents.document(
            task, waiting=self.placement.waiting(task.id), received=received, agent_id=self._agent_id
        )

    def _agent_id(self, agent: str) -> str | None:
        for custody in self._custody.values():
            if custody.agent == agent and custody.agent_id is not None:
                return custody.agent_id
        return self.placement.agent_id(agent)

    # for placement and custody

    @property
    def machine(self) -> TaskMachine:
        return self._machine

    @property
    def is_up(self) -> bool:
        return self._running

    def custodies_of(self, agent: str) -> int:
        """Tasks of ours that this agent has."""
        return sum(custody.agent == agent and not custody.collecting for custody in self._custody.values())

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
        sha256 = task_documents.input_of(task.spec)
        if sha256 is None:
            return None
        found = await self._blobs.stat(sha256)
        size = (found or {}).get("size")
        if not isinstance(size, int):
            raise UnknownInput(f"the input {sha256} is not here any more")
        return InputBlob(sha256, size)

    async def assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> Custody:
        """Commit the assignment to the agent at the other end of `channel`, and take custody."""
        agent = str(channel.peer)
        lease_s = self.settings.lease_s
        await self.append(
            entries.assigned(self._wall(), task.id, agent=agent, attempt=task.attempt + 1, lease_s=lease_s)
        )
        custody = self._take_custody(self._machine.get(task.id), {})
        custody.agent_id = agent_id
        custody.attach(channel)
        return custody

    def _take_custody(self, task: TaskState, received: Mapping[StreamName, int]) -> Custody:
        assert task.fence is not None and task.agent is not None
        lease_s = task.lease_s or self.settings.lease_s
        custody = Custody(self._desk, task.id, task.fence, task.agent, lease_s, received)
        self._custody[task.id] = custody
        return custody

    def _custody_ended(self, custody: Custody) -> None:
        if self._custody.get(custody.task_id) is custody:
            del self._custody[custody.task_id]
        if self._running:
            if not custody.collecting:
                self.placement.freed(custody.agent)
            self.placement.agents_changed()
            self.placement.schedule()

    def _resumed(self, channel: SchedulerChannel, resume: Resume) -> None:
        """An agent asks to go on with a task it holds."""
        agent = str(channel.peer)
        task = self._machine.get(resume.task_id) if resume.task_id in self._machine else None
        if task is None or task.fence != resume.fence or task.agent != agent:
            self._log.info("{agent} resumes {task} in vain", event="task.stale", agent=agent, task=resume.task_id)
            channel.send(Stale())
            return
        custody = self._custody.get(task.id)
        if custody is not None and custody.fence == resume.fence:
            custody.resume(channel)
        elif task.state is State.CANCELLED and task.result is None:
            custody = self._take_custody(task, {})
            custody.collecting = True
            custody.resume(channel)
        else:
            channel.send(Ack())

    # what changed

    def is_settled(self, task_id: str) -> bool:
        """Whether the task is over and its last state event is queued (or written)."""
        seen = self._seen.get(task_id)
        return seen is None or seen.terminal

    def entry_applied(self, index: int, entry: Entry, applied: Applied) -> None:
        """Watcher of the journal: tell of every task that this entry changed."""
        if applied.ignored is not None:
            self._ignored[index] = applied.ignored
            return
        ended = False
        for task_id in applied.changed:
            if task_id in self._machine:
                task = self._machine.get(task_id)
                self._changed(task)
                ended = ended or task.terminal
            else:
                self._seen.pop(task_id, None)
        if ended:
            # Tasks may have waited for these.
            self.placement.schedule()

    def _changed(self, task: TaskState) -> None:
        before = self._seen.get(task.id)
        if before is task:
            return
        self._seen[task.id] = task
        if task.result is not None and (before is None or before.result is not task.result):
            self._result_known(task)
        if before is not None and (before.state, before.fence, before.attempt) == (
            task.state,
            task.fence,
            task.attempt,
        ):
            return
        event = self._state_event(task)
        self._events.append(task.id, "state", event)
        self.counters.changed(before, task, self._clock.seconds())
        self._judge(before, task)
        self._log.info("task {task} is {state}", event=f"task.{task.state}", task=task.id, **logged(event))
        try:
            self._announce({"task_id": task.id, "title": task.spec.get("title") or "", **event})
        except Exception:
            self._log.failure("announcing {task} failed", task=task.id)
        if task.state is State.CANCELLED and before is not None and before.state in OWNED:
            custody = self._custody.get(task.id)
            if custody is not None:
                custody.cancel(task.detail or "")
        if before is None or before.state is not task.state:
            self.placement.settled(task)

    def _judge(self, before: TaskState | None, task: TaskState) -> None:
        """Tell placement how the task's agent did."""
        if task.state is State.COMPLETED and task.agent is not None:
            self.placement.outcome(task.agent, well=True)
        elif (
            task.state is State.SUBMITTED
            and before is not None
            and before.state in OWNED
            and before.agent is not None
            and task.reason != DRAINING
        ):
            self.placement.outcome(before.agent, well=task.reason in OWN_FAILURES)

    def _state_event(self, task: TaskState) -> Document:
        return state_event(task, self._agent_id(task.agent) if task.agent is not None else None)


class UnknownInput(UserError):
    code = "unknown_input"


__all__ = ["CoordinatorService", "CoordinatorSettings"]
