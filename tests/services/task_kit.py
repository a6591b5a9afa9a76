"""Whole nodes of coordinator and executor on one fake clock: real stores, journals and protocol cores; an in-memory
network, blob stores and sandboxes that tests hold in their hands."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock

from chorus.errors import ChorusError
from chorus.identity import Identity, PeerId
from chorus.protocols.stream import StreamClosed
from chorus.protocols.task_messages import PROTOCOL
from chorus.sandbox.archive.archives import BadArchive
from chorus.sandbox.contract import (
    Artifact,
    Choice,
    ImageMissing,
    Job,
    OutputEntry,
    OutputSink,
    RunResult,
    SandboxUnavailable,
)
from chorus.seams import MembersMayAll, PassThrough
from chorus.services.blobs.fetch import BlobTooLarge
from chorus.services.execution.executor import AgentProfile, ExecutorService
from chorus.services.execution.store import StoredRuns
from chorus.services.execution.workplace import Workplace
from chorus.services.journal import LocalJournal
from chorus.services.loopback import LoopbackConnection, LoopbackStream, join
from chorus.services.scheduling.board import Agent
from chorus.services.scheduling.context import CoordinatorSettings, SchedulerContext
from chorus.services.scheduling.events import TaskEvents
from chorus.services.scheduling.intake import Submissions
from chorus.services.scheduling.ledger import Ledger
from chorus.services.scheduling.store import StoredEvents
from chorus.services.task_streams import TaskStreams
from chorus.services.ucxl.service import UcxlService
from chorus.store.errors import StoreDamaged, StoreUnavailable
from chorus.store.inline import InlineDatabase
from chorus.tasks.events import TaskEvent
from chorus.tasks.scoring import Candidate
from chorus.tasks.spec import TaskSpec
from chorus.tasks.terms import Reason
from chorus.wiring.scheduling import assemble
from tests.services.memory_kit import FakeMesh, memory_ports, memory_service

EPOCH = 1_763_700_000.0
LEASE = 30.0


class NodeClock:
    """A node's share of the world's clock: what a killed process had scheduled never happens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[Any] = []
        self.dead = False

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(self, delay: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = self._clock.callLater(delay, self._run, function, args, kwargs)
        self._calls = [each for each in self._calls if each.active()]
        self._calls.append(call)
        return call

    def _run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        if not self.dead:
            function(*args, **kwargs)

    def kill(self) -> None:
        self.dead = True
        for call in self._calls:
            if call.active():
                call.cancel()

    def left(self) -> list[Any]:
        return [call for call in self._calls if call.active()]


class World:
    """The clock, the network between nodes, and what must hold in it."""

    def __init__(self, case: Any) -> None:
        self.case = case
        self.clock = Clock()
        self.nodes: dict[PeerId, Node] = {}
        self.cuts: set[frozenset[PeerId]] = set()
        self.frozen: set[frozenset[PeerId]] = set()
        self.streams: list[tuple[frozenset[PeerId], LoopbackStream, LoopbackStream]] = []
        self.executing: dict[str, Container] = {}
        self.overlaps: list[str] = []
        self.seed = 0
        self.hearsay = False
        """Whether nodes know of agents that they are not connected to."""

    def wall(self) -> float:
        return EPOCH + self.clock.seconds()

    def node(self, name: str, **options: Any) -> Node:
        return Node(self, name, **options)

    def settle(self, turns: int = 60) -> None:
        """Let everything happen that is due now."""
        for _ in range(turns):
            self.clock.advance(0)

    def advance(self, seconds: float, step: float = 0.5) -> None:
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 1e-9:
            self.clock.advance(min(step, end - self.clock.seconds()))
            self.settle(20)

    def open(self, near: Node, far: PeerId, protocol: str) -> Deferred[Any]:
        pair = frozenset({near.peer, far})
        node = self.nodes.get(far)
        if node is None or not node.up or pair in self.cuts:
            return fail(StreamClosed("no connection"))
        opened = node.host.protocols_served.get(protocol)
        if opened is None:
            return fail(StreamClosed("not served"))
        outbound, inbound = join(
            LoopbackStream(LoopbackConnection(far), protocol, False, self.clock),
            LoopbackStream(LoopbackConnection(near.peer), protocol, True, self.clock),
        )
        self.streams.append((pair, outbound, inbound))
        if pair in self.frozen:
            outbound.pause_reading()
            inbound.pause_reading()
        opened(inbound)
        return succeed(outbound)

    def cut(self, one: Node, other: Node) -> None:
        """Connections between the two are gone and cannot be made."""
        self.cuts.add(frozenset({one.peer, other.peer}))
        self.reset_streams(frozenset({one.peer, other.peer}))

    def freeze(self, one: Node, other: Node) -> None:
        """Nothing arrives any more, and nobody is told."""
        pair = frozenset({one.peer, other.peer})
        self.frozen.add(pair)
        for each, outbound, inbound in self.streams:
            if each == pair:
                outbound.pause_reading()
                inbound.pause_reading()

    def heal(self, one: Node, other: Node) -> None:
        pair = frozenset({one.peer, other.peer})
        self.cuts.discard(pair)
        if pair in self.frozen:
            self.frozen.discard(pair)
            self.reset_streams(pair)
        self.joined(one, other)

    def joined(self, one: Node, other: Node) -> None:
        one.handover.peer_joined(other.peer)
        other.handover.peer_joined(one.peer)
        one.executor.peer_joined(LoopbackConnection(other.peer))
        other.executor.peer_joined(LoopbackConnection(one.peer))

    def reset_streams(self, pair: frozenset[PeerId]) -> None:
        for each, outbound, _ in self.streams:
            if each == pair:
                outbound.reset()
        self.streams = [each for each in self.streams if each[0] != pair]

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.up:
                node.stop()
        self.settle()
        left = [call for node in self.nodes.values() for call in node.clock.left()]
        self.case.assertEqual(left, [], "delayed calls were left behind")
        self.case.assertEqual(self.overlaps, [], "two agents ran one task at once")


class FakeHost:
    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        self.protocols_served: dict[str, Any] = {}

    @property
    def peer_id(self) -> PeerId:
        return self._node.peer

    def register(self, protocol: str, opened: Any, options: Any) -> None:
        self.protocols_served[protocol] = opened

    def unregister(self, protocol: str) -> None:
        self.protocols_served.pop(protocol, None)

    def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> Deferred[Any]:
        return self._world.open(self._node, peer, protocols[0])

    def connections(self) -> list[Any]:
        others = (node for node in self._world.nodes.values() if node.up and node is not self._node)
        cuts = self._world.cuts
        return [LoopbackConnection(node.peer) for node in others if frozenset({node.peer, self.peer_id}) not in cuts]

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        return frozenset(self._world.nodes[peer].host.protocols_served)


@attrs.frozen
class Ref:
    sha256: str
    size: int


class FakeBlobs:
    """Blobs of one node on "disk" (they survive a kill)."""

    def __init__(self, world: World, directory: Path) -> None:
        self._world = world
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.hold: Deferred[None] | None = None
        """Set to make fetches wait."""
        self.refuse: ChorusError | None = None
        """Set to fail when a file is to become a blob."""
        self.largest = 1 << 40
        """Bytes of the largest blob that it takes."""
        self.fetched: list[str] = []
        self.holders: dict[str, PeerId] = {}

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self._directory / name).write_bytes(data)
        return name

    def put_bytes(self, data: bytes) -> Deferred[Any]:
        return succeed(Ref(self.put(data), len(data)))

    def put_file(self, path: Path) -> Deferred[Any]:
        if self.refuse is not None:
            return fail(self.refuse)
        if (size := path.stat().st_size) > self.largest:
            return fail(BlobTooLarge(size, self.largest))
        return self.put_bytes(path.read_bytes())

    def get(self, sha256: str) -> bytes | None:
        path = self.path_of(sha256)
        return None if path is None else path.read_bytes()

    def path_of(self, sha256: str) -> Path | None:
        path = self._directory / sha256
        return path if path.exists() else None

    def stat(self, sha256: str) -> Deferred[Any]:
        data = self.get(sha256)
        return succeed(None if data is None else {"sha256": sha256, "size": len(data)})

    def fetch(self, sha256: str, size_limit: int, holders: Sequence[PeerId]) -> Deferred[Path]:
        return Deferred.fromCoroutine(self._fetch(sha256, holders))

    async def _fetch(self, sha256: str, holders: Sequence[PeerId]) -> Path:
        if self.hold is not None:
            # A Deferred of its own: a fetch that is cancelled leaves the others waiting.
            waiting: Deferred[None] = Deferred()
            self.hold.addBoth(lambda _: waiting.called or waiting.callback(None))
            await waiting
        for holder in holders:
            data = self._world.nodes[holder].blobs.get(sha256)
            if data is not None:
                self.put(data)
                self.fetched.append(sha256)
                return self._directory / sha256
        raise ChorusError("no holder has it")

    def remember_holder(self, sha256: str, peer: PeerId) -> None:
        self.holders[sha256] = peer

    def remove(self, sha256: str) -> Deferred[None]:
        (self._directory / sha256).unlink(missing_ok=True)
        return succeed(None)

    def make_room(self, named: Callable[[str], bool]) -> Deferred[int]:
        return succeed(0)

    def remove_unused(self, sha256: str, before: float, named: Callable[[], bool]) -> Deferred[bool]:
        if not named():
            self.remove(sha256)
        return succeed(not named())


class Container:
    """One sandbox; it outlives the agent's process like a real one under an engine."""

    def __init__(self, engine: Engine, job: Job, scratch: Path) -> None:
        self.engine = engine
        self.job = job
        self.scratch = scratch
        self.alive = True
        self.output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.sink: OutputSink | None = None
        self.run: FakeRun | None = None
        self.killed_for: Reason | None = None
        self._waiting_result: RunResult | None = None
        other = engine.world.executing.get(job.task_id)
        if other is not None and other.alive:
            engine.world.overlaps.append(job.task_id)
        engine.world.executing[job.task_id] = self

    def say(self, stream: Any, data: bytes) -> None:
        offset = len(self.output[stream])
        self.output[stream] += data
        if self.sink is not None:
            self.sink(stream, offset, data)

    def finish(
        self,
        exit_code: int | None = 0,
        reason: Reason = Reason.EXIT,
        artifacts: dict[str, bytes] | None = None,
        *,
        skipped: tuple[str, ...] = (),
        skipped_total: int = 0,
        entries: tuple[OutputEntry, ...] = (),
        mode: int = 0o644,
        mtime: float = 0.0,
    ) -> None:
        if not self.alive:
            return
        self.alive = False
        rows = []
        for name, data in (artifacts or {}).items():
            path = self.scratch / "artifacts" / hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            rows.append(Artifact(name, path, len(data), mode, mtime))
        now = self.engine.world.wall()
        result = RunResult(
            reason, exit_code, f"{reason}", "docker", "chorus-base-dev", now - 1, now,
            len(self.output["stdout"]), len(self.output["stderr"]), (), tuple(rows), skipped, ("test caveat",), "poll",
            entries, skipped_total,
        )  # fmt: skip
        self._waiting_result = result
        self.deliver()

    def deliver(self) -> None:
        if self.run is not None and self._waiting_result is not None:
            self.engine.containers.pop((self.job.task_id, self.job.fence), None)
            run, self.run = self.run, None
            run.result.callback(self._waiting_result)

    def kill(self, reason: Reason) -> None:
        self.killed_for = reason
        self.finish(137, reason, {"partial.txt": b"partial"})


class FakeRun:
    def __init__(self, container: Container, sink: OutputSink, offsets: dict[str, int]) -> None:
        self.container = container
        self.result: Deferred[RunResult] = Deferred()
        container.run = self
        container.sink = sink
        for stream, offset in offsets.items():
            if container.output[stream][offset:]:
                sink(stream, offset, container.output[stream][offset:])  # type: ignore[arg-type]

    def cancel(self, reason: Reason) -> None:
        if self.container.run is self:
            self.container.kill(reason)

    def detach(self) -> None:
        self.container.run = None
        self.container.sink = None


class Engine:
    """The sandboxes of one machine."""

    def __init__(self, world: World, *, survives: bool = True) -> None:
        self.world = world
        self.survives = survives
        self.containers: dict[tuple[str, str], Container] = {}
        self.refuse: ChorusError | None = None
        self.started = 0

    def choose(self, job: Job) -> Deferred[Choice]:
        return fail(self.refuse) if self.refuse is not None else succeed(Choice("docker", f"chorus-{job.language}-dev"))

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> FakeRun:
        self.started += 1
        container = Container(self, job, scratch)
        self.containers[job.task_id, job.fence] = container
        return FakeRun(container, sink, {})

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]:
        kept = []
        for key, container in list(self.containers.items()):
            if keep(*key):
                kept.append(key)
            else:
                container.alive = False
                del self.containers[key]
        return succeed(kept)

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> FakeRun | None:
        container = self.containers.get((job.task_id, job.fence))
        if container is None:
            return None
        run = FakeRun(container, sink, {"stdout": stdout_from, "stderr": stderr_from})
        container.deliver()
        return run

    def killed(self) -> None:
        """The agent's process died."""
        for container in list(self.containers.values()):
            container.run = None
            container.sink = None
            if not self.survives:
                container.alive = False
        if not self.survives:
            self.containers.clear()

    def only(self) -> Container:
        (container,) = self.containers.values()
        return container


def missing(image: str = "chorus-rust-dev") -> ImageMissing:
    return ImageMissing(image, "build it with deploy/images/build rust")


def unavailable() -> SandboxUnavailable:
    return SandboxUnavailable("no engine answers")


class FragileStore:
    """A store whose disk tests can fill."""

    def __init__(self, store: InlineDatabase) -> None:
        self._store = store
        self.full = False
        self.damaged = False
        self.slow = False
        """Set to hold writes back until `release`."""
        self.left: int | None = None
        """So many writes are made from now on; the process that waits for more of them is dead."""
        self._held: list[tuple[Any, Deferred[Any]]] = []

    def write(self, work: Any) -> Deferred[Any]:
        if self.left is not None:
            if not self.left:
                return Deferred()
            self.left -= 1
        if self.full:
            return fail(StoreUnavailable("the disk is full"))
        if self.damaged:
            return fail(StoreDamaged("the store is damaged"))
        if not self.slow:
            return self._store.write(work)
        waiting: Deferred[Any] = Deferred()
        self._held.append((work, waiting))
        return waiting

    def erase(self, work: Any) -> Deferred[Any]:
        return self.write(work)

    def release(self) -> None:
        self.slow = False
        held, self._held = self._held, []
        for work, waiting in held:
            self._store.write(work).chainDeferred(waiting)

    def read(self, work: Any) -> Deferred[Any]:
        return self._store.read(work)

    def close(self) -> None:
        self._store.close()


class Node:
    """One agent. `kill` and `start` are kill -9 and a new process on the same data directory."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        survives: bool = True,
        redactor: Any = None,
        start: bool = True,
        memory: FakeMesh | None = None,
        **profile: Any,
    ) -> None:
        self.world = world
        self.name = name
        world.seed += 1
        self.identity = Identity.from_seed(hashlib.sha256(name.encode()).digest())
        self.peer = self.identity.peer_id
        self.directory = Path(world.case.mktemp())
        self.directory.mkdir(parents=True)
        self.blobs = FakeBlobs(world, self.directory / "blobs")
        self.engine = Engine(world, survives=survives)
        self.profile = AgentProfile(agent_id=name, **profile)
        self.redactor = redactor or PassThrough()
        self.roles: Any = MembersMayAll()
        self.settings = CoordinatorSettings(lease_s=LEASE)
        self.memory = memory
        """None: decisions are written by nobody."""
        self.ucxl: UcxlService | None = None
        self.announced: list[dict[str, Any]] = []
        self.hearsay: dict[str, Agent] = {}
        """What this node believes of others instead of the truth."""
        self.blocked_by: tuple[str, str] | None = None
        """Why its machine can take nothing new."""
        self.no_room: tuple[str, str] | None = None
        """Why it takes in no new submissions."""
        self.visible = True
        """Whether schedulers count it among the agents."""
        self.up = False
        world.nodes[self.peer] = self
        if start:
            self.start()

    def start(self) -> None:
        world = self.world
        self.clock = NodeClock(world.clock)
        clock: Any = self.clock
        self.store = FragileStore(InlineDatabase(self.directory / "chorus.db"))
        self.host = FakeHost(world, self)
        roles = self.roles
        self.streams = TaskStreams(self.host, clock, roles)  # type: ignore[arg-type]
        self.journal = LocalJournal(self.store)
        self.machine = self.journal.machine
        stored = StoredEvents(self.store)
        self.events = TaskEvents(stored, clock, world.wall, self.machine.is_over)
        self.ledger = Ledger(self.journal, self.machine)
        self.ucxl = None if self.memory is None else self._ucxl(self.memory)
        publisher = None if self.ucxl is None else self.ucxl.publisher
        self.context = SchedulerContext(
            self.ledger, self.events, stored, self.blobs, clock, world.wall, self.settings, copies=publisher
        )
        submissions = Submissions(
            self.redactor, roles, random.Random(world.seed).randbytes, blocked_by=lambda: self.no_room
        )
        host: Any = self.host
        parts = assemble(
            self.context, self.journal, host, self.streams, self._agents, submissions, self.announced.append
        )
        self.coordinator, self.collection, self.retention = parts.coordinator, parts.collection, parts.retention
        self.handover, self.handover_serving = parts.handover, parts.handover_serving
        self.decisions = parts.decisions
        self.placement, self.custodies = self.coordinator.placement, self.coordinator._custodies
        self.rounds = self.placement._rounds
        place = Workplace(
            agent_id=self.name,
            streams=self.streams,
            runs=StoredRuns(self.store, world.wall),
            blobs=self.blobs,  # type: ignore[arg-type]
            sandboxes=self.engine,
            clock=clock,
            wall=world.wall,
            in_thread=maybeDeferred,  # type: ignore[arg-type]
            directory=self.directory / "runs",
            max_input=10**6,
            list_archive=_names,
            decisions=publisher,
        )
        self.executor = ExecutorService(
            place, self.profile, changed=self.placement.agents_changed, blocked_by=lambda: self.blocked_by
        )
        self.up = True
        self.streams.start()
        if self.ucxl is not None:
            self.wait(self.ucxl.startService())
        self.wait(self.journal.startService())
        self.wait(self.executor.startService())
        self.wait(self.coordinator.startService())
        self.decisions.start()
        self.collection.startService()
        self.handover_serving.start()
        if world.hearsay:
            # Elsewhere its rounds would go on for ever beside what a test looks at.
            self.handover.startService()
        self.retention.startService()
        world.settle()

    def _agents(self) -> list[Agent]:
        found = []
        for node in self.world.nodes.values():
            reachable = frozenset({node.peer, self.peer}) not in self.world.cuts
            if node.up and node.visible and (reachable or self.world.hearsay):
                profile = node.profile
                candidate = Candidate(
                    peer=str(node.peer),
                    role=profile.role,
                    expertise=frozenset(profile.expertise),
                    capabilities=frozenset(profile.capabilities),
                    current_tasks=node.executor.current_tasks,
                    max_tasks=profile.max_tasks,
                    available=not node.executor.draining,
                    reachable=reachable,
                )
                found.append(self.hearsay.get(node.name) or Agent(node.peer, node.name, candidate))
        return found

    def _ucxl(self, mesh: FakeMesh) -> UcxlService:
        ports = memory_ports(
            mesh,
            self.identity,
            store=self.store,
            blobs=self.blobs,
            clock=self.clock,
            wall=self.world.wall,  # type: ignore[arg-type]
        )
        return memory_service(ports)

    def kill(self) -> None:
        """kill -9: connections break, memory and timers are gone, disk and sandboxes stay."""
        self.up = False
        if self.memory is not None:
            self.memory.leave(self.peer)
        self.clock.kill()
        self.engine.killed()
        for pair in {each[0] for each in self.world.streams if self.peer in each[0]}:
            self.world.reset_streams(pair)
        self.store.close()

    def restart(self) -> None:
        self.start()
        for node in self.world.nodes.values():
            if node.up and node is not self:
                self.world.joined(self, node)

    def stop(self) -> None:
        self.retention.stopService()
        self.handover.stopService()
        self.handover_serving.stop()
        self.collection.stopService()
        self.coordinator.stopService()
        self.executor.stopService()
        if self.ucxl is not None:
            self.ucxl.stopService()
        self.streams.stop()
        self.journal.stopService()
        self.world.settle()
        self.store.close()
        self.up = False

    # what tests ask

    def wait(self, deferred: Deferred[Any]) -> Any:
        for _ in range(200):
            if deferred.called:
                break
            self.world.clock.advance(0)
        return self.world.case.successResultOf(deferred)

    def submit(self, *commands: str, **body: Any) -> str:
        document = self.wait(self.coordinator.submit({"commands": list(commands or ("true",)), **body}, "api"))
        self.world.settle()
        return str(document["id"])

    def refused(self, deferred: Deferred[Any]) -> Any:
        self.world.settle()
        return self.world.case.failureResultOf(deferred).value

    def show(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.wait(self.coordinator.get(task_id))
        return found

    def state(self, task_id: str) -> str:
        return str(self.show(task_id)["state"])

    def cancel(self, task_id: str) -> Any:
        document = self.wait(self.coordinator.cancel(task_id, "api", "enough"))
        self.world.settle()
        return document

    def history(self, task_id: str, after: int = 0) -> list[TaskEvent]:
        found: list[TaskEvent] = self.wait(StoredEvents(self.store).read(task_id, after, 10_000))
        return found

    def states(self, task_id: str) -> list[str]:
        return [str(event.data["state"]) for event in self.history(task_id) if event.type == "state"]

    def output(self, task_id: str, stream: str = "stdout") -> str:
        """As a watcher puts it together: text by offset, a new attempt begins anew."""
        text = b""
        for event in self.history(task_id):
            if event.type == "state" and event.data["state"] == "assigned":
                text = b""
            if event.type == "output" and event.data["stream"] == stream:
                assert event.data["offset"] == len(text), (event, text)
                text += str(event.data["text"]).encode()
        return text.decode()


def _names(path: Path) -> list[str]:
    if path.read_bytes() == b"bad":
        raise BadArchive("the archive is no archive")
    return ["go.mod"] if path.read_bytes() == b"go" else []


def spec(*commands: str) -> TaskSpec:
    return TaskSpec.parse({"commands": list(commands or ("true",))})


__all__ = ["EPOCH", "LEASE", "PROTOCOL", "Engine", "Node", "World", "missing", "partial", "spec", "unavailable"]
