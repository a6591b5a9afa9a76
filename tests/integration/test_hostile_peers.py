"""Peers that mean harm, over real sockets, against a node in a process of its own.

During every attack a bystander's pings are answered and no turn of the reactor is long; after it the node holds no
more memory, connections, streams or timers than before, and has met no error of its own. Rows of the security checklist
give the tests their names; what one connection can do to another is tested without sockets in `tests/protocols`.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError, UserError
from twisted.internet.protocol import ClientFactory, ProcessProtocol, Protocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import TestCase

from chorus.identity import Identity, PeerId
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import identify, multistream, ping
from chorus.protocols.connection.core import Ends
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.dialing import DialError
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.proto.identify_pb2 import Identify
from chorus.protocols.stream import StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings

SCRIPT = Path(__file__).with_name("victim.py")
LONGEST_TURN = 0.25
"""Seconds of processor time, on a machine that verifies a signature in 40 µs: nobody is kept waiting for longer."""
GROWTH_KB = 24 * 1024
"""What an attack may leave behind in the node's resident memory: allocators keep some of what they once had."""

ANSWER_LIMIT = 60.0
"""Seconds in which the node must say how it is, or it stands still."""
WAIT_LIMIT = 60.0
"""Seconds for a state that the node must come to."""

DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + body


class VictimProcess(ProcessProtocol):
    def __init__(self) -> None:
        self._buffer = b""
        self.errors = b""
        self._answers: list[Deferred[dict[str, Any]]] = []
        self.ended: Deferred[None] = Deferred()
        self.ready = self._expect()

    def _expect(self) -> Deferred[dict[str, Any]]:
        answer: Deferred[dict[str, Any]] = Deferred()
        self._answers.append(answer)
        return answer

    def status(self) -> Deferred[dict[str, Any]]:
        return self._ask(b"status\n")

    def glance(self) -> Deferred[dict[str, Any]]:
        """What costs the node little to say, without `slowness` and with its garbage not yet collected."""
        return self._ask(b"glance\n")

    def _ask(self, line: bytes) -> Deferred[dict[str, Any]]:
        self.transport.write(line)
        return self._expect().addTimeout(ANSWER_LIMIT, reactor)

    def outReceived(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._answers.pop(0).callback(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        self.errors = (self.errors + data)[-20000:]

    def processEnded(self, reason: Any) -> None:
        for answer in self._answers:
            answer.errback(AssertionError(f"the node ended: {self.errors.decode()[-3000:]}"))
        self._answers.clear()
        self.ended.callback(None)


class RawPeer(Protocol):
    """A TCP peer that says what it is told to, and nothing else."""

    def __init__(self) -> None:
        self.received = 0
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)

    def say(self, data: bytes) -> None:
        """Nothing where the node has closed it already."""
        if self.connected:
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()


class HostilePeer(ConnectionProtocol):
    """Authenticates as it should, and then sends frames of its own making, deaf to what comes back."""

    deaf = False

    def dataReceived(self, data: bytes) -> None:
        if not self.deaf:
            super().dataReceived(data)

    def send(self, *frames: bytes) -> None:
        if self.transport is not None and self.transport.connected:
            self.transport.write(self._core._noise.seal([b"".join(frames)]))


class Attacker:
    """`ConnectionDelegate` of a hostile peer: serves nothing, keeps what it is told."""

    def __init__(self) -> None:
        self.secured: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def protocol_supported(self, connection: ConnectionProtocol, protocol: str) -> bool:
        return False

    def stream_opened(self, stream: Any) -> None:
        stream.reset()

    def connection_made(self, connection: ConnectionProtocol) -> None:
        """Nothing is counted here."""

    def connection_progressed(self, connection: ConnectionProtocol) -> None:
        """Nobody waits for room here."""

    def connection_secured(self, connection: ConnectionProtocol) -> None:
        self.secured.callback(None)

    def connection_closed(self, connection: ConnectionProtocol, error: Any) -> None:
        if not self.secured.called:
            self.secured.errback(error or AssertionError("closed before it was secured"))
        self.closed.callback(None)


class Connecting(ClientFactory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self.connected: Deferred[None] = Deferred()
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        reactor.callLater(0, self.connected.callback, None)
        return self._protocol

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.connected.errback(reason)


class HostileCase(TestCase):
    timeout = 240
    growth_kb = GROWTH_KB

    async def victim(self, *flags: str) -> None:
        self.node = VictimProcess()
        reactor.spawnProcess(self.node, sys.executable, [sys.executable, str(SCRIPT), *flags], env=os.environ)
        self.addCleanup(lambda: Deferred.fromCoroutine(self._stop_victim()))
        ready = await self.node.ready
        self.address = Multiaddr.parse(ready["addr"])
        self.port = self.address.tcp_endpoint()[1]
        self.peer_id = PeerId.parse(ready["peer_id"])
        self.bystander = self.host()
        await self.bystander.dial(self.peer_id, [self.address])
        self.round_trips: list[float] = []
        self._pinging = LoopingCall(self._ping)
        self._pinging.start(0.05)
        self.addCleanup(self._stop_pinging)
        await self.status_when(lambda status: status["admitted"] == 1 and bool(self.round_trips))
        self.before = await self.node.status()

    def _ping(self) -> Deferred[None]:
        return self.bystander.ping(self.peer_id).addCallbacks(self.round_trips.append, self._unanswered)

    def _unanswered(self, failure: Any) -> None:
        if self._pinging.running:
            self.round_trips.append(math.inf)

    def _stop_pinging(self) -> None:
        if self._pinging.running:
            self._pinging.stop()

    async def _stop_victim(self) -> None:
        self.node.transport.closeStdin()
        kill = reactor.callLater(30, lambda: self.node.transport.signalProcess("KILL"))
        await self.node.ended
        if kill.active():
            kill.cancel()

    def host(self) -> P2PService:
        host = P2PService(
            reactor, Identity.generate(), admission=OpenAdmission(), settings=HostSettings(open_mode=True)
        )
        host.startService()
        self.addCleanup(host.stopService)
        return host

    async def pause(self, seconds: float) -> None:
        await deferLater(reactor, seconds)

    async def raw(self) -> RawPeer:
        """Lost already where the node reset it before this process saw that it was connected."""
        peer = RawPeer()
        factory = Connecting(peer)
        reactor.connectTCP("127.0.0.1", self.port, factory)
        try:
            await factory.connected
        except ConnectError as error:
            if error.osError != errno.ECONNRESET:
                raise
            peer.lost.callback(None)
        else:
            self.addCleanup(peer.abort)
        return peer

    async def hostile(self, *, deaf: bool = True, others: int = 0) -> tuple[HostilePeer, Attacker]:
        """One more of them, beside the bystander and `others`."""
        attacker = Attacker()
        peer = HostilePeer(
            Ends(Identity.generate(), initiator=True),
            remote_address=self.address,
            clock=reactor,
            delegate=attacker,
        )
        factory = Connecting(peer)
        reactor.connectTCP("127.0.0.1", self.port, factory)
        await attacker.secured
        # The handshake's last message leaves at the end of this turn; what is sealed here comes after it.
        await self.pause(0)
        peer.deaf = deaf
        await self.status_when(lambda status: status["admitted"] == 2 + others, "the newcomer is admitted")
        self.addCleanup(lambda: Deferred.fromCoroutine(self._end(peer, attacker)))
        return peer, attacker

    async def _end(self, peer: HostilePeer, attacker: Attacker) -> None:
        if peer.transport is not None:
            peer.transport.abortConnection()
        await attacker.closed

    async def status_when(
        self,
        condition: Callable[[dict[str, Any]], bool],
        what: str = "what the test waits for",
        seconds: float = WAIT_LIMIT,
    ) -> dict[str, Any]:
        """The first glance that meets `condition`; fails when none does in time."""
        end = reactor.seconds() + seconds
        while not condition(status := await self.node.glance()):
            if reactor.seconds() > end:
                said = f"{str(status)[:1500]}\n{self.node.errors.decode()[-2000:]}"
                self.fail(f"not within {seconds:g} s: {what}; {said}")
            await self.pause(0.05)
        return status

    async def unharmed(self) -> dict[str, Any]:
        """The bystander was answered, nothing is left of the attackers, and a newcomer is welcome."""
        await self.status_when(
            lambda status: status["connections"] == 1 and status["streams"] <= self.before["streams"] + 4
        )
        status = await self.node.status()
        self.assertTrue(self.round_trips)
        self.assertNotIn(math.inf, self.round_trips, "each ping was answered")
        self.assert_short_turns(status)
        self.assertEqual(status["admitted"], 1)
        self.assertEqual(status["handshakes"], 0)
        self.assertEqual(status["bugs"], 0, self.node.errors.decode())
        self.assertNotIn(b"Traceback", self.node.errors)
        self.assertLess(status["rss_kb"], self.before["rss_kb"] + self.growth_kb)
        self.assertLess(status["timers"], self.before["timers"] + 5)
        self.assertLess(status["descriptors"], self.before["descriptors"] + 3)
        newcomer = self.host()
        await newcomer.dial(self.peer_id, [self.address])
        await newcomer.ping(self.peer_id)
        return status

    def assert_short_turns(self, status: dict[str, Any]) -> None:
        self.assertLess(status["longest_turn"], LONGEST_TURN * status["slowness"])


class BeforeTheHandshake(HostileCase):
    async def test_garbage(self) -> None:
        await self.victim()
        for _ in range(8):
            peers = await gatherResults([Deferred.fromCoroutine(self.raw()) for _ in range(20)])
            for peer in peers:
                peer.say(os.urandom(4000))
            await gatherResults([peer.lost for peer in peers])
        status = await self.unharmed()
        self.assertEqual(sum(status["closed"].values()), 160)

    async def test_good_beginnings_with_garbage_after_them(self) -> None:
        await self.victim()
        beginnings = (
            multistream.HEADER,
            multistream.HEADER + multistream.encode_message("/noise"),
            multistream.HEADER + multistream.encode_message("/noise") + b"\x00\x20" + bytes(32),
            multistream.HEADER + multistream.encode_message("/noise") + b"\x00\x20" + os.urandom(32),
        )
        for beginning in beginnings:
            peers = await gatherResults([Deferred.fromCoroutine(self.raw()) for _ in range(10)])
            for peer in peers:
                peer.say(beginning + b"\xff\xff" + os.urandom(70000))
            await gatherResults([peer.lost for peer in peers])
        status = await self.unharmed()
        self.assertEqual(sum(status["closed"].values()), 40)

    async def test_slow_and_silent_peers(self) -> None:
        """Half of them send a byte now and then, half nothing; all are gone after the time of a handshake."""
        await self.victim("--handshake", "5")
        peers = await gatherResults([Deferred.fromCoroutine(self.raw()) for _ in range(100)])
        offer = itertools.cycle(multistream.HEADER + multistream.encode_message("/noise"))

        def drip() -> None:
            byte = bytes([next(offer)])
            for peer in peers[:50]:
                peer.say(byte)

        dripping = LoopingCall(drip)
        dripping.start(0.2)
        self.addCleanup(lambda: dripping.running and dripping.stop())
        status = await self.status_when(lambda status: status["refused"].get("handshakes", 0) >= 30)
        self.assertLessEqual(status["handshakes"], 64)
        await gatherResults([peer.lost for peer in peers])
        dripping.stop()
        status = await self.unharmed()
        self.assertEqual(status["closed"]["handshake_timeout"], 64)

    async def test_another_peer_than_was_dialled(self) -> None:
        await self.victim()
        for _ in range(5):
            host = self.host()
            await self.assertFailure(host.dial(Identity.generate().peer_id, [self.address]), DialError)
        await self.unharmed()

    async def test_no_file_descriptors_left(self) -> None:
        await self.victim("--files", "64")
        peers = [RawPeer() for _ in range(200)]
        connectors = []
        for peer in peers:
            connecting = Connecting(peer)
            # What is over the backlog still waits when the test is over.
            connecting.connected.addErrback(lambda failure: failure.trap(UserError))
            connectors.append(reactor.connectTCP("127.0.0.1", self.port, connecting))
        status = await self.status_when(lambda status: status["descriptors"] >= 60, "hardly any is left")
        self.assertLessEqual(status["descriptors"], 64)
        for peer, connector in zip(peers, connectors, strict=True):
            if peer.transport is not None:
                peer.transport.abortConnection()
            elif connector.state == "connecting":
                connector.stopConnecting()
        await self.unharmed()


class Streams(HostileCase):
    def offers(self, first: int, count: int, protocol: str) -> bytes:
        offer = multistream.lazy_offer(protocol)
        return b"".join(frame(DATA, SYN, first + 2 * n, len(offer), offer) for n in range(count))

    async def test_cve_2022_23486_streams_without_end(self) -> None:
        await self.victim()
        peer, attacker = await self.hostile()
        for batch in range(40):
            peer.send(self.offers(1 + 200 * batch, 100, ping.PROTOCOL))
            await self.node.glance()
        await attacker.closed
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"limit_exceeded.refused_streams": 1})

    async def test_cve_2022_23487_connections_without_end(self) -> None:
        await self.victim()
        hosts = [self.host() for _ in range(150)]
        outcomes = []
        for start in range(0, 150, 25):
            dialling = [host.dial(self.peer_id, [self.address]) for host in hosts[start : start + 25]]
            for one in dialling:
                one.addBoth(outcomes.append)
            await gatherResults(dialling)
        # Those that became too many while they were set up are on their way out.
        status = await self.status_when(lambda status: status["connections"] <= 128, "the rest is closed")
        self.assertEqual(status["connections"], 128)
        self.assertGreaterEqual(status["refused"]["inbound_connections"], 22)
        await gatherResults([host.stopService() for host in hosts])
        await self.unharmed()

    async def test_cve_2022_23492_opened_and_never_negotiated(self) -> None:
        await self.victim()
        peer, attacker = await self.hostile()
        peer.send(b"".join(frame(UPDATE, SYN, 1 + 2 * n, 0) for n in range(5000)))
        await attacker.closed
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"limit_exceeded.yamux_refusals": 1})

    async def test_cve_2024_32984_opens_and_pings_and_never_reads(self) -> None:
        await self.victim()
        peer, attacker = await self.hostile()
        peer.transport.pauseProducing()
        body = bytes(32)
        stream = 1
        for _ in range(200):
            offer = multistream.lazy_offer(ping.PROTOCOL) + body * 100
            frames = [frame(DATA, SYN, stream + 2 * n, len(offer), offer) for n in range(5)]
            frames += [frame(PING, SYN, 0, n) for n in range(200)]
            stream += 10
            peer.send(*frames)
            await self.node.glance()
        status = await self.node.status()
        self.assertLess(status["rss_kb"], self.before["rss_kb"] + GROWTH_KB)
        peer.transport.resumeProducing()
        peer.transport.abortConnection()
        await attacker.closed
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"limit_exceeded.yamux_pings": 1})

    async def test_cve_2026_73568_length_bomb_then_silence(self) -> None:
        await self.victim()
        peer, attacker = await self.hostile()
        offer = multistream.lazy_offer(ping.PROTOCOL)
        peer.send(frame(DATA, SYN, 1, len(offer), offer), frame(DATA, 0, 1, 0xFFFFFFFF))
        await attacker.closed
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"yamux_protocol_error": 1})

    async def test_cve_2023_44487_rapid_reset(self) -> None:
        await self.victim()
        peer, attacker = await self.hostile()
        for batch in range(20):
            frames = []
            for number in range(500):
                stream = 1 + 2 * (500 * batch + number)
                frames += [frame(UPDATE, SYN, stream, 0), frame(UPDATE, RST, stream, 0)]
            peer.send(*frames)
        await attacker.closed
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"limit_exceeded.yamux_resets": 1})

    async def test_py_1414_ping_streams_and_floods(self) -> None:
        await self.victim()
        peer, attacker = await self.hostile()
        offer = multistream.lazy_offer(ping.PROTOCOL)
        peer.send(*(frame(DATA, SYN, stream, len(offer), offer) for stream in (1, 3, 5, 7)))
        for _ in range(100):
            for stream in (1, 3):
                peer.send(frame(DATA, 0, stream, 3200, bytes(3200)), frame(UPDATE, 0, stream, 3200))
            await self.node.glance()
        await self.status_when(lambda status: status["streams_refused"].get("inbound_streams_per_protocol") == 2)
        peer.transport.abortConnection()
        await attacker.closed
        await self.unharmed()


class Identifying(HostileCase):
    """What a peer says of itself, through pushes: the node reads them as it reads the answer to its own question."""

    async def push(self, connection: Any, message: bytes) -> StreamIO:
        stream = StreamIO(await connection.open_stream([identify.PUSH_PROTOCOL]), reactor)
        await stream.write(message)
        return stream

    def framed(self, message: Identify) -> bytes:
        encoded = message.SerializeToString()
        return varint.encode(len(encoded)) + encoded

    async def connected(self) -> tuple[P2PService, Any]:
        host = self.host()
        return host, await host.dial(self.peer_id, [self.address])

    async def gone(self, host: P2PService) -> None:
        while host._links:
            await self.pause(0.01)

    async def test_py_1415_a_length_without_end(self) -> None:
        await self.victim()
        for length in (2**62, identify.MAX_PART_BYTES + 1, 2**32):
            host, connection = await self.connected()
            await self.push(connection, varint.encode(length))
            await self.gone(host)
        host, connection = await self.connected()
        await self.push(connection, b"\xff" * 20)
        await self.gone(host)
        status = await self.unharmed()
        self.assertEqual(status["identify_failed"]["limit_exceeded.message_bytes"], 3)

    async def test_py_1415_a_hundred_pushes(self) -> None:
        await self.victim()
        _, connection = await self.connected()
        message = Identify(
            protocols=[f"/p/{n}" for n in range(200)],
            listenAddrs=[Multiaddr.tcp("127.0.0.1", n + 1).to_bytes() for n in range(100)],
        )
        for _ in range(100):
            await (await self.push(connection, self.framed(message))).finish()
        connection.close()
        await self.unharmed()

    async def test_go_3501_ten_parts_of_protocols(self) -> None:
        await self.victim()
        host, connection = await self.connected()
        parts = [self.framed(Identify(protocols=[f"/planted/{part}/{n}" for n in range(180)])) for part in range(10)]
        stream = await self.push(connection, b"".join(parts))
        stream.write_eof()
        await self.gone(host)
        status = await self.unharmed()
        self.assertEqual(status["identify_failed"]["limit_exceeded.identify_protocols"], 1)

    async def test_cve_2023_40583_records_of_strangers(self) -> None:
        await self.victim()
        before = await self.node.status()
        _, connection = await self.connected()
        for number in range(200):
            stranger = Identity.generate()
            record = PeerRecord(stranger.peer_id, number, (self.address,)).seal(stranger)
            await (await self.push(connection, self.framed(Identify(signedPeerRecord=record)))).finish()
        status = await self.status_when(lambda status: status["identify_failed"]["record_of_another"] >= 200)
        self.assertEqual(status["peers"], before["peers"] + 1)
        connection.close()
        await self.unharmed()

    async def test_cve_2026_40094_empty_lists(self) -> None:
        await self.victim()
        host, connection = await self.connected()
        identity = Identity.generate()
        empty_record = PeerRecord(identity.peer_id, 1, ()).seal(identity)
        for message in (
            Identify(),
            Identify(listenAddrs=[b""], protocols=[""]),
            Identify(signedPeerRecord=empty_record),
        ):
            await (await self.push(connection, self.framed(message))).finish()
        await host.ping(self.peer_id)
        stream = StreamIO(await connection.open_stream([identify.PUSH_PROTOCOL]), reactor)
        stream.write_eof()
        await self.gone(host)
        await self.unharmed()

    async def test_another_peers_key(self) -> None:
        await self.victim()
        host, connection = await self.connected()
        stream = await self.push(
            connection, self.framed(Identify(publicKey=Identity.generate().public_key.to_protobuf()))
        )
        stream.write_eof()
        await self.gone(host)
        status = await self.unharmed()
        self.assertEqual(status["identify_failed"]["bad_identify"], 1)

    async def test_slow_push(self) -> None:
        """A push that never ends is given up after its time limit, with the connection that sent it."""
        await self.victim()
        host, connection = await self.connected()
        stream = await self.push(connection, b"\x20")
        with self.assertRaises(StreamClosed):
            sent = 0
            while True:
                await stream.write(b"x" if sent < 5 else b"")
                sent += 1
                await self.pause(0.1)
        await self.gone(host)
        await self.unharmed()
