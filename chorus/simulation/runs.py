"""One run: chaos with safety checks, then everything is healed and the mesh must do its work again.

A failure ends in `RunFailed`, whose last line is the command that replays it.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Final

import attrs

from chorus.protocols.gossipsub.params import GossipParams
from chorus.simulation import byzantine
from chorus.simulation.byzantine import ByzantineNode
from chorus.simulation.configuration import Configuration
from chorus.simulation.invariants.idle import IdleWatch
from chorus.simulation.invariants.memory import MemoryWatch
from chorus.simulation.invariants.messages import GossipWatch
from chorus.simulation.invariants.observers import ErrorWatch, Judge, Violated
from chorus.simulation.invariants.scores import ScoreWatch
from chorus.simulation.ledger.ledger import LedgerClient
from chorus.simulation.nemesis import Nemesis
from chorus.simulation.net.links import LARGE, SMALL, LinkQuality
from chorus.simulation.net.network import SimNet
from chorus.simulation.node import NodeOptions, SimNode
from chorus.simulation.trace import Trace
from chorus.simulation.traffic import StreamTraffic, Workload, check_buffers, check_stopped
from chorus.simulation.world import MILLISECOND, SECOND, World

TOPICS: Final = ("a", "b")

SETTLE: Final = 150.0
"""Seconds after healing until the mesh must be right: 40 s until a dead connection is noticed, 30 s of back-off between
dials, 60 s of back-off after a PRUNE, and a few heartbeats."""

BUSY: Final = 20.0
"""Seconds of these in which the nodes go on with what they did."""

BLAME: Final = 40.0
"""Seconds after healing in which nodes may still find that others brought nothing while there were faults: P3 looks
after 30 s in a mesh."""

DELIVER: Final = 15.0
"""Seconds in which a message must reach everybody after that: an IHAVE every heartbeat, a round trip, and the patience
of two more."""

STOP: Final = 20.0
"""Seconds in which a node must have stopped, with nothing left."""

CHECK_EVERY: Final = 100
"""Events between two looks at what was noted; the time of a violation is exact all the same."""

BOUNDS_EVERY: Final = SECOND

DEGREE: Final = 4
"""Neighbours that each node dials; about as many dial it."""

MAX_EVENTS: Final = 200_000
"""Events of one simulated second for each node, above which something runs in circles."""

AMPLIFICATION: Final = 1.0
"""Copies on the wire for one delivery may be `d_hi` times this, and a little for IWANT."""

TOGETHER: Final = 5.0
"""Messages a second that all nodes of tier C say together."""

LEDGERS: Final = 3
"""Nodes that keep a journal."""


class RunFailed(Exception):
    """The text ends with the line that replays the run."""

    def __init__(self, configuration: Configuration, invariant: str, detail: str) -> None:
        super().__init__(f"{detail}\npython -m chorus.simulation {configuration.arguments()}")
        self.configuration = configuration
        self.invariant = invariant


@attrs.frozen(kw_only=True)
class Report:
    """The work of a run that passed: a run in which nothing happened proves nothing."""

    configuration: Configuration
    trace: str
    simulated: float
    """Seconds."""
    cpu: float
    """Seconds of processor time."""
    events: int
    counts: Counter[str]

    def __str__(self) -> str:
        counted = " ".join(f"{name}={count}" for name, count in sorted(self.counts.items()) if count)
        rate = self.events / self.cpu if self.cpu else 0.0
        return (
            f"ok {self.configuration.arguments()}\n"
            f"   {self.simulated:.0f} s simulated in {self.cpu:.1f} s, {self.events} events ({rate:.0f}/s), "
            f"trace {self.trace}\n   {counted}"
        )


def quality(tier: str, world: World) -> LinkQuality:
    """One mix of delay, jitter, loss and rate for a whole run's links to be drawn around."""
    rng = world.rng("links")
    loss = rng.choice((0.0, 0.0, 0.01, 0.05)) if tier != "C" else 0.0
    return LinkQuality(
        delay=rng.randrange(1, 150) * MILLISECOND,
        jitter=rng.choice((0, 1, 20, 100)) * MILLISECOND if tier != "C" else 0,
        rate=rng.choice((0.0, 0.0, 1_000_000.0)) if tier == "A" else 0.0,
        loss=loss,
    )


class SimRun:
    """Everything of one run. `options` are for the checkers' own tests, and so are the two types."""

    node_type: type[SimNode] = SimNode
    ledger_type: type[LedgerClient] = LedgerClient

    def __init__(self, configuration: Configuration, **options: Any) -> None:
        self.configuration = configuration
        self.world = World(configuration.seed, shuffle_ties=True)
        self.trace = Trace()
        self.judge = Judge(self.world)
        tier = configuration.tier
        mean = quality(tier, self.world)
        self.net = SimNet(
            self.world,
            quality=lambda rng, one, other: attrs.evolve(mean, delay=int(mean.delay * (0.2 + rng.random()))),
            cutting=SMALL if tier == "A" else LARGE,
            trace=self.trace,
        )
        self.options = NodeOptions(**{"plain_security": tier == "C", "tapped": tier != "C"} | options)
        self.nodes = [self.make_node(number) for number in range(configuration.nodes)]
        self.attackers = [self._attacker(number, kind) for number, kind in enumerate(configuration.byzantine)]
        idle = IdleWatch(self.judge, self.nodes, [each for each in self.attackers if each.kind.idle])
        self.gossip = GossipWatch(self.judge, self.nodes, idle)
        self.scores = ScoreWatch(self.judge, self.nodes)
        self.memory = MemoryWatch(self.judge, self.nodes)
        self.streams = StreamTraffic(self.judge, self.world) if tier != "C" else None
        every = {"A": 2.0, "B": 8.0, "C": configuration.nodes / TOGETHER}[tier]
        self.conversation = Workload(
            self.gossip, self.streams, [*self.nodes], publish_every=every, stream_every=every * 1.5
        )
        self.ledgers: list[LedgerClient] = []
        self.operations = 0
        """Of clients of ledgers, whose histories were searched."""
        self.nemesis = Nemesis(self.world, self.net, self.nodes, configuration.faults, died=self._died)
        self._wire()

    def make_node(self, number: int) -> SimNode:
        return self.node_type(self.world, self.net, number, self.options)

    def _attacker(self, number: int, kind: str) -> ByzantineNode:
        node = ByzantineNode(self.world, self.net, self.configuration.nodes + number, self.options)
        node.kind = byzantine.KINDS[kind]
        node.topics = TOPICS
        return node

    def _wire(self) -> None:
        rng = self.world.rng("graph")
        everybody: list[SimNode] = [*self.nodes, *self.attackers]
        for place, node in enumerate(self.nodes):
            # A ring of the honest keeps them connected whatever the attackers do.
            others = [other for other in everybody if other is not node]
            drawn = rng.sample(others, min(DEGREE, len(others)))
            node.neighbours = list(dict.fromkeys([self.nodes[(place + 1) % len(self.nodes)], *drawn]))
            self.conversation.topics[node.number] = TOPICS[: 1 + (rng.random() < 0.5)] if place else TOPICS
            node.listen = self.gossip.listen
            node.when_started.append(self.conversation.attach)
        for attacker in self.attackers:
            attacker.neighbours = rng.sample(self.nodes, min(DEGREE, len(self.nodes)))
        for node in self.nodes[:LEDGERS] if self.configuration.tier == "A" else ():
            client = self.ledger_type(self.judge, node)
            self.ledgers.append(client)
            node.when_started.append(client.attach)

    def _died(self, node: SimNode) -> None:
        if self.streams is not None:
            self.streams.node_died(node)

    # The two phases

    def run(self) -> Report:
        """Raises `RunFailed`."""
        began = time.process_time()
        try:
            with ErrorWatch(self.judge) as errors:
                self._chaos()
                self._calm()
                self._stop()
                errors.collect()
            self.judge.check()
        except Violated as violated:
            violation = violated.violation
            raise RunFailed(self.configuration, violation.invariant, str(violation)) from None
        return self._report(time.process_time() - began)

    def _go(self, seconds: float) -> None:
        """Let time pass. A node that runs in circles is a violation too."""
        budget = int(MAX_EVENTS * max(1.0, seconds) * len(self.net.hosts()))
        if not self.world.run_until(self.world.now_ns + round(seconds * SECOND), budget):
            self.judge.accuse("whole.events", f"{budget} events in less than {seconds:g} s")
        self.judge.check()

    def _chaos(self) -> None:
        self.world.watch(self.judge.check, CHECK_EVERY)
        self._check_bounds()
        for node in [*self.nodes, *self.attackers]:
            # Machines do not start in the same instant.
            self.world.after(self.world.rng("start", node.number).randrange(SECOND), node.start)
        self.nemesis.start()
        self._go(self.configuration.seconds)

    def _check_bounds(self) -> None:
        check_buffers(self.judge, self.nodes)
        self.gossip.check_bounds(self.options.gossip.seen_entries)
        self.gossip.idle.look(TOPICS)
        self.memory.look()
        self.world.after(BOUNDS_EVERY, self._check_bounds)

    def _calm(self) -> None:
        self.nemesis.heal()
        for link in self.net.links():
            link.quality = attrs.evolve(link.quality, loss=0.0)
        self._go(BUSY)
        self.conversation.hush()
        for ledger in self.ledgers:
            ledger.hush()
        self._go(BLAME - BUSY)
        self._excuse()
        self._go(SETTLE - BLAME)
        self._check_meshes()
        self._check_scores()
        self._check_delivery()
        self.operations = sum(ledger.check() for ledger in self.ledgers)
        if self.streams is not None:
            self.streams.check_ended()
        self._check_amplification()

    def _check_meshes(self) -> None:
        params = GossipParams()
        for node in self.nodes:
            for topic in self.conversation.topics[node.number]:
                self._check_mesh(node, topic, params)

    def _check_mesh(self, node: SimNode, topic: str, params: GossipParams) -> None:
        mesh = node.pubsub.mesh_of(topic)
        honest = [
            other
            for other in self.nodes
            if topic in self.conversation.topics[other.number]
            and node.p2p.connection(other.peer_id) is not None
            and self._takes(other, node, topic, params.d_hi)
        ]
        least = min(params.d_lo, len(honest))
        self.judge.require(
            least <= len(mesh) <= params.d_hi,
            "gossip.mesh",
            lambda: f"{node} has {len(mesh)} in the mesh of {topic!r}; {least} to {params.d_hi} are right",
        )
        dialled = [peer for peer in mesh if (link := node.p2p.connection(peer)) is not None and not link.inbound]
        could = sum(1 for other in honest if not self._inbound(node, other))
        wanted = min(params.d_out, could) if len(mesh) >= params.d_lo else 0
        self.judge.require(
            len(dialled) >= wanted,
            "gossip.outbound",
            lambda: f"{node} has {len(dialled)} of the mesh of {topic!r} dialled itself, not {wanted}",
        )

    def _takes(self, other: SimNode, node: SimNode, topic: str, d_hi: int) -> bool:
        """A full mesh refuses whoever is not in it, who was pruned waits for the end of its backoff, and nobody grafts
        who has a score below 0: whether it may have one, `gossip.score` says."""
        mesh = other.pubsub.mesh_of(topic)
        if node.peer_id in mesh:
            return True
        return len(mesh) < d_hi and not any(
            one.pubsub.router.in_backoff(topic, another.peer_id.raw, one.reactor.seconds())
            or one.pubsub.router.score(another.peer_id.raw) < 0
            for one, another in ((node, other), (other, node))
        )

    def _excuse(self) -> None:
        self.scores.excuse()

    def _check_scores(self) -> None:
        self.scores.check()

    def _inbound(self, node: SimNode, other: SimNode) -> bool:
        connection = node.p2p.connection(other.peer_id)
        return connection is None or connection.inbound

    def _check_delivery(self) -> None:
        """A message of each of some nodes reaches every subscriber that is connected through other subscribers."""
        wanted: dict[bytes, set[int]] = {}
        for node in self.nodes[:20]:
            for topic in self.conversation.topics[node.number]:
                data = self.conversation.publish(node, topic)
                self.gossip.expect(data)
                wanted[data] = self._reachable(node, topic)
        self._go(DELIVER)
        for data, nodes in wanted.items():
            missing = sorted(nodes - self.gossip.reached[data])
            if missing:
                self.judge.accuse("gossip.delivery", f"{data[:20]!r} did not reach nodes {missing}")
        self.judge.check()

    def _reachable(self, node: SimNode, topic: str) -> set[int]:
        """Subscribers that are connected to the node through other subscribers."""
        members = {other.peer_id: other for other in self.nodes if topic in self.conversation.topics[other.number]}
        found, waiting = {node.number}, [node]
        while waiting:
            for connection in waiting.pop().p2p.connections():
                other = members.get(connection.peer_id)
                if other is not None and other.number not in found:
                    found.add(other.number)
                    waiting.append(other)
        return found - {node.number}

    def _check_amplification(self) -> None:
        deliveries, copies = self.gossip.deliveries, self.gossip.copies
        limit = GossipParams().d_hi * AMPLIFICATION * deliveries + 1000
        self.judge.require(
            copies <= limit, "whole.amplification", lambda: f"{copies} copies for {deliveries} deliveries"
        )

    def _stop(self) -> None:
        for node in [*self.nodes, *self.attackers]:
            if node.running:
                node.reactor.guard(node.stop)
        self._go(STOP)
        for node in [*self.nodes, *self.attackers]:
            check_stopped(self.judge, node)
        self.judge.check()

    def _report(self, cpu: float) -> Report:
        counts: Counter[str] = Counter()
        counts.update({f"fault.{name}": count for name, count in self.nemesis.counters.items()})
        counts.update({f"net.{name}": value for name, value in attrs.asdict(self.net.counters).items()})
        for node in self.nodes:
            counts.update({f"disk.{name}": count for name, count in node.disk.counters.items()})
        counts["starts"] = sum(node.starts for node in self.nodes)
        counts["deliveries"], counts["copies"] = self.gossip.deliveries, self.gossip.copies
        counts["gossip.replays_refused"] = sum(node.pubsub.router.counters.replays for node in self.nodes)
        counts["memory.most"] = self.memory.most
        counts["gossip.equivocal"], counts["gossip.places_lost"] = self.gossip.equivocal, self.gossip.idle.lost
        if self.streams is not None:
            counts["streams"], counts["streams.whole"] = self.streams.opened, self.streams.completed
        counts["ledger.operations"] = self.operations
        for ledger in self.ledgers:
            counts["ledger.unknown"] += ledger.clients.unknown
            counts["ledger.undecided"] += ledger.clients.undecided
            counts["ledger.acknowledged"] += ledger.watch.acknowledged
            counts["ledger.refused"] += ledger.watch.refused
        return Report(
            configuration=self.configuration,
            trace=self.trace.hexdigest(),
            simulated=self.world.now,
            cpu=cpu,
            events=self.world.events,
            counts=counts,
        )


def run(configuration: Configuration) -> Report:
    """Raises `RunFailed`."""
    return SimRun(configuration).run()
