"""The parts of one node: built by `chorus/wiring`, handed to each other, started in order (docs/architecture.md).

The only file that knows every part. Parts that belong together are built by one file of `chorus/wiring`, which knows
those alone; what the files hand each other, and the order of all steps, is said here. They are imported late: a start
that is refused needs none of them, and open mode no sandbox.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from chorus.lifecycle import Step
from chorus.services.discovery.isolation import Isolation
from chorus.services.endpoints.node import NodeParts, TaskParts

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.application.service import Service
    from twisted.internet.defer import Deferred

    from chorus.identity import Identity, PeerId
    from chorus.lifecycle import Sequence
    from chorus.protocols.stream import Connection
    from chorus.services.blobs.replicas import ReplicaService
    from chorus.services.dht.service import DhtService
    from chorus.services.discovery.service import DiscoveryService
    from chorus.services.keys.service import KeysService
    from chorus.services.p2p.host import P2PService
    from chorus.services.presence import Load
    from chorus.services.starts import Starts
    from chorus.services.ucxl.service import UcxlService
    from chorus.wiring.execution import BlobParts, Execution
    from chorus.wiring.faces import Faces
    from chorus.wiring.messages import Messages
    from chorus.wiring.network import Network
    from chorus.wiring.scheduling import Scheduling
    from chorus.wiring.storage import Storage
    from chorus.wiring.surroundings import Surroundings

STOP_RESERVE_S = 8.0
"""Of the shutdown budget, kept for everything after the tasks have been finished or handed back."""


@attrs.frozen
class NodeAgent:
    """The node as other members know it."""

    identity: Identity
    name: str
    role: str | None
    max_tasks: int
    starts: Starts | None
    """None in open mode."""


@attrs.frozen
class RunningNode:
    """A node whose parts are all started."""

    p2p: P2PService
    faces: Faces
    load: Callable[[], Load]


class Assembly:
    """Starts the parts of `agent` as steps of `sequence`; `state` is what its status says."""

    _log = Logger()

    def __init__(self, context: Surroundings, agent: NodeAgent, sequence: Sequence, state: Callable[[], str]) -> None:
        self._context = context
        self._settings = context.settings
        self._agent = agent
        self._sequence = sequence
        self._state = state
        # Built late, and asked for by parts that are there before.
        self._messages: Messages | None = None
        self._execution: Execution | None = None
        self._scheduling: Scheduling | None = None
        self._discovery: DiscoveryService | None = None

    async def start(self) -> RunningNode:
        """Build and start everything. Raises `ChorusError` for what the node cannot do without."""
        # The licence is validated here, before anything opens the network; fatal when it fails.
        storage = await self._start_storage()
        network = await self._start_network()
        messages = await self._start_messages(network)
        keys = await self._start_keys(storage, network)
        dht = await self._start_dht(storage, network, keys)
        tasks = None if keys is None else await self._start_tasks(storage, network, messages, keys, dht)
        faces = await self._start_faces(storage, network, messages, keys, dht, tasks)
        return RunningNode(network.p2p, faces, self._load)

    async def _run(self, *steps: Step) -> None:
        for step in steps:
            await self._sequence.start(step)

    async def _start_storage(self) -> Storage:
        from chorus.wiring.storage import build_storage

        storage = build_storage(self._context)
        await self._run(
            Step("file threads", start=storage.pool.start, stop=storage.pool.stop),
            _service("store", storage.store, limit_s=60),
        )
        return storage

    async def _start_network(self) -> Network:
        from chorus.wiring.network import build_network

        network = build_network(self._context, self._agent.identity, self._agent.starts)
        p2p = network.p2p
        p2p.watch_peers(partial(self._log_peer, p2p, "connected"), partial(self._log_peer, p2p, "disconnected"))
        await self._run(Step("P2P node", start=partial(listen, network), stop=p2p.stopService))
        return network

    def _log_peer(self, p2p: P2PService, what: str, connection: Connection) -> None:
        self._log.info(
            "{peer} {what}, {direction} {address}; peers: {count}",
            event=f"peer.{what}",
            what=what,
            peer=connection.peer_id,
            direction="from" if connection.inbound else "at",
            address=connection.remote_address,
            count=len(p2p.connections()),
        )

    async def _start_messages(self, network: Network) -> Messages:
        from chorus.wiring.messages import build_messages

        agent = self._agent
        self._messages = messages = build_messages(
            self._context,
            agent.identity,
            network.p2p,
            agent_id=agent.name,
            role=agent.role,
            load=self._load,
            record_of=self._record_of,
            take_up=self._exchanged,
            starts=agent.starts,
        )
        await self._run(_service("pub/sub", messages.pubsub))
        return messages

    def _record_of(self, peer: PeerId) -> bytes | None:
        # Discovery is built after pub/sub, and stopped before it.
        return None if self._discovery is None else self._discovery.record_of(peer)

    def _exchanged(self, source: PeerId, peer: PeerId, record: bytes | None) -> None:
        if self._discovery is not None:
            self._discovery.exchanged(source, peer, record)

    async def _start_keys(self, storage: Storage, network: Network) -> KeysService | None:
        from chorus.wiring.memory import build_keys

        if network.cluster is None:
            return None
        keys = build_keys(self._context, self._agent.identity, network.p2p, network.cluster, storage.in_thread)
        # A passphrase takes some seconds on a slow machine.
        await self._run(_service("keys", keys, limit_s=60))
        return keys

    async def _start_dht(self, storage: Storage, network: Network, keys: KeysService | None) -> DhtService:
        from chorus.wiring.memory import build_dht

        dht = build_dht(self._context, storage.store.database, network.p2p, keys)
        await self._run(_service("dht", dht))
        return dht

    async def _start_tasks(
        self, storage: Storage, network: Network, messages: Messages, keys: KeysService, dht: DhtService
    ) -> TaskParts:
        from chorus.services.blobs.readable import ReadableBlobs
        from chorus.wiring.execution import build_blobs, build_execution
        from chorus.wiring.memory import build_decisions, build_replicas
        from chorus.wiring.scheduling import build_scheduling

        context, p2p = self._context, network.p2p
        stored = build_blobs(context, storage, p2p, keys)
        blobs = stored.blobs
        replicas = build_replicas(context, p2p, blobs, stored.offload, dht=dht, keys=keys)
        ucxl = build_decisions(
            context,
            self._agent.identity,
            storage,
            p2p,
            messages.messaging,
            keys=keys,
            dht=dht,
            blobs=blobs,
            replicas=replicas,
        )
        self._execution = execution = build_execution(
            context,
            storage,
            p2p,
            blobs,
            decisions=ucxl.publisher,
            agent_id=self._agent.name,
            role=self._agent.role,
            max_tasks=self._agent.max_tasks,
            changed=self._load_changed,
        )
        self._scheduling = scheduling = build_scheduling(context, storage, p2p, messages, execution, ucxl.publisher)
        await self._run(*_steps(stored, replicas, ucxl, execution, scheduling))
        return TaskParts(
            blobs=blobs,
            readable=ReadableBlobs(blobs, replicas, ucxl),
            replicas=replicas,
            ucxl=ucxl,
            sandbox=execution.sandbox,
            headroom=execution.headroom,
            executor=execution.executor,
            coordinator=scheduling.coordinator,
        )

    def _load(self) -> Load:
        from chorus.services.presence import Load

        execution, max_tasks = self._execution, self._agent.max_tasks
        if execution is None:
            return Load(0, max_tasks, accepting=False)
        return Load(
            execution.executor.current_tasks,
            max_tasks,
            accepting=not execution.executor.draining and execution.usable(),
            last_activity=execution.executor.last_activity,
        )

    def _load_changed(self) -> None:
        if self._messages is not None:
            self._messages.presence.load_changed()
        if self._scheduling is not None:
            self._scheduling.coordinator.placement.agents_changed()

    def _drain(self) -> Deferred[None] | None:
        if self._execution is None:
            return None
        return self._execution.executor.drain(max(1.0, self._settings.shutdown_s - STOP_RESERVE_S))

    async def _start_faces(
        self,
        storage: Storage,
        network: Network,
        messages: Messages,
        keys: KeysService | None,
        dht: DhtService,
        tasks: TaskParts | None,
    ) -> Faces:
        from chorus.wiring.discovery import build_discovery
        from chorus.wiring.faces import build_faces

        settings, cluster = self._settings, network.cluster
        self._discovery = discovery = build_discovery(
            self._context, self._agent.identity, network.p2p, cluster, storage.in_thread
        )
        isolation = Isolation(
            cluster, discovery, bootstrap=bool(settings.bootstrap_peers), join=settings.join is not None
        )
        node = NodeParts(
            store=storage.store,
            cluster=cluster,
            admission=network.admission,
            p2p=network.p2p,
            pubsub=messages.pubsub,
            messaging=messages.messaging,
            presence=messages.presence,
            keys=keys,
            dht=dht,
            tasks=tasks,
            load=self._load,
            alone=isolation.reason,
            state=self._state,
        )
        faces = build_faces(self._context, node)

        def discover() -> None:
            discovery.startService()
            if cluster is not None:
                cluster.when_adopted(discovery.cluster_known)
            isolation.warn()

        await self._run(
            _service("presence", messages.presence),
            Step("discovery", start=discover, stop=discovery.stopService, fatal=False),
            _service("health", faces.health),
            # Stopping goes backwards: no more submissions, then what runs is finished or handed back, then the rest.
            Step("tasks under way", stop=self._drain, limit_s=settings.shutdown_s),
            _service("API", faces.api),
        )
        return faces


def listen(network: Network) -> None:
    """Listen, and belong to the cluster only then: a start that failed must not bind the data directory for life.
    Both are one turn of the reactor, so nobody is met before the membership is on disk."""
    network.p2p.startService()
    if network.cluster is not None:
        network.cluster.keep()
        network.cluster.publish_addresses(network.p2p.listen_addresses())


def _steps(
    stored: BlobParts, replicas: ReplicaService, ucxl: UcxlService, execution: Execution, scheduling: Scheduling
) -> tuple[Step, ...]:
    """The parts that keep, run and schedule, in the order in which they start."""
    return (
        Step("blob threads", start=stored.offload.start, stop=stored.offload.stop),
        _service("blobs", stored.blobs, limit_s=60),
        _service("replicas", replicas),
        _service("ucxl", ucxl),
        _service("sandbox", execution.sandbox, limit_s=30, fatal=False),
        _service("journal", scheduling.journal, limit_s=120),
        Step("task streams", start=execution.streams.start, stop=execution.streams.stop),
        _service("headroom", execution.headroom),
        _service("executor", execution.executor, limit_s=60),
        _service("coordinator", scheduling.coordinator, limit_s=60),
        _service("collection", scheduling.collection),
        _service("handover", scheduling.handover),
        Step("handovers taken", start=scheduling.handover_serving.start, stop=scheduling.handover_serving.stop),
        Step("decisions of tasks", start=scheduling.decisions.start),
        _service("retention", scheduling.retention),
    )


def _service(name: str, service: Service, *, limit_s: float = 10.0, fatal: bool = True) -> Step:
    return Step(name, start=service.startService, stop=service.stopService, limit_s=limit_s, fatal=fatal)
