"""The message that an attempt ends with: a `Result`, or a `Released` that hands the task back (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from chorus.protocols.task_messages import MAX_NOTES, MAX_TEXT, Released, Result, ResultArtifact, ResultEntry

if TYPE_CHECKING:
    from chorus.sandbox.contract import RunResult
    from chorus.tasks.terms import Reason, StreamName


@attrs.frozen
class Kept:
    """The durable part of a run."""

    artifacts: Sequence[ResultArtifact]
    entries: Sequence[ResultEntry]
    skipped: Sequence[str]
    """Reasons for what is left out: the first of `skipped_total`."""
    skipped_total: int
    sizes: Mapping[StreamName, int]
    digests: Mapping[StreamName, str]
    """SHA-256 of each output stream; none for one that is empty or could not be kept."""


def of_run(result: RunResult, kept: Kept, agent: str | None) -> Result:
    return Result(
        reason=str(result.reason),
        exit_code=result.exit_code,
        detail=fitting(result.detail),
        sandbox=result.sandbox,
        image=result.image,
        started_at=max(0.0, result.started_at),
        ended_at=max(0.0, result.ended_at),
        stdout_bytes=kept.sizes["stdout"],
        stderr_bytes=kept.sizes["stderr"],
        stdout_sha256=kept.digests.get("stdout"),
        stderr_sha256=kept.digests.get("stderr"),
        truncated=tuple(result.truncated),
        artifacts=tuple(kept.artifacts),
        artifacts_skipped=tuple(kept.skipped[:MAX_NOTES]),
        artifacts_skipped_total=kept.skipped_total,
        entries=tuple(kept.entries),
        caveats=tuple(fitting(note) for note in result.caveats[:MAX_NOTES]),
        disk_enforcement=result.disk_enforcement,
        agent_id=agent,
    )


def without_run(reason: Reason, detail: str, now: float, agent: str | None) -> Result:
    """The result of an attempt whose sandbox never began, or left nothing to report. `now` in Unix seconds."""
    return Result(str(reason), None, fitting(detail), "none", None, now, now, agent_id=agent)


def given_back(reason: str, detail: str) -> Released:
    return Released(str(reason), fitting(detail))


def fitting(text: str) -> str:
    """Fit for the wire: names of files may be no Unicode, and details may be long."""
    return text.encode("utf-8", "replace").decode()[:MAX_TEXT]
