"""The decision on a finished attempt, before it is signed (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import attrs

from chorus.errors import UserError
from chorus.fields.members import cut
from chorus.tasks.terms import Reason
from chorus.ucxl.record import (
    MAX_COMMAND,
    MAX_SUMMARY,
    DecisionArtifact,
    DecisionInput,
    DecisionLimits,
    DecisionOutcome,
    DecisionRun,
)

if TYPE_CHECKING:
    from chorus.protocols.task_messages import Result
    from chorus.seams import JSON, Redactor
    from chorus.services.blobs.ports import SealedBlob
    from chorus.services.execution.row import RunRecord

KIND = "task"
MAX_URI = 1024
"""Bytes that a decision has for an image or a repository (`chorus/ucxl/record.py`)."""


class DecisionDenied(UserError):
    """The redactor lets nobody write it."""

    code = "decision_denied"
    http_status = 422


def task_members(
    record: RunRecord, result: Result, sealed: Mapping[str, SealedBlob], redactor: Redactor
) -> dict[str, object]:
    """Members of a `Decision` that say what the attempt came to. `sealed` is by the SHA-256 of the plain content; what
    is not in it is counted in the rationale alone. Raises `DecisionDenied`."""
    files = list(_files(result))
    artifacts = tuple(
        DecisionArtifact(name=name, sha256=sha256, size=size, stored=sealed[sha256].stored, key=sealed[sha256].key)
        for name, sha256, size in files
        if sha256 in sealed
    )
    words = _redacted(
        {
            "summary": _summary(record, result),
            "rationale": _rationale(result, len(files) - len(artifacts)),
            "commands": [cut(_line(each), MAX_COMMAND) for each in record.spec.commands],
            "names": [artifact.name for artifact in artifacts],
            "repository": record.spec.repository or "",
        },
        redactor,
    )
    names = cast("Sequence[str]", words["names"])
    return {
        "kind": KIND,
        "summary": cut(str(words["summary"]), MAX_SUMMARY),
        "rationale": str(words["rationale"]),
        "inputs": tuple(_inputs(record, str(words["repository"]))),
        "artifacts": tuple(attrs.evolve(each, name=name) for each, name in zip(artifacts, names, strict=True)),
        "outcome": DecisionOutcome(
            success=result.reason == Reason.EXIT and result.exit_code == 0,
            exit_code=result.exit_code,
            reason=result.reason,
        ),
        "run": DecisionRun(
            commands=tuple(cast("Sequence[str]", words["commands"])),
            started=int(result.started_at),
            ended=int(result.ended_at),
            sandbox=result.sandbox or None,
            image=cut(result.image, MAX_URI) if result.image else None,
            limits=DecisionLimits(**attrs.asdict(record.spec.limits)),
        ),
    }


def sealable(result: Result) -> list[str]:
    """SHA-256 of everything that a result names, each once."""
    return list(dict.fromkeys(sha256 for _, sha256, _ in _files(result)))


def _files(result: Result) -> list[tuple[str, str, int]]:
    found = [(each.path, each.sha256, each.size) for each in result.artifacts]
    if result.stdout_sha256 is not None:
        found.append(("stdout", result.stdout_sha256, result.stdout_bytes))
    if result.stderr_sha256 is not None:
        found.append(("stderr", result.stderr_sha256, result.stderr_bytes))
    return found


def _line(command: str | tuple[str, ...]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _summary(record: RunRecord, result: Result) -> str:
    first = _line(record.spec.commands[0]) if record.spec.commands else record.task_id
    title = record.spec.title or first.strip().split("\n", 1)[0]
    code = f" with exit code {result.exit_code}" if result.exit_code is not None else ""
    how = "ended" if result.reason == Reason.EXIT else f"ended for {result.reason}"
    return f"{cut(title, MAX_SUMMARY // 2) or record.task_id}: {how}{code}"


def _rationale(result: Result, unsealed: int) -> str:
    notes = [result.detail] if result.detail else []
    if result.truncated:
        notes.append(f"cut: {', '.join(result.truncated)}")
    if result.artifacts_skipped_total:
        notes.append(f"{result.artifacts_skipped_total} deliverables were left out")
    if unsealed:
        notes.append(f"{unsealed} files have no encrypted copy")
    return "\n".join(notes)


def _inputs(record: RunRecord, repository: str) -> list[DecisionInput]:
    found = [] if record.input is None else [DecisionInput(name="input", sha256=record.input.sha256)]
    if repository:
        found.append(DecisionInput(name="repository", uri=cut(repository, MAX_URI)))
    return found


def _redacted(words: dict[str, JSON], redactor: Redactor) -> dict[str, JSON]:
    redacted = redactor.redact(words, context="decision")
    if redacted.action == "deny":
        raise DecisionDenied("the redactor denies this decision")
    return redacted.value
