"""The node: builds every part, hands each its collaborators, starts and stops them in order (docs/architecture.md).

The only file that knows everybody. Nothing imports it but `tap.py`.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from chorus import __version__, descriptors
from chorus.errors import ChorusError
from chorus.lifecycle import Sequence, Step
from chorus.multiformats.multiaddr import Multiaddr
from chorus.preflight import descriptors_wanted, plain, wishes_of
from chorus.seams import MembersMayAll, PassThrough
from chorus.services.datadir import DataDirectory
from chorus.services.isolation import Isolation
from chorus.services.ports_file import PortsFile

if TYPE_CHECKING:
    from chorus.config.settings import Settings
    from chorus.identity import PeerId
    from chorus.protocols.stream import Connection
    from chorus.sandbox.contract import Limits
    from chorus.seams import JSON
    from chorus.services.discovery import DiscoveryService
    from chorus.services.mdns import MdnsService
    from chorus.tap import ExitStatus

STOP_RESERVE_S = 8.0
"""Of the shutdown budget, kept for everything after the tasks have been finished or handed back."""
MIB = 1024 * 1024
THREADS = 8
"""Of the pool for file work: archives, result spools, blobs."""


class NodeService(Service):
    """One node. `mode` is `agent` or `hap`; `exit_status.fail` is told when the start fails."""

    _log = Logger()
    name = "chorus"

    def __init__(self, settings: Settings, *, mode: str, reactor: Any, exit_status: ExitStatus) -> None:
        self.settings = settings
        self.mode = mode
        self.state = "starting"
        self._reactor = reactor
        self._exit_status = exit_status
        self._sequence = Sequence(reactor)
        self._directory = DataDirectory(settings.data_dir)
        self._ports_file = PortsFile(self._directory.path)
        self._starting: Deferred[None] | None = None
        self._wall: Callable[[], float] = time.time
        self._random: Callable[[int], bytes] = os.urandom
        self._rng = random.Random(int.from_bytes(os.urandom(16)))
        self._last_activity = 0.0
        self.parts: dict[str, Any] = {}
        """Every part by name once it is built; for tests and for whoever looks into a running node."""

    # Service

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._start_failed)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def _start_failed(self, failure: Any) -> None:
        if failure.check(CancelledError):
            return
        self.state = "failed"
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
        self._log.info("stopping", event="node.stopping")
        await self._sequence.stop(self.settings.shutdown_s)
        self._log.info("stopped", event="node.stopped")

    # the start, phase by phase

    async def _start(self) -> None:
        settings = self.settings
        self._start_logging()
        self._directory.acquire()
        await self._sequence.start(Step("data directory", stop=self._directory.release))
        self._directory.note_holder()
        self.parts["identity"] = self._directory.identity()
        # The licence is validated here, before anything opens the network; fatal when it fails.
        for build in (self._build_store, self._build_network, self._build_messaging):
            for step in build():
                await self._sequence.start(step)
        builds = [self._build_closed_ports] if settings.open else [self._build_tasks]
        for build in [*builds, self._build_faces]:
            for step in build():
                await self._sequence.start(step)
        self._write_ports()
        await self._sequence.start(Step("ports file", stop=self._ports_file.remove))
        self.state = "running"
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

    def _build_store(self) -> list[Step]:
        from chorus.services.cluster import STATE
        from chorus.services.store import FILE_NAME, StoreService

        pool = ThreadPool(1, THREADS, "chorus-files")
        self.parts["pool"] = pool
        self.parts["in_thread"] = partial(deferToThreadPool, self._reactor, pool)
        path = self._directory.path
        # cluster.json is written once the node listens, after the store was opened for the first time.
        store = StoreService(path / FILE_NAME, self._reactor, expected=(path / STATE).exists())
        self.parts["store"] = store
        return [
            Step("file threads", start=pool.start, stop=pool.stop),
            Step("store", start=store.startService, stop=store.stopService, limit_s=60),
        ]

    def _build_network(self) -> list[Step]:
        from chorus.protocols.limits import HostLimits
        from chorus.services.admission import AdmissionService
        from chorus.services.cluster import ClusterService, check_open_mode, load_membership
        from chorus.services.p2p import Admission, OpenAdmission, P2PService

        settings, identity = self.settings, self.parts["identity"]
        wishes = wishes_of(settings)
        if settings.open:
            stored = load_membership(self._directory.path) is not None
            check_open_mode(listen_host=settings.p2p_bind, wishes=wishes, stored=stored)
            cluster: ClusterService | None = None
            admission: Admission = OpenAdmission()
        else:
            cluster = ClusterService.open(self._directory.path, identity, wishes, self._random)
            admission = AdmissionService(identity.peer_id, cluster, self._reactor)
        half = max(2, settings.max_connections // 2)
        p2p = P2PService(
            self._reactor,
            identity,
            admission=admission,
            listen=[Multiaddr.tcp(settings.p2p_bind, settings.p2p_port)],
            announce=[Multiaddr.parse(each) for each in settings.announce],
            open_mode=settings.open,
            limits=HostLimits(max_inbound_connections=half, max_outbound_connections=settings.max_connections - half),
            rng=self._rng,
            random_bytes=self._random,
        )
        self.parts.update(cluster=cluster, admission=admission, p2p=p2p)
        p2p.watch_peers(partial(self._log_peer, "connected"), partial(self._log_peer, "disconnected"))
        return [Step("P2P node", start=self._listen, stop=p2p.stopService)]

    def _log_peer(self, what: str, connection: Connection) -> None:
        self._log.info(
            "{peer} {what}, {direction} {address}; {count} peers",
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

    def _build_messaging(self) -> list[Step]:
        from chorus.protocols.gossip_params import GossipParams
        from chorus.services.messaging import Messaging
        from chorus.services.presence import Load, PresenceService, Profile
        from chorus.services.pubsub import PubSubService
        from chorus.services.pubsub_seqno import first_seqno

        settings, identity, p2p = self.settings, self.parts["identity"], self.parts["p2p"]
        pubsub = PubSubService(
            p2p,
            identity,
            self._reactor,
            rng=self._rng,
            # Members count their sequence numbers up; foreign peers of open mode may draw them (js does).
            params=GossipParams(growing_seqno=not settings.open),
            direct=[Multiaddr.parse(each) for each in settings.gossip_direct_peers],
            record_of=self._record_of,
            take_up=self._exchanged,
            first_seqno=lambda: first_seqno(self._directory.path, time.time_ns()),
        )
        messaging = Messaging(
            pubsub,
            identity.peer_id,
            redactor=PassThrough(),
            wall=self._wall,
            random=self._random,
            role=lambda: self.role,
            roles=MembersMayAll(),
        )
        profile = Profile(
            agent_id=self.agent_id,
            version=__version__,
            role=self.role,
            reports_to=settings.agent_reports_to,
            specialization=settings.agent_specialization,
            expertise=settings.agent_expertise,
            capabilities=settings.agent_capabilities,
        )

        def load() -> Load:
            executor = self.parts.get("executor")
            if executor is None:
                return Load(0, self.max_tasks, accepting=False)
            return Load(
                executor.current_tasks,
                self.max_tasks,
                accepting=not executor.draining and self._can_execute(),
                last_activity=self._last_activity,
            )

        presence = PresenceService(messaging, pubsub, self._reactor, profile, load)
        self.parts.update(pubsub=pubsub, messaging=messaging, presence=presence, load=load)
        return [Step("pub/sub", start=pubsub.startService, stop=pubsub.stopService)]

    def _record_of(self, peer: PeerId) -> bytes | None:
        # Discovery is built after pub/sub, and stopped before it.
        discovery = self.parts.get("discovery")
        return None if discovery is None else discovery.record_of(peer)

    def _exchanged(self, source: PeerId, peer: PeerId, record: bytes | None) -> None:
        discovery = self.parts.get("discovery")
        if discovery is not None:
            discovery.exchanged(source, peer, record)

    # tasks

    def _can_execute(self) -> bool:
        return self.parts["sandbox"].usable and self.parts["headroom"].hindrance() is None

    def _build_tasks(self) -> list[Step]:
        return [*self._build_execution(), *self._build_scheduling()]

    def _build_execution(self) -> list[Step]:
        from chorus.sandbox import archives
        from chorus.services.attempt import Workplace
        from chorus.services.blobs import BlobLimits, BlobService, ThreadOffload
        from chorus.services.executor import AgentProfile, ExecutorService
        from chorus.services.headroom import Headroom
        from chorus.services.sandbox import sandbox_service
        from chorus.services.task_store import StoredRuns
        from chorus.services.task_streams import TaskStreams

        settings, parts, path = self.settings, self.parts, self._directory.path
        default, maximum = _limits(settings)
        offload = ThreadOffload(self._reactor)
        blobs = BlobService(
            directory=path / "blobs",
            store=parts["store"].database,
            host=parts["p2p"],
            clock=self._reactor,
            offload=offload,
            wall=self._wall,
            limits=BlobLimits(max_blob=settings.max_blob_mb * MIB, max_store=settings.blob_store_mb * MIB),
        )
        # The peer id, not the agent id, marks our containers: two agents may be given one name.
        marked = str(parts["identity"].peer_id)
        sandbox = sandbox_service(
            self._reactor,
            marked,
            data_dir=path,
            scratch_root=path / "runs",
            mode=settings.sandbox,
            docker_host=settings.docker_host,
            image_map=settings.image_map,
            warm_pool=settings.warm_pool,
            defaults=default,
        )
        streams = TaskStreams(parts["p2p"], self._reactor, MembersMayAll())
        place = Workplace(
            agent_id=marked,
            streams=streams,
            runs=StoredRuns(parts["store"].database, self._wall),
            blobs=blobs,
            sandboxes=sandbox,
            clock=self._reactor,
            wall=self._wall,
            in_thread=parts["in_thread"],
            directory=path / "runs",
            max_input=settings.max_blob_mb * MIB,
            list_archive=lambda archive: [member.path for member in archives.listing(archive)],
        )
        profile = AgentProfile(
            agent_id=self.agent_id,
            max_tasks=self.max_tasks,
            role=self.role,
            expertise=settings.agent_expertise,
            capabilities=settings.agent_capabilities,
            specialization=settings.agent_specialization,
            maximum=maximum,
        )
        headroom = Headroom(path, self._reactor, lambda: parts["store"].database.damage, self._load_changed)
        executor = ExecutorService(place, profile, changed=self._load_changed, hindrance=headroom.hindrance)
        parts.update(blobs=blobs, sandbox=sandbox, streams=streams, executor=executor, headroom=headroom)
        return [
            Step("blob threads", start=offload.start, stop=offload.stop),
            Step("blobs", start=blobs.startService, stop=blobs.stopService, limit_s=60),
            Step("sandbox", start=sandbox.startService, stop=sandbox.stopService, limit_s=30, fatal=False),
        ]

    def _load_changed(self) -> None:
        self._last_activity = self._wall()
        self.parts["presence"].load_changed()
        coordinator = self.parts.get("coordinator")
        if coordinator is not None:
            coordinator.placement.agents_changed()

    def _build_scheduling(self) -> list[Step]:
        from chorus.services.agents import KnownAgents
        from chorus.services.collection import Collection
        from chorus.services.coordinator import CoordinatorService, CoordinatorSettings
        from chorus.services.journal import LocalJournal
        from chorus.services.placement import Placement
        from chorus.services.retention import RetentionService
        from chorus.services.task_events import TaskEvents
        from chorus.services.task_store import StoredEvents
        from chorus.tasks.machine import TaskMachine
        from chorus.tasks.spec import LimitPolicy

        settings, parts = self.settings, self.parts
        database, executor, presence = parts["store"].database, parts["executor"], parts["presence"]
        journal = LocalJournal(database)
        machine = TaskMachine(journal.fence_of)
        journal.attach(machine)
        stored = StoredEvents(database)
        coordinator: CoordinatorService

        def settled(task_id: str) -> bool:
            return coordinator.is_settled(task_id)

        events = TaskEvents(stored, self._reactor, self._wall, settled)
        collection = Collection(machine, parts["blobs"], parts["identity"].peer_id, self._reactor)
        default, maximum = _limits(settings)
        coordinator = CoordinatorService(
            journal=journal,
            machine=machine,
            events=events,
            stored_events=stored,
            streams=parts["streams"],
            blobs=parts["blobs"],
            redactor=PassThrough(),
            roles=MembersMayAll(),
            clock=self._reactor,
            wall=self._wall,
            random=self._random,
            settings=CoordinatorSettings(
                policy=LimitPolicy(default, maximum),
                lease_s=settings.lease_s,
                max_attempts=settings.max_attempts,
                idempotency_days=settings.idempotency_days,
            ),
            announce=parts["messaging"].announce_task,
            result_known=collection.result_known,
            bring=collection.bring,
        )
        coordinator.placement = Placement(
            scheduler=coordinator,
            streams=parts["streams"],
            events=events,
            agents=KnownAgents(parts["p2p"], presence.view, executor, usable=self._can_execute),
            clock=self._reactor,
            wall=self._wall,
        )
        journal.watch(coordinator.entry_applied)
        presence.watch(coordinator.placement.agents_changed)
        retention = RetentionService(
            machine=machine,
            append=coordinator.append,
            events=events,
            stored_events=stored,
            blobs=parts["blobs"],
            clock=self._reactor,
            wall=self._wall,
            retention_days=settings.retention_days,
            idempotency_days=settings.idempotency_days,
        )
        parts.update(journal=journal, coordinator=coordinator, events=events, collection=collection)
        parts["p2p"].watch_peers(self._peer_joined, lambda _: coordinator.placement.agents_changed())
        return [
            Step("journal", start=journal.startService, stop=journal.stopService, limit_s=120),
            Step("task streams", start=parts["streams"].start, stop=parts["streams"].stop),
            Step("headroom", start=parts["headroom"].startService, stop=parts["headroom"].stopService),
            Step("executor", start=executor.startService, stop=executor.stopService, limit_s=60),
            Step("coordinator", start=coordinator.startService, stop=coordinator.stopService, limit_s=60),
            Step("collection", start=collection.startService, stop=collection.stopService),
            Step("retention", start=retention.startService, stop=retention.stopService),
        ]

    def _peer_joined(self, connection: Connection) -> None:
        self.parts["executor"].peer_joined(connection)
        self.parts["collection"].peer_joined(connection.peer_id)

    def _build_closed_ports(self) -> list[Step]:
        from chorus.http.closed import ClosedBlobs, ClosedTasks

        self.parts.update(coordinator=ClosedTasks(), blobs=ClosedBlobs())
        return []

    # what looks at the node from outside

    def _build_faces(self) -> list[Step]:
        from chorus.http.auth import load_or_make_token
        from chorus.observe import node_checks, node_metrics
        from chorus.observe.metrics import Metrics
        from chorus.services.api import ApiService
        from chorus.services.health import HealthService
        from chorus.services.node_view import NodeView
        from chorus.tasks.spec import LimitPolicy

        settings, parts = self.settings, self.parts
        presence, cluster = parts["presence"], parts["cluster"]
        discovery = self._build_discovery()
        isolation = Isolation(
            cluster, discovery, bootstrap=bool(settings.bootstrap_peers), join=settings.join is not None
        )
        parts["isolation"] = isolation
        view = NodeView(
            host=parts["p2p"],
            presence=presence.view,
            profile=lambda: presence.profile,
            load=parts["load"],
            cluster_id=lambda: None if cluster is None else cluster.cluster_id,
            clock=self._reactor,
            wall=self._wall,
            state=lambda: self.state,
            pubsub=parts["pubsub"],
            extra=(("alone", isolation.reason), ("tasks", self._task_counts), ("sandbox", self._sandbox_status)),
        )
        metrics = Metrics()
        node_metrics.register(metrics, parts)
        token = plain(settings.api_token) or load_or_make_token(self._directory.path)
        api = ApiService(
            tasks=parts["coordinator"],
            blobs=parts["blobs"],
            node=view,
            metrics=metrics,
            token=token,
            address=settings.api_bind,
            port=settings.api_port,
            host_names=settings.api_hosts,
            max_blob=settings.max_blob_mb * MIB,
            reactor=self._reactor,
            policy=LimitPolicy(*_limits(settings)),
        )
        health = HealthService(
            node=view,
            address=settings.health_bind,
            port=settings.health_port,
            host_names=settings.api_hosts,
            reactor=self._reactor,
        )
        parts.update(view=view, metrics=metrics, api=api, health=health)
        node_checks.register(
            view,
            parts,
            state=lambda: self.state,
            alone=isolation.reason,
            load=parts["load"],
            max_tasks=self.max_tasks,
        )
        return [
            Step("presence", start=presence.startService, stop=presence.stopService),
            Step("discovery", start=self._start_discovery, stop=discovery.stopService, fatal=False),
            Step("health", start=health.startService, stop=health.stopService),
            # Stopping goes backwards: no more submissions, then what runs is finished or handed back, then the rest.
            Step("tasks under way", stop=self._drain, limit_s=settings.shutdown_s),
            Step("API", start=api.startService, stop=api.stopService),
        ]

    def _drain(self) -> Deferred[None] | None:
        executor = self.parts.get("executor")
        if executor is None:
            return None
        drained: Deferred[None] = executor.drain(max(1.0, self.settings.shutdown_s - STOP_RESERVE_S))
        return drained

    def _build_discovery(self) -> DiscoveryService:
        from chorus.services.discovery import MEMORY, DiscoveryService

        settings, parts = self.settings, self.parts
        cluster, identity = parts["cluster"], parts["identity"]
        contacts = [Multiaddr.parse(each) for each in settings.bootstrap_peers]
        if cluster is not None:
            contacts += cluster.contacts
        discovery = DiscoveryService(
            parts["p2p"],
            identity,
            self._reactor,
            rng=self._rng,
            wall_ns=time.time_ns,
            contacts=contacts,
            join_stagger_ms=settings.join_stagger_ms,
            memory=None if settings.open else self._directory.path / MEMORY,
            make_mdns=self._make_mdns if settings.mdns_enabled and not settings.open else None,
            exchange_peers=not settings.open,
            in_thread=parts["in_thread"],
        )
        parts["discovery"] = discovery
        return discovery

    def _make_mdns(self, cluster_id: bytes, found: Callable[[PeerId, tuple[Multiaddr, ...]], None]) -> MdnsService:
        from chorus.services.mdns import MdnsService

        p2p = self.parts["p2p"]
        return MdnsService(
            peer=p2p.peer_id, cluster_id=cluster_id, addresses=p2p.listen_addresses(), found=found, rng=self._rng
        )

    def _start_discovery(self) -> None:
        discovery, cluster = self.parts["discovery"], self.parts["cluster"]
        discovery.startService()
        if cluster is not None:
            cluster.when_adopted(discovery.cluster_known)
        self.parts["isolation"].warn()

    def _task_counts(self) -> JSON:
        coordinator, load = self.parts["coordinator"], self.parts["load"]()
        counts: dict[str, JSON] = {"running_here": load.current_tasks, "maximum_here": load.max_tasks}
        if not self.settings.open:
            counts["unfinished"] = coordinator.active
        return counts

    def _sandbox_status(self) -> JSON:
        sandbox = self.parts.get("sandbox")
        if sandbox is None:
            return {"usable": False, "detail": "open mode runs no tasks"}
        found: JSON = sandbox.status().to_json()
        return found

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


def _limits(settings: Settings) -> tuple[Limits, Limits]:
    """(default, maximum) of what a task gets."""
    from chorus.sandbox.contract import Limits

    def limits(suffix: str) -> Limits:
        names = ("cpu", "memory_mb", "pids", "disk_mb", "timeout_s", "output_mb")
        return Limits(**{name: getattr(settings, f"task_{name}{suffix}") for name in names})

    return limits(""), limits("_max")
