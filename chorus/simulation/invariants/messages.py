"""Pub/sub's invariants: what the application of each honest node sees, and what honest nodes say to each other.

The view of the wire is the official protobuf's, not the router's own decoder.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from chorus.errors import PeerError
from chorus.identity import PeerId
from chorus.protocols.delimited import DelimitedDecoder
from chorus.protocols.gossipsub.params import MAX_RPC
from chorus.protocols.proto import rpc_pb2 as pb
from chorus.simulation.byzantine import EQUIVOCAL
from chorus.simulation.invariants.idle import IdleWatch
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.tap import Sink
from chorus.simulation.world import SECOND

if TYPE_CHECKING:
    from chorus.services.pubsub.topics import Received
    from chorus.simulation.node import SimNode

MESH_CONTROL_A_HEARTBEAT: Final = 20
"""GRAFT and PRUNE entries of one honest node to one peer, for its few topics here."""

BURST: Final = 5
"""Heartbeats that the counts of control may be ahead: greetings, and a router that was started just now."""


class GossipWatch:
    """`joined` and `published` are told what nodes do; `delivered` and `listen` are called by the nodes."""

    def __init__(self, judge: Judge, nodes: list[SimNode], idle: IdleWatch) -> None:
        self._judge = judge
        self._nodes = {node.peer_id.raw: node for node in nodes}
        self._subscribed: dict[int, set[str]] = {}
        """Every topic that a node has ever asked for."""
        self._published: dict[tuple[bytes, str, bytes], int] = {}
        self._seen: dict[tuple[int, int, bytes], int] = {}
        """When a node, in one of its starts, got a message."""
        self._versions: dict[tuple[int, int, bytes], bytes] = {}
        """The version of an equivocating publisher's message that a node got, in one of its starts."""
        self.equivocal = 0
        """Deliveries of one version of two."""
        self.idle = idle
        self.deliveries = 0
        self.copies = 0
        """Messages in the RPCs of honest nodes, as they arrived at honest nodes."""
        self.latencies: list[float] = []
        """Seconds from publishing to each delivery."""
        self.reached: dict[bytes, set[int]] = {}
        """Message data → nodes that got it; only for those asked for by `expect`."""

    def joined(self, node: SimNode, topic: str) -> None:
        self._subscribed.setdefault(node.number, set()).add(topic)

    def published(self, node: SimNode, topic: str, data: bytes) -> None:
        self._published[node.peer_id.raw, topic, data] = node.world.now_ns

    def expect(self, data: bytes) -> None:
        self.reached[data] = set()

    # The application's view

    def delivered(self, node: SimNode, received: Received) -> None:
        judge = self._judge
        self.deliveries += 1
        key = (node.number, node.starts, received.id)
        self._check_once(node, key)
        if received.data.startswith(EQUIVOCAL):
            self._check_version(node, received.data)
        judge.require(
            received.topic in self._subscribed.get(node.number, ()),
            "gossip.unsubscribed",
            lambda: f"{node} got a message of {received.topic!r}, which it never asked for",
        )
        self._check_origin(node, received.from_peer.raw, received.topic, received.data)
        at = self._published.get((received.from_peer.raw, received.topic, received.data))
        if at is not None:
            self.latencies.append((node.world.now_ns - at) / SECOND)
        if received.data in self.reached:
            self.reached[received.data].add(node.number)

    def _check_once(self, node: SimNode, key: tuple[int, int, bytes]) -> None:
        before, self._seen[key] = self._seen.get(key), node.world.now_ns
        if before is None:
            return
        age = (node.world.now_ns - before) / SECOND
        remembered = age < node.options.gossip.seen_ttl - 1
        self._judge.accuse(
            "gossip.once" if remembered else "gossip.replay", f"{node} got {key[2].hex()} again, {age:.0f} s later"
        )

    def _check_version(self, node: SimNode, data: bytes) -> None:
        """Of two versions under one number a node's application sees one at most, whatever the router names them."""
        self.equivocal += 1
        known = self._versions.setdefault((node.number, node.starts, data[:-1]), data)
        self._judge.require(
            known == data, "gossip.equivocation", lambda: f"{node} got {known!r} and {data!r} under one number"
        )

    def _check_origin(self, node: SimNode, origin: bytes, topic: str, data: bytes) -> None:
        """A message in the name of one of our nodes is one that it published."""
        self._judge.require(
            origin not in self._nodes or (origin, topic, data) in self._published,
            "gossip.signature",
            lambda: f"{node} took {data[:40]!r} of {topic!r} as {self._nodes[origin]}'s, who never published it",
        )

    # The wire's view

    def listen(self, node: SimNode, peer: PeerId) -> Sink:
        speaker = self._nodes.get(peer.raw)
        if speaker is None or not speaker.honest:
            return lambda data: None
        return _Ear(self, node, speaker).hear

    def check_message(self, node: SimNode, speaker: SimNode, message: pb.Message) -> None:
        origin, topic = getattr(message, "from"), message.topic
        self.copies += 1
        self.idle.heard(node, speaker, message)
        if origin == speaker.peer_id.raw:
            return
        self._judge.require(
            topic in self._subscribed.get(speaker.number, ()),
            "gossip.unsubscribed",
            lambda: f"{speaker} passed on a message of {topic!r}, which it never asked for",
        )
        self._check_origin(speaker, origin, topic, message.data)

    def check_control(self, speaker: SimNode, counts: Counter[str], since: int) -> None:
        """The counts are of all that came on one stream, so delays and pauses only make them smaller."""
        params = speaker.options.gossip
        beats = (speaker.world.now_ns - since) / SECOND / params.heartbeat + BURST
        limits = {
            "ihave": beats * params.max_ihave_messages,
            "ids": beats * params.max_ihave_length * 2,
            "mesh": beats * MESH_CONTROL_A_HEARTBEAT,
        }
        for name, limit in limits.items():
            if counts[name] > limit:
                detail = f"{speaker} sent {counts[name]} {name} where {limit:.0f} are legal"
                self._judge.accuse("gossip.control_rate", detail)

    # Between events

    def check_bounds(self, seen_entries: int) -> None:
        """The seen cache of each honest node is within its bound."""
        for node in self._nodes.values():
            if node.honest and node.running:
                size = node.pubsub.router.held().seen
                if size > seen_entries:
                    self._judge.accuse("gossip.seen", f"{node} remembers {size} ids")


class _Ear:
    """Hears one stream of one honest node."""

    def __init__(self, watch: GossipWatch, node: SimNode, speaker: SimNode) -> None:
        self._watch = watch
        self._node = node
        self._speaker = speaker
        self._since = speaker.started_ns
        self._decoder = DelimitedDecoder(MAX_RPC)
        self._counts: Counter[str] = Counter()

    def hear(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while (raw := self._decoder.next_message()) is not None:
                self._take(pb.RPC.FromString(raw))
        except (PeerError, DecodeError) as error:
            self._watch._judge.accuse("gossip.form", f"{self._speaker} sent what is no RPC: {error}")

    def _take(self, rpc: pb.RPC) -> None:
        for message in rpc.publish:
            self._watch.check_message(self._node, self._speaker, message)
        control, counts = rpc.control, self._counts
        if not rpc.HasField("control"):
            return
        counts["ihave"] += bool(control.ihave)
        counts["ids"] += sum(len(ihave.messageIDs) for ihave in control.ihave)
        counts["ids"] += sum(len(iwant.messageIDs) for iwant in control.iwant)
        counts["mesh"] += len(control.graft) + len(control.prune)
        self._watch.check_control(self._speaker, counts, self._since)
