"""Builds the parts that run tasks: blobs, sandboxes, the executor, and the check of its headroom."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from chorus.sandbox.archive import archives
from chorus.sandbox.images import ImageMap
from chorus.sandbox.settings import SandboxSettings
from chorus.seams import MembersMayAll
from chorus.services.blobs.offload import ThreadOffload
from chorus.services.blobs.service import BlobService
from chorus.services.blobs.serving import BlobLimits
from chorus.services.execution.executor import AgentProfile, ExecutorService
from chorus.services.execution.headroom import Headroom
from chorus.services.execution.sandbox import SandboxService, make_backends
from chorus.services.execution.store import StoredRuns
from chorus.services.execution.workplace import Workplace
from chorus.services.task_streams import TaskStreams
from chorus.wiring.surroundings import MIB, task_limits

if TYPE_CHECKING:
    from chorus.services.execution.workplace import Decisions
    from chorus.services.keys.ports import Keyring
    from chorus.services.p2p.host import P2PService
    from chorus.wiring.storage import Storage
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class BlobParts:
    offload: ThreadOffload
    blobs: BlobService


@attrs.frozen
class Execution:
    blobs: BlobService
    sandbox: SandboxService
    streams: TaskStreams
    headroom: Headroom
    executor: ExecutorService

    def usable(self) -> bool:
        """True if another task could run here, apart from how many do."""
        return self.sandbox.usable and self.headroom.blocked_by() is None


def build_execution(
    context: Surroundings,
    storage: Storage,
    p2p: P2PService,
    blobs: BlobService,
    *,
    decisions: Decisions,
    agent_id: str,
    role: str | None,
    max_tasks: int,
    changed: Callable[[], None],
) -> Execution:
    """`changed` is called when the load did, or the headroom."""
    sandbox = _sandbox(context, str(p2p.peer_id))
    streams = TaskStreams(p2p, context.reactor, MembersMayAll())
    store = storage.store
    headroom = Headroom(context.path, context.reactor, lambda: store.database.damage, changed)
    executor = ExecutorService(
        attrs.evolve(_workplace(context, storage, str(p2p.peer_id), streams, blobs, sandbox), decisions=decisions),
        _profile(context, agent_id, role, max_tasks),
        changed=changed,
        blocked_by=headroom.blocked_by,
    )
    return Execution(blobs, sandbox, streams, headroom, executor)


def build_blobs(context: Surroundings, storage: Storage, p2p: P2PService, keys: Keyring) -> BlobParts:
    settings = context.settings
    offload = ThreadOffload(context.reactor)
    blobs = BlobService(
        directory=context.path / "blobs",
        store=storage.store.database,
        host=p2p,
        clock=context.reactor,
        offload=offload,
        wall=context.wall,
        limits=BlobLimits(
            max_blob=settings.max_blob_mb * MIB,
            max_store=settings.blob_store_mb * MIB,
            max_kept_per_peer=settings.blob_peer_mb * MIB,
            shut_out=lambda peer: bool(keys.wrote_under(peer)) and not keys.roles_of(peer),
        ),
    )
    return BlobParts(offload, blobs)


def _sandbox(context: Surroundings, marked: str) -> SandboxService:
    """The peer id, not the agent id, marks our containers: two agents may be given one name."""
    settings = context.settings
    default, _ = task_limits(settings)
    images = ImageMap(settings.image_map)
    sandboxes = SandboxSettings(
        mode=settings.sandbox,
        docker_host=settings.docker_host,
        images=images,
        warm=settings.warm_pool,
        defaults=default,
        tmp_mb=settings.task_tmp_mb,
    )
    backends = make_backends(context.reactor, marked, state=context.path / "sandbox", settings=sandboxes)
    scratch = context.path / "runs"
    return SandboxService(context.reactor, backends, mode=settings.sandbox, images=images, scratch_root=scratch)


def _workplace(
    context: Surroundings,
    storage: Storage,
    marked: str,
    streams: TaskStreams,
    blobs: BlobService,
    sandbox: SandboxService,
) -> Workplace:
    return Workplace(
        agent_id=marked,
        streams=streams,
        runs=StoredRuns(storage.store.database, context.wall),
        blobs=blobs,
        sandboxes=sandbox,
        clock=context.reactor,
        wall=context.wall,
        in_thread=storage.in_thread,
        directory=context.path / "runs",
        max_input=context.settings.max_blob_mb * MIB,
        list_archive=archives.names,
    )


def _profile(context: Surroundings, agent_id: str, role: str | None, max_tasks: int) -> AgentProfile:
    settings = context.settings
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
