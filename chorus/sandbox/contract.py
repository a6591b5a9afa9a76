"""The contract between executors and sandboxes, whatever runs them.

`docker/` and `bubblewrap/` implement `Backend`; `selection.py` chooses by `CHORUS_SANDBOX`. Inside, a task sees
`/workspace/input` (read-only source), `/workspace/data` (a writable copy of it: the working directory) and
`/workspace/output` (deliverables). Limits and their meaning: spec/tasks.md, "Sandbox".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from chorus.errors import LocalError
from chorus.tasks.terms import Limits, Reason, StreamName

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@attrs.frozen
class Job:
    """One attempt at one task, everything a sandbox needs and nothing secret."""

    task_id: str
    attempt: int
    fence: str
    agent_id: str
    commands: tuple[tuple[str, ...], ...]
    """argv lists, run in order in `/workspace/data` until one fails. A shell command is ("/bin/sh", "-c", text)."""
    env: Mapping[str, str]
    limits: Limits
    language: str
    """Found by `languages.detect`; `base` when unknown."""
    image: str | None
    """Asked for by the task; None lets the image map decide."""
    input_archive: Path | None
    """A verified tar (plain, gz, xz or bz2) or zip, unpacked with every check of `archives.py`."""
    artifacts: tuple[str, ...]
    """Globs under `/workspace/output`."""


@attrs.frozen
class Choice:
    """The sandbox that a job gets: `docker` with its image, or `bubblewrap` without one."""

    sandbox: str
    image: str | None


@attrs.frozen
class Artifact:
    """A collected deliverable: path relative to `/workspace/output`, where it now lies on the host, and its size.
    `mode` has the nine bits of its rights, `mtime` is in Unix seconds."""

    path: str
    local: Path
    size: int
    mode: int = 0o644
    mtime: float = 0.0


@attrs.frozen
class OutputEntry:
    """A deliverable without content: a link to `target`, which stays in the output, or where that is None an empty
    folder."""

    path: str
    target: str | None
    mode: int
    mtime: float


@attrs.frozen
class RunResult:
    """The result of one attempt. `exit_code` is that of the last command that ran, None when none did."""

    reason: Reason
    exit_code: int | None
    detail: str
    """One line for a person."""
    sandbox: str
    """`docker` or `bubblewrap`."""
    image: str | None
    started_at: float
    ended_at: float
    """Unix seconds."""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: tuple[StreamName, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    artifacts_skipped: tuple[str, ...] = ()
    """The first reasons for which deliverables were left out."""
    caveats: tuple[str, ...] = ()
    """Parts of the contract that this sandbox could not hold, by name."""
    disk_enforcement: str = "none"
    """`loop`, `quota`, `poll` or `none`."""
    entries: tuple[OutputEntry, ...] = ()
    """Links and empty folders of the deliverables."""
    artifacts_skipped_total: int = 0
    """How many `artifacts_skipped` speaks of, and those beyond it."""


class SandboxUnavailable(LocalError):
    """No engine answers, or it went away."""

    code = "sandbox_unavailable"


class ImageMissing(LocalError):
    """The engine has no image for the task; the text names it and how to build it."""

    code = "image_missing"

    def __init__(self, image: str, hint: str) -> None:
        super().__init__(f"image {image} is not present; {hint}")
        self.image = image


OutputSink = Callable[[StreamName, int, bytes], None]
"""(stream, offset of the first byte in that stream, bytes), on the reactor thread, in order."""


class Run(Protocol):
    """One attempt under way."""

    @property
    def result(self) -> Deferred[RunResult]:
        """Fires once, never fails: trouble is a `RunResult` with its reason. The sandbox is gone when it fires."""

    def cancel(self, reason: Reason) -> None:
        """Kill the whole process tree and end with `reason`, keeping partial output and artifacts. Idempotent."""

    def detach(self) -> None:
        """Stop watching and leave the sandbox for another process of this agent to adopt (where the backend can)."""


@runtime_checkable
class Begins(Protocol):
    """A run that says when its commands begin; another's count as begun when it is started."""

    @property
    def began(self) -> Deferred[None]:
        """Fires once, when the sandbox is prepared and the commands start; never where it does not come so far."""


class Backend(Protocol):
    """One kind of sandbox."""

    name: str

    def probe(self) -> Deferred[str | None]:
        """None when usable; else one line that says what is missing and what to install."""

    def has_image(self, job: Job) -> Deferred[bool]: ...

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run:
        """Begin; `scratch` is a fresh directory of this attempt on the host, which stays after the run with `stdout`,
        `stderr` (what was kept of them) and `artifacts/` in it."""

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]:
        """At start: find this agent's sandboxes in every state by label; remove each whose `keep(task_id, fence)` is
        false; return (task_id, fence) of those kept, which `adopt` may take over."""

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> Run | None:
        """Take over a kept sandbox, sending output from those offsets on; None where that cannot be."""

    def close(self) -> Deferred[None]:
        """Stop the warm pool and whatever still runs."""
