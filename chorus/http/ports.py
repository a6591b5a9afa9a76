"""Interfaces of the services behind the HTTP API, which knows nothing else of them.

Every value that crosses is JSON-ready (`dict`, `list`, `str`, numbers) in the shapes of `schemas`, or a frozen one
of `tasks` or `ucxl`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

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


STATES = (
    *("queued", "submitted", "assigned", "preparing", "running", "moved"),
    *("completed", "failed", "cancelled", "refused"),
)
TERMINAL = frozenset({"completed", "failed", "cancelled", "refused"})


class Subscription(Protocol):
    """A running delivery of events; `stop` ends it. `pause`/`resume` hold delivery back for a slow reader."""

    def stop(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class TaskPort(Protocol):
    """Raises (fails with) `chorus.tasks.spec.SpecError`, `UnknownTask`, `IdempotencyConflict`, … : all `UserError`s
    with their own `code` and `http_status`."""

    def submit(self, body: object, submitter: str) -> Deferred[Document]:
        """Validate a parsed JSON body, commit it, return the task document. Fires after the commit, never before."""

    def get(self, task_id: str) -> Deferred[Document]: ...

    def list(self, *, state: str | None, limit: int, after: str | None) -> Deferred[Document]:
        """{tasks: [summaries, newest first], next: cursor or null}; at most 256 KiB, whatever the tasks hold."""

    def cancel(self, task_id: str, by: str, reason: str) -> Deferred[Document]: ...

    def watch(
        self, task_id: str, after: int, deliver: Callable[[TaskEvent], None], ended: Callable[[], None]
    ) -> Deferred[Subscription]:
        """Deliver every event with an id over `after`, old and new, in order; `ended` after the last one of a task in
        a terminal state."""


class BlobWriter(Protocol):
    """Takes an upload as it streams; refuses it (raising `UserError`) the moment it passes the limit."""

    on_pressure: Callable[[bool], None] | None
    """Set by the caller: called with True when the sender should pause, False when it may go on."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> Deferred[Document]:
        """{sha256, size}, durable. Fails with `UserError` when the content is not what was announced."""

    def abort(self) -> None: ...


class BlobPort(Protocol):
    def writer(self, expected_sha256: str | None) -> BlobWriter: ...

    def open(self, sha256: str) -> Deferred[tuple[IO[bytes], int]]:
        """An open file and its size, fetched from a peer first if it is not here. Fails with `UnknownBlob`."""

    def open_sealed(self, stored: str) -> Deferred[tuple[IO[bytes], int]]:
        """The ciphertext with this SHA-256. Fails with `UnknownBlob`, also for what is no ciphertext."""


class DecisionPort(Protocol):
    """Addresses have no wildcards. Fails with `UnknownDecision` and other `UserError`s, and with `DhtUnavailable`."""

    def resolve(self, address: Address) -> Deferred[FoundDecision]:
        """The version that the address means, verified; without its record where this node may not read it."""

    def history(self, address: Address, *, limit: int, after: str | None) -> Deferred[DecisionHistory]:
        """Versions from the one that the address means on, down to the first. `after` is the `next` of a page."""

    def search(self, query: DecisionQuery, *, limit: int, after: str | None) -> Deferred[DecisionPage]:
        """Decisions that this node knows of; nobody else is asked."""

    def publish(self, draft: DecisionDraft) -> Deferred[PlacedDecision]:
        """Complete, redact, sign and keep it; fires once it is durable here."""

    def provenance(self, address: Address) -> Deferred[ProvenanceEnvelope]:
        """Signed by this node. Fails with `DecisionUnreadable` too."""

    def memory_status(self) -> Deferred[MemoryStatus]: ...


class NodePort(Protocol):
    def peers(self) -> list[Document]:
        """[{peer_id, agent_id, role, address, direction, connected_since, latency_ms, score, availability,
        capabilities}]."""

    def pubsub(self) -> Document:
        """{topics: [{topic, mesh, subscribers}], peers: [{peer_id, score, …}], thresholds, counters}."""

    def status(self) -> Document:
        """{agent_id, peer_id, cluster_id, version, role, state, uptime_s, addresses, peers, alone, tasks: {…},
        sandbox: {…}}."""


class KeysPort(Protocol):
    """Roles and their keys. Every answer is {founder, serial, epoch, peer_id, role, roles: [{name, reads, recipient,
    readable}], members: [{peer_id, roles, recipient}]}; changes fail with `NotFounder` but at the founder, and go on
    where their caller is cancelled."""

    def listing(self) -> Document: ...

    def grant(self, peer: str, role: str) -> Deferred[Document]: ...

    def revoke(self, peer: str, role: str) -> Deferred[Document]: ...

    def rotate(self) -> Deferred[Document]:
        """New keys for all roles, sealed to those that hold the roles now."""


@attrs.frozen
class ApiPorts:
    """The services behind one API."""

    tasks: TaskPort
    blobs: BlobPort
    node: NodePort
    decisions: DecisionPort
    keys: KeysPort


class HealthPort(Protocol):
    def checks(self) -> list[Document]:
        """[{name, ok, critical, ready, detail}] for /health and /ready; `ready` marks those that /ready wants too."""
