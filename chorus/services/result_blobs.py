"""What a run made becomes blobs: its artifacts and its whole output, durable before its result is told.

It is all that there is of the task's work, so a full disk is waited for, as long as anybody wants the result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.files import is_shortage
from chorus.protocols.task_messages import MAX_ARTIFACTS, MAX_FRAME, MAX_TEXT, Message, Progress, ResultArtifact
from chorus.services.blob_files import BlobStoreShort, DiskFull
from chorus.services.run_outcome import Kept, fitting
from chorus.services.spool import STREAMS
from chorus.store.errors import StoreDamaged, StoreUnavailable

if TYPE_CHECKING:
    from chorus.sandbox.contract import RunResult, StreamName
    from chorus.services.blobs import BlobRef
    from chorus.services.patience import Patience
    from chorus.services.spool import Spool
    from chorus.services.workplace import Workplace

DISK_RETRY_S = 1.0
"""Between attempts to store what a run made while the disk is full."""
RESULT_ROWS_BYTES = MAX_FRAME - 64 * 1024
"""Bytes of artifact rows in one result; the rest is named in `artifacts_skipped`."""


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
        skipped = [fitting(note) for note in result.artifacts_skipped]
        rows = await self._keep_artifacts(result, skipped)
        digests = await self._keep_output(spool, skipped)
        return Kept(rows, skipped, {stream: spool.size(stream) for stream in STREAMS}, digests)

    async def _keep_artifacts(self, result: RunResult, skipped: list[str]) -> list[ResultArtifact]:
        rows: list[ResultArtifact] = []
        size = 0
        for artifact in result.artifacts:
            size += 6 * len(artifact.path.encode("utf-8", "surrogateescape")) + 160
            if len(rows) >= MAX_ARTIFACTS or size > RESULT_ROWS_BYTES or len(artifact.path) > MAX_TEXT:
                skipped.append(fitting(f"{artifact.path}: too many or too long names for one result"))
                continue
            try:
                ref = await self._keep_file(artifact.local)
            except (ChorusError, OSError) as error:
                skipped.append(fitting(f"{artifact.path}: {error}"))
                continue
            rows.append(ResultArtifact(fitting(artifact.path), ref.sha256, ref.size))
        return rows

    async def _keep_output(self, spool: Spool, skipped: list[str]) -> dict[StreamName, str]:
        digests: dict[StreamName, str] = {}
        try:
            await self._flushed(spool)
            for stream in STREAMS:
                if spool.size(stream):
                    digests[stream] = (await self._keep_file(spool.path(stream))).sha256
        except (ChorusError, OSError) as error:
            skipped.append(fitting(f"output: {error}"))
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
