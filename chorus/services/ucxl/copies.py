"""Reads the signed bytes that a result names from their blob, for the scheduler's copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.errors import ChorusError, LimitExceeded
from chorus.protocols.task_messages import MAX_PUBLICATION
from chorus.services.blobs.sealing import sealed_size
from chorus.services.ucxl.bundle import Publication
from chorus.ucxl.documents import RecordError

if TYPE_CHECKING:
    from chorus.services.scheduling.context import NamedDecision
    from chorus.services.ucxl.memory import MemoryPorts

_log = Logger()


async def signed_bytes(ports: MemoryPorts, decision: NamedDecision) -> bytes:
    """Of the decision that a result names; none while they are not here, or where they are not what it says."""
    path = ports.blobs.path_of(decision.publication) if decision.publication is not None else None
    if path is None:
        return b""
    try:
        data, publication = await ports.in_thread(_read, path)
        head, sealed = publication.head, publication.sealed
        if (head.content, head.address, head.author) != (decision.content, decision.address, decision.agent):
            raise RecordError("it is of another decision")
        # What it names is fetched, pinned and pushed on here: no more than the result accounts for.
        if len(sealed) > len(decision.files):
            raise LimitExceeded("files of a decision, beside those of its result", len(sealed), len(decision.files))
        if (size := sum(each.size for each in sealed)) > (most := sum(map(sealed_size, decision.files))):
            raise LimitExceeded("bytes of a decision's files, beside those of its result", size, most)
    except (ChorusError, OSError) as error:
        _log.warn(
            "publication of {task} refused: {error}", event="decision.refused", task=decision.task_id, error=error
        )
        return b""
    return data


def _read(path: Path) -> tuple[bytes, Publication]:
    """Blocking; at most what a publication may have, and one byte."""
    with path.open("rb") as file:
        data = file.read(MAX_PUBLICATION + 1)
    return data, Publication.decode(data)
