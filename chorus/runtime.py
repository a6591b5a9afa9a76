"""The node: has every part built, hands each its collaborators, starts and stops them in order (docs/architecture.md).

The only file that knows everybody. Nothing imports it but `tap.py`. Parts that belong together are built by one file
of `chorus/wiring`, which knows those alone; what the files hand each other, and the order of all steps, is said here.
They are imported late: a start that is refused needs none of them, and open mode no sandbox.
"""

from __future__ import annotations

import os
import random
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from chorus import __version__, descriptors
from chorus.errors import ChorusError
from chorus.lifecycle import Sequence, Step
from chorus.preflight import descriptors_wanted
from chorus.services.datadir import DataDirectory
from chorus.services.discovery.isolation import Isolation
from chorus.services.endpoints.ports_file import PortsFile
from chorus.services.endpoints.systemd import Notifier, Supervision
from chorus.wiring.surroundings import Surroundings

if TYPE_CHECKING:
    from chorus.config.settings import Settings
    from chorus.identity import PeerId
    from chorus.lifecycle import ExitStatus
    from chorus.protocols.stream import Connection
    from chorus.seams import JSON
    from chorus.services.discovery.service import DiscoveryService
    from chorus.services.presence import Load
    from chorus.services.starts import Starts
    from chorus.wiring.execution import Execution
    from chorus.wiring.faces import Faces
    from chorus.wiring.messages import Messages
    from chorus.wiring.network import Network
    from chorus.wiring.storage import Storage

EXIT_TWIN = 78
"""EX_CONFIG: a service manager that knows it need not start this node again."""
STOP_RESERVE_S = 8.0
"""Of the shutdown budget, kept for everything after the tasks have been finished or handed back."""


class NodeService(Service):
    """One node. `mode` is `agent` or `hap`; `exit_status.fail` is told when the start fails."""

    _log = Logger()
    name = "chorus"

    def __init__(
        self,
        settings: Settings,
        *,
        mode: str,
        reactor: Any,
        exit_status: ExitStatus,
        supervision: Supervision | None = None,
    ) -> None:
        self.settings = settings
        self.mode = mode
        self.state = "starting"
        self._reactor = reactor
        self._exit_status = exit_status
        self._sequence = Sequence(reactor)
        self._directory = DataDirectory(settings.data_dir)
        self._ports_file = PortsFile(self._directory.path, reactor)
        self._notifier = Notifier(supervision or Supervision(), reactor, self._status_line)
        self._starting: Deferred[None] | None = None
        self._around = Surroundings(
            settings=settings,
            reactor=reactor,
            path=self._directory.path,
            wall=time.time,
            wall_ns=time.time_ns,
            random_bytes=os.urandom,
            rng=random.Random(int.from_bytes(os.urandom(16))),
            last_ports=self._ports_file.last(),
        )
        self._execution: Execution | None = None
        self._starts: Starts | None = None
        self.parts: dict[str, Any] = {}
        """Every part by name once it is built; for tests and for whoever looks into a running node."""

    # Service

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._notifier.begin()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._start_failed)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def _start_failed(self, failure: Any) -> None:
        if failure.check(CancelledError):
            return
        self.state = "failed"
        self._notifier.failed(str(failure.value))
        if isinstance(failure.value, ChorusError):
            self._log.error("{error}", event="node.failed", error=failure.value, code=failure.value.code)
            # Not sys.stderr, which twistd has turned into the log.
            print(f"chorus: {failure.value}", file=sys.__stderr__, flush=True)
        else:
            self._log.failure("the node failed to start", failure=failure, event="node.failed")
        self._exit_status.fail(getattr(failure.value, "exit_code", 1))
        # twistd starts services before the reactor runs, so a start can fail before there is anything to stop.
        self._reactor.callWhenRunning(self._stop_reactor)

    def _stop_reactor(self) -> None:
        if self._reactor.running:
            self._reactor.stop()

    async def _stop(self) -> None:
        if self._starting is not None and not self._starting.called:
            self._starting.cancel()
        self.state = "stopping"
        self._notifier.stopping()
        self._log.info("stopping", event="node.stopping")
        await self._sequence.stop(self.settings.shutdown_s)
        self._notifier.end()
        self._log.info("stopped", event="node.stopped")

    # the start, phase by phase

    async def _start(self) -> None:
        self._start_logging()
        await self._run(self._keep_files_private())
        self._directory.acquire()
        await self._run(Step("data directory", stop=self._directory.release))
        self._directory.note_holder()
        self.parts["identity"] = self._directory.identity()
        if not self.settings.open:
            self._starts = self._begin_start()
        # The licence is validated here, before anything opens the network; fatal when it fails.
        storage = await self._start_storage()
        network = await self._start_network()
        messages = await self._start_messages(network)
        if self.settings.open:
            self._close_tasks()
        else:
            await self._start_tasks(storage, network, messages)
        await self._start_faces(storage, network, messages)
        self._write_ports()
        await self._run(Step("ports file", start=self._ports_file.start, stop=self._ports_file.remove))
        self.state = "running"
        self._notifier.ready()
        p2p = self.parts["p2p"]
        self._log.info(
            "{agent} is {peer} on {addresses}; API on port {api}",
            event="node.started",
            agent=self.agent_id,
            peer=p2p.peer_id,
            addresses=", ".join(map(str, p2p.listen_addresses())),
            api=self.parts["api"].port,
            mode=self.mode,
            version=__version__,
        )

    def _begin_start(self) -> Starts:
        from chorus.protocols.starts import INSTANCE_BYTES
        from chorus.services.starts import StartCount, Starts

        around = self._around
        return Starts(
            self.parts["identity"],
            StartCount(around.path),
            around.random_bytes(INSTANCE_BYTES),
            wall=around.wall,
            twin=self._twin_runs,
        )

    def _twin_runs(self, line: str) -> None:
        self._log.error("{line}", event="node.twin", line=line)
        print(f"chorus: {line}", file=sys.__stderr__, flush=True)
        self._exit_status.fail(EXIT_TWIN)
        self._stop_reactor()

    def _keep_files_private(self) -> Step:
        """What this process makes from now on is its user's alone, whatever umask it was started with; a file that
        others shall read gets its mode by name."""
        return Step("file modes", stop=partial(os.umask, os.umask(0o077)))

    async def _run(self, *steps: Step) -> None:
        for step in steps:
            await self._sequence.start(step)

    def _add(self, built: attrs.AttrsInstance) -> None:
        """The fields of what a file of `chorus/wiring` built are the names of its parts."""
        self.parts.update(attrs.asdict(built, recurse=False))

    @property
    def agent_id(self) -> str:
        """Configured, or made from the end of the peer id."""
        return self.settings.agent_id or f"agent-{str(self.parts['identity'].peer_id)[-8:].lower()}"

    @property
    def role(self) -> str | None:
        return self.settings.agent_role or ("human" if self.mode == "hap" else None)

    @property
    def max_tasks(self) -> int:
        """A person decides what runs there; until the portal can ask, a HAP executes nothing."""
        return 0 if self.mode == "hap" or self.settings.open else self.settings.agent_max_tasks

    def _start_logging(self) -> None:
        from chorus.config.settings import unknown_variables
        from chorus.observe import logging

        logging.install(self.settings.log_level, self.settings.log_format)

        for line in unknown_variables(os.environ):
            self._log.warn("{line}", event="config.unknown_variable", line=line)
        wanted, limit = descriptors_wanted(self.settings), descriptors.limit()
        if limit < wanted:
            self._log.warn(
                "this process may open {limit} files, and {wanted} would be needed for all that its configuration "
                "allows: connections and tasks will be refused when they run out (ulimit -n)",
                event="node.few_descriptors",
                limit=limit,
                wanted=wanted,
            )

    async def _start_storage(self) -> Storage:
        from chorus.wiring.storage import build_storage

        storage = build_storage(self._around)
        self._add(storage)
        await self._run(
            Step("file threads", start=storage.pool.start, stop=storage.pool.stop),
            _service("store", storage.store, limit_s=60),
        )
        return storage

    async def _start_network(self) -> Network:
        from chorus.wiring.network import build_network

        network = build_network(self._around, self.parts["identity"], self._starts)
        self._add(network)
        network.p2p.watch_peers(partial(self._log_peer, "connected"), partial(self._log_peer, "disconnected"))
        await self._run(Step("P2P node", start=self._listen, stop=network.p2p.stopService))
        return network

    def _log_peer(self, what: str, connection: Connection) -> None:
        self._log.info(
            "{peer} {what}, {direction} {address}; peers: {count}",
            event=f"peer.{what}",
            what=what,
            peer=connection.peer_id,
            direction="from" if connection.inbound else "at",
            address=connection.remote_address,
            count=len(self.parts["p2p"].connections()),
        )

    def _listen(self) -> None:
        """Listen, and belong to the cluster only then: a start that failed must not bind the data directory for life.
        Both are one turn of the reactor, so nobody is met before the membership is on disk."""
        cluster, p2p = self.parts["cluster"], self.parts["p2p"]
        p2p.startService()
        if cluster is not None:
            cluster.keep()
            cluster.publish_addresses(p2p.listen_addresses())

    async def _start_messages(self, network: Network) -> Messages:
        from chorus.wiring.messages import build_messages

        messages = build_messages(
            self._around,
            self.parts["identity"],
            network.p2p,
            agent_id=self.agent_id,
            role=self.role,
            load=self._load,
            record_of=self._record_of,
            take_up=self._exchanged,
            starts=self._starts,
        )
        self._add(messages)
        await self._run(_service("pub/sub", messages.pubsub))
        return messages

    def _record_of(self, peer: PeerId) -> bytes | None:
        # Discovery is built after pub/sub, and stopped before it.
        discovery = self.parts.get("discovery")
        return None if discovery is None else discovery.record_of(peer)

    def _exchanged(self, source: PeerId, peer: PeerId, record: bytes | None) -> None:
        discovery = self.parts.get("discovery")
        if discovery is not None:
            discovery.exchanged(source, peer, record)

    # tasks

    async def _start_tasks(self, storage: Storage, network: Network, messages: Messages) -> None:
        from chorus.wiring.execution import build_execution
        from chorus.wiring.scheduling import build_scheduling

        execution = build_execution(
            self._around,
            storage,
            network.p2p,
            agent_id=self.agent_id,
            role=self.role,
            max_tasks=self.max_tasks,
            changed=self._load_changed,
        )
        self._execution = execution
        self._add(execution)
        scheduling = build_scheduling(self._around, storage, network.p2p, messages, execution)
        self._add(scheduling)
        await self._run(
            Step("blob threads", start=execution.offload.start, stop=execution.offload.stop),
            _service("blobs", execution.blobs, limit_s=60),
            _service("sandbox", execution.sandbox, limit_s=30, fatal=False),
            _service("journal", scheduling.journal, limit_s=120),
            Step("task streams", start=execution.streams.start, stop=execution.streams.stop),
            _service("headroom", execution.headroom),
            _service("executor", execution.executor, limit_s=60),
            _service("coordinator", scheduling.coordinator, limit_s=60),
            _service("collection", scheduling.collection),
            _service("handover", scheduling.handover),
            Step("handovers taken", start=scheduling.handover_serving.start, stop=scheduling.handover_serving.stop),
            _service("retention", scheduling.retention),
        )

    def _close_tasks(self) -> None:
        from chorus.http.closed import ClosedBlobs, ClosedTasks

        self.parts.update(coordinator=ClosedTasks(), blobs=ClosedBlobs())

    def _load(self) -> Load:
        from chorus.services.presence import Load

        execution = self._execution
        if execution is None:
            return Load(0, self.max_tasks, accepting=False)
        return Load(
            execution.executor.current_tasks,
            self.max_tasks,
            accepting=not execution.executor.draining and execution.usable(),
            last_activity=execution.executor.last_activity,
        )

    def _load_changed(self) -> None:
        self.parts["presence"].load_changed()
        coordinator = self.parts.get("coordinator")
        if coordinator is not None:
            coordinator.placement.agents_changed()

    def _drain(self) -> Deferred[None] | None:
        if self._execution is None:
            return None
        return self._execution.executor.drain(max(1.0, self.settings.shutdown_s - STOP_RESERVE_S))

    # what looks at the node from outside

    async def _start_faces(self, storage: Storage, network: Network, messages: Messages) -> None:
        discovery = self._build_discovery(storage, network)
        faces = self._build_faces(network, messages)
        await self._run(
            _service("presence", messages.presence),
            Step("discovery", start=self._discover, stop=discovery.stopService, fatal=False),
            _service("health", faces.health),
            # Stopping goes backwards: no more submissions, then what runs is finished or handed back, then the rest.
            Step("tasks under way", stop=self._drain, limit_s=self.settings.shutdown_s),
            _service("API", faces.api),
        )

    def _build_discovery(self, storage: Storage, network: Network) -> DiscoveryService:
        from chorus.wiring.discovery import build_discovery

        settings, cluster = self.settings, network.cluster
        identity = self.parts["identity"]
        discovery = build_discovery(self._around, identity, network.p2p, cluster, storage.in_thread)
        isolation = Isolation(
            cluster, discovery, bootstrap=bool(settings.bootstrap_peers), join=settings.join is not None
        )
        self.parts.update(discovery=discovery, isolation=isolation)
        return discovery

    def _build_faces(self, network: Network, messages: Messages) -> Faces:
        from chorus.services.endpoints import node_checks, node_metrics, node_status
        from chorus.wiring.faces import build_faces

        parts, alone = self.parts, self.parts["isolation"].reason

        def state() -> str:
            return self.state

        faces = build_faces(
            self._around,
            network,
            messages,
            tasks=parts["coordinator"],
            blobs=parts["blobs"],
            load=self._load,
            state=state,
            extra=node_status.members(parts, alone=alone, load=self._load),
        )
        self._add(faces)
        node_metrics.register(faces.metrics, parts)
        node_checks.register(faces.view, parts, state=state, alone=alone, load=self._load, max_tasks=self.max_tasks)
        return faces

    def _discover(self) -> None:
        discovery, cluster = self.parts["discovery"], self.parts["cluster"]
        discovery.startService()
        if cluster is not None:
            cluster.when_adopted(discovery.cluster_known)
        self.parts["isolation"].warn()

    def _status_line(self) -> str:
        load, peers = self._load(), len(self.parts["p2p"].connections())
        return f"{self.agent_id}: peers: {peers}; tasks: {load.current_tasks} of {load.max_tasks}"

    def _write_ports(self) -> None:
        (p2p,) = (address.tcp_endpoint() for address in self.parts["p2p"].bound_addresses())
        ports: dict[str, JSON] = {
            "pid": os.getpid(),
            "p2p": p2p[1],
            "api": self.parts["api"].port,
            "health": self.parts["health"].port,
            "api_host": self.settings.api_bind,
            "health_host": self.settings.health_bind,
        }
        self._ports_file.write(ports)


def _service(name: str, service: Service, *, limit_s: float = 10.0, fatal: bool = True) -> Step:
    return Step(name, start=service.startService, stop=service.stopService, limit_s=limit_s, fatal=fatal)
