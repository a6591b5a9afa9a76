"""Running tasks here: blobs, sandboxes, the executor, and what keeps it from taking more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from chorus.sandbox.archive import archives
from chorus.seams import MembersMayAll
from chorus.services.blobs.service import BlobLimits, BlobService, ThreadOffload
from chorus.services.execution.executor import AgentProfile, ExecutorService
from chorus.services.execution.headroom import Headroom
from chorus.services.execution.sandbox import SandboxService, sandbox_service
from chorus.services.execution.store import StoredRuns
from chorus.services.execution.workplace import Workplace
from chorus.services.task_streams import TaskStreams
from chorus.wiring.surroundings import MIB
from chorus.wiring.task_limits import task_limits

if TYPE_CHECKING:
    from chorus.services.p2p.host import P2PService
    from chorus.wiring.storage import Storage
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class Execution:
    offload: ThreadOffload
    blobs: BlobService
    sandbox: SandboxService
    streams: TaskStreams
    headroom: Headroom
    executor: ExecutorService

    def usable(self) -> bool:
        """Whether another task could run here, apart from how many do."""
        return self.sandbox.usable and self.headroom.hindrance() is None


def build_execution(
    around: Surroundings,
    storage: Storage,
    p2p: P2PService,
    *,
    agent_id: str,
    role: str | None,
    max_tasks: int,
    changed: Callable[[], None],
) -> Execution:
    """`changed` is called when the load did, or the headroom."""
    offload = ThreadOffload(around.reactor)
    blobs = _blobs(around, storage, p2p, offload)
    sandbox = _sandbox(around, str(p2p.peer_id))
    streams = TaskStreams(p2p, around.reactor, MembersMayAll())
    store = storage.store
    headroom = Headroom(around.path, around.reactor, lambda: store.database.damage, changed)
    executor = ExecutorService(
        _workplace(around, storage, str(p2p.peer_id), streams, blobs, sandbox),
        _profile(around, agent_id, role, max_tasks),
        changed=changed,
        hindrance=headroom.hindrance,
    )
    return Execution(offload, blobs, sandbox, streams, headroom, executor)


def _blobs(around: Surroundings, storage: Storage, p2p: P2PService, offload: ThreadOffload) -> BlobService:
    settings = around.settings
    return BlobService(
        directory=around.path / "blobs",
        store=storage.store.database,
        host=p2p,
        clock=around.reactor,
        offload=offload,
        wall=around.wall,
        limits=BlobLimits(max_blob=settings.max_blob_mb * MIB, max_store=settings.blob_store_mb * MIB),
    )


def _sandbox(around: Surroundings, marked: str) -> SandboxService:
    """The peer id, not the agent id, marks our containers: two agents may be given one name."""
    settings = around.settings
    default, _ = task_limits(settings)
    return sandbox_service(
        around.reactor,
        marked,
        data_dir=around.path,
        scratch_root=around.path / "runs",
        mode=settings.sandbox,
        docker_host=settings.docker_host,
        image_map=settings.image_map,
        warm_pool=settings.warm_pool,
        defaults=default,
        tmp_mb=settings.task_tmp_mb,
    )


def _workplace(
    around: Surroundings,
    storage: Storage,
    marked: str,
    streams: TaskStreams,
    blobs: BlobService,
    sandbox: SandboxService,
) -> Workplace:
    return Workplace(
        agent_id=marked,
        streams=streams,
        runs=StoredRuns(storage.store.database, around.wall),
        blobs=blobs,
        sandboxes=sandbox,
        clock=around.reactor,
        wall=around.wall,
        in_thread=storage.in_thread,
        directory=around.path / "runs",
        max_input=around.settings.max_blob_mb * MIB,
        list_archive=archives.names,
    )


def _profile(around: Surroundings, agent_id: str, role: str | None, max_tasks: int) -> AgentProfile:
    settings = around.settings
    _, maximum = task_limits(settings)
    return AgentProfile(
        agent_id=agent_id,
        max_tasks=max_tasks,
        role=role,
        expertise=settings.agent_expertise,
        capabilities=settings.agent_capabilities,
        specialization=settings.agent_specialization,
        maximum=maximum,
        max_input=settings.max_blob_mb * MIB,
    )
