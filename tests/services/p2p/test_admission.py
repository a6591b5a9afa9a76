from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from chorus.errors import ChorusError, LimitExceeded
from chorus.identity import Identity, PeerId
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.admission import (
    MAX_HELLO,
    PROTOCOL,
    SLOW_AFTER,
    TIME_LIMIT,
    AdmissionError,
    AdmissionTimeout,
    BadHello,
    Exchange,
    Reflected,
    Unanswered,
    WrongProof,
    slowness,
)
from chorus.protocols.stream import ProtocolNotSupported, ProtocolOptions
from chorus.services.cluster import NoCluster, WrongCluster
from chorus.services.p2p.admission import AdmissionService
from tests.services.memory_host import MemoryConnection, MemoryHost, MemoryStream, connect
from tests.support import PureTestCase

ALICE = Identity.from_seed(b"\1" * 32).peer_id
BOB = Identity.from_seed(b"\2" * 32).peer_id
SECRET = bytes(range(32))
CLUSTER = b"\7" * 32


class FakeCluster:
    def __init__(self, cluster_id: bytes | None = CLUSTER, secret: bytes = SECRET) -> None:
        self.cluster_id = cluster_id
        self.secret = secret

    def meet(self, theirs: bytes) -> None:
        if not theirs and self.cluster_id is None:
            raise NoCluster("none")
        if theirs and self.cluster_id is None:
            self.cluster_id = theirs
        elif theirs and theirs != self.cluster_id:
            raise WrongCluster("another")


class AdmissionServiceTests(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.hosts = {peer: MemoryHost(peer, self.time) for peer in (ALICE, BOB)}
        self.served: list[Deferred[None]] = []
        self.outgoing, self.incoming = self.connection()

    def connection(self) -> tuple[MemoryConnection, MemoryConnection]:
        ends = connect(self.hosts[ALICE], self.hosts[BOB])
        for end in ends:
            end.handshake_hash = hashlib.sha256(b"h").digest()
        return ends

    def service(self, peer: PeerId, cluster: FakeCluster | None = None) -> AdmissionService:
        service = AdmissionService(peer, cluster or FakeCluster(), self.time)
        if peer == BOB:
            self.hosts[BOB].register(
                PROTOCOL, lambda stream: self.served.append(service.serve(stream)), ProtocolOptions()
            )
        return service

    def run_turns(self, seconds: float = 0.1) -> None:
        self.time.pump([0.01] * int(seconds * 100))

    def raw(self) -> MemoryStream:
        """A stream of a peer that writes whatever it likes."""
        opened = self.successResultOf(self.outgoing.open_stream([PROTOCOL]))

        class Listener:
            def __init__(self) -> None:
                self.data = b""

            def data_received(self, data: bytes) -> None:
                self.data += data

            def eof_received(self) -> None: ...
            def stream_closed(self, error: ChorusError | None) -> None: ...
            def pause_writing(self) -> None: ...
            def resume_writing(self) -> None: ...

        opened.set_receiver(Listener())
        self.run_turns()
        return opened

    def test_members(self) -> None:
        alice, bob = self.service(ALICE), self.service(BOB)
        dialled = alice.dialer(self.outgoing)
        self.run_turns()
        self.assertIsNone(self.successResultOf(dialled))
        self.assertIsNone(self.successResultOf(self.served[0]))
        self.assertEqual((dict(alice.counters), dict(bob.counters)), ({"admitted": 1}, {"admitted": 1}))
        self.assertTrue(self.outgoing.streams[0].closed)

    def test_listener_answers_only_to_a_valid_proof(self) -> None:
        seen: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(seen.append)
        self.addCleanup(globalLogPublisher.removeObserver, seen.append)
        self.service(BOB)
        dialled = self.service(ALICE, FakeCluster(secret=bytes(16))).dialer(self.outgoing)
        self.run_turns()
        self.failureResultOf(self.served[0], WrongProof)
        self.assertEqual(bytes(self.incoming.streams[0].written), b"")
        self.incoming.close()
        error = self.failureResultOf(dialled, Unanswered).value
        self.assertIn("another CHORUS_CLUSTER_SECRET, or CHORUS_JOIN", str(error))
        levels = {entry["code"]: entry["log_level"].name for entry in seen if entry.get("event") == "peer.not_admitted"}
        self.assertEqual(levels, {"admission_wrong_proof": "info", "admission_unanswered": "warn"})

    def test_listener_that_does_not_know_the_secret(self) -> None:
        alice = self.service(ALICE)
        self.hosts[BOB].register(PROTOCOL, self.impostor, ProtocolOptions())
        dialled = alice.dialer(self.outgoing)
        self.run_turns()
        self.failureResultOf(dialled, WrongProof)
        self.assertEqual(alice.counters["admission_wrong_proof"], 1)

    def impostor(self, stream: MemoryStream) -> None:
        exchange = Exchange(bytes(16), False, self.incoming.handshake_hash, BOB, ALICE)
        hello = exchange.hello(CLUSTER)
        stream.write(varint.encode(len(hello)) + hello)

    def test_reflecting_listener(self) -> None:
        self.hosts[BOB].register(PROTOCOL, lambda stream: stream.set_receiver(Echo(stream)), ProtocolOptions())
        dialled = self.service(ALICE).dialer(self.outgoing)
        self.run_turns()
        self.failureResultOf(dialled, Reflected)

    def test_joining_node_learns_its_cluster(self) -> None:
        for dialler, listener in ((None, CLUSTER), (CLUSTER, None)):
            self.served.clear()
            self.outgoing, self.incoming = self.connection()
            mine, theirs = FakeCluster(dialler), FakeCluster(listener)
            self.service(BOB, theirs)
            dialled = self.service(ALICE, mine).dialer(self.outgoing)
            self.run_turns()
            self.successResultOf(dialled)
            self.successResultOf(self.served[0])
            self.assertEqual((mine.cluster_id, theirs.cluster_id), (CLUSTER, CLUSTER))

    def test_two_joining_nodes(self) -> None:
        self.service(BOB, FakeCluster(None))
        dialled = self.service(ALICE, FakeCluster(None)).dialer(self.outgoing)
        self.run_turns()
        self.failureResultOf(self.served[0], NoCluster)
        self.outgoing.close()
        self.failureResultOf(dialled, Unanswered)

    def test_another_cluster_with_the_same_secret(self) -> None:
        bob = self.service(BOB)
        dialled = self.service(ALICE, FakeCluster(b"\1" * 32)).dialer(self.outgoing)
        self.run_turns()
        self.failureResultOf(self.served[0], WrongCluster)
        self.assertEqual(bob.counters["wrong_cluster"], 1)
        self.outgoing.close()
        self.failureResultOf(dialled, Unanswered)

    def test_silent_peers(self) -> None:
        self.service(BOB)
        self.raw()
        self.run_turns(TIME_LIMIT + 0.1)
        self.failureResultOf(self.served[0], AdmissionTimeout)
        self.hosts[BOB].register(PROTOCOL, lambda stream: None, ProtocolOptions())
        dialled = self.service(ALICE).dialer(self.connection()[0])
        self.run_turns(TIME_LIMIT - 0.2)
        self.assertNoResult(dialled)
        self.run_turns(0.3)
        self.failureResultOf(dialled, AdmissionTimeout)

    def test_one_byte_a_second(self) -> None:
        """The limit is for the whole exchange, not for a read."""
        self.service(BOB)
        stream = self.raw()
        hello = Exchange(SECRET, True, self.outgoing.handshake_hash, ALICE, BOB).hello(CLUSTER)
        for byte in (bytes((len(hello),)) + hello)[:9]:
            stream.write(bytes((byte,)))
            self.run_turns(1.0)
        self.assertNoResult(self.served[0])
        self.run_turns(1.1)
        self.failureResultOf(self.served[0], AdmissionTimeout)

    def test_garbage(self) -> None:
        self.service(BOB)
        for data, error in (
            (b"GET / HTTP/1.1\r\n\r\n" + bytes(100), ChorusError),
            (b"\x05hello", BadHello),
            (b"\x00", BadHello),
            (varint.encode(MAX_HELLO + 1), LimitExceeded),
            (b"\xff" * 9, ChorusError),
            (varint.encode(2**62), LimitExceeded),
        ):
            self.outgoing, self.incoming = self.connection()
            self.served.clear()
            self.raw().write(data)
            self.run_turns(slowness(100) + 0.5)
            self.failureResultOf(self.served[0], error)

    def test_peer_without_admission(self) -> None:
        self.failureResultOf(self.service(ALICE).dialer(self.outgoing), ProtocolNotSupported)

    def test_failures_slow_the_next_exchange_of_that_address(self) -> None:
        bob = self.service(BOB)
        for _ in range(SLOW_AFTER + 2):
            self.outgoing, self.incoming = self.connection()
            self.raw().write(b"\x05hello")
            self.run_turns(slowness(100) + 0.5)
            self.failureResultOf(self.served.pop(), BadHello)
        wait = slowness(SLOW_AFTER + 2)
        self.assertEqual(bob.counters["admission_bad_hello"], SLOW_AFTER + 2)
        self.served.clear()
        dialled = self.service(ALICE).dialer(self.connection()[0])
        self.run_turns(wait - 0.1)
        self.assertNoResult(dialled)
        self.run_turns(0.3)
        self.successResultOf(dialled)
        self.outgoing, self.incoming = self.connection()
        self.incoming.remote_address = Multiaddr.tcp("192.0.2.1", 1)
        dialled = self.service(ALICE).dialer(self.outgoing)
        self.run_turns()
        self.successResultOf(dialled)

    def test_failures_are_counted_per_ipv6_network(self) -> None:
        self.service(BOB)
        for number in range(SLOW_AFTER):
            self.outgoing, self.incoming = self.connection()
            self.incoming.remote_address = Multiaddr.tcp(f"2001:db8::{number + 1:x}", 1)
            self.raw().write(b"\x05hello")
            self.run_turns(slowness(100) + 0.5)
            self.failureResultOf(self.served.pop(), BadHello)
        for host, slowed in (("2001:db8::ffff", True), ("2001:db8:0:1::1", False)):
            self.outgoing, self.incoming = self.connection()
            self.incoming.remote_address = Multiaddr.tcp(host, 1)
            dialled = self.service(ALICE).dialer(self.outgoing)
            self.run_turns(slowness(SLOW_AFTER) / 2)
            self.assertEqual(not dialled.called, slowed)
            self.run_turns(1)
            self.successResultOf(dialled)

    def test_connection_lost_at_each_point_leaves_nothing_pending(self) -> None:
        self.service(BOB)
        hello = Exchange(SECRET, True, self.outgoing.handshake_hash, ALICE, BOB).hello(CLUSTER)
        message = varint.encode(len(hello)) + hello
        for cut in range(len(message)):
            self.outgoing, self.incoming = self.connection()
            self.served.clear()
            stream = self.raw()
            stream.write(message[:cut])
            self.run_turns(0.02)
            self.outgoing.close()
            self.run_turns(0.02)
            self.failureResultOf(self.served[0])
        self.hosts[BOB].register(PROTOCOL, lambda stream: None, ProtocolOptions())
        self.outgoing, self.incoming = self.connection()
        dialled = self.service(ALICE).dialer(self.outgoing)
        self.run_turns()
        self.outgoing.close()
        self.failureResultOf(dialled, AdmissionError)


class Echo:
    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        self.stream.write(data)

    def eof_received(self) -> None: ...
    def stream_closed(self, error: ChorusError | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
