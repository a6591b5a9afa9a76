"""An attempt's shared state and its persistence.

The row is there before anything starts and stays until the scheduler has acknowledged the outcome, so that a later
process knows what it has to take back, to hand back or to deliver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.protocols.task_messages import Message, Released, Result
from chorus.store.errors import StoreDamaged
from chorus.tasks.terms import INFRASTRUCTURE

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from chorus.identity import PeerId
    from chorus.protocols.task_messages import InputBlob
    from chorus.services.execution.patience import Patience
    from chorus.store.publications import PublicationRow
    from chorus.tasks.journal import Fence
    from chorus.tasks.spec import TaskSpec

STORE_RETRY_S = 1.0
"""Between attempts to record an outcome while the store refuses (disk full)."""


@attrs.frozen
class RunRecord:
    """The durable row of an attempt."""

    task_id: str
    fence: Fence
    attempt: int
    scheduler: PeerId
    spec: TaskSpec
    input: InputBlob | None
    lease_s: float
    lease_until: float
    """Unix seconds after which the sandbox must be gone: the kill time, for a restart to judge by."""
    language: str | None = None
    """Known, as are the next three, once the sandbox may have been started."""
    sandbox: str | None = None
    image: str | None = None
    started_at: float | None = None
    outcome: Message | None = None
    """`Result` or `Released`, once there is one."""


class RunStore(Protocol):
    """Rows of attempts. A row is gone only after `delete`."""

    def save(self, record: RunRecord, publication: PublicationRow | None = None) -> Deferred[None]:
        """Insert or replace the row of (task, fence), in one transaction with the publication of its decision."""

    def renewed(self, record: RunRecord) -> Deferred[None]:
        """Only `lease_until` (and what else moves) has changed."""

    def delete(self, record: RunRecord, *, accepted: bool) -> Deferred[None]:
        """In one step the decision that its outcome names may be published, if that was accepted, or is dropped."""

    def all(self) -> Deferred[list[RunRecord]]: ...


class AttemptRow:
    """`record` may be replaced by one that differs in what moves; it is durable once it was saved."""

    _log = Logger()

    def __init__(self, runs: RunStore, record: RunRecord) -> None:
        self._runs = runs
        self.record = record

    def save(self, publication: PublicationRow | None = None) -> Deferred[None]:
        return self._runs.save(self.record, publication)

    def delete(self, *, accepted: bool) -> Deferred[None]:
        return self._runs.delete(self.record, accepted=accepted)

    def renewed(self) -> None:
        """The lease has a new end. Of no use to a restart once the run has ended: there is no sandbox to take back."""
        if self.record.outcome is None:
            self._runs.renewed(self.record).addErrback(self._not_renewed)

    def _not_renewed(self, failure: Failure) -> None:
        # Harmless: a restart before the next renewal judges by an earlier time, and hands the task back.
        self._log.warn("a renewal is not recorded: {error}", error=failure.value)

    async def settle(self, outcome: Message, patience: Patience, publication: PublicationRow | None = None) -> None:
        """Make the outcome durable, with the publication of its decision, however long the store refuses: it is not
        sent before, unless it never can be, or only hands the task back (which a restart without an outcome does too).
        Raises `CancelledError` when the waiting is given up."""
        self.record = attrs.evolve(self.record, outcome=outcome)
        said = ""
        while True:
            try:
                await self.save(publication)
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
                patience.check()
                if said != str(error):
                    said = str(error)
                    self._log.error(
                        "the outcome of {task} cannot be recorded yet: {error}",
                        event="task.result_waits",
                        task=self.record.task_id,
                        error=said,
                    )
                await patience.wait(STORE_RETRY_S)
            else:
                return
