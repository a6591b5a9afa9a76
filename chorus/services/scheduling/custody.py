"""The scheduler's side of one owned task: its lease, its live conversation, its result.

A custody begins with the assignment (or with a restart of this node, when every live lease and deadline begins anew
in full) and ends when the task has left its agent: result recorded, handed back, or lease expired. Its channel may come
and go meanwhile; the agent resumes. Past its deadline the lease is renewed no more, whatever the agent says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
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
    ResultArtifact,
    ResultEntry,
    Stale,
    Started,
    TaskProtocolError,
)
from chorus.services.blobs.named import NamedBlobs
from chorus.services.scheduling.result_limits import ResultOverLimits, excess
from chorus.tasks import deadlines, entries, leases
from chorus.tasks.blobs import result_blobs
from chorus.tasks.errors import IllegalEntry
from chorus.tasks.state import MOVES, State, TaskState
from chorus.tasks.terms import Reason

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from chorus.seams import JSON
    from chorus.services.scheduling.events import TaskEvents
    from chorus.services.task_streams import SchedulerChannel
    from chorus.tasks.journal import Entry, Fence
    from chorus.tasks.terms import StreamName

APPEND_RETRY_S = 1.0
"""Between attempts to record what an agent said while the journal cannot commit."""
MAX_PROGRESS_EVENTS = 2000
"""Progress messages of one attempt that are recorded; an agent that sends more is heard, not written down."""

_REASONS = frozenset(map(str, Reason))


@attrs.frozen
class Desk:
    """What every custody of one scheduler shares."""

    clock: IReactorTime
    wall: Callable[[], float]
    events: TaskEvents
    append: Callable[[Entry], Awaitable[int]]
    task: Callable[[str], TaskState]
    """The machine's state of a task. Raises `UnknownTask`."""
    ended: Callable[[Custody], None]
    bring: Callable[[Mapping[str, JSON]], Awaitable[None]]
    """Fetches what a result names, as far as it can be had in time."""
    named: NamedBlobs


class Custody:
    """One (task, fence). `collecting` means that the task is cancelled and only its remains are waited for."""

    _log = Logger()

    def __init__(
        self,
        desk: Desk,
        task_id: str,
        fence: Fence,
        agent: str,
        lease_s: float,
        received: Mapping[StreamName, int],
        limit_s: float,
    ) -> None:
        """`limit_s`: how long the agent may hold it from now on (`tasks/deadlines.py`)."""
        self._desk = desk
        self.task_id = task_id
        self.fence = fence
        self.agent = agent
        self.agent_id: str | None = None
        self.lease_s = lease_s
        self.received: dict[StreamName, int] = {"stdout": 0, "stderr": 0, **received}
        self.collecting = False
        self.over = False
        self._channel: SchedulerChannel | None = None
        self._lease: IDelayedCall | None = None
        self._retry: Deferred[None] | None = None
        self._limit_s = limit_s
        self._deadline: IDelayedCall | None = None
        self._overdue = False
        self._deciding = False
        self._waits_for = ""
        self._progress = 0
        self._prepares = False
        self._end_after(limit_s)
        self.renew_lease()

    # the conversation

    def attach(self, channel: SchedulerChannel) -> None:
        """Hear this conversation from now on; an older one is dropped."""
        old, self._channel = self._channel, channel
        channel.heard = lambda message: self._heard(channel, message)
        channel.closed = lambda error: self._closed(channel)
        channel.session.max_output = self._max_output()
        if old is not None and old is not channel:
            old.reset()

    def resume(self, channel: SchedulerChannel) -> None:
        """The agent is back: answer its `resume`."""
        self.attach(channel)
        if self._deciding:
            # What it said before is on its way into the journal; the answer to that is the answer to this.
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
            self._end_after(deadlines.collection_limit(self._desk.task(self.task_id).spec))

    def drop(self, message: Message | None = None, error: ChorusError | None = None) -> None:
        """End it; `message` is the last word to the agent, if there is a conversation, `error` why there is none."""
        if self.over:
            return
        self.over = True
        for timer in (self._lease, self._deadline):
            if timer is not None and timer.active():
                timer.cancel()
        self._lease = self._deadline = None
        retry, self._retry = self._retry, None
        channel, self._channel = self._channel, None
        try:
            if channel is not None:
                if message is not None and channel.may_send(type(message)):
                    channel.send(message)
                else:
                    channel.reset(error)
        finally:
            self._desk.ended(self)
            if retry is not None:
                retry.cancel()

    def detach(self) -> None:
        """This process ends: say nothing, decide nothing."""
        self.drop()

    def _max_output(self) -> int | None:
        limits = self._desk.task(self.task_id).spec.get("limits")
        megabytes = limits.get("output_mb") if isinstance(limits, dict) else None
        return megabytes * 1024 * 1024 if isinstance(megabytes, int) else None

    def _closed(self, channel: SchedulerChannel) -> None:
        if self._channel is channel:
            self._channel = None

    def _heard(self, channel: SchedulerChannel, message: Message) -> None:
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
        events = self._desk.events
        events.append_output(self.task_id, message.stream, message.offset, message.data)
        if events.congested:
            channel.pause()
            events.when_relieved(channel.resume)

    def _started(self, message: Started) -> None:
        if not self.collecting and self._desk.task(self.task_id).state in (State.ASSIGNED, State.PREPARING):
            entry = entries.started(
                self._desk.wall(), self.task_id, self.fence, sandbox=message.sandbox, image=message.image
            )
            Deferred.fromCoroutine(self._append_started(entry)).addErrback(self._broken)

    def _prepares_input(self) -> None:
        """Said in each of its phases, and recorded once."""
        if not self._prepares and not self.collecting and self._desk.task(self.task_id).state is State.ASSIGNED:
            self._prepares = True
            entry = entries.preparing(self._desk.wall(), self.task_id, self.fence)
            Deferred.fromCoroutine(self._append_started(entry)).addErrback(self._broken)

    async def _append_started(self, entry: Entry) -> None:
        try:
            await self._desk.append(entry)
        except ChorusError as error:
            # Said again on every resume, and not needed for a result.
            self._log.warn("start of {task} is not recorded: {error}", task=self.task_id, error=error)

    def _note_progress(self, message: Progress) -> None:
        if message.phase in (FETCHING, PREPARING):
            self._prepares_input()
        self._progress += 1
        if not self.collecting and self._progress <= MAX_PROGRESS_EVENTS:
            data = {key: value for key, value in message.data.items() if key not in {"phase", "source"}}
            self._desk.events.append(self.task_id, "progress", {"phase": message.phase, **data})

    # the lease

    def renew_lease(self) -> None:
        if self.over or self._deciding:
            return
        self._let_lease_run()

    def _let_lease_run(self) -> None:
        if self._lease is not None and self._lease.active():
            self._lease.cancel()
        self._lease = self._desk.clock.callLater(leases.expires_after(self.lease_s), self._expired)

    def _end_after(self, seconds: float) -> None:
        self._limit_s = seconds
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = self._desk.clock.callLater(seconds * (1.0 + leases.MAX_DRIFT), self._late)

    def _late(self) -> None:
        """The agent has held it for too long. It must have killed the run before anybody else gets the task, so its
        lease has to run out; a result that comes until then is still taken."""
        self._deadline = None
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
        self._lease = None
        if self.collecting:
            self.drop(Stale())
            return
        self._deciding = True
        self._decide(self._expiry, Stale())
        self._log.warn(
            "lease of {task} expired: {why}",
            event="task.lease_expired",
            task=self.task_id,
            why="its deadline was passed" if self._overdue else f"{self._name} went silent",
            agent=self.agent,
            fence=str(self.fence),
        )

    def _expiry(self) -> Entry:
        now = self._desk.wall()
        if not self._overdue:
            return entries.lease_expired(now, self.task_id, self.fence, self.agent_id)
        detail = f"{self._name} did not end it within {self._limit_s:.0f} s, its time limit with all margins"
        return entries.released(now, self.task_id, self.fence, str(Reason.LEASE_LOST), detail)

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
        if self._lease is not None and self._lease.active():
            self._lease.cancel()
        Deferred.fromCoroutine(self._settled(message)).addErrback(self._broken)

    def _refuse(self, over: str) -> None:
        """The agent lies, or holds none of the limits: nothing of it is taken, and it is as if it had lost the task."""
        error = ResultOverLimits(f"the result names {over}")
        detail = f"{self._name} broke the limits of the task: its result names {over}"[:1000]
        if self.collecting:
            self.drop(Stale())
        else:
            self._decide(
                lambda: entries.released(self._desk.wall(), self.task_id, self.fence, str(Reason.LEASE_LOST), detail),
                None,
                error,
            )
        self._log.warn(
            "result of {task} refused: {why}",
            event="task.result_refused",
            task=self.task_id,
            why=over,
            agent=self.agent,
            fence=str(self.fence),
        )

    async def _settled(self, message: Result | Released) -> None:
        if not isinstance(message, Result):
            await self._record(lambda: self._entry_for(message), Ack())
            return
        document = self._document(message)
        if (over := excess(self._desk.task(self.task_id).spec, document)) is not None:
            self._refuse(over)
            return
        with self._desk.named.claim(sha256 for sha256, _ in result_blobs(document)):
            # The agent keeps what it made until the acknowledgement, and may be gone after it.
            await self._desk.bring(document)
            await self._record(lambda: self._entry_for(message), Ack())

    def _document(self, message: Result) -> dict[str, JSON]:
        return result_document(message, self.agent, message.agent_id or self.agent_id)

    def _entry_for(self, message: Result | Released) -> Entry | None:
        """What to record of it now; None when there is nothing left to record."""
        now = self._desk.wall()
        task = self._desk.task(self.task_id)
        if isinstance(message, Released):
            if task.terminal:
                return None
            return entries.released(now, self.task_id, self.fence, message.reason, message.detail or None)
        result = self._document(message)
        if task.state is State.CANCELLED:
            return entries.collected(now, self.task_id, self.fence, result) if task.fence == self.fence else None
        if task.terminal:
            return None
        detail = message.detail or None
        if message.reason == Reason.EXIT and message.exit_code == 0:
            return entries.completed(now, self.task_id, self.fence, result, detail)
        return entries.failed(now, self.task_id, self.fence, message.reason, detail, result)

    def _decide(self, make: Callable[[], Entry | None], last: Message | None, error: ChorusError | None = None) -> None:
        Deferred.fromCoroutine(self._record(make, last, error)).addErrback(self._broken)

    async def _record(
        self, make: Callable[[], Entry | None], last: Message | None, error: ChorusError | None = None
    ) -> None:
        """Append what `make` gives, as soon as the journal takes it, and end with `last` (or `error`)."""
        looked_again = False
        while not self.over:
            try:
                entry = make()
                if entry is not None:
                    await self._desk.append(entry)
            except IllegalEntry as problem:
                # Cancelled, or expired, meanwhile: look again, or tell the agent that it is not its task any more.
                if isinstance(last, Ack) and not looked_again and self._is_cancelled():
                    looked_again = True
                    continue
                self.drop(Stale())
                self._log.info(
                    "an outcome of {task} is stale: {error}", event="task.stale", task=self.task_id, error=problem
                )
            except ChorusError as problem:
                await self._wait(str(problem))
            else:
                self.drop(last, error)

    def _is_cancelled(self) -> bool:
        task = self._desk.task(self.task_id)
        return task.state is State.CANCELLED and task.fence == self.fence

    async def _wait(self, problem: str) -> None:
        """Before the journal is asked again; shorter when the custody ends."""
        if self.over:
            return
        if self._waits_for != problem:
            self._waits_for = problem
            self._log.error("an outcome of {task} waits: {error}", task=self.task_id, error=problem)
        self._retry = deferLater(self._desk.clock, APPEND_RETRY_S)
        try:
            await self._retry
        except CancelledError:
            pass
        finally:
            self._retry = None

    def _broken(self, failure: Failure) -> None:
        """A bug. The task is not lost by it: its lease runs out, unless the agent comes back before."""
        self._deciding = False
        channel, self._channel = self._channel, None
        try:
            if self.collecting:
                self.drop()
            elif not self.over:
                self._let_lease_run()
        finally:
            if channel is not None:
                channel.reset()
            self._log.failure("internal error in custody of {task}", task=self.task_id, failure=failure)


def result_document(message: Result, agent: str, agent_id: str | None) -> dict[str, JSON]:
    """A result as the journal keeps it and the API shows it."""
    return {
        "reason": message.reason,
        "exit_code": message.exit_code,
        "detail": message.detail,
        "agent": agent,
        "agent_id": agent_id,
        "sandbox": message.sandbox,
        "image": message.image,
        "started_at": message.started_at,
        "ended_at": message.ended_at,
        "output": {
            "stdout": {"bytes": message.stdout_bytes, "sha256": message.stdout_sha256},
            "stderr": {"bytes": message.stderr_bytes, "sha256": message.stderr_sha256},
        },
        "truncated": list(message.truncated),
        "artifacts": [_row(row) for row in message.artifacts],
        "entries": [_row(row) for row in message.entries],
        "artifacts_skipped": list(message.artifacts_skipped),
        "artifacts_skipped_total": max(message.artifacts_skipped_total, len(message.artifacts_skipped)),
        "caveats": list(message.caveats),
        "disk_enforcement": message.disk_enforcement,
    }


def _row(row: ResultArtifact | ResultEntry) -> dict[str, JSON]:
    """Without what an older executor did not say."""
    return {name: value for name, value in attrs.asdict(row).items() if value is not None}
