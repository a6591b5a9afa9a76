"""What the attempts of one executor share: the ports through which they reach the rest of the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.sandbox.contract import Choice, Job, OutputSink, Run
    from chorus.services.blobs.service import BlobRef
    from chorus.services.execution.output import InThread
    from chorus.services.execution.row import RunStore
    from chorus.services.task_streams import TaskStreams


class BlobAccess(Protocol):
    """What an attempt asks of the blob service."""

    def put_file(self, path: Path) -> Deferred[BlobRef]: ...

    def fetch(self, sha256: str, size_limit: int, holders: Sequence[PeerId]) -> Deferred[Path]: ...


class Sandboxes(Protocol):
    """What executors ask of the sandbox service."""

    def choose(self, job: Job) -> Deferred[Choice]:
        """What would run it now. Fails with `SandboxUnavailable` or `ImageMissing`."""

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run: ...

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]: ...

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> Run | None: ...


@attrs.frozen
class Workplace:
    """What every attempt of one executor shares."""

    agent_id: str
    """What marks this agent's sandboxes."""
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
