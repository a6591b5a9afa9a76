"""Every protocol of a node loses its peer at each byte of a good session (spec/security.md 2.6, "Twisted"; 3.1).

Whatever the moment and whatever way it ends: every Deferred has fired, no timer and no stream is left, no error was
logged (trial fails a test that leaves one), and the next session is served. Admission and tasks have such tests among
their own (`test_admission`, `test_executor`); the connection below all of them in `tests/protocols`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred

from chorus.errors import ChorusError
from chorus.identity import Identity
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import blobs, identify, peers
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.gossipsub.encode import message_frame, subscription_frames
from chorus.protocols.gossipsub.params import MESHSUB_1_1
from chorus.protocols.gossipsub.sign import Signer
from chorus.protocols.perf import PerfResponder, upload
from chorus.protocols.ping import PingResponder, ping
from chorus.protocols.stream import ProtocolOptions, StreamReset
from chorus.protocols.streamio import StreamIO
from chorus.services.blobs.fetch import BlobUnavailable
from tests.protocols.gossip_network import identity as gossip_identity
from tests.protocols.stream_fakes import FakeStream
from tests.services.blobs.test_service import BlobCase, manifest_of, noise, sha
from tests.services.blobs.test_service import Node as BlobNode
from tests.services.discovery.test_service import IDENTITIES, DialableHost, DiscoveryTestCase, Heard, address_of
from tests.services.memory_host import MemoryConnection, MemoryHost, MemoryStream, connect
from tests.services.pubsub.test_service import TOPIC
from tests.services.pubsub.test_service import ServiceCase as PubSubCase
from tests.support import PureTestCase

ALICE = Identity.from_seed(b"\1" * 32)
ADDRESS = Multiaddr.tcp("192.0.2.1", 4001)


def delimited(message: bytes) -> bytes:
    return varint.encode(len(message)) + message


class Streams(PureTestCase):
    """Cores on one stream."""

    def cuts(self, session: bytes) -> Iterator[tuple[FakeStream, Callable[[], None]]]:
        """For every cut and every way to end: a stream, and what lets the bytes and then the end arrive on it."""
        for cut in range(len(session)):
            for how in ("eof", "reset"):
                stream = FakeStream()
                yield stream, lambda stream=stream, cut=cut, how=how: self.play(stream, session[:cut], how)

    def play(self, stream: FakeStream, data: bytes, how: str) -> None:
        if data:
            stream.arrive(data)
        if how == "eof":
            stream.arrive_eof()
        if not stream.was_reset:
            stream.end(None if how == "eof" else StreamReset())

    def test_identify_is_read(self) -> None:
        message = identify.build(ALICE.public_key, [ADDRESS], ["/a", "/b"], agent_version="v")
        for stream, play in self.cuts(delimited(message)):
            reading = Deferred.fromCoroutine(identify.read(StreamIO(stream, self.clock()), ALICE.peer_id))
            play()
            self.failureResultOf(reading, ChorusError)

    def test_ping_is_answered(self) -> None:
        for stream, play in self.cuts(bytes(range(96))):
            PingResponder(stream)
            play()
            self.assertEqual(len(stream.sent) % 32, 0)

    def test_ping_is_measured(self) -> None:
        for stream, play in self.cuts(bytes(32)):
            clock = self.clock()
            measuring = Deferred.fromCoroutine(ping(StreamIO(stream, clock), clock, bytes))
            play()
            self.failureResultOf(measuring, ChorusError)

    def test_perf(self) -> None:
        for stream, play in self.cuts((1000).to_bytes(8, "big") + bytes(24)):
            PerfResponder(stream)
            play()
        for stream, play in self.cuts(bytes(8)):
            uploading = Deferred.fromCoroutine(upload(StreamIO(stream, self.clock()), 100, bytes(30)))
            play()
            self.failureResultOf(uploading, ChorusError)


ENDS: dict[str, Callable[[MemoryStream, MemoryConnection], None]] = {
    "closed": lambda stream, connection: stream.close(),
    "reset": lambda stream, connection: stream.reset(),
    "connection lost": lambda stream, connection: connection.close(),
}


class Blobs(BlobCase):
    def setUp(self) -> None:
        super().setUp()
        self.node = BlobNode(self, 1)
        self.addCleanup(self.node.stop)

    def test_served(self) -> None:
        data = noise(1000)
        blob = self.successResultOf(self.node.blobs.put_bytes(data)).sha256
        session = delimited(blobs.ManifestRequest(blob).encode()) + delimited(blobs.ChunksRequest(blob, 0, 1).encode())
        for cut in range(len(session) + 1):
            for end in ENDS.values():
                client = MemoryHost(IDENTITIES[5].peer_id, self.fake)
                connection, _ = connect(client, self.node.host)
                stream = self.successResultOf(connection.open_stream([blobs.PROTOCOL]))
                stream.set_receiver(Heard())
                stream.write(session[:cut])
                self.run_for(0.05)
                if not stream.closed:
                    end(stream, connection)
                self.run_for(0.05)
                self.assertTrue(stream.other.closed, cut)
                self.assertEqual(self.node.blobs._server._streams, set(), cut)
                self.assertEqual(self.node.blobs._server._serving.total(), 0)

    def test_fetched(self) -> None:
        """The holder goes away in the middle of each byte of its answers; nothing of the blob stays but what counts."""
        data = noise(40)
        blob, manifest = sha(data), manifest_of(data).encode()
        answers = {
            "manifest": delimited(blobs.Answer("ok", len(manifest)).encode()) + manifest,
            "chunk": delimited(blobs.Answer("ok", len(data)).encode()) + data,
        }
        for which, answer in answers.items():
            for number, cut in enumerate(range(len(answer))):
                end = list(ENDS.values())[number % len(ENDS)]
                holder = MemoryHost(IDENTITIES[5].peer_id, self.fake)
                connection, _ = connect(self.node.host, holder)
                holder.register(blobs.PROTOCOL, self.holder(answers, which, cut, end, connection), ProtocolOptions())
                fetching = self.until(self.node.blobs.fetch(blob, 2**20, [holder.peer_id]), 120)
                self.failureResultOf(fetching, BlobUnavailable)
                connection.close()
                self.assertEqual(self.node.blobs._reserved, 0)
                self.assertNotIn(blob, self.node.files())

    def holder(
        self, answers: dict[str, bytes], which: str, cut: int, end: Any, connection: MemoryConnection
    ) -> Callable[[MemoryStream], None]:
        fake = self.fake

        class Holder(Heard):
            def __init__(self, stream: MemoryStream) -> None:
                super().__init__()
                self.stream = stream

            def data_received(self, data: bytes) -> None:
                self.data += data
                while self.data and len(self.data) > self.data[0]:
                    request, self.data = self.data[1 : 1 + self.data[0]], self.data[1 + self.data[0] :]
                    asked = "manifest" if isinstance(blobs.decode_request(request), blobs.ManifestRequest) else "chunk"
                    if asked == which:
                        self.stream.write(answers[asked][:cut])
                        fake.callLater(0.01, end, self.stream, connection)
                    elif not self.stream.closed:
                        self.stream.write(answers[asked])

        return lambda stream: stream.set_receiver(Holder(stream))


class Peers(DiscoveryTestCase):
    def test_asked(self) -> None:
        _, service = self.node(0)
        request = delimited(peers.encode_request())
        for cut in range(len(request) + 1):
            for end in ENDS.values():
                asker = DialableHost(IDENTITIES[7], self.time, self.network)
                connection = self.successResultOf(asker.dial(IDENTITIES[0].peer_id, [address_of(IDENTITIES[0])]))
                stream = self.successResultOf(connection.open_stream([peers.PROTOCOL]))
                stream.set_receiver(Heard())
                stream.write(request[:cut])
                self.wait(0.1)
                if not stream.closed:
                    end(stream, connection)
                self.wait(0.1)
                self.assertTrue(stream.other.closed, cut)
                connection.close()
        self.assertTrue(service.running)

    def test_answered(self) -> None:
        """The record is believed once its last byte has come, and never before."""
        record = PeerRecord(IDENTITIES[6].peer_id, 1, (address_of(IDENTITIES[6]),)).seal(IDENTITIES[6])
        answer = delimited(peers.encode_answer(record, [], 1, random.Random(1)))
        _, service = self.node(0)
        for cut in range(len(answer) + 1):
            end = list(ENDS.values())[cut % len(ENDS)]
            liar = DialableHost(IDENTITIES[6], self.time, self.network)

            def answer_with(stream: MemoryStream, cut: int = cut, end: Any = end) -> None:
                stream.set_receiver(Heard())
                stream.write(answer[:cut])
                self.time.callLater(0.05, end, stream, stream.connection)

            liar.register(peers.PROTOCOL, answer_with, ProtocolOptions())
            asked = service.counters["peers_asked"]
            self.successResultOf(liar.dial(IDENTITIES[0].peer_id, [address_of(IDENTITIES[0])]))
            self.wait(12)
            self.assertGreater(service.counters["peers_asked"], asked)
            target = service.targets._targets.get(IDENTITIES[6].peer_id)
            self.assertEqual(target is not None and target.record is not None, cut == len(answer), cut)
            liar.went_down()
            self.wait(0.1)


class PubSub(PubSubCase):
    def test_listening(self) -> None:
        node = self.node(1, TOPIC)
        publisher = gossip_identity(9)
        (subscribed,) = subscription_frames([(True, TOPIC)])
        message = message_frame(Signer(publisher).sign(TOPIC, b"data", (1).to_bytes(8, "big")))
        session = subscribed + message
        for cut in range(len(session) + 1):
            for end in ENDS.values():
                peer = MemoryHost(publisher.peer_id, self.time)
                peer.register(MESHSUB_1_1, lambda stream: stream.set_receiver(Heard()), ProtocolOptions())
                out, _ = connect(peer, node.host)
                stream = self.successResultOf(out.open_stream([MESHSUB_1_1]))
                stream.set_receiver(Heard())
                self.run_a_while(0)
                stream.write(session[:cut])
                self.run_a_while(0)
                end(stream, out)
                self.run_a_while(0)
                if not out.closed:
                    out.close()
                self.run_a_while(0)
                self.assertEqual(node.pubsub.peers(), [])
                self.assertEqual(len(node.heard), int(cut == len(session)), cut)
