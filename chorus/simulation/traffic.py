"""Traffic of a run: streams of known bytes between pairs, and messages on topics.

Also the invariants of streams: bytes out are bytes in, in order; every stream ends, once, at both ends; buffers stay
within their bounds.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from chorus.errors import ChorusError
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.stream import ProtocolOptions, Stream, StreamClosed
from chorus.protocols.yamux.frames import YamuxLimits
from chorus.simulation.invariants.messages import GossipWatch
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.node import expected
from chorus.simulation.world import World

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from chorus.services.pubsub.topics import Received
    from chorus.simulation.node import SimNode

PROTOCOL: Final = "/chorus/simulation/1.0.0"

LARGEST: Final = 150_000
"""Bytes of one stream: more than half of its first window, so that credit matters."""

STREAM_PAUSE: Final = 3.0
"""Seconds at most that a slow reader leaves its stream unread."""


def content(world: World, token: int) -> bytes:
    """The bytes of stream `token`: known at both ends without being sent beside it."""
    rng = world.rng("stream", token)
    return rng.randbytes(rng.choice((1, 100, 5_000, rng.randrange(1, LARGEST))))


class StreamTraffic:
    """Opens streams and checks what arrives. `token` 4 bytes ‖ content, then the end of the stream, each way."""

    def __init__(self, judge: Judge, world: World) -> None:
        self.judge = judge
        self.world = world
        self.opened = 0
        self.completed = 0
        """Streams whose whole content arrived."""
        self.bytes = 0
        self.live: dict[Endpoint, None] = {}
        self._tokens = 0

    def serve(self, node: SimNode) -> None:
        options = ProtocolOptions(max_inbound_per_peer=64)
        node.p2p.register(PROTOCOL, lambda stream: Endpoint(self, node, stream, None).begin(), options)

    def open(self, node: SimNode, other: SimNode) -> None:
        """One stream, if the two are connected now."""
        self._tokens += 1
        token = self._tokens

        def opened(stream: Stream) -> None:
            self.opened += 1
            Endpoint(self, node, stream, token).begin()

        node.p2p.open_stream(other.peer_id, [PROTOCOL]).addCallbacks(opened, expected)

    def node_died(self, node: SimNode) -> None:
        """Its ends hear nothing any more."""
        for end in [end for end in self.live if end.node is node]:
            del self.live[end]

    def check_ended(self) -> None:
        for end in self.live:
            self.judge.accuse("transport.ends", f"{end} has not ended")


class Endpoint:
    """One end of a stream. The opener sends its token first; who accepts sends the same content back."""

    def __init__(self, traffic: StreamTraffic, node: SimNode, stream: Stream, token: int | None) -> None:
        self.node = node
        self._traffic = traffic
        self._stream = stream
        self._token = token
        self._ended = False
        self._header = b""
        self._expected = content(traffic.world, token) if token is not None else b""
        self._position = 0
        self._to_send = b""
        self._eof = False
        self._writable = True
        self._rng: random.Random = traffic.world.rng("end", node.number, traffic.opened, stream.inbound)

    def __repr__(self) -> str:
        return f"<stream {self._token} of {self.node}, {'accepted' if self._stream.inbound else 'opened'}>"

    def begin(self) -> None:
        self._traffic.live[self] = None
        self._stream.set_receiver(self)
        if self._token is not None and not self._ended:
            self._send(self._token.to_bytes(4, "big") + self._expected)

    def _send(self, data: bytes) -> None:
        self._to_send = data
        self._pour()

    def _pour(self) -> None:
        try:
            while self._to_send and self._writable and not self._ended:
                size = self._rng.randrange(1, 40_000)
                part, self._to_send = self._to_send[:size], self._to_send[size:]
                self._stream.write(part)
            if not self._to_send and not self._eof and not self._ended:
                self._eof = True
                self._stream.write_eof()
        except StreamClosed:
            self._to_send = b""

    # StreamReceiver

    def data_received(self, data: bytes) -> None:
        if self._token is None:
            data = self._take_token(data)
        start = self._position
        self._position += len(data)
        self._traffic.bytes += len(data)
        self._traffic.judge.require(
            self._expected[start : self._position] == data,
            "transport.bytes",
            lambda: f"{self} got {len(data)} other bytes than were written, from byte {start}",
        )
        if self._rng.random() < 0.02:
            self._stream.pause_reading()
            self.node.reactor.callLater(self._rng.random() * STREAM_PAUSE, self._stream.resume_reading)

    def _take_token(self, data: bytes) -> bytes:
        self._header += data
        if len(self._header) < 4:
            return b""
        self._token = int.from_bytes(self._header[:4], "big")
        data, self._header = self._header[4:], b""
        if self._token > self._traffic._tokens:
            self._traffic.judge.accuse("transport.bytes", f"{self} has a token that nobody sent")
            return b""
        self._expected = content(self._traffic.world, self._token)
        self._send(self._expected)
        return data

    def eof_received(self) -> None:
        self._traffic.judge.require(
            self._position == len(self._expected) and self._token is not None,
            "transport.bytes",
            lambda: f"{self} ended after {self._position} of {len(self._expected)} bytes",
        )
        self._traffic.completed += 1

    def stream_closed(self, error: ChorusError | None) -> None:
        self._traffic.judge.require(not self._ended, "transport.ends", lambda: f"{self} ended twice")
        self._ended = True
        self._traffic.live.pop(self, None)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._pour()


class Workload:
    """A node's ordinary life: it hears its topics, publishes now and then, and opens streams to its peers."""

    def __init__(
        self,
        gossip: GossipWatch,
        streams: StreamTraffic | None,
        nodes: list[SimNode],
        *,
        publish_every: float,
        stream_every: float,
    ) -> None:
        self._gossip = gossip
        self._streams = streams
        self._nodes = nodes
        self._publish_every = publish_every
        self._stream_every = stream_every
        self.topics: dict[int, tuple[str, ...]] = {}
        """By node; the others hear nothing."""
        self._quiet = False
        self._timers: dict[tuple[int, str], IDelayedCall] = {}
        self._count = 0

    def attach(self, node: SimNode) -> None:
        """Called at each start of the node."""
        for topic in self.topics.get(node.number, ()):
            self._gossip.joined(node, topic)
            node.pubsub.subscribe(topic, lambda received: self._received(node, received))
        if self._streams is not None:
            self._streams.serve(node)
        rng = node.world.rng("conversation", node.number, node.starts)
        self._again(node, rng, "publish")
        if self._streams is not None:
            self._again(node, rng, "open")

    def hush(self) -> None:
        """From now on they only listen."""
        self._quiet = True
        timers, self._timers = self._timers, {}
        for timer in timers.values():
            if timer.active():
                timer.cancel()

    def _again(self, node: SimNode, rng: random.Random, what: str) -> None:
        every = self._publish_every if what == "publish" else self._stream_every
        if not self._quiet:
            self._timers[node.number, what] = node.reactor.callLater(
                rng.expovariate(1 / every), self._turn, node, rng, what
            )

    def _turn(self, node: SimNode, rng: random.Random, what: str) -> None:
        if what == "publish":
            self._publish(node, rng)
        else:
            self._open(node, rng)
        self._again(node, rng, what)

    def _received(self, node: SimNode, received: Received) -> None:
        self._gossip.delivered(node, received)
        node.net.record(node.number, "delivered", received.id)

    def _publish(self, node: SimNode, rng: random.Random) -> None:
        topics = self.topics.get(node.number, ())
        if topics:
            self.publish(node, rng.choice(topics), rng.randrange(1, 2000))

    def publish(self, node: SimNode, topic: str, size: int = 0) -> bytes:
        """Returns the data: unique in the run."""
        self._count += 1
        data = f"{node.number}:{self._count}:".encode() + bytes(size)
        self._gossip.published(node, topic, data)
        node.pubsub.publish(topic, data)
        return data

    def _open(self, node: SimNode, rng: random.Random) -> None:
        assert self._streams is not None
        self._streams.open(node, rng.choice(self._nodes))


def check_buffers(judge: Judge, nodes: list[SimNode]) -> None:
    """A connection holds no more than the budgets of its multiplexer, a node no more than the host's."""
    limits = YamuxLimits()
    bound = limits.receive_budget + limits.send_budget
    for node in nodes:
        if not node.running:
            continue
        total = 0
        for connection in node.p2p.connections():
            assert isinstance(connection, ConnectionProtocol)
            held = connection.buffered
            total += held
            if held > bound:
                judge.accuse("transport.buffered", f"{node} holds {held} bytes of {connection}")
        if total > node.options.limits.max_buffered + bound:
            judge.accuse("transport.buffered", f"{node} holds {total} bytes in all")


def check_stopped(judge: Judge, node: SimNode) -> None:
    """After a stop nothing is left: no timers, no sockets."""
    calls = list(node.reactor.getDelayedCalls())
    judge.require(
        not calls, "transport.timers", lambda: f"{node} has stopped and left {len(calls)} timers: {calls[:3]}"
    )
    sockets = list(node.host.transports)
    judge.require(not sockets, "transport.timers", lambda: f"{node} has stopped and left sockets: {sockets[:3]}")
