"""Drafts the decision on a finished attempt: files sealed, record signed and encrypted, its bytes a blob."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredList
from twisted.logger import Logger

from chorus.protocols.task_messages import DecisionRef, PublicationBlob
from chorus.services.execution.workplace import DraftedDecision
from chorus.services.ucxl.drafts import sealable, task_members
from chorus.store.publications import PublicationState
from chorus.ucxl.address import task_address

if TYPE_CHECKING:
    from chorus.protocols.task_messages import Result
    from chorus.services.blobs.ports import SealedBlob
    from chorus.services.execution.row import RunRecord
    from chorus.services.ucxl.authoring import DecisionAuthor
    from chorus.services.ucxl.memory import MemoryPorts

SEAL_S = 120.0
"""Seconds to encrypt the files of a result: its scheduler waits. Those that are not ready have no copy."""


class TaskDrafts:
    _log = Logger()

    def __init__(self, ports: MemoryPorts, author: DecisionAuthor) -> None:
        self._ports = ports
        self._author = author

    async def draft(self, record: RunRecord, result: Result) -> DraftedDecision | None:
        """None where this node has no role to write under. Raises as `DecisionAuthor.write`, and as the blobs do."""
        ports, role = self._ports, self._author.role
        if role is None:
            return None
        address = task_address(str(ports.identity.peer_id), role, record.spec.project, record.task_id)
        sealed = await self._sealed(sealable(result))
        written = await self._author.write(address, task_members(record, result, sealed, ports.redactor))
        row = written.row(PublicationState.WAITING, ports.wall())
        blob = await ports.blobs.put_bytes(row.bundle)
        named = DecisionRef(written.decision.address, written.decision.content_hash)
        return DraftedDecision(named, PublicationBlob(blob.sha256, blob.size), row)

    async def _sealed(self, files: list[str]) -> dict[str, SealedBlob]:
        """Encrypted copies of blobs of this node, of all that are ready in time."""
        paths = {sha256: path for sha256 in files if (path := self._ports.blobs.path_of(sha256)) is not None}
        sealing = [
            self._ports.replicas.seal_file(path).addTimeout(SEAL_S, self._ports.clock) for path in paths.values()
        ]
        found: dict[str, SealedBlob] = {}
        value: Any
        for sha256, (sealed, value) in zip(paths, await DeferredList(sealing, consumeErrors=True), strict=True):
            if sealed:
                found[sha256] = value
            else:
                self._log.error("blob {blob} gets no encrypted copy: {error}", blob=sha256, error=value.value)
        return found
