"""The preparation of a run: its input from the scheduler, its language, the sandbox's job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.errors import ChorusError
from chorus.protocols.task_messages import FETCHING, Message, Progress
from chorus.sandbox.contract import Job, SandboxUnavailable
from chorus.tasks import languages

if TYPE_CHECKING:
    from chorus.services.execution.row import RunRecord
    from chorus.services.execution.workplace import Workplace
    from chorus.tasks.spec import TaskSpec


async def fetch_input(place: Workplace, record: RunRecord, say: Callable[[Message], None]) -> Path | None:
    """The run's input archive, once it is here; None for a run without one. Raises `SandboxUnavailable` when it is too
    large for this agent or cannot be had."""
    blob = record.input
    if blob is None:
        return None
    if blob.size > place.max_input:
        raise SandboxUnavailable(f"the input has {blob.size} bytes, this agent takes {place.max_input}")
    say(Progress(FETCHING, {"size": blob.size}))
    try:
        return await place.blobs.fetch(blob.sha256, blob.size, [record.scheduler])
    except ChorusError as error:
        raise SandboxUnavailable(f"the input cannot be fetched from its scheduler: {error}") from error


async def make_job(place: Workplace, record: RunRecord, archive: Path | None) -> Job:
    """The job, in the language that the names in `archive` say. Raises `archives.BadArchive`."""
    names: Sequence[str] = ()
    if archive is not None:
        names = await place.in_thread(place.list_archive, archive)
    return job_of(record, place.agent_id, detect(record.spec, names), archive)


def job_of(record: RunRecord, agent_id: str, language: str, archive: Path | None) -> Job:
    spec = record.spec
    return Job(
        task_id=record.task_id,
        attempt=record.attempt,
        fence=str(record.fence),
        agent_id=agent_id,
        commands=spec.argv(),
        env=dict(spec.env),
        limits=spec.limits,
        language=language,
        image=spec.image,
        input_archive=archive,
        artifacts=spec.artifacts,
    )


def detect(spec: TaskSpec, names: Sequence[str]) -> str:
    """The task's language, by what is known of it (spec/system.md 10.1)."""
    metadata = [word for word in (spec.repository, spec.project, *spec.required.expertise) if word]
    text = f"{spec.title}\n{spec.description}"
    return languages.detect(explicit=spec.language, metadata=metadata, names=names, description=text).language
