"""The ports of a node in open mode, which has no tasks, blobs, roles or decisions (spec/cluster.md, "Open mode")."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from twisted.internet.defer import Deferred, fail

from chorus.errors import UserError

if TYPE_CHECKING:
    from chorus.http.ports import BlobWriter, Subscription
    from chorus.seams import Document
    from chorus.tasks.events import TaskEvent
    from chorus.ucxl.address import Address
    from chorus.ucxl.provenance import ProvenanceEnvelope
    from chorus.ucxl.query import (
        DecisionHistory,
        DecisionPage,
        DecisionQuery,
        FoundDecision,
        MemoryStatus,
        PlacedDecision,
    )
    from chorus.ucxl.record import DecisionDraft


class OpenModeRefuses(UserError):
    code = "open_mode"
    http_status = 503

    def __init__(self) -> None:
        super().__init__("this node runs in open mode (CHORUS_OPEN), which has no tasks, blobs, roles or decisions")


class ClosedTasks:
    """`TaskPort` that refuses."""

    def submit(self, body: object, submitter: str) -> Deferred[Document]:
        return fail(OpenModeRefuses())

    def get(self, task_id: str) -> Deferred[Document]:
        return fail(OpenModeRefuses())

    def list(self, *, state: str | None, limit: int, after: str | None) -> Deferred[Document]:
        return fail(OpenModeRefuses())

    def cancel(self, task_id: str, by: str, reason: str) -> Deferred[Document]:
        return fail(OpenModeRefuses())

    def watch(
        self, task_id: str, after: int, deliver: Callable[[TaskEvent], None], ended: Callable[[], None]
    ) -> Deferred[Subscription]:
        return fail(OpenModeRefuses())


class ClosedBlobs:
    """`BlobPort` that refuses."""

    def writer(self, expected_sha256: str | None) -> BlobWriter:
        raise OpenModeRefuses

    def open(self, sha256: str) -> Deferred[tuple[IO[bytes], int]]:
        return fail(OpenModeRefuses())

    def open_sealed(self, stored: str) -> Deferred[tuple[IO[bytes], int]]:
        return fail(OpenModeRefuses())


class ClosedDecisions:
    """`DecisionPort` that refuses."""

    def resolve(self, address: Address) -> Deferred[FoundDecision]:
        return fail(OpenModeRefuses())

    def history(self, address: Address, *, limit: int, after: str | None) -> Deferred[DecisionHistory]:
        return fail(OpenModeRefuses())

    def search(self, query: DecisionQuery, *, limit: int, after: str | None) -> Deferred[DecisionPage]:
        return fail(OpenModeRefuses())

    def publish(self, draft: DecisionDraft) -> Deferred[PlacedDecision]:
        return fail(OpenModeRefuses())

    def provenance(self, address: Address) -> Deferred[ProvenanceEnvelope]:
        return fail(OpenModeRefuses())

    def memory_status(self) -> Deferred[MemoryStatus]:
        return fail(OpenModeRefuses())


class ClosedKeys:
    """`KeysPort` that refuses."""

    def listing(self) -> Document:
        raise OpenModeRefuses

    def grant(self, peer: str, role: str) -> Deferred[Document]:
        return fail(OpenModeRefuses())

    def revoke(self, peer: str, role: str) -> Deferred[Document]:
        return fail(OpenModeRefuses())

    def rotate(self) -> Deferred[Document]:
        return fail(OpenModeRefuses())
