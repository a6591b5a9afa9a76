"""Stores the artifacts and the whole output of a run as blobs, durable before its result is sent.

It is all that there is of the task's work, so a full disk is waited for, as long as anybody wants the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from chorus import strictjson
from chorus.errors import ChorusError
from chorus.files import is_shortage
from chorus.protocols.task_messages import (
    MAX_ARTIFACTS,
    MAX_FRAME,
    MAX_NOTES,
    MAX_TEXT,
    Message,
    Progress,
    ResultArtifact,
    ResultEntry,
)
from chorus.sandbox.files.omissions import Omissions
from chorus.services.blobs.fetch import BlobTooLarge
from chorus.services.blobs.files import BlobStoreShort, DiskFull
from chorus.services.execution.outcome import Kept, fitting
from chorus.services.execution.output import STREAMS
from chorus.store.errors import StoreDamaged, StoreUnavailable

if TYPE_CHECKING:
    from chorus.sandbox.contract import RunResult
    from chorus.services.blobs.service import BlobRef
    from chorus.services.execution.output import Spool
    from chorus.services.execution.patience import Patience
    from chorus.services.execution.workplace import Workplace
    from chorus.tasks.terms import StreamName

NO_DIGEST = "0" * 64
"""Stands in a row for as long as its blob is not kept, so that its size is known."""
DISK_RETRY_S = 1.0
"""Between attempts to store what a run made while the disk is full."""
RESULT_ROWS_BYTES = MAX_FRAME - 256 * 1024
"""Bytes of artifact rows in one result; what does not fit is left out and named."""
RESULT_NOTES_BYTES = 128 * 1024
"""Bytes of `artifacts_skipped` in one result, which has to fit into a frame beside its rows whatever the names are."""


class ResultBlobs:
    """Of one attempt. `say` gets the news for the scheduler."""

    _log = Logger()

    def __init__(self, place: Workplace, task_id: str, patience: Patience, *, say: Callable[[Message], None]) -> None:
        self._place = place
        self._task_id = task_id
        self._patience = patience
        self._say = say
        self._patient = True
        self._waits_for = ""

    async def keep(self, result: RunResult, spool: Spool, *, patient: bool) -> Kept:
        """Store everything that `result` can name; what cannot be stored is left out. Only a `patient` one waits for a
        full disk, and raises `CancelledError` when that is given up."""
        self._patient = patient
        omitted = Omissions(MAX_NOTES, map(fitting, result.artifacts_skipped), result.artifacts_skipped_total)
        room = _Room(RESULT_ROWS_BYTES)
        entries = self._entries(result, room, omitted)
        rows = await self._keep_artifacts(result, room, omitted)
        digests = await self._keep_output(spool, omitted)
        sizes = {stream: spool.size(stream) for stream in STREAMS}
        return Kept(rows, entries, _that_fit(omitted.reasons), omitted.total, sizes, digests)

    def _entries(self, result: RunResult, room: _Room, omitted: Omissions) -> list[ResultEntry]:
        """Links and empty folders."""
        entries: list[ResultEntry] = []
        for each in result.entries:
            entry = ResultEntry(each.path, each.target, each.mode, each.mtime)
            if len(entries) >= MAX_ARTIFACTS or len(each.path) > MAX_TEXT or not room.takes(entry):
                omitted.note(fitting(f"{each.path}: too many or too long names for one result"))
            else:
                entries.append(entry)
        return entries

    async def _keep_artifacts(self, result: RunResult, room: _Room, omitted: Omissions) -> list[ResultArtifact]:
        rows: list[ResultArtifact] = []
        for artifact in result.artifacts:
            row = ResultArtifact(fitting(artifact.path), NO_DIGEST, artifact.size, artifact.mode, artifact.mtime)
            if len(rows) >= MAX_ARTIFACTS or len(artifact.path) > MAX_TEXT or not room.takes(row):
                omitted.note(fitting(f"{artifact.path}: too many or too long names for one result"))
                continue
            try:
                ref = await self._keep_file(artifact.local)
            except (ChorusError, OSError) as error:
                omitted.note(fitting(f"{artifact.path}: {_problem(error)}"))
                continue
            rows.append(attrs.evolve(row, sha256=ref.sha256, size=ref.size))
        return rows

    async def _keep_output(self, spool: Spool, omitted: Omissions) -> dict[StreamName, str]:
        """Each stream by itself: what is too large of one does not take the other with it."""
        digests: dict[StreamName, str] = {}
        try:
            await self._flushed(spool)
        except (ChorusError, OSError) as error:
            omitted.note(fitting(f"stdout and stderr: {_problem(error)}"))
            return digests
        for stream in STREAMS:
            if spool.size(stream):
                try:
                    digests[stream] = (await self._keep_file(spool.path(stream))).sha256
                except (ChorusError, OSError) as error:
                    omitted.note(fitting(f"{stream}: {_problem(error)}"))
        return digests

    async def _keep_file(self, path: Path) -> BlobRef:
        while True:
            try:
                return await self._place.blobs.put_file(path)
            except StoreDamaged:
                raise
            except (DiskFull, BlobStoreShort, StoreUnavailable) as error:
                if not self._patient:
                    raise
                await self._wait(str(error))

    async def _flushed(self, spool: Spool) -> None:
        """All output is in its files. Raises `OSError` where waiting is of no use."""
        while True:
            try:
                await spool.flushed()
            except OSError as error:
                if not self._patient or not is_shortage(error):
                    raise
                await self._wait(f"output cannot be kept: {error.strerror}")
                spool.retry()
            else:
                return

    async def _wait(self, problem: str) -> None:
        """Before trying again. Raises `CancelledError` when it is given up."""
        self._patience.check()
        if self._waits_for != problem:
            self._waits_for = problem
            self._log.error(
                "the result of {task} waits: {error}", event="task.result_waits", task=self._task_id, error=problem
            )
            self._say(Progress("waiting_for_disk", {"problem": fitting(problem)}))
        await self._patience.wait(DISK_RETRY_S)


class _Room:
    """The room that is left in a result's frame for its rows."""

    def __init__(self, size: int) -> None:
        self._left = size

    def takes(self, row: ResultArtifact | ResultEntry) -> bool:
        size = len(strictjson.canonical(attrs.asdict(row))) + 1
        if size > self._left:
            return False
        self._left -= size
        return True


def _that_fit(reasons: Sequence[str]) -> list[str]:
    """The first ones, as many as fit beside the rows; all are counted whether or not they do."""
    left = RESULT_NOTES_BYTES
    fit = []
    for reason in reasons:
        left -= len(strictjson.canonical(reason)) + 1
        if left < 0:
            break
        fit.append(reason)
    return fit


def _problem(error: Exception) -> str:
    """In the words of whoever reads it at another node."""
    if isinstance(error, BlobTooLarge):
        return f"{error} (CHORUS_MAX_BLOB_MB of the agent)"
    return str(error)
