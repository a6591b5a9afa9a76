"""Hosts on real sockets, loopback."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from chorus.errors import PeerError
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import perf, ping
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.dialing import DialError
from chorus.protocols.limits import HostLimits
from chorus.protocols.stream import Connection, ProtocolNotSupported, ProtocolOptions, Stream, StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p import gate as p2p_gate
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.listener import CannotListen
from tests.services.p2p_support import HostCase

LOOPBACK = Multiaddr.tcp("127.0.0.1", 0)


class Connecting(HostCase):
    async def test_dial_identify_and_ping_in_both_directions(self) -> None:
        one, two = self.host(), self.host()
        joined: dict[str, list] = {"one": [], "two": []}
        left: dict[str, list] = {"one": [], "two": []}
        one.watch_peers(joined["one"].append, left["one"].append)
        two.watch_peers(joined["two"].append, left["two"].append)
        connection = await self.dial(one, two)
        self.assertEqual(connection.peer_id, two.peer_id)
        self.assertTrue(connection.admitted)
        await self.until(lambda: joined["one"] and joined["two"])
        self.assertEqual(joined["one"], [connection])
        self.assertEqual(one.protocols_of(two.peer_id), set(two.protocols()))
        self.assertEqual(two.protocols_of(one.peer_id), set(one.protocols()))
        self.assertEqual(two.peers.addresses(one.peer_id, reactor.seconds()), one.bound_addresses())
        for here, there in ((one, two), (two, one)):
            self.assertLess(await here.ping(there.peer_id), 5)
            self.assertIsNotNone(here.latency(there.peer_id))
        self.assertIs(await self.dial(one, two), connection)
        connection.close()
        await self.until(lambda: left["one"] and left["two"])
        self.assertEqual((one.connections(), two.connections()), ([], []))
        self.assertEqual((one._links, two._links), ({}, {}))
        self.assertEqual((one._counts.outbound, two._counts.inbound), (0, 0))

    async def test_concurrent_dials_are_one(self) -> None:
        one, two = self.host(), self.host()
        connections = await gatherResults([self.host_dial(one, two) for _ in range(10)])
        self.assertEqual(len(set(connections)), 1)
        self.assertEqual(one.counters.tcp.dialled, 1)

    def host_dial(self, one: P2PService, two: P2PService) -> Deferred[Connection]:
        return one.dial(two.peer_id, two.bound_addresses())

    async def test_simultaneous_dials_leave_one_connection_and_both_succeed(self) -> None:
        for _ in range(10):
            one, two = self.host(), self.host()
            at_one, at_two = await gatherResults([self.host_dial(one, two), self.host_dial(two, one)])
            self.assertFalse(at_one is None or at_two is None)
            await self.until(lambda one=one, two=two: len(one._links) == len(two._links) == 1)
            self.assertEqual(one.connections()[0].handshake_hash, two.connections()[0].handshake_hash)
            dialled_by_smaller = one.peer_id < two.peer_id
            superseded = one.counters.superseded + two.counters.superseded
            if superseded:
                self.assertEqual(one.connections()[0].inbound, not dialled_by_smaller)
            self.assertLess(await one.ping(two.peer_id), 5)

    async def test_a_peer_that_comes_back_replaces_its_old_connection(self) -> None:
        secret = Identity.generate()
        two = self.host()
        first = self.host(identity=secret)
        await self.dial(first, two)
        await self.until(two.connections)
        old = two.connections()[0]
        again = self.host(identity=secret)
        await self.dial(again, two)
        await self.until(lambda: two.connections() and two.connections()[0] is not old)
        self.assertLess(await again.ping(two.peer_id), 5)

    async def test_what_is_dialled_is_who_was_meant(self) -> None:
        one, two, three = self.host(), self.host(), self.host()
        error = await self.assertFailure(one.dial(three.peer_id, two.bound_addresses()), DialError)
        self.assertIn(str(two.peer_id), str(error))
        self.assertEqual(one.counters.tcp.failed["peer_id_mismatch"], 1)
        await self.until(lambda: not one._links and not two._links)

    async def test_dialling_oneself_is_refused(self) -> None:
        one = self.host()
        await self.assertFailure(one.dial(one.peer_id, one.bound_addresses()), DialError)
        await self.assertFailure(one.dial(None, one.bound_addresses()), DialError)
        self.assertEqual(one.counters.tcp.failed["self_dial"], 1)

    async def test_dial_without_a_peer_id_takes_who_is_there(self) -> None:
        one, two = self.host(), self.host()
        connection = await one.dial(None, two.bound_addresses())
        self.assertEqual(connection.peer_id, two.peer_id)
        named = [address.with_peer(two.peer_id) for address in two.bound_addresses()]
        self.assertIs(await one.dial(None, named), connection, "the addresses say who is meant")

    async def test_every_address_is_tried_and_each_failure_told(self) -> None:
        one, two = self.host(), self.host()
        dead = [Multiaddr.tcp("127.0.0.1", 1), Multiaddr.parse("/ip4/127.0.0.1/udp/1/quic-v1")]
        connection = await one.dial(two.peer_id, [*dead, *two.bound_addresses()])
        self.assertEqual(connection.peer_id, two.peer_id)
        other = Identity.generate().peer_id
        error = await self.assertFailure(one.dial(other, dead), DialError)
        self.assertIn("connection refused", str(error))
        self.assertIn("plain TCP", str(error))

    async def test_an_address_that_failed_is_left_alone_for_a_while(self) -> None:
        one = self.host()
        other, dead = Identity.generate().peer_id, [Multiaddr.tcp("127.0.0.1", 1)]
        await self.assertFailure(one.dial(other, dead), DialError)
        error = await self.assertFailure(one.dial(other, dead), DialError)
        self.assertIn("left alone", str(error))
        self.assertEqual(one.counters.tcp.failed, {"refused": 1, "backoff": 1})

    async def test_names_are_looked_up(self) -> None:
        one, two = self.host(), self.host()
        port = two.bound_addresses()[0].tcp_endpoint()[1]
        await one.dial(two.peer_id, [Multiaddr.parse(f"/dns4/localhost/tcp/{port}")])
        error = await self.assertFailure(
            one.dial(Identity.generate().peer_id, [Multiaddr.parse("/dns4/no-such-host.invalid/tcp/1")]), DialError
        )
        self.assertIn("cannot be resolved", str(error))

    async def test_a_cancelled_dial_leaves_nothing(self) -> None:
        one, two = self.host(), self.host()
        dialling = self.host_dial(one, two)
        dialling.addErrback(lambda _: None)
        dialling.cancel()
        await self.until(lambda: not one._links and not two._links)
        self.assertEqual(one._counts.outbound, 0)
        await self.dial(one, two)

    async def test_stopping_fails_dials_and_closes_connections(self) -> None:
        one, two, three = self.host(), self.host(), self.host()
        await self.dial(one, two)
        dialling = self.host_dial(one, three)
        failing = self.assertFailure(dialling, Exception)
        await one.stopService()
        await failing
        self.assertEqual(one._links, {})
        await self.until(lambda: not two._links)
        await self.assertFailure(self.host_dial(one, two), DialError)
        one.startService()
        await self.dial(one, two)

    async def test_stopping_does_not_wait_for_a_peer_that_never_reads(self) -> None:
        one, two = self.host(), self.host(connections=ConnectionLimits(close_s=0.3))
        streams: list[Stream] = []

        def opened(stream: Stream) -> None:
            StreamIO(stream, reactor)
            streams.append(stream)

        two.register("/meshsub/1.1.0", opened, ProtocolOptions())
        connection = await self.dial(one, two)
        await (StreamIO(await connection.open_stream(["/meshsub/1.1.0"]), reactor)).write(b"hello")
        await self.until(lambda: streams)
        connection.transport.pauseProducing()
        for _ in range(16):
            streams[0].write(bytes(65536))
        await two.stopService()
        self.assertEqual(two._links, {})
        connection.transport.abortConnection()

    async def test_what_is_queued_still_goes_when_the_node_stops(self) -> None:
        one, two = self.host(), self.host()
        received: list[StreamIO] = []
        two.register("/meshsub/1.1.0", lambda stream: received.append(StreamIO(stream, reactor)), ProtocolOptions())
        connection = await self.dial(one, two)
        stream = await connection.open_stream(["/meshsub/1.1.0"])
        StreamIO(stream, reactor)
        stream.write(bytes(1_000_000))
        stream.close()
        await self.until(lambda: received)
        reading = Deferred.fromCoroutine(received[0].read_all(2_000_000))
        await one.stopService()
        self.assertEqual(len(await reading), 1_000_000)


class Listening(HostCase):
    def test_port_in_use_is_one_line_that_names_the_variable(self) -> None:
        one = self.host()
        error = self.assertRaises(CannotListen, self.host(start=False, listen=one.bound_addresses()).startService)
        self.assertIn("CHORUS_P2P_PORT", str(error))
        self.assertIn("in use", str(error))
        self.assertNotIn("\n", str(error))

    def test_address_that_is_not_ours(self) -> None:
        host = self.host(start=False, listen=[Multiaddr.tcp("192.0.2.1", 0)])
        error = self.assertRaises(CannotListen, host.startService)
        self.assertIn("CHORUS_P2P_BIND: cannot listen on 192.0.2.1", str(error))

    def test_announced_addresses_replace_the_bound_ones(self) -> None:
        announced = Multiaddr.parse("/dns4/node.example/tcp/9000")
        self.assertEqual(self.host(announce=[announced]).listen_addresses(), [announced])
        plain = self.host()
        self.assertEqual(plain.listen_addresses(), plain.bound_addresses())

    def test_a_wildcard_is_told_as_the_addresses_of_the_interfaces(self) -> None:
        host = self.host(listen=[Multiaddr.tcp("0.0.0.0", 0)])
        port = host.bound_addresses()[0].tcp_endpoint()[1]
        addresses = host.listen_addresses()
        self.assertTrue(addresses)
        self.assertFalse(any(a.ip().is_unspecified for a in addresses))
        self.assertEqual({a.tcp_endpoint()[1] for a in addresses}, {port})

    async def test_connections_over_the_limit_are_closed_at_once(self) -> None:
        two = self.host(limits=HostLimits(max_inbound_connections=2))
        dialled = [self.host() for _ in range(3)]
        for host in dialled[:2]:
            await self.dial(host, two)
        await self.assertFailure(self.dial_deferred(dialled[2], two), DialError)
        self.assertEqual(two.counters.refused, {"inbound_connections": 1})

    def dial_deferred(self, one: P2PService, two: P2PService) -> Deferred[Connection]:
        return one.dial(two.peer_id, two.bound_addresses())


class Secret:
    """Admission by a word."""

    protocol = "/test/admission/1.0.0"

    def __init__(self, word: bytes) -> None:
        self.word = word

    def dialer(self, connection: Connection) -> Deferred[None]:
        return Deferred.fromCoroutine(self._dial(connection))

    async def _dial(self, connection: Connection) -> None:
        stream = StreamIO(await connection.open_stream([self.protocol]), reactor)
        await stream.write_delimited(self.word)
        if await stream.read_delimited(100) != self.word:
            raise PeerError("wrong word")

    def serve(self, stream: Stream) -> Deferred[None]:
        return Deferred.fromCoroutine(self._serve(StreamIO(stream, reactor)))

    async def _serve(self, stream: StreamIO) -> None:
        if await stream.read_delimited(100) != self.word:
            raise PeerError("wrong word")
        await stream.write_delimited(self.word)
        stream.close()


class Gating(HostCase):
    async def test_members_admit_each_other(self) -> None:
        one, two = self.host(admission=Secret(b"w")), self.host(admission=Secret(b"w"))
        joined: list[Connection] = []
        two.watch_peers(joined.append, lambda _: None)
        await self.dial(one, two)
        await self.until(lambda: joined)
        self.assertTrue(joined[0].admitted)
        self.assertNotIn(perf.PROTOCOL, two.protocols())

    async def test_members_that_dial_each_other_at_once_keep_one_connection(self) -> None:
        for _ in range(10):
            one, two = self.host(admission=Secret(b"w")), self.host(admission=Secret(b"w"))
            at_one, at_two = await gatherResults([self.dial_deferred(one, two), self.dial_deferred(two, one)])
            await self.until(lambda one=one, two=two: len(one._links) == len(two._links) == 1)
            self.assertEqual(at_one.handshake_hash, at_two.handshake_hash)
            self.assertEqual([at_one], one.connections())
            self.assertLess(await two.ping(one.peer_id), 5)

    async def test_a_stranger_is_closed_and_gets_nothing_before(self) -> None:
        one, two = self.host(admission=Secret(b"x")), self.host(admission=Secret(b"w"))
        joined: list[Connection] = []
        for host in (one, two):
            host.watch_peers(joined.append, lambda _: None)
        await self.assertFailure(self.dial_deferred(one, two), DialError)
        await self.until(lambda: not two._links)
        self.assertEqual(joined, [])
        self.assertEqual(two.counters.admission_failed, {"peer_error": 1})
        self.assertEqual(len(two.peers), 0)

    def dial_deferred(self, one: P2PService, two: P2PService) -> Deferred[Connection]:
        return one.dial(two.peer_id, two.bound_addresses())

    async def test_before_admission_only_identify_ping_and_admission_are_served(self) -> None:
        two = self.host(admission=Secret(b"w"))
        two.register("/chorus/tasks/1.0.0", lambda stream: StreamIO(stream, reactor), ProtocolOptions())
        secured: list[Connection] = []

        class Waiting(Secret):
            def dialer(self, connection: Connection) -> Deferred[None]:
                secured.append(connection)
                return Deferred(lambda _: None)

        one = self.host(admission=Waiting(b"w"))
        dialling = self.dial_deferred(one, two)
        dialling.addErrback(lambda _: None)
        await self.until(lambda: secured)
        stream = StreamIO(await secured[0].open_stream(["/chorus/tasks/1.0.0"]), reactor)
        await self.assertFailure(Deferred.fromCoroutine(stream.read_exactly(1)), ProtocolNotSupported)
        stream = StreamIO(await secured[0].open_stream([ping.PROTOCOL]), reactor)
        await stream.write(bytes(32))
        await stream.read_exactly(32)
        self.assertEqual(two.connections(), [])

    async def test_silence_is_closed_after_the_time_limit(self) -> None:
        self.patch(p2p_gate, "ADMISSION_TIMEOUT", 0.2)

        class Silent(Secret):
            def dialer(self, connection: Connection) -> Deferred[None]:
                return Deferred(lambda _: None)

        one, two = self.host(admission=Silent(b"w")), self.host(admission=Secret(b"w"))
        await self.assertFailure(self.dial_deferred(one, two), DialError)
        await self.until(lambda: not two._links)
        self.assertEqual(two._counts.handshakes, 0)

    async def test_admission_belongs_to_the_dialer(self) -> None:
        one, two = self.host(admission=Secret(b"w")), self.host(admission=Secret(b"w"))
        await self.dial(one, two)
        await self.until(two.connections)
        stream = StreamIO(await two.connections()[0].open_stream([Secret.protocol]), reactor)
        await self.assertFailure(Deferred.fromCoroutine(stream.read_exactly(1)), StreamClosed)

    def test_open_mode_and_admission_exclude_each_other(self) -> None:
        with self.assertRaises(ValueError):
            self.host(start=False, admission=Secret(b"w"), open_mode=True)
        with self.assertRaises(ValueError):
            self.host(start=False, admission=OpenAdmission(), open_mode=False)
