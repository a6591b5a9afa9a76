"""The connection's shell: turns, back-pressure, errors, the end; in memory and on real sockets."""

from __future__ import annotations

import socket

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionLost as SocketLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from chorus.errors import LimitExceeded, LocalError, PeerError
from chorus.protocols.connection.core import Ends, Truncated
from chorus.protocols.connection.limits import ConnectionLimits, HandshakeTimeout, KeepaliveTimeout, ReadStalled
from chorus.protocols.connection.shell import ConnectionLost, ConnectionProtocol
from chorus.protocols.noise.handshake import NoiseError
from chorus.protocols.stream import ProtocolNotSupported, StreamClosed, StreamReset
from chorus.protocols.yamux.frames import (
    INITIAL_WINDOW,
    PING,
    SYN,
    WINDOW_UPDATE,
    SessionEnded,
    StreamLimitReached,
    YamuxError,
    YamuxLimits,
)
from tests.protocols.connection_support import ADDRESS, DIALER, ECHO, LISTENER, Delegate, ShellPair
from tests.protocols.yamux_support import Recorder, frame
from tests.support import PureTestCase


class ShellTestCase(PureTestCase):
    def pair(self, **options: object) -> ShellPair:
        pair = ShellPair(self.clock(), **options)
        self.addCleanup(pair.close)
        return pair

    def open(self, pair: ShellPair, protocol: str = ECHO):
        stream = self.successResultOf(pair.dialer.open_stream([protocol]))
        stream.set_receiver(Recorder())
        return stream

    def forge(self, pair: ShellPair, *plaintexts: bytes) -> None:
        """Give the listener `plaintexts` as if the dialer had sealed them."""
        seal = pair.dialer._core.result.session.seal
        pair.listener.dataReceived(b"".join(seal([plaintext]) for plaintext in plaintexts))


class Contract(ShellTestCase):
    def test_secured_once_at_both_ends(self) -> None:
        pair = self.pair()
        for shell, delegate in ((pair.dialer, pair.dialer_delegate), (pair.listener, pair.listener_delegate)):
            self.assertEqual(delegate.secured, [shell])
            self.assertTrue(shell.secured)
        self.assertEqual((pair.dialer.peer_id, pair.listener.peer_id), (LISTENER.peer_id, DIALER.peer_id))
        self.assertEqual(pair.dialer.handshake_hash, pair.listener.handshake_hash)
        self.assertEqual((pair.dialer.inbound, pair.listener.inbound), (False, True))
        self.assertEqual(pair.dialer.remote_address, ADDRESS)
        self.assertFalse(pair.dialer.admitted)
        pair.dialer.mark_admitted()
        self.assertTrue(pair.dialer.admitted)

    def test_unknown_before_it_is_secured(self) -> None:
        pair = self.pair(secure=False)
        self.assertRaises(RuntimeError, lambda: pair.dialer.peer_id)
        self.assertRaises(RuntimeError, lambda: pair.dialer.handshake_hash)
        self.failureResultOf(pair.dialer.open_stream([ECHO]), SessionEnded)
        self.failureResultOf(pair.dialer.measure_rtt(), SessionEnded)
        self.assertEqual(pair.dialer.streams, 0)

    def test_a_stream(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        self.assertIs(stream.connection, pair.dialer)
        self.assertEqual((stream.protocol, stream.inbound, pair.dialer.streams), (ECHO, False, 1))
        stream.write(b"hello")
        stream.write_eof()
        pair.pump()
        self.assertEqual((stream.receiver.data, stream.receiver.closed), (b"hello", [None]))
        (peer,) = pair.listener_delegate.opened
        self.assertIs(peer.connection, pair.listener)
        self.assertEqual((pair.dialer.streams, pair.listener.streams), (0, 0))

    def test_several_protocols(self) -> None:
        pair = self.pair()
        opening = pair.dialer.open_stream(["/a", ECHO])
        self.assertNoResult(opening)
        pair.pump()
        self.assertEqual(self.successResultOf(opening).protocol, ECHO)
        opening = pair.dialer.open_stream(["/a", "/b"])
        pair.pump()
        self.failureResultOf(opening, ProtocolNotSupported)

    def test_opening_is_cancelled(self) -> None:
        pair = self.pair()
        opening = pair.dialer.open_stream(["/a", ECHO])
        opening.cancel()
        self.failureResultOf(opening, CancelledError, StreamReset)
        pair.pump()
        self.assertEqual((pair.dialer.streams, pair.listener.streams), (0, 0))

    def test_opening_when_the_connection_ends(self) -> None:
        pair = self.pair()
        opening, measuring = pair.dialer.open_stream(["/a", ECHO]), pair.dialer.measure_rtt()
        pair.dialer.close()
        self.failureResultOf(opening, SessionEnded)
        self.failureResultOf(measuring, SessionEnded)
        self.failureResultOf(pair.dialer.open_stream([ECHO]), SessionEnded)

    def test_a_local_limit(self) -> None:
        pair = self.pair(limits=ConnectionLimits(yamux=YamuxLimits(max_streams=1)))
        self.open(pair)
        self.failureResultOf(pair.dialer.open_stream([ECHO]), StreamLimitReached)
        self.failureResultOf(pair.dialer.open_stream([ECHO, "/b"]), StreamLimitReached)

    def test_round_trip_time(self) -> None:
        pair = self.pair()
        measuring = pair.dialer.measure_rtt()
        pair.clock.advance(0.5)
        pair.pump()
        self.assertEqual(self.successResultOf(measuring), 0.5)

    def test_cancelled_measurement(self) -> None:
        pair = self.pair()
        measuring = pair.dialer.measure_rtt()
        measuring.cancel()
        self.failureResultOf(measuring, CancelledError)
        pair.pump()

    def test_go_away(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        pair.pump()
        pair.listener.go_away()
        pair.pump()
        self.failureResultOf(pair.dialer.open_stream([ECHO]), SessionEnded)
        stream.write(b"still here")
        pair.pump()
        self.assertEqual(stream.receiver.data, b"still here")


class Turns(ShellTestCase):
    def test_writes_of_one_turn_leave_as_one(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        before = pair.dialer.transport.writes
        for _ in range(10):
            stream.write(b"x")
        self.assertEqual(pair.dialer.transport.writes, before)
        pair.clock.advance(0)
        self.assertEqual(pair.dialer.transport.writes, before + 1)
        self.assertEqual(len(pair.clock.getDelayedCalls()), 2, "nothing but the two connections' timers")

    def test_an_answer_leaves_in_the_turn_of_its_question(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        pair.pump()
        stream.write(b"question")
        pair.clock.advance(0)
        pair.listener.dataReceived(pair.dialer.transport.take())
        pair.dialer.dataReceived(pair.listener.transport.take())
        self.assertEqual(stream.receiver.data, b"question")

    def test_one_timer_a_connection(self) -> None:
        pair = self.pair()
        for _ in range(60):
            self.open(pair)
            pair.pump()
        self.assertEqual(len(pair.clock.getDelayedCalls()), 2)


class BackPressure(ShellTestCase):
    def test_a_slow_socket_pauses_the_writers(self) -> None:
        pair = self.pair()
        transport = pair.dialer.transport
        transport.high_water = 65536
        stream = self.open(pair)
        pair.pump()
        stream.write(bytes(100_000))
        pair.clock.advance(0)
        written = len(transport.written)
        for _ in range(10):
            stream.write(bytes(100_000))
            pair.clock.advance(0)
        self.assertEqual(len(transport.written), written)
        self.assertEqual(stream.receiver.writing, ["pause"])
        pair.pump()
        self.assertEqual(stream.receiver.writing, ["pause", "resume"])
        self.assertEqual(len(stream.receiver.data), 1_100_000)

    def test_receivers_that_hold_too_much_stop_the_reading(self) -> None:
        limits = ConnectionLimits(yamux=YamuxLimits(receive_budget=2 * INITIAL_WINDOW))
        pair = self.pair(limits=limits)
        streams = [self.open(pair) for _ in range(3)]
        pair.pump()
        for peer in pair.listener_delegate.opened:
            peer.pause_reading()
        for stream in streams:
            stream.write(bytes(INITIAL_WINDOW - 1000))
            pair.pump()
        self.assertFalse(pair.listener.transport.producing)
        self.assertEqual(pair.listener._core.yamux.held, 2 * (INITIAL_WINDOW - 1000))
        for peer in pair.listener_delegate.opened:
            peer.resume_reading()
        self.assertTrue(pair.listener.transport.producing)
        pair.pump()
        self.assertEqual([len(stream.receiver.data) for stream in streams], [INITIAL_WINDOW - 1000] * 3)

    def test_receivers_that_never_take_it(self) -> None:
        limits = ConnectionLimits(yamux=YamuxLimits(receive_budget=INITIAL_WINDOW))
        pair = self.pair(limits=limits)
        stream = self.open(pair)
        pair.pump()
        (peer,) = pair.listener_delegate.opened
        peer.pause_reading()
        stream.write(bytes(INITIAL_WINDOW))
        pair.pump()
        self.assertFalse(pair.listener.transport.producing)
        pair.clock.pump([1.0] * 31)
        (error,) = pair.listener_delegate.closed
        self.assertIsInstance(error, ReadStalled)
        self.assertEqual(pair.listener.counters, {"read_stalled": 1})

    def test_cve_2024_32984_opens_pings_and_never_reads(self) -> None:
        limits = ConnectionLimits(yamux=YamuxLimits(max_pings=10**9, max_refusals=10**9))
        pair = self.pair(limits=limits)
        transport = pair.listener.transport
        transport.high_water = 65536
        most = 0
        for i in range(20_000):
            if pair.listener.closed:
                break
            self.forge(pair, frame(WINDOW_UPDATE, SYN, 2 * i + 1, 0) + frame(PING, SYN, 0, i))
            yamux = pair.listener._core.yamux
            most = max(most, len(transport.written) + yamux.held + yamux.queued + yamux.output._control)
        self.assertTrue(pair.listener.closed)
        self.assertLess(most, 300_000)
        self.assertEqual(pair.listener.counters, {"limit_exceeded.yamux_control_queue": 1})


class Errors(ShellTestCase):
    def test_a_violation_ends_the_connection_and_is_counted(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        pair.pump()
        self.forge(pair, frame(9, 0, 1, 0))
        self.assertTrue(pair.listener.closed)
        pair.pump()
        (error,) = pair.listener_delegate.closed
        self.assertIsInstance(error, YamuxError)
        self.assertEqual(pair.listener.counters, {"yamux_protocol_error": 1})
        self.assertIsInstance(pair.listener_delegate.receivers[0].closed[0], SessionEnded)
        self.assertEqual(pair.dialer.counters["peer_went_away_with_error"], 1)
        self.assertEqual(stream.receiver.closed, [])

    def test_cve_2023_44487_rapid_reset(self) -> None:
        pair = self.pair()
        flood = b"".join(
            frame(WINDOW_UPDATE, SYN, 2 * i + 1, 0) + frame(WINDOW_UPDATE, 8, 2 * i + 1, 0) for i in range(10_000)
        )
        self.forge(pair, *(flood[start : start + 60_000] for start in range(0, len(flood), 60_000)))
        self.assertEqual(pair.listener.counters, {"limit_exceeded.yamux_resets": 1})
        self.assertEqual(pair.listener_delegate.opened, [])
        pair.clock.advance(0)
        self.assertIsInstance(pair.listener_delegate.closed[0], LimitExceeded)

    def test_garbage_instead_of_a_handshake(self) -> None:
        pair = self.pair(secure=False)
        pair.listener.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        pair.clock.advance(0)
        self.assertIsInstance(pair.listener_delegate.closed[0], PeerError)
        self.assertEqual(pair.listener_delegate.secured, [])

    def test_a_failing_receiver_is_logged_counted_and_alone(self) -> None:
        class Bad(Recorder):
            def data_received(self, data: bytes) -> None:
                raise RuntimeError("a bug")

        pair = self.pair(serve=lambda stream: Bad() if stream.stream_id == 1 else Recorder())
        bad, good = self.open(pair), self.open(pair)
        bad.write(b"x")
        good.write(b"y")
        pair.pump()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(pair.listener.counters, {"receiver_failed": 1})
        self.assertIsInstance(bad.receiver.closed[0], StreamReset)
        self.assertEqual(pair.listener_delegate.receivers[1].data, b"y")
        self.assertEqual(pair.listener_delegate.closed, [])

    def test_a_failing_delegate(self) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        pair = self.pair(secure=False)
        pair.listener_delegate.connection_secured = fail
        pair.dialer_delegate.connection_closed = fail
        pair.pump()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIsInstance(pair.listener_delegate.closed[0], LocalError)
        pair.dialer.connectionLost(Failure(ConnectionDone()))
        pair.dialer.transport.lost = True
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_failing_gate(self) -> None:
        def fail(*_: object) -> bool:
            raise RuntimeError("a bug")

        pair = self.pair()
        pair.listener_delegate.protocol_supported = fail
        stream = self.open(pair)
        pair.pump()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIsInstance(stream.receiver.closed[0], StreamReset)

    def test_time_limits(self) -> None:
        pair = self.pair(secure=False)
        pair.clock.pump([1.0] * 11)
        for delegate in (pair.dialer_delegate, pair.listener_delegate):
            self.assertIsInstance(delegate.closed[0], HandshakeTimeout)
        pair = self.pair()
        for _ in range(4):
            pair.clock.advance(10)
        self.assertIsInstance(pair.dialer._core.next_timer(), float)
        pair.clock.advance(10)
        pair.clock.advance(0)
        self.assertIsInstance(pair.dialer_delegate.closed[0], KeepaliveTimeout)

    def test_idle_connections_live(self) -> None:
        pair = self.pair()
        for _ in range(100):
            pair.clock.advance(5)
            pair.pump()
        self.assertEqual((pair.dialer_delegate.closed, pair.listener_delegate.closed), ([], []))


class End(ShellTestCase):
    def test_close(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        pair.pump()
        pair.dialer.close()
        pair.dialer.close()
        self.assertTrue(pair.dialer.closed)
        self.assertEqual(pair.dialer_delegate.closed, [])
        pair.pump()
        self.assertEqual(pair.dialer_delegate.closed, [None])
        self.assertIsInstance(stream.receiver.closed[0], SessionEnded)
        self.assertIsNone(pair.dialer.transport.producer)
        pair.listener.connectionLost(Failure(ConnectionDone()))
        pair.listener.connectionLost(Failure(ConnectionDone()))
        pair.listener.transport.lost = True
        self.assertEqual(pair.listener_delegate.closed, [None])

    def test_cve_2026_21435_close_with_a_peer_that_never_reads(self) -> None:
        pair = self.pair()
        transport = pair.dialer.transport
        transport.stuck = True
        transport.high_water = 1000
        stream = self.open(pair)
        pair.clock.advance(0)
        stream.write(bytes(100_000))
        pair.clock.advance(0)
        pair.dialer.close()
        self.assertEqual(len(stream.receiver.closed), 1)
        pair.clock.advance(4.9)
        self.assertEqual(pair.dialer_delegate.closed, [])
        pair.clock.advance(0.1)
        pair.clock.advance(0)
        self.assertEqual(pair.dialer_delegate.closed, [None])

    def test_abort(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        error = LocalError("no longer wanted")
        pair.dialer.close(error)
        pair.clock.advance(0)
        self.assertEqual(pair.dialer_delegate.closed, [error])
        self.assertIs(stream.receiver.closed[0].__cause__, error)

    def test_truncated(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        pair.pump()
        pair.dialer.transport.end(ConnectionDone())
        (error,) = pair.dialer_delegate.closed
        self.assertIsInstance(error, Truncated)
        self.assertIsInstance(stream.receiver.closed[0], Truncated)
        self.assertEqual(pair.dialer.counters, {"truncated": 1})
        self.assertRaises(StreamClosed, stream.write, b"x")

    def test_reset_of_the_socket(self) -> None:
        pair = self.pair()
        stream = self.open(pair)
        pair.dialer.transport.end(SocketLost())
        self.assertIsInstance(pair.dialer_delegate.closed[0], ConnectionLost)
        self.assertIsInstance(stream.receiver.closed[0], SessionEnded)

    def test_lost_at_each_byte(self) -> None:
        """Twisted's own trap (spec/security.md 2.6): wherever the connection breaks, every Deferred fires, every
        stream hears one end, nothing is logged, no timer is left."""
        whole = self.record()
        for total in range(whole):
            clock = Clock()
            pair = ShellPair(clock, secure=False)
            pending: list[Deferred[object]] = []
            receivers: list[Recorder] = []
            left = total
            moved = True
            while moved and left:
                clock.advance(0)
                moved = False
                for sender, receiver in ((pair.dialer, pair.listener), (pair.listener, pair.dialer)):
                    data = sender.transport.take()[:left]
                    left -= len(data)
                    if data:
                        moved = True
                        receiver.dataReceived(data)
                if pair.dialer.secured and not pending:
                    pending = self.act(pair, receivers)
                    moved = True
            for shell in (pair.dialer, pair.listener):
                shell.transport.lost = True
                shell.connectionLost(Failure(ConnectionDone()))
            outcomes: list[object] = []
            for waiting in pending:
                waiting.addBoth(outcomes.append)
            self.assertEqual(len(outcomes), len(pending))
            for receiver in (*receivers, *pair.listener_delegate.receivers):
                self.assertEqual(len(receiver.closed), 1)
            for delegate in (pair.dialer_delegate, pair.listener_delegate):
                self.assertEqual(len(delegate.closed), 1)
            self.assertEqual(clock.getDelayedCalls(), [])
            self.assertEqual(self.flushLoggedErrors(), [])

    def act(self, pair: ShellPair, receivers: list[Recorder]) -> list[Deferred[object]]:
        stream = self.successResultOf(pair.dialer.open_stream([ECHO]))
        receivers.append(Recorder())
        stream.set_receiver(receivers[-1])
        stream.write(b"hello")
        stream.write_eof()
        return [pair.dialer.open_stream(["/x", ECHO]), pair.dialer.measure_rtt()]

    def record(self) -> int:
        pair = self.pair(secure=False)
        total = 0
        acted = False
        moved = True
        while moved:
            pair.clock.advance(0)
            moved = False
            for sender, receiver in ((pair.dialer, pair.listener), (pair.listener, pair.dialer)):
                data = sender.transport.take()
                total += len(data)
                if data:
                    moved = True
                    receiver.dataReceived(data)
            if pair.dialer.secured and not acted:
                acted = moved = True
                self.act(pair, [])
        return total


class Sockets(TestCase):
    """The same over TCP on loopback, with the reactor's own transport."""

    timeout = 120

    def setUp(self) -> None:
        self.delegates: list[Delegate] = []
        self.shells: list[ConnectionProtocol] = []
        self.ends: list[Deferred[object]] = []
        factory = Factory()
        factory.buildProtocol = lambda address: self.shell(False)
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")

    async def tearDown(self) -> None:
        for shell in self.shells:
            if not shell.closed:
                shell.close()
        for end in self.ends:
            await end
        await self.port.stopListening()

    def shell(self, initiator: bool, limits: ConnectionLimits | None = None) -> ConnectionProtocol:
        delegate = Delegate()
        delegate.secured_deferred = Deferred()
        delegate.connection_secured = delegate.secured_deferred.callback
        end: Deferred[object] = Deferred()
        delegate.connection_closed = lambda connection, error: (delegate.closed.append(error), end.callback(None))
        shell = ConnectionProtocol(
            Ends(DIALER, True, LISTENER.peer_id) if initiator else Ends(LISTENER, False),
            remote_address=ADDRESS,
            clock=reactor,
            delegate=delegate,
            limits=limits,
        )
        self.delegates.append(delegate)
        self.shells.append(shell)
        self.ends.append(end)
        return shell

    async def dial(self, limits: ConnectionLimits | None = None) -> ConnectionProtocol:
        shell = self.shell(True, limits)
        delegate = self.delegates[-1]
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        await connectProtocol(endpoint, shell)
        await delegate.secured_deferred
        await self.delegates[-1].secured_deferred
        return shell

    async def test_bulk_both_ways(self) -> None:
        """More than windows and socket buffers hold, echoed: nothing is lost, both queues end empty."""
        shell = await self.dial()
        total = 16 * 1024 * 1024
        done: Deferred[None] = Deferred()

        class Sends(Recorder):
            left = total
            blocked = False
            received = 0

            def pump(self) -> None:
                while self.left and not self.blocked:
                    self.left -= 65536
                    stream.write(bytes([self.left >> 16 & 255]) * 65536)
                if not self.left:
                    stream.write_eof()

            def data_received(self, data: bytes) -> None:
                self.received += len(data)

            def pause_writing(self) -> None:
                self.blocked = True

            def resume_writing(self) -> None:
                self.blocked = False
                self.pump()

            def stream_closed(self, error: object) -> None:
                super().stream_closed(error)
                done.callback(None)

        stream = await shell.open_stream([ECHO])
        receiver = Sends()
        stream.set_receiver(receiver)
        receiver.pump()
        await done
        self.assertEqual((receiver.received, receiver.closed), (total, [None]))
        self.assertEqual((shell._core.yamux.queued, shell._core.yamux.held, shell.streams), (0, 0, 0))

    async def test_options_of_the_socket(self) -> None:
        shell = await self.dial()
        self.assertTrue(shell.transport.getTcpNoDelay())

    async def test_closed_by_the_peer(self) -> None:
        shell = await self.dial()
        stream = await shell.open_stream([ECHO])
        receiver = Recorder()
        stream.set_receiver(receiver)
        listener = self.shells[1]
        await listener.measure_rtt()
        listener.close()
        for end in self.ends:
            await end
        self.assertEqual([delegate.closed for delegate in self.delegates], [[None], [None]])
        self.assertIsInstance(receiver.closed[0], SessionEnded)

    async def test_cve_2026_21435_close_ends_in_time(self) -> None:
        """A listener that reads nothing after the handshake; the sender's buffers are full when it closes."""
        shell = await self.dial(ConnectionLimits(close_s=0.2))
        listener = self.shells[1]
        listener.transport.pauseProducing()
        stream = await shell.open_stream([ECHO])
        stream.set_receiver(Recorder())
        stream.write(bytes(INITIAL_WINDOW))
        for _ in range(60):
            other = await shell.open_stream([ECHO])
            other.set_receiver(Recorder())
            other.write(bytes(INITIAL_WINDOW))
        shell.close()
        await self.ends[0]
        listener.transport.resumeProducing()

    async def test_silent_and_garbage_peers(self) -> None:
        """Raw sockets that say nothing, or nonsense: each is gone in its time, and a bystander's ping goes on."""
        self.addCleanup(setattr, self, "shell", self.shell)
        plain = self.shell
        self.shell = lambda initiator, limits=None: plain(initiator, limits or ConnectionLimits(handshake_s=0.3))
        bystander = await self.dial()
        gone: list[Deferred[None]] = []

        class Raw(Protocol):
            def __init__(self, says: bytes) -> None:
                self.says = says
                self.lost: Deferred[None] = Deferred()
                gone.append(self.lost)

            def connectionMade(self) -> None:
                self.transport.write(self.says)

            def connectionLost(self, reason: object = None) -> None:
                self.lost.callback(None)

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        for says in (b"", b"\x13/multi", b"GET / HTTP/1.0\r\n\r\n", bytes(1000), b"\xff" * 1000):
            await connectProtocol(endpoint, Raw(says))
        for lost in gone:
            self.assertLess(await bystander.measure_rtt(), 1.0)
            await lost
        codes = {getattr(delegate.closed[0], "code", None) for delegate in self.delegates if delegate.closed}
        self.assertEqual(codes, {"handshake_timeout", "multistream_error"})

    async def test_a_socket_that_breaks(self) -> None:
        shell = await self.dial()
        stream = await shell.open_stream([ECHO])
        receiver = Recorder()
        stream.set_receiver(receiver)
        handle = self.shells[1].transport.getHandle()
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.shells[1].close(NoiseError("broken on purpose"))
        await self.ends[0]
        self.assertEqual(len(receiver.closed), 1)
        self.assertIsNotNone(self.delegates[0].closed[0])
