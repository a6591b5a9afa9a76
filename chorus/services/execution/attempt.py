"""One attempt at one task at its executor: from the assignment to the scheduler's acknowledgement.

The run's row is durable before anything starts, its outcome before it is sent, and both stay until the scheduler has
acknowledged, over as many connections and restarts as that takes. The sandbox is killed before the lease ends,
counted from the send time of the last acknowledged renewal (spec/tasks.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.protocols.task_messages import (
    Ack,
    Cancel,
    Continue,
    Message,
    Renewed,
    Result,
    Stale,
    TaskProtocolError,
)
from chorus.sandbox.files import volumes
from chorus.services.execution.conversation import Conversation
from chorus.services.execution.delivery import OutputDelivery
from chorus.services.execution.lease import HeldLease
from chorus.services.execution.row import AttemptRow
from chorus.services.execution.run import TaskExecution
from chorus.tasks import leases
from chorus.tasks.state import DRAINING
from chorus.tasks.terms import Reason

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.services.execution.row import RunRecord
    from chorus.services.execution.workplace import Workplace
    from chorus.services.task_streams import ExecutorChannel

ERASE_TRIES = 3
ERASE_RETRY_S = 5.0
"""Tries at removing what an attempt left, and seconds between them: descriptors ran out, something dying holds it."""
KEEP_OUTCOME_S = 7 * 86400.0
"""Seconds that an outcome is kept for a scheduler that does not come back."""


class Attempt:
    """`ended` is called once execution is over (the place is free), `forgotten` once the scheduler has acknowledged.

    Its parts do the work; this connects them.
    """

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
        self._ended_callback = ended
        self._forgotten_callback = forgotten
        self.directory = place.directory / f"{record.task_id}-{record.fence}"
        self._row = AttemptRow(place.runs, record)
        self._conversation = Conversation(
            place.streams,
            place.clock,
            record,
            heard=self._heard,
            closed=self._closed,
            drained=self._drained,
            due=self._reconnect,
        )
        self._delivery = OutputDelivery(self._conversation, record.task_id)
        self._execution = TaskExecution(
            place, self._row, self.directory, self._delivery, say=self._conversation.say, ended=self._ended
        )
        self._lease = HeldLease(
            self._row,
            self._conversation,
            place.clock,
            place.wall,
            lost=self.lease_lost,
            wanted=lambda: self.executing,
        )
        self._gone = False
        self._taken_back = False

    @property
    def record(self) -> RunRecord:
        return self._row.record

    @property
    def executing(self) -> bool:
        return self._execution.executing

    @property
    def held(self) -> int:
        """Bytes that are kept here for its scheduler: its output, and what its outcome names."""
        outcome = self.record.outcome
        artifacts = outcome.artifacts if isinstance(outcome, Result) else ()
        return self._execution.output_size + sum(artifact.size for artifact in artifacts)

    @property
    def lost_lease(self) -> bool:
        return self._execution.stopped_for == Reason.LEASE_LOST

    @property
    def came_to_nothing(self) -> bool:
        """True if it was assigned to this process and is over without a run that counts."""
        return not (self._execution.ran or self._taken_back)

    # how it begins

    def begin(self, channel: ExecutorChannel, lease_from: float) -> None:
        """Take up a fresh assignment; `lease_from` is this agent's clock when it sent its `accept`."""
        self._conversation.take_up(channel)
        self._delivery.begin()
        self._lease.hold(lease_from)
        self._lease.renew()
        self._execution.begin()

    def take_back(self, *, kept: bool) -> None:
        """Go on after a restart of this agent; `kept` says that the sandbox was found and its lease had not ended."""
        self._taken_back = True
        outcome = self.record.outcome
        self._execution.reopen()
        if outcome is None:
            self._execution.take_back(kept=kept, adopted=self._lease.hold_on)
        else:
            self._delivery.finish(outcome)
        self._conversation.connect()

    # the conversation

    def connect(self) -> None:
        """Resume with the scheduler now, if there is no conversation (it has just come back, or we have)."""
        self._conversation.connect()

    def _heard(self, message: Message) -> None:
        if isinstance(message, Renewed):
            self._lease.renewed(message.tag)
        elif isinstance(message, Cancel):
            if self.executing:
                # What it leaves may have to wait for a full disk, and is collected as long as the lease is renewed.
                self._lease.renew()
                self.cancel()
            else:
                self._delivery.pump()
        elif isinstance(message, Continue):
            self._continue(message)
        elif isinstance(message, Ack):
            self.forget(accepted=True)
        elif isinstance(message, Stale):
            self._log.info("{task} is no longer ours: dropping it", event="task.stale", task=self.record.task_id)
            self.forget()

    def _continue(self, message: Continue) -> None:
        if not leases.is_lease(message.lease_s):
            self._conversation.refuse(TaskProtocolError(f"a lease of {message.lease_s} s cannot be kept"))
            return
        self._delivery.begin(stdout=message.stdout_from, stderr=message.stderr_from)
        self._row.record = attrs.evolve(self.record, lease_s=message.lease_s)
        if self.executing:
            self._lease.hold(self._conversation.resumed_at)
            self._lease.renew()
            self._execution.report_progress()
        self._delivery.pump()

    def _closed(self) -> None:
        self._delivery.interrupt()
        self._lease.interrupt()

    def _drained(self) -> None:
        self._delivery.pump()

    def _reconnect(self) -> None:
        if not self.executing and self._place.wall() - self.record.lease_until > KEEP_OUTCOME_S:
            self._log.error(
                "the outcome of {task} was never asked for: dropping it",
                event="task.outcome_dropped",
                task=self.record.task_id,
            )
            self.forget()
        else:
            self._conversation.connect()

    # stopping it

    def cancel(self) -> None:
        """End it for a user or the scheduler; partial output and artifacts are kept."""
        self._execution.stop(str(Reason.CANCELLED))

    def hand_back(self) -> None:
        """Hand the task back: this agent is shutting down."""
        self._execution.stop(DRAINING)

    def lease_lost(self) -> None:
        if not self.lost_lease:
            self._log.warn(
                "lease of {task} lost: killing its sandbox", event="task.lease_lost", task=self.record.task_id
            )
        self._execution.stop(str(Reason.LEASE_LOST))

    def detach(self) -> None:
        """This process ends: leave the sandbox and the row for the next one."""
        self._gone = True
        # First: what the execution comes to when it is cut off is no word for the scheduler.
        self._conversation.hang_up()
        self._lease.release()
        self._execution.detach()

    # how it ends

    def _ended(self, outcome: Message) -> None:
        self._lease.release()
        # The place is free before anything else is done that could go wrong.
        self._ended_callback(self)
        if self._execution.abandoned:
            self.forget()
        else:
            self._delivery.finish(outcome)

    def forget(self, *, accepted: bool = False) -> None:
        """The scheduler has `accepted` the outcome, or wants none: remove every trace."""
        if self._gone:
            return
        self._conversation.end()
        if self.executing:
            self._execution.abandon()
            return
        self._gone = True
        self._lease.release()
        Deferred.fromCoroutine(self._erase(accepted)).addErrback(self._broken)

    async def _erase(self, accepted: bool) -> None:
        """Forgets this attempt whatever goes wrong: a directory without a row is removed at the next start."""
        try:
            await self._remove_directory()
            await self._row.delete(accepted=accepted)
            outcome = self.record.outcome
            if accepted and isinstance(outcome, Result) and outcome.decision and self._place.decisions is not None:
                self._place.decisions.released(outcome.decision.hash)
        except ChorusError as error:
            # The row comes back at the next start, is resumed, and is answered `stale` or `ack` again.
            self._log.error("the row of {task} could not be deleted: {error}", task=self.record.task_id, error=error)
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

    def _broken(self, failure: Failure) -> None:
        self._log.failure("internal error in an attempt at {task}", task=self.record.task_id, failure=failure)
