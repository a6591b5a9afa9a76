"""The context that the scheduler's parts share: ledger, events, blobs, clocks and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from chorus.services.blobs.named import NamedBlobs
from chorus.services.scheduling.counters import TaskCounters
from chorus.tasks.leases import LEASE_S
from chorus.tasks.spec import LimitPolicy

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.seams import Document
    from chorus.services.blobs.service import BlobRef
    from chorus.services.scheduling.events import TaskEvents
    from chorus.services.scheduling.ledger import Ledger
    from chorus.services.scheduling.store import StoredEvents


class TaskBlobs(Protocol):
    """The blob service, as far as a scheduler uses it."""

    def path_of(self, sha256: str) -> Path | None: ...

    def stat(self, sha256: str) -> Deferred[Document | None]: ...

    def put_bytes(self, data: bytes) -> Deferred[BlobRef]: ...

    def fetch(self, sha256: str, size_limit: int, holders: Sequence[PeerId]) -> Deferred[Path]: ...

    def remember_holder(self, sha256: str, peer: PeerId) -> None: ...

    def remove_unused(self, sha256: str, before: float, named: Callable[[], bool]) -> Deferred[bool]: ...

    def make_room(self, named: Callable[[str], bool]) -> Deferred[int]: ...


@attrs.frozen
class NamedDecision:
    """The decision that a result names."""

    task_id: str
    address: str
    content: str
    """Content hash, in hexadecimal."""
    agent: str
    """Peer id of its author."""
    publication: str | None
    """Blob of its signed bytes, which may not be here yet."""
    files: tuple[int, ...] = ()
    """Sizes of the result's artifacts and streams: the decision may name no more."""


class DecisionCopies(Protocol):
    """The memory as a scheduler needs it."""

    def keep(self, decision: NamedDecision) -> Deferred[None]:
        """A durable copy: of the signed bytes if they are here, of the name in any case. Fails with errors of the
        store."""

    def follow(self, decision: NamedDecision) -> None:
        """The result is recorded: from now on see to it that its decision becomes safe."""

    def sweep(self, named: Collection[str]) -> None:
        """Drop copies of results that were never recorded; `named` are content hashes that recorded results name."""

    def forget(self, task_id: str) -> None:
        """The task is gone."""

    def state_of(self, content: str) -> Document:
        """{state: pending | stored | safe, holders, wanted}."""


@attrs.frozen
class CoordinatorSettings:
    policy: LimitPolicy = attrs.field(factory=LimitPolicy)
    lease_s: float = LEASE_S
    """Of new leases."""
    max_attempts: int = 3
    idempotency_days: float = 7.0
    retention_days: float = 30.0


@attrs.frozen
class SchedulerContext:
    ledger: Ledger
    events: TaskEvents
    stored: StoredEvents
    blobs: TaskBlobs
    clock: IReactorTime
    wall: Callable[[], float]
    settings: CoordinatorSettings
    named: NamedBlobs = attrs.field(factory=NamedBlobs)
    """Blobs that may not be removed."""
    counters: TaskCounters = attrs.field(factory=TaskCounters)
    copies: DecisionCopies | None = None
    """None without a memory."""
