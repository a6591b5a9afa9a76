"""The parts of a running node that its metrics, health checks, status and API read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from chorus.services.blobs.readable import ReadableBlobs
    from chorus.services.blobs.replicas import ReplicaService
    from chorus.services.blobs.service import BlobService
    from chorus.services.cluster import ClusterService
    from chorus.services.dht.service import DhtService
    from chorus.services.execution.executor import ExecutorService
    from chorus.services.execution.headroom import Headroom
    from chorus.services.execution.sandbox import SandboxService
    from chorus.services.keys.service import KeysService
    from chorus.services.messaging import Messaging
    from chorus.services.p2p.gate import Admission
    from chorus.services.p2p.host import P2PService
    from chorus.services.presence import Load, PresenceService
    from chorus.services.pubsub.service import PubSubService
    from chorus.services.scheduling.coordinator import CoordinatorService
    from chorus.services.store import StoreService
    from chorus.services.ucxl.service import UcxlService


@attrs.frozen
class TaskParts:
    """Parts that run and schedule tasks."""

    blobs: BlobService
    readable: ReadableBlobs
    replicas: ReplicaService
    ucxl: UcxlService
    sandbox: SandboxService
    headroom: Headroom
    executor: ExecutorService
    coordinator: CoordinatorService


@attrs.frozen
class NodeParts:
    """Every part that is read from outside."""

    store: StoreService
    cluster: ClusterService | None
    """None in open mode."""
    admission: Admission
    p2p: P2PService
    pubsub: PubSubService
    messaging: Messaging
    presence: PresenceService
    keys: KeysService | None
    """None in open mode, which has no roles."""
    dht: DhtService
    tasks: TaskParts | None
    """None in open mode, which has no tasks."""
    load: Callable[[], Load]
    alone: Callable[[], str | None]
    """Why the node has no company, in one line; None where it has some, or needs none."""
    state: Callable[[], str]
    """`running` once every part is started."""
