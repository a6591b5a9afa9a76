"""The ports through which the attempts of one executor reach the rest of the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.task_messages import DecisionRef, PublicationBlob, Result
    from chorus.sandbox.contract import Choice, Job, OutputSink, Run
    from chorus.services.blobs.service import BlobRef
    from chorus.services.execution.output import InThread
    from chorus.services.execution.row import RunRecord, RunStore
    from chorus.services.task_streams import TaskStreams
    from chorus.store.publications import PublicationRow


class BlobAccess(Protocol):
    """The blob service as an attempt needs it."""

    def put_file(self, path: Path) -> Deferred[BlobRef]: ...

    def fetch(self, sha256: str, size_limit: int, holders: Sequence[PeerId]) -> Deferred[Path]: ...


class Sandboxes(Protocol):
    """The sandbox service as executors need it."""

    def choose(self, job: Job) -> Deferred[Choice]:
        """The sandbox that would run it now. Fails with `SandboxUnavailable` or `ImageMissing`."""

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run: ...

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]: ...

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> Run | None: ...


@attrs.frozen
class DraftedDecision:
    """The decision of an attempt, signed and encrypted, not yet durable."""

    named: DecisionRef
    publication: PublicationBlob
    """Durable already."""
    row: PublicationRow


class Decisions(Protocol):
    """The memory as an attempt needs it."""

    def draft(self, record: RunRecord, result: Result) -> Deferred[DraftedDecision | None]:
        """Seals the artifacts, signs and encrypts the decision. None where this node can write none. May be cancelled;
        fails with what the disk or the keys refuse."""

    def released(self, content: str) -> None:
        """A result was acknowledged: its decision (a content hash, hexadecimal) may be published now."""


@attrs.frozen
class Workplace:
    """Shared by all attempts of one executor."""

    agent_id: str
    """Marks this agent's sandboxes."""
    streams: TaskStreams
    runs: RunStore
    blobs: BlobAccess
    sandboxes: Sandboxes
    clock: IReactorTime
    wall: Callable[[], float]
    in_thread: InThread
    directory: Path
    """Parent of each attempt's own directory."""
    max_input: int
    """Bytes of the largest input that is fetched."""
    list_archive: Callable[[Path], Sequence[str]]
    """Names in an archive; blocking. Raises `archives.BadArchive`."""
    name: str | None = None
    """The agent's name in results."""
    decisions: Decisions | None = None
    """None without a memory."""
