"""The scheduler's side of one owned task: its lease, its live conversation, its result.

A custody begins with the assignment (or with a restart of this node, when every live lease and deadline begins anew
in full) and ends when the task has left its agent: result recorded, handed back, or lease expired. Its channel may come
and go meanwhile; the agent resumes. Past its deadline the lease is renewed no more, whatever the agent sends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.protocols.task_messages import (
    FETCHING,
    PREPARING,
    Ack,
    Cancel,
    Continue,
    Message,
    Output,
    Progress,
    Released,
    Renew,
    Renewed,
    Result,
    Stale,
    Started,
    TaskProtocolError,
)
from chorus.services.scheduling.recording import Recording
from chorus.services.scheduling.results import (
    MIB,
    ResultOverLimits,
    excess,
    released_entry,
    result_document,
    result_entry,
)
from chorus.tasks import deadlines, entries, leases
from chorus.tasks.blobs import result_blobs
from chorus.tasks.state import MOVES, State, TaskState
from chorus.tasks.terms import Reason
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.seams import JSON
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.decisions import TaskDecisions
    from chorus.services.task_streams import SchedulerChannel
    from chorus.tasks.journal import Entry
    from chorus.tasks.terms import StreamName

MAX_PROGRESS_EVENTS = 2000
"""Progress messages of one attempt that are recorded; further ones are read and dropped."""

_REASONS = frozenset(map(str, Reason))


@attrs.frozen
class CustodyContext:
    """Shared by all custodies of one scheduler."""

    scheduler: SchedulerContext
    fetch_result_blobs: Callable[[Mapping[str, JSON]], Awaitable[None]]
    """Fetches what a result names, as far as it can be had in time."""
    decisions: TaskDecisions
    ended: Callable[[Custody], None]


class Custody:
    """One (task, fence). `collecting` means that the task is cancelled and only its remains are waited for."""

    _log = Logger()

    def __init__(
        self, context: CustodyContext, task: TaskState, received: Mapping[StreamName, int], limit_s: float
    ) -> None:
        """`limit_s`: how long the agent may hold it from now on (`tasks/deadlines.py`)."""
        assert task.fence is not None and task.agent is not None
        self._context = context
        self._scheduler = context.scheduler
        self.task_id = task.id
        self.fence = task.fence
        self.agent = task.agent
        self.agent_id: str | None = None
        self.lease_s = task.lease_s or context.scheduler.settings.lease_s
        self.received: dict[StreamName, int] = {"stdout": 0, "stderr": 0, **received}
        self.collecting = False
        self.over = False
        self._channel: SchedulerChannel | None = None
        self._lease = Timer(self._scheduler.clock, self._expired)
        self._deadline = Timer(self._scheduler.clock, self._late)
        self._limit_s = limit_s
        self._overdue = False
        self._deciding = False
        self._recording = Recording(context.scheduler, task.id, task.fence, self.drop)
        self._progress = 0
        self._prepares = False
        self._end_after(limit_s)
        self.renew_lease()

    @property
    def _task(self) -> TaskState:
        return self._scheduler.ledger.machine.get(self.task_id)

    # the conversation

    def attach(self, channel: SchedulerChannel) -> None:
        """Take messages from this conversation from now on; an older one is dropped."""
        old, self._channel = self._channel, channel
        channel.heard = lambda message: self._received(channel, message)
        channel.closed = lambda error: self._closed(channel)
        channel.session.max_output = self._max_output()
        if old is not None and old is not channel:
            old.reset()

    def resume(self, channel: SchedulerChannel) -> None:
        """The agent is back: answer its `resume`."""
        self.attach(channel)
        if self._deciding:
            # Its outcome is on its way into the journal; the answer to that is the answer to this.
            return
        if self.collecting:
            channel.send(Cancel("the task is cancelled"))
            return
        if self._overdue:
            channel.send(Stale())
            return
        self.renew_lease()
        channel.send(Continue(self.received["stdout"], self.received["stderr"], self.lease_s))

    def cancel(self, reason: str) -> None:
        """The task is cancelled (and that is committed): kill the run, wait for what it leaves."""
        self.collect()
        if self._channel is not None and self._channel.may_send(Cancel):
            self._channel.send(Cancel(reason[:1000]))

    def collect(self) -> None:
        """From now on only the remains of a killed run are waited for, and not for ever."""
        if not self.collecting:
            self.collecting = True
            self._end_after(deadlines.collection_limit(self._task.spec))

    def drop(self, message: Message | None = None, error: ChorusError | None = None) -> None:
        """End it; `message` is the last one to the agent, if there is a conversation, `error` why there is none."""
        if self.over:
            return
        self.over = True
        self._recording.stop()
        self._lease.cancel()
        self._deadline.cancel()
        channel, self._channel = self._channel, None
        try:
            if channel is not None:
                if message is not None and channel.may_send(type(message)):
                    channel.send(message)
                else:
                    channel.reset(error)
        finally:
            self._context.ended(self)

    def _max_output(self) -> int | None:
        megabytes = deadlines.limit_of(self._task.spec, "output_mb")
        return None if megabytes is None else int(megabytes) * MIB

    def _closed(self, channel: SchedulerChannel) -> None:
        if self._channel is channel:
            self._channel = None

    def _received(self, channel: SchedulerChannel, message: Message) -> None:
        if self.over:
            return
        if isinstance(message, Output):
            self._output(channel, message)
        elif isinstance(message, Renew):
            if not self._deciding and not self._overdue:
                self.renew_lease()
                channel.send(Renewed(message.tag))
        elif isinstance(message, Started):
            self._started(message)
        elif isinstance(message, Progress):
            self._note_progress(message)
        elif isinstance(message, Result | Released):
            self._outcome(channel, message)

    def _output(self, channel: SchedulerChannel, message: Output) -> None:
        if self.collecting:
            # The watchers have seen the end already; the whole output is in the result's blobs.
            return
        self.received[message.stream] = message.offset + len(message.data)
        events = self._scheduler.events
        events.append_output(self.task_id, message.stream, message.offset, message.data)
        if events.congested:
            channel.pause()
            events.when_relieved(channel.resume)

    def _started(self, message: Started) -> None:
        if not self.collecting and self._task.state in (State.ASSIGNED, State.PREPARING):
            now, sandbox, image = self._scheduler.wall(), message.sandbox, message.image
            self._note(entries.started(now, self.task_id, self.fence, sandbox=sandbox, image=image))

    def _prepares_input(self) -> None:
        """Sent in each of its phases, and recorded once."""
        if not self._prepares and not self.collecting and self._task.state is State.ASSIGNED:
            self._prepares = True
            self._note(entries.preparing(self._scheduler.wall(), self.task_id, self.fence))

    def _note(self, entry: Entry) -> None:
        Deferred.fromCoroutine(self._append(entry)).addErrback(self._broken)

    async def _append(self, entry: Entry) -> None:
        try:
            await self._scheduler.ledger.append(entry)
        except ChorusError as error:
            # Sent again on every resume, and not needed for a result.
            self._log.warn("start of {task} is not recorded: {error}", task=self.task_id, error=error)

    def _note_progress(self, message: Progress) -> None:
        if message.phase in (FETCHING, PREPARING):
            self._prepares_input()
        self._progress += 1
        if not self.collecting and self._progress <= MAX_PROGRESS_EVENTS:
            data = {key: value for key, value in message.data.items() if key not in {"phase", "source"}}
            self._scheduler.events.append(self.task_id, "progress", {"phase": message.phase, **data})

    # the lease

    def renew_lease(self) -> None:
        if not self.over and not self._deciding:
            self._lease.arm(leases.expires_after(self.lease_s))

    def _end_after(self, seconds: float) -> None:
        self._limit_s = seconds
        self._deadline.arm(seconds * (1.0 + leases.MAX_DRIFT))

    def _late(self) -> None:
        """The agent has held it for too long. It must have killed the run before anybody else gets the task, so its
        lease has to run out; a result that comes until then is still taken."""
        if self.collecting:
            if not self._deciding:
                self.drop(Stale())
            return
        self._overdue = True
        if self._deciding:
            return
        self._log.warn(
            "{agent} holds {task} past its deadline: its lease is renewed no more",
            event="task.overdue",
            task=self.task_id,
            agent=self.agent,
            fence=str(self.fence),
            seconds=self._limit_s,
        )

    def _expired(self) -> None:
        if self.collecting:
            self.drop(Stale())
            return
        self._deciding = True
        self._decide(self._expiry, Stale())
        why = "its deadline was passed" if self._overdue else f"{self._name} went silent"
        self._log.warn(
            "lease of {task} expired: {why}",
            event="task.lease_expired",
            task=self.task_id,
            why=why,
            agent=self.agent,
            fence=str(self.fence),
        )

    def _expiry(self) -> Entry:
        if not self._overdue:
            return entries.lease_expired(self._scheduler.wall(), self.task_id, self.fence, self.agent_id)
        return self._lost(f"{self._name} did not end it within {self._limit_s:.0f} s, its time limit with all margins")

    def _lost(self, detail: str) -> Entry:
        return entries.released(self._scheduler.wall(), self.task_id, self.fence, str(Reason.LEASE_LOST), detail)

    @property
    def _name(self) -> str:
        return self.agent_id or self.agent

    # the end

    def _outcome(self, channel: SchedulerChannel, message: Result | Released) -> None:
        if message.reason not in (_REASONS if isinstance(message, Result) else MOVES):
            channel.reset(TaskProtocolError(f"{message.reason!r} is no reason for {message.TYPE}"))
            return
        if self._deciding:
            return
        self._deciding = True
        self._lease.cancel()
        Deferred.fromCoroutine(self._settle(message)).addErrback(self._broken)

    async def _settle(self, message: Result | Released) -> None:
        wall = self._scheduler.wall
        if isinstance(message, Released):
            released = message
            await self._recording.record(lambda: released_entry(self._task, self.fence, released, wall()), Ack())
            return
        decisions = self._context.decisions
        document = result_document(message, self.agent, message.agent_id or self.agent_id)
        document = decisions.checked(self.task_id, document)
        if (over := excess(self._task.spec, document)) is not None:
            self._refuse(over)
            return
        result = message
        with self._scheduler.named.claim(sha256 for sha256, _ in result_blobs(document)):
            # The agent keeps what it made until the acknowledgement, and may be gone after it.
            await self._context.fetch_result_blobs(document)
            await self._recording.record(
                lambda: result_entry(self._task, self.fence, result, document, wall()),
                Ack(),
                first=lambda: decisions.keep(self.task_id, document),
            )
        if self._recording.recorded:
            # Also that of an attempt that is tried again, whose result no task shows.
            decisions.recorded(self.task_id, document)

    def _refuse(self, over: str) -> None:
        """The agent lies, or holds none of the limits: nothing of it is taken, and it is as if it had lost the task."""
        error = ResultOverLimits(f"the result names {over}")
        detail = f"{self._name} broke the limits of the task: its result names {over}"[:1000]
        if self.collecting:
            self.drop(Stale())
        else:
            self._decide(lambda: self._lost(detail), None, error)
        self._log.warn(
            "result of {task} refused: {why}",
            event="task.result_refused",
            task=self.task_id,
            why=over,
            agent=self.agent,
            fence=str(self.fence),
        )

    def _decide(self, make: Callable[[], Entry | None], last: Message | None, error: ChorusError | None = None) -> None:
        Deferred.fromCoroutine(self._recording.record(make, last, error)).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        """A bug. The task is not lost by it: its lease runs out, unless the agent comes back before."""
        self._deciding = False
        channel, self._channel = self._channel, None
        try:
            if self.collecting:
                self.drop()
            else:
                self.renew_lease()
        finally:
            if channel is not None:
                channel.reset()
            self._log.failure("internal error in custody of {task}", task=self.task_id, failure=failure)
