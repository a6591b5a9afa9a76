"""Execution of one attempt at this agent: from its input to a recorded outcome, or until it is stopped.

It prepares, runs the sandbox, collects; what goes wrong on the way becomes an outcome as well. Stopped before its run
has ended it is over at once, with a `Released` (or a `Result` for a cancelled task); a result that is being collected,
or recorded, is given up only where it would have to wait for a full disk.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

from chorus.errors import ChorusError, UserError
from chorus.protocols.task_messages import PREPARING, Message, Progress, Result, Started
from chorus.sandbox.contract import Begins, ImageMissing
from chorus.services.execution import outcome as run_outcome
from chorus.services.execution import preparation
from chorus.services.execution.output import STREAMS, Spool
from chorus.services.execution.patience import Patience
from chorus.services.execution.result_blobs import ResultBlobs
from chorus.tasks.terms import INFRASTRUCTURE, Reason

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.sandbox.contract import Run
    from chorus.services.execution.delivery import OutputDelivery
    from chorus.services.execution.row import AttemptRow
    from chorus.services.execution.workplace import Workplace
    from chorus.store.publications import PublicationRow
    from chorus.tasks.terms import StreamName


SCRATCH = "scratch"
"""The sandbox's part of an attempt's directory; the output beside it is the attempt's own."""
RAN_S = 1.0
"""Seconds for which commands that are stopped from outside must have run to count as a run: as long as their place may
have been kept for them (`reservations.BINDING_S`)."""
UNRECORDED = "the agent could not record the outcome: its database takes nothing"


class TaskExecution:
    """Output goes to `delivery`, news for the scheduler to `say`; `ended` gets the outcome, which is recorded then,
    unless the execution was abandoned. It is not called once the execution was detached."""

    _log = Logger()

    def __init__(
        self,
        place: Workplace,
        row: AttemptRow,
        directory: Path,
        delivery: OutputDelivery,
        *,
        say: Callable[[Message], None],
        ended: Callable[[Message], None],
    ) -> None:
        self._place = place
        self._row = row
        self._directory = directory
        self._delivery = delivery
        self._say = say
        self._ended = ended
        self._patience = Patience(place.clock, self._is_wanted)
        self._result_blobs = ResultBlobs(place, row.record.task_id, self._patience, say=say)
        self._spool: Spool | None = None
        self._run: Run | None = None
        self._work: Deferred[None] | None = None
        self._collecting = False
        self._stop_detail = ""
        self._detached = False
        self._preparing = False
        self._begun = False
        """Its commands have begun, as the sandbox said."""
        self._began_at = 0.0
        self.ran = False
        """They have run: to their own end, or for `RAN_S` until they were stopped. Known once it is over."""
        self.executing = False
        self.stopped_for: str | None = None
        self.abandoned = False
        """Nobody wants its outcome any more."""

    @property
    def output_size(self) -> int:
        """Bytes of output that are kept for its scheduler."""
        return sum(self._spool.size(stream) for stream in STREAMS) if self._spool is not None else 0

    # how it begins

    def begin(self) -> None:
        self.executing = True
        self._start(self._execute())

    def reopen(self) -> None:
        """Deliver from the output that an earlier process left, if it left any."""
        if self._directory.is_dir():
            self._open_spool()

    def take_back(self, *, kept: bool, adopted: Callable[[], None]) -> None:
        """Go on where an earlier process ended. `adopted` is called when the sandbox could be taken back, which can be
        if it was `kept`; the task is handed back otherwise."""
        self.executing = True
        spool = self._spool
        run = self._adopt(spool) if kept and spool is not None else None
        if run is not None and spool is not None:
            self._run = run
            self._begun = True
            adopted()
            self._start(self._finish(run, spool))
        else:
            detail = "the agent restarted and its sandbox could not be taken back"
            self._start(_already(run_outcome.given_back(Reason.LEASE_LOST, detail)))

    def _adopt(self, spool: Spool) -> Run | None:
        record = self._row.record
        if record.language is None:
            return None
        job = preparation.job_of(record, self._place.agent_id, record.language, None)
        return self._place.sandboxes.adopt(
            job, self._directory / SCRATCH, self._sink, spool.size("stdout"), spool.size("stderr")
        )

    # how it goes on

    def _start(self, work: Coroutine[Any, Any, Message]) -> None:
        self._work = Deferred.fromCoroutine(self._carry_out(work))
        self._work.addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        """The place comes back whatever went wrong, and the task goes elsewhere."""
        self._log.failure("internal error in an attempt at {task}", task=self._row.record.task_id, failure=failure)
        if self.executing and not self._detached:
            self.executing = False
            self._ended(
                run_outcome.given_back(Reason.SANDBOX_UNAVAILABLE, f"the agent failed: {type(failure.value).__name__}")
            )

    async def _carry_out(self, work: Coroutine[Any, Any, Message]) -> None:
        outcome = await self._outcome_of(work)
        self._run = None
        if not (self.abandoned or self._detached):
            outcome = await self._recorded(outcome)
        await self._tidy()
        if self._detached:
            return
        self.executing = False
        self._ended(outcome)

    async def _tidy(self) -> None:
        """The files of the sandbox are blobs by now, or nobody's: only the output is kept, for its delivery."""
        if self._detached:
            return
        try:
            await self._place.in_thread(_remove_copies, self._directory / SCRATCH)
        except Exception as error:
            # It goes with the whole directory, once the outcome is acknowledged.
            self._log.warn(
                "remains of {task} could not be removed yet: {error}", task=self._row.record.task_id, error=error
            )

    async def _recorded(self, outcome: Message) -> Message:
        """The outcome, once it is durable together with its decision; where the wait for that is given up, the task is
        handed back instead."""
        try:
            outcome, publication = await self._with_decision(outcome)
            await self._row.settle(outcome, self._patience, publication)
        except CancelledError:
            if not (self.abandoned or self._detached):
                outcome = run_outcome.given_back(self.stopped_for or Reason.LEASE_LOST, UNRECORDED)
                await self._row.settle(outcome, self._patience)
        return outcome

    async def _with_decision(self, outcome: Message) -> tuple[Message, PublicationRow | None]:
        """A result never fails for want of its decision."""
        decisions = self._place.decisions
        if decisions is None or not isinstance(outcome, Result) or outcome.reason in INFRASTRUCTURE:
            return outcome, None
        try:
            drafted = await decisions.draft(self._row.record, outcome)
        except CancelledError:
            raise
        except ChorusError as error:
            self._log.error("{task} has no decision: {error}", task=self._row.record.task_id, error=error)
            return outcome, None
        except Exception:
            # Not even a bug of the memory costs a task its result.
            self._log.failure("internal error in the decision on {task}", task=self._row.record.task_id)
            return outcome, None
        if drafted is None:
            return outcome, None
        return attrs.evolve(outcome, decision=drafted.named, publication=drafted.publication), drafted.row

    async def _execute(self) -> Message:
        row, place = self._row, self._place
        await row.save()
        await place.in_thread(_make_directory, self._directory)
        spool = self._open_spool()
        self._preparing = row.record.input is not None
        archive = await preparation.fetch_input(place, row.record, self._say)
        self.report_progress()
        job = await preparation.make_job(place, row.record, archive)
        choice = await place.sandboxes.choose(job)
        row.record = attrs.evolve(row.record, language=job.language, sandbox=choice.sandbox, image=choice.image)
        await row.save()
        if self.stopped_for or self.abandoned:
            raise CancelledError
        self._run = run = place.sandboxes.start(job, self._directory / SCRATCH, self._sink)
        began = run.began if isinstance(run, Begins) else succeed(None)
        began.addCallback(self._commands_begin).addErrback(self._not_reported)
        return await self._finish(run, spool)

    def _commands_begin(self, _: None) -> None:
        self._begun, self._began_at = True, self._place.clock.seconds()
        self._row.record = attrs.evolve(self._row.record, started_at=self._place.wall())
        self.report_progress()

    def _not_reported(self, failure: Failure) -> None:
        self._log.failure("the start of {task} could not be reported", task=self._row.record.task_id, failure=failure)

    def report_progress(self) -> None:
        """Reports how far it is; a scheduler may get this more than once."""
        record = self._row.record
        if self._begun and record.sandbox is not None:
            self._say(Started(record.sandbox, record.image, record.started_at or 0.0))
        elif self._preparing:
            self._say(Progress(PREPARING, {}))

    async def _finish(self, run: Run, spool: Spool) -> Message:
        result = await run.result
        self._run = None
        if self.stopped_for is None:
            # A sandbox may say of short commands only what they came to.
            self.ran = self._begun or result.exit_code is not None
        self._collecting = True
        if self.stopped_for and self.stopped_for != Reason.CANCELLED:
            return self._stopped_outcome(result.detail)
        if self.abandoned:
            raise CancelledError
        self._say(Progress("collecting", {}))
        # What the task is to be tried again for elsewhere is not waited for here.
        kept = await self._result_blobs.keep(result, spool, patient=result.reason not in INFRASTRUCTURE)
        return run_outcome.of_run(result, kept, self._place.name)

    # its output

    def _open_spool(self) -> Spool:
        self._spool = spool = Spool(self._directory, self._place.in_thread, self._not_kept)
        self._delivery.take_from(spool)
        return spool

    def _sink(self, stream: StreamName, offset: int, data: bytes) -> None:
        if self._spool is not None:
            self._spool.append(stream, offset, data)
            self._delivery.pump()

    def _not_kept(self, error: OSError) -> None:
        """The disk takes no more output. While the commands run that is this machine's failure, and the task goes
        elsewhere; once they have ended the result waits."""
        self._log.error(
            "output of {task} cannot be kept: {error}", task=self._row.record.task_id, error=error.strerror or error
        )
        if not self._collecting:
            detail = f"output could not be kept on the disk of this agent: {error.strerror}"
            self.stop(str(Reason.SANDBOX_UNAVAILABLE), detail)

    # its outcome

    async def _outcome_of(self, work: Coroutine[Any, Any, Message]) -> Message:
        try:
            return await work
        except CancelledError:
            why = "its output could not be kept: the disk is full" if self._collecting else "it had not started"
            return self._stopped_outcome(why)
        except UserError as error:
            # Nothing wrong with this machine: the archive is bad, and would be everywhere.
            return self._without_run(Reason.REFUSED, str(error))
        except ChorusError as error:
            reason = Reason.IMAGE_MISSING if isinstance(error, ImageMissing) else Reason.SANDBOX_UNAVAILABLE
            return self._not_here(str(error), reason)
        except OSError as error:
            self._log.error("an attempt at {task} failed here: {error}", task=self._row.record.task_id, error=error)
            return self._not_here(f"the machine failed: {error.strerror or error}")
        except Exception as error:
            self._log.failure("internal error in an attempt at {task}", task=self._row.record.task_id)
            return run_outcome.given_back(Reason.SANDBOX_UNAVAILABLE, f"the agent failed: {type(error).__name__}")

    def _not_here(self, detail: str, reason: Reason = Reason.SANDBOX_UNAVAILABLE) -> Message:
        return self._stopped_outcome(detail) if self.stopped_for else run_outcome.given_back(reason, detail)

    def _stopped_outcome(self, detail: str) -> Message:
        """The outcome of an attempt that was stopped from outside, without (or whatever) the sandbox's result."""
        if self.stopped_for == Reason.CANCELLED:
            return self._without_run(Reason.CANCELLED, detail)
        return run_outcome.given_back(self.stopped_for or Reason.LEASE_LOST, self._stop_detail or detail)

    def _without_run(self, reason: Reason, detail: str) -> Message:
        return run_outcome.without_run(reason, detail, self._place.wall(), self._place.name)

    # stopping it

    def stop(self, reason: str, detail: str = "") -> None:
        """End it for `reason` (a `Reason`, or `DRAINING`). The first one counts, until the run has ended."""
        if not self.executing:
            return
        if self._collecting or self._row.record.outcome is not None:
            self._stop_waiting(reason)
            return
        if self.stopped_for is not None:
            return
        self.stopped_for, self._stop_detail = reason, detail
        self.ran = self._begun and self._place.clock.seconds() - self._began_at >= RAN_S
        if self._run is not None:
            self._run.cancel(Reason.CANCELLED if reason == Reason.CANCELLED else Reason.LEASE_LOST)
        elif self._work is not None:
            self._work.cancel()

    def _stop_waiting(self, reason: str) -> None:
        """The run has ended: collect and record what it left, but wait for no disk any more. For a task that is
        cancelled now, only deliverables are not waited for; what is kept of it already is still brought home."""
        if reason == Reason.CANCELLED and (
            self.stopped_for is not None or self._row.record.outcome is not None or not self._patience.waits
        ):
            return
        self.stopped_for = reason
        self._patience.give_up()

    def abandon(self) -> None:
        """Nobody wants its outcome: end it and record none."""
        self.abandoned = True
        self.stop(str(Reason.LEASE_LOST))

    def detach(self) -> None:
        """This process ends: leave the sandbox to the next one, and record nothing."""
        self._detached = True
        if self._run is not None:
            self._run.detach()
        elif self._row.record.outcome is not None:
            # An outcome that is on its way into the store may arrive there.
            self._patience.give_up()
        elif self._work is not None:
            self._work.cancel()

    def _is_wanted(self) -> bool:
        """True if somebody waits for the result of a run that has ended."""
        return not self._detached and not self.abandoned and self.stopped_for in (None, Reason.CANCELLED)


def _make_directory(path: Path) -> None:
    (path / SCRATCH).mkdir(parents=True, mode=0o700, exist_ok=True)


def _remove_copies(scratch: Path) -> None:
    """Removes what the sandbox handed over (`contract.Backend.start`)."""
    for name in STREAMS:
        (scratch / name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(scratch / "artifacts")


async def _already(outcome: Message) -> Message:
    return outcome
