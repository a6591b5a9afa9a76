"""One attempt at one task at its executor: from the assignment to the scheduler's acknowledgement.

The run's row is durable before anything starts, its outcome before it is sent, and both stay until the scheduler has
acknowledged, over as many connections and restarts as that takes. The sandbox is killed before the lease ends,
counted from the send time of the last acknowledged renewal (spec/tasks.md).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chorus.errors import ChorusError, UserError
from chorus.protocols.task_messages import (
    MAX_OUTPUT,
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
    Resume,
    Stale,
    Started,
)
from chorus.protocols.tasks import MAX_PENDING_RENEWALS
from chorus.sandbox import volumes
from chorus.sandbox.contract import INFRASTRUCTURE, ImageMissing, Reason
from chorus.services import preparation, run_outcome
from chorus.services.result_blobs import ResultBlobs
from chorus.services.spool import STREAMS, Spool
from chorus.store.errors import StoreDamaged
from chorus.tasks import leases
from chorus.tasks.state import DRAINING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from chorus.sandbox.contract import Run, StreamName
    from chorus.seams import JSON
    from chorus.services.run_record import RunRecord
    from chorus.services.task_streams import ExecutorChannel
    from chorus.services.workplace import Workplace

ANSWER_S = 30.0
"""Seconds a scheduler has to answer a `resume` or to acknowledge an outcome before the conversation is begun anew."""
RECONNECT_S = 0.25
RECONNECT_LIMIT_S = 15.0
"""Back-off between attempts to reach the scheduler; it doubles up to the limit."""
STORE_RETRY_S = 1.0
"""Between attempts to record an outcome while the store refuses (disk full)."""
ERASE_TRIES = 3
ERASE_RETRY_S = 5.0
"""Tries at removing what an attempt left, and seconds between them: descriptors ran out, something dying holds it."""
KEEP_OUTCOME_S = 7 * 86400.0
"""Seconds that an outcome is kept for a scheduler that does not come back."""


class Attempt:
    """`ended` is called once execution is over (the place is free), `forgotten` once the scheduler has acknowledged."""

    _log = Logger()

    def __init__(
        self,
        place: Workplace,
        record: RunRecord,
        *,
        ended: Callable[[Attempt], None],
        forgotten: Callable[[Attempt], None],
    ) -> None:
        self._place = place
        self.record = record
        self._ended_callback = ended
        self._forgotten_callback = forgotten
        self.directory = place.directory / f"{record.task_id}-{record.fence}"
        self.executing = False
        self._spool: Spool | None = None
        self._run: Run | None = None
        self._work: Deferred[None] | None = None
        self._channel: ExecutorChannel | None = None
        self._sent: dict[StreamName, int] | None = None
        self._reading = False
        self._held_from = float("-inf")
        self._tags: dict[int, float] = {}
        self._next_tag = 1
        self._renewal: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._answer: IDelayedCall | None = None
        self._reconnect: IDelayedCall | None = None
        self._reconnects = 0
        self._connecting = False
        self._resume_sent = 0.0
        self._collecting = False
        self._stopped_for: str | None = None
        self._stop_detail = ""
        self._stale = False
        self._gone = False
        self._result_blobs = ResultBlobs(place, record.task_id, say=self._say, wanted=self._is_wanted)

    # how it begins

    def begin(self, channel: ExecutorChannel, lease_from: float) -> None:
        """Take up a fresh assignment; `lease_from` is this agent's clock when it sent its `accept`."""
        self._use(channel)
        self._sent = {"stdout": 0, "stderr": 0}
        self._hold(lease_from)
        self._renew()
        self.executing = True
        self._start(self._execute())

    def take_back(self, *, kept: bool) -> None:
        """Go on after a restart of this agent; `kept` says that the sandbox was found and its lease had not ended."""
        record = self.record
        if self.directory.is_dir():
            self._spool = Spool(self.directory, self._place.in_thread, self._not_kept)
        if record.outcome is None:
            self.executing = True
            spool = self._spool
            run = self._adopt(spool) if kept and spool is not None else None
            if run is not None and spool is not None:
                self._run = run
                self._arm_deadline(record.lease_until - self._place.wall())
                self._start(self._finish(run, spool))
            else:
                detail = "the agent restarted and its sandbox could not be taken back"
                self._start(_already(run_outcome.given_back(Reason.LEASE_LOST, detail)))
        self.connect()

    def _adopt(self, spool: Spool) -> Run | None:
        if self.record.language is None:
            return None
        job = preparation.job_of(self.record, self._place.agent_id, self.record.language, None)
        return self._place.sandboxes.adopt(
            job, self.directory / "scratch", self._sink, spool.size("stdout"), spool.size("stderr")
        )

    def _start(self, work: Coroutine[Any, Any, Message]) -> None:
        self._work = Deferred.fromCoroutine(self._carry_out(work))
        self._work.addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self._log.failure("an attempt at {task} broke", task=self.record.task_id, failure=failure)

    # execution

    async def _carry_out(self, work: Coroutine[Any, Any, Message]) -> None:
        try:
            outcome = await work
        except CancelledError:
            why = "its output could not be kept: the disk is full" if self._collecting else "it had not started"
            outcome = self._stopped_outcome(why)
        except UserError as error:
            # Nothing wrong with this machine: the archive is bad, and would be everywhere.
            outcome = self._without_run(Reason.REFUSED, str(error))
        except ChorusError as error:
            reason = Reason.IMAGE_MISSING if isinstance(error, ImageMissing) else Reason.SANDBOX_UNAVAILABLE
            outcome = self._not_here(str(error), reason)
        except OSError as error:
            self._log.error("an attempt at {task} failed here: {error}", task=self.record.task_id, error=error)
            outcome = self._not_here(f"the machine failed: {error.strerror or error}")
        except Exception as error:
            self._log.failure("an attempt at {task} broke", task=self.record.task_id)
            outcome = run_outcome.given_back(Reason.SANDBOX_UNAVAILABLE, f"the agent failed: {type(error).__name__}")
        self._run = None
        if not self._stale:
            await self._record(outcome)
        self.executing = False
        self._cancel_timer("_deadline")
        self._ended_callback(self)
        if self._stale:
            self.forget()
        else:
            self.pump()

    async def _execute(self) -> Message:
        record = self.record
        await self._place.runs.save(record)
        await self._place.in_thread(_make_directory, self.directory)
        self._spool = spool = Spool(self.directory, self._place.in_thread, self._not_kept)
        archive = await preparation.fetch_input(self._place, record, self._say)
        self.progress("preparing")
        job = await preparation.make_job(self._place, record, archive)
        choice = await self._place.sandboxes.choose(job)
        self.record = attrs.evolve(
            self.record,
            language=job.language,
            sandbox=choice.sandbox,
            image=choice.image,
            started_at=self._place.wall(),
        )
        await self._place.runs.save(self.record)
        if self._stopped_for or self._stale:
            raise CancelledError
        self._say_started()
        self._run = run = self._place.sandboxes.start(job, self.directory / "scratch", self._sink)
        return await self._finish(run, spool)

    def _say_started(self) -> None:
        record = self.record
        if record.sandbox is not None:
            self._say(Started(record.sandbox, record.image, record.started_at or 0.0))

    async def _finish(self, run: Run, spool: Spool) -> Message:
        result = await run.result
        self._run = None
        self._collecting = True
        if self._stopped_for and self._stopped_for != Reason.CANCELLED:
            return self._stopped_outcome(result.detail)
        if self._stale:
            raise CancelledError
        self.progress("collecting")
        # What the task is to be tried again for elsewhere is not waited for here.
        kept = await self._result_blobs.keep(result, spool, patient=result.reason not in INFRASTRUCTURE)
        return run_outcome.of_run(result, kept, self._place.name)

    def _is_wanted(self) -> bool:
        """Whether somebody waits for the result of a run that has ended."""
        return not self._gone and not self._stale and self._stopped_for in (None, Reason.CANCELLED)

    def _not_kept(self, error: OSError) -> None:
        """The disk takes no more output. While the commands run that is this machine's failure, and the task goes
        elsewhere; once they have ended the result waits."""
        self._log.error(
            "output of {task} cannot be kept: {error}", task=self.record.task_id, error=error.strerror or error
        )
        detail = f"output could not be kept on the disk of this agent: {error.strerror}"
        self._stop(str(Reason.SANDBOX_UNAVAILABLE), detail)

    def _not_here(self, detail: str, reason: Reason = Reason.SANDBOX_UNAVAILABLE) -> Message:
        return self._stopped_outcome(detail) if self._stopped_for else run_outcome.given_back(reason, detail)

    def _stopped_outcome(self, detail: str) -> Message:
        """The outcome of an attempt that was stopped from outside, without (or whatever) the sandbox's result."""
        if self._stopped_for == Reason.CANCELLED:
            return self._without_run(Reason.CANCELLED, detail)
        return run_outcome.given_back(self._stopped_for or Reason.LEASE_LOST, self._stop_detail or detail)

    def _without_run(self, reason: Reason, detail: str) -> Message:
        return run_outcome.without_run(reason, detail, self._place.wall(), self._place.name)

    async def _record(self, outcome: Message) -> None:
        """Make the outcome durable, however long the store refuses: it is not sent before, unless it never can be, or
        only hands the task back (which a restart without an outcome does too)."""
        self.record = attrs.evolve(self.record, outcome=outcome)
        said = ""
        while not self._gone:
            try:
                await self._place.runs.save(self.record)
            except StoreDamaged as error:
                # It will never be: the scheduler, which may be another node, gets it all the same, and the stop of
                # this node does not wait for it.
                self._log.error(
                    "the outcome of {task} cannot be recorded: {error}", task=self.record.task_id, error=error
                )
                return
            except ChorusError as error:
                if isinstance(outcome, Released) or (isinstance(outcome, Result) and outcome.reason in INFRASTRUCTURE):
                    return
                if said != str(error):
                    said = str(error)
                    self._log.error(
                        "the outcome of {task} cannot be recorded yet: {error}", task=self.record.task_id, error=error
                    )
                await deferLater(self._place.clock, STORE_RETRY_S)
            else:
                return

    def _sink(self, stream: StreamName, offset: int, data: bytes) -> None:
        if self._spool is not None:
            self._spool.append(stream, offset, data)
            self.pump()

    # stopping it

    @property
    def lost_lease(self) -> bool:
        return self._stopped_for == Reason.LEASE_LOST

    def cancel(self) -> None:
        """A user or the scheduler wants it ended; partial output and artifacts are kept."""
        self._stop(str(Reason.CANCELLED))

    def hand_back(self) -> None:
        """This agent is shutting down."""
        self._stop(DRAINING)

    def lease_lost(self) -> None:
        self._log.warn("lease of {task} lost: killing its sandbox", event="task.lease_lost", task=self.record.task_id)
        self._stop(str(Reason.LEASE_LOST))

    def _stop(self, reason: str, detail: str = "") -> None:
        if not self.executing or self._stopped_for is not None:
            return
        if self._collecting:
            if self._result_blobs.waits:
                self._stopped_for = reason
                self._result_blobs.give_up()
            return
        self._stopped_for, self._stop_detail = reason, detail
        if self._run is not None:
            self._run.cancel(Reason.CANCELLED if reason == Reason.CANCELLED else Reason.LEASE_LOST)
        elif self._work is not None and self.record.outcome is None:
            self._work.cancel()

    def detach(self) -> None:
        """This process ends: leave the sandbox and the row for the next one."""
        self._gone = True
        self._cancel_timers()
        if self._run is not None:
            self._run.detach()
        elif self._work is not None:
            self._work.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.reset()

    def forget(self) -> None:
        """The scheduler knows the outcome, or wants none: remove every trace."""
        if self._gone:
            return
        if self.executing:
            self._stale = True
            self._stop(str(Reason.LEASE_LOST))
            return
        self._gone = True
        self._cancel_timers()
        Deferred.fromCoroutine(self._erase()).addErrback(self._broken)

    async def _erase(self) -> None:
        """Whatever goes wrong, this attempt is forgotten: a directory without a row is removed at the next start."""
        try:
            await self._remove_directory()
            await self._place.runs.delete(self.record.task_id, self.record.fence)
        except ChorusError as error:
            # The row comes back at the next start, is resumed, and is answered `stale` or `ack` again.
            self._log.error("the run of {task} stays: {error}", task=self.record.task_id, error=error)
        finally:
            self._forgotten_callback(self)

    async def _remove_directory(self) -> None:
        """With whatever a killed process left mounted in it."""
        for last in range(1 - ERASE_TRIES, 1):
            try:
                await self._place.in_thread(volumes.remove_tree, self.directory)
            except OSError as error:
                self._log.error("{path} cannot be removed: {error}", path=str(self.directory), error=error)
                if not last:
                    return
                await deferLater(self._place.clock, ERASE_RETRY_S)
            else:
                return

    # the lease

    def _hold(self, sent_at: float) -> None:
        """The lease is good from `sent_at` (this clock) on."""
        self._held_from = max(sent_at, self._held_from)
        left = leases.kill_at(self._held_from, self.record.lease_s) - self._place.clock.seconds()
        self._arm_deadline(left)
        until = self._place.wall() + left
        self.record = attrs.evolve(self.record, lease_until=until)

    def _arm_deadline(self, left: float) -> None:
        self._cancel_timer("_deadline")
        self._deadline = self._place.clock.callLater(max(0.0, left), self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._deadline = None
        self.lease_lost()

    def _renew(self) -> None:
        self._cancel_timer("_renewal")
        if self._gone or self.record.outcome is not None:
            return
        self._renewal = self._place.clock.callLater(leases.renewal_interval(self.record.lease_s), self._renew)
        channel = self._channel
        if channel is None or not channel.may_send(Renew) or len(self._tags) >= MAX_PENDING_RENEWALS:
            return
        tag = self._next_tag
        self._next_tag += 1
        self._tags[tag] = self._place.clock.seconds()
        channel.send(Renew(tag))

    def _renewed(self, tag: int) -> None:
        sent_at = self._tags.pop(tag, None)
        if sent_at is None or not self.executing or self._stopped_for:
            return
        self._hold(sent_at)
        self._place.runs.renewed(self.record).addErrback(self._not_renewed)

    def _not_renewed(self, failure: Failure) -> None:
        # Harmless: a restart before the next renewal judges by an earlier time, and hands the task back.
        self._log.warn("a renewal is not recorded: {error}", error=failure.value)

    # the conversation

    def _use(self, channel: ExecutorChannel) -> None:
        self._channel = channel
        self._tags.clear()
        channel.heard = self._heard
        channel.closed = self._closed
        channel.drained = self.pump

    def _heard(self, message: Message) -> None:
        if isinstance(message, Renewed):
            self._renewed(message.tag)
        elif isinstance(message, Cancel):
            self._answered()
            if self.executing:
                self.cancel()
            else:
                self.pump()
        elif isinstance(message, Continue):
            self._answered()
            self._continue(message)
        elif isinstance(message, Ack):
            self.forget()
        elif isinstance(message, Stale):
            self._log.info("{task} is no longer ours: dropping it", event="task.stale", task=self.record.task_id)
            self._stale = True
            self.forget()

    def _continue(self, message: Continue) -> None:
        self._sent = {"stdout": message.stdout_from, "stderr": message.stderr_from}
        self.record = attrs.evolve(self.record, lease_s=message.lease_s)
        if self.executing and not self._stopped_for:
            self._hold(self._resume_sent)
            self._renew()
            self._say_started()
        self.pump()

    def _answered(self) -> None:
        self._cancel_timer("_answer")
        self._reconnects = 0

    def _closed(self, error: ChorusError | None) -> None:
        self._channel = None
        self._sent = None
        self._cancel_timer("_answer")
        self._cancel_timer("_renewal")
        if not self._gone and not self._stale:
            self._connect_later()

    def _connect_later(self) -> None:
        if self._reconnect is None and not self._gone:
            delay = min(RECONNECT_LIMIT_S, RECONNECT_S * 2.0 ** min(self._reconnects, 16))
            self._reconnects += 1
            self._reconnect = self._place.clock.callLater(delay, self._reconnect_now)

    def _reconnect_now(self) -> None:
        self._reconnect = None
        if not self.executing and self._place.wall() - self.record.lease_until > KEEP_OUTCOME_S:
            self._log.error(
                "the outcome of {task} was never asked for: dropping it",
                event="task.outcome_dropped",
                task=self.record.task_id,
            )
            self.forget()
        else:
            self.connect()

    def connect(self) -> None:
        """Resume with the scheduler now, if there is no conversation (it has just come back, or we have)."""
        if self._gone or self._stale or self._channel is not None or self._connecting:
            return
        self._cancel_timer("_reconnect")
        self._connecting = True
        self._place.streams.resume_at(self.record.scheduler).addCallbacks(self._connected, self._not_connected)

    def _connected(self, channel: ExecutorChannel) -> None:
        self._connecting = False
        if self._gone or self._stale or channel.is_closed:
            channel.reset()
            if not self._gone and not self._stale:
                self._connect_later()
            return
        self._use(channel)
        self._resume_sent = self._place.clock.seconds()
        self._expect_answer()
        channel.send(Resume(self.record.task_id, self.record.fence))

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = False
        if not isinstance(failure.value, ChorusError):
            self._log.failure("resuming {task} broke", task=self.record.task_id, failure=failure)
        self._connect_later()

    def _expect_answer(self) -> None:
        self._cancel_timer("_answer")
        self._answer = self._place.clock.callLater(ANSWER_S, self._no_answer)

    def _no_answer(self) -> None:
        self._answer = None
        if self._channel is not None:
            self._channel.reset()

    def progress(self, phase: str, **data: JSON) -> None:
        self._say(Progress(phase, data))

    def _say(self, message: Message) -> None:
        """A message that is lost when there is no conversation: the outcome says it all again."""
        if self._channel is not None and self._channel.may_send(type(message)):
            self._channel.send(message)

    def pump(self) -> None:
        """Send what the scheduler has not yet: output in order, then the outcome."""
        channel = self._channel
        spool = self._spool
        while channel is not None and channel.writable and not self._reading and not channel.is_closed:
            sent = self._sent
            stream = next((s for s in STREAMS if spool and sent is not None and sent[s] < spool.size(s)), None)
            if stream is None or spool is None or sent is None or not channel.may_send(Output):
                self._send_outcome(channel)
                return
            data = spool.recent(stream, sent[stream], MAX_OUTPUT)
            if data is None:
                self._reading = True
                Deferred.fromCoroutine(self._read(channel, spool, stream, sent)).addErrback(self._broken)
                return
            offset = sent[stream]
            sent[stream] += len(data)
            channel.send(Output(stream, offset, data))

    async def _read(
        self, channel: ExecutorChannel, spool: Spool, stream: StreamName, sent: dict[StreamName, int]
    ) -> None:
        offset = sent[stream]
        try:
            data = await spool.read(stream, offset, MAX_OUTPUT)
        except OSError as error:
            self._log.error("output of {task} cannot be read: {error}", task=self.record.task_id, error=error)
            data = b""
        self._reading = False
        if not data:
            # The file lost it (disk full): there is nothing more to send of this stream.
            sent[stream] = spool.size(stream)
        elif channel is self._channel and channel.may_send(Output):
            sent[stream] += len(data)
            channel.send(Output(stream, offset, data))
        self.pump()

    def _send_outcome(self, channel: ExecutorChannel) -> None:
        outcome = self.record.outcome
        if outcome is not None and not self.executing and channel.may_send(type(outcome)):
            self._cancel_timer("_renewal")
            self._expect_answer()
            channel.send(outcome)

    # timers

    def _cancel_timer(self, name: str) -> None:
        timer: IDelayedCall | None = getattr(self, name)
        setattr(self, name, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _cancel_timers(self) -> None:
        for name in ("_renewal", "_deadline", "_answer", "_reconnect"):
            self._cancel_timer(name)


def _make_directory(path: Path) -> None:
    (path / "scratch").mkdir(parents=True, mode=0o700, exist_ok=True)


async def _already(outcome: Message) -> Message:
    return outcome
