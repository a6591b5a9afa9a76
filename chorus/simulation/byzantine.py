"""Members that break the rules: admitted like everybody, with a pub/sub service of their own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from twisted.internet.task import LoopingCall

from chorus.errors import ChorusError, PeerError
from chorus.identity import PeerId
from chorus.multiformats import varint
from chorus.protocols.delimited import DelimitedDecoder
from chorus.protocols.gossipsub.params import MAX_RPC, MESHSUB_1_1, PROTOCOLS
from chorus.protocols.gossipsub.sign import Signer
from chorus.protocols.proto import rpc_pb2 as pb
from chorus.protocols.stream import Connection, ProtocolOptions, Stream, StreamClosed
from chorus.simulation.node import SimNode, expected

if TYPE_CHECKING:
    from chorus.protocols.stream import Host
    from chorus.services.pubsub.service import PubSubService

INTERVAL: Final = 0.1
"""Seconds between two acts."""

KEPT: Final = 200
"""Messages that an attacker remembers."""


EQUIVOCAL: Final = b"equivocal "
"""How data begins of which there are two versions; they differ in the last byte alone."""


def delimited(rpc: pb.RPC) -> bytes:
    raw = rpc.SerializeToString()
    return varint.encode(len(raw)) + raw


def publication(message: pb.Message) -> bytes:
    return delimited(pb.RPC(publish=[message]))


class Attacker:
    """Stands where `PubSubService` does. Reads everything, says what its kind says."""

    greets: ClassVar[bool] = True
    """True if it announces the topics, so that others take it into their meshes."""
    idle: ClassVar[bool] = False
    """True if it takes a place in meshes and forwards nothing."""

    def __init__(self, host: Host, node: SimNode, rng: random.Random, topics: tuple[str, ...]) -> None:
        self.host = host
        self.node = node
        self.rng = rng
        self.topics = topics
        self.heard: list[bytes] = []
        """Serialised messages of others."""
        self._streams: dict[bytes, Stream] = {}
        self._loop = LoopingCall(self._act)
        self._loop.clock = node.reactor

    def startService(self) -> None:
        for protocol in PROTOCOLS:
            self.host.register(protocol, self._opened, ProtocolOptions(max_inbound_per_peer=4))
        self.host.watch_peers(self._joined, lambda connection: None)
        self._loop.start(INTERVAL, now=False).addErrback(self.node._failed)

    def stopService(self) -> None:
        if self._loop.running:
            self._loop.stop()

    def subscribe(self, topic: str, callback: object) -> None:
        """An attacker has no application."""

    def publish(self, topic: str, data: bytes) -> bytes:
        return b""

    def _opened(self, stream: Stream) -> None:
        stream.set_receiver(_Listening(self, stream))

    def _joined(self, connection: Connection) -> None:
        connection.open_stream([MESHSUB_1_1]).addCallbacks(self._speak, expected, callbackArgs=(connection,))

    def _speak(self, stream: Stream, connection: Connection) -> None:
        self._streams[connection.peer_id.raw] = stream
        stream.set_receiver(_Listening(self, stream))
        if self.greets:
            rpc = pb.RPC(subscriptions=[pb.RPC.SubOpts(subscribe=True, topicid=topic) for topic in self.topics])
            rpc.control.graft.extend(pb.ControlGraft(topicID=topic) for topic in self.topics)
            self.send(stream, delimited(rpc))

    def _act(self) -> None:
        self.begin()
        for raw, stream in list(self._streams.items()):
            if self.host.connection(PeerId(raw)) is not None:
                self.act(stream)

    def send(self, stream: Stream, data: bytes) -> None:
        try:
            stream.write(data)
        except StreamClosed:
            for raw in [raw for raw, known in self._streams.items() if known is stream]:
                del self._streams[raw]

    def send_message(self, stream: Stream, message: bytes) -> None:
        self.send(stream, publication(pb.Message.FromString(message)))

    def keep(self, message: bytes) -> None:
        if len(self.heard) < KEPT:
            self.heard.append(message)
        else:
            self.heard[self.rng.randrange(KEPT)] = message

    # Actions of each kind

    def begin(self) -> None:
        """Ten times a second, before it acts."""

    def act(self, stream: Stream) -> None:
        """Ten times a second for every peer."""

    def hears(self, rpc: pb.RPC, stream: Stream) -> None:
        """Somebody said something."""


class Silent(Attacker):
    """Takes connections and streams, and never says a word."""

    greets = False


class Selfish(Attacker):
    """Joins every mesh and passes nothing on."""

    idle = True


class SlowReader(Attacker):
    """Joins every mesh and stops reading."""

    idle = True

    def hears(self, rpc: pb.RPC, stream: Stream) -> None:
        stream.pause_reading()


class Flooding(Attacker):
    """GRAFT, IHAVE of ids that do not exist, IWANT of ids that nobody has: as much as fits."""

    def act(self, stream: Stream) -> None:
        rpc = pb.RPC()
        topic = self.rng.choice(self.topics)
        ids = [self.rng.randbytes(46) for _ in range(100)]
        rpc.control.ihave.append(pb.ControlIHave(topicID=topic, messageIDs=ids))
        rpc.control.iwant.append(pb.ControlIWant(messageIDs=ids))
        rpc.control.graft.extend(pb.ControlGraft(topicID=topic) for _ in range(10))
        self.send(stream, delimited(rpc))


class Replaying(Attacker):
    """Says again and again what others have said."""

    def hears(self, rpc: pb.RPC, stream: Stream) -> None:
        for message in rpc.publish:
            self.keep(message.SerializeToString())

    def act(self, stream: Stream) -> None:
        for message in self.rng.sample(self.heard, min(5, len(self.heard))):
            self.send_message(stream, message)


class WrongSignature(Replaying):
    """Speaks for others: signed with its own key, with noise, or with the signature of other data."""

    def act(self, stream: Stream) -> None:
        if not self.heard:
            return
        message = pb.Message.FromString(self.rng.choice(self.heard))
        kind = self.rng.randrange(4)
        message.seqno = self.rng.randbytes(8)
        if kind == 0:
            message.signature = self.rng.randbytes(64)
        elif kind == 1:
            message.data = message.data + b"!"
        elif kind == 2:
            message.ClearField("signature")
        else:
            own = Signer(self.node.identity).sign(message.topic, message.data, message.seqno)
            message.signature = pb.Message.FromString(own).signature
        self.send(stream, publication(message))


class Mutating(Replaying):
    """Passes on what it hears with bits turned over: in the message, in the RPC, or in its length."""

    def act(self, stream: Stream) -> None:
        if self.heard and self.rng.random() < 0.3:
            data = bytearray(publication(pb.Message.FromString(self.rng.choice(self.heard))))
            for _ in range(self.rng.randrange(1, 4)):
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            self.send(stream, bytes(data))


class Equivocating(Attacker):
    """Says one thing to some and another to others, both signed and under one number; to a few it says both."""

    def __init__(self, host: Host, node: SimNode, rng: random.Random, topics: tuple[str, ...]) -> None:
        super().__init__(host, node, rng, topics)
        self._signer = Signer(node.identity)
        # Above all numbers of earlier starts, so that they are not taken for replays.
        self._seqno = node.clock.wall_ns() + (node.starts << 50)
        self._versions: list[bytes] = []

    def begin(self) -> None:
        self._versions = []
        if self.rng.random() < 0.1:
            self._seqno += 1
            topic, seqno = self.rng.choice(self.topics), self._seqno.to_bytes(8, "big")
            about = EQUIVOCAL + self.node.peer_id.raw + seqno
            self._versions = [self._signer.sign(topic, about + version, seqno) for version in (b"+", b"-")]

    def act(self, stream: Stream) -> None:
        if self._versions:
            for version in self.rng.sample(self._versions, self.rng.choice((1, 1, 1, 2))):
                self.send_message(stream, version)


class SlowWriter(Attacker):
    """Begins an RPC and never ends it: one byte at a time."""

    greets = False

    def __init__(self, host: Host, node: SimNode, rng: random.Random, topics: tuple[str, ...]) -> None:
        super().__init__(host, node, rng, topics)
        self._begun: dict[Stream, None] = {}

    def act(self, stream: Stream) -> None:
        if stream not in self._begun:
            self._begun[stream] = None
            self.send(stream, varint.encode(100_000))
        elif self.rng.random() < 0.2:
            self.send(stream, self.rng.randbytes(1))


class Relaying(Attacker):
    """Asks for every topic and passes on all that it hears, of whatever topic and as often as it comes.

    Not against the protocol for who asked for the topic; for checkers, an honest node that passes on too much.
    """

    def hears(self, rpc: pb.RPC, stream: Stream) -> None:
        for message in rpc.publish:
            for other in list(self._streams.values()):
                self.send_message(other, message.SerializeToString())


KINDS: Final[dict[str, type[Attacker]]] = {
    "silent": Silent,
    "selfish": Selfish,
    "slow-reader": SlowReader,
    "flooding": Flooding,
    "replaying": Replaying,
    "wrong-signature": WrongSignature,
    "mutating": Mutating,
    "equivocating": Equivocating,
    "slow-writer": SlowWriter,
}


class ByzantineNode(SimNode):
    """A node whose pub/sub is an attacker's."""

    honest = False
    kind: type[Attacker] = Silent
    topics: tuple[str, ...] = ()

    def make_pubsub(self, host: Host, rng: Any) -> PubSubService:
        return cast("PubSubService", self.kind(host, self, rng, self.topics))


class _Listening:
    """Receiver of a stream: decodes RPCs and hands them to the attacker."""

    def __init__(self, attacker: Attacker, stream: Stream) -> None:
        self._attacker = attacker
        self._stream = stream
        self._decoder = DelimitedDecoder(MAX_RPC)

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while (raw := self._decoder.next_message()) is not None:
                self._attacker.hears(pb.RPC.FromString(raw), self._stream)
        except PeerError:
            self._stream.reset()

    def eof_received(self) -> None:
        self._stream.close()

    def stream_closed(self, error: ChorusError | None) -> None:
        """It tries again with the next connection."""

    def pause_writing(self) -> None:
        """An attacker does not wait."""

    def resume_writing(self) -> None:
        """Nothing waited."""
