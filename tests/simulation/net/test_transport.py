from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import IConsumer, IListeningPort, IPushProducer, ITCPTransport
from zope.interface import implementer
from zope.interface.verify import verifyObject

from chorus.simulation.net.links import GIVE_UP, LARGE, SMALL, LinkQuality
from chorus.simulation.net.transport import HIGH_WATER, WINDOW
from chorus.simulation.world import MILLISECOND, SECOND
from tests.simulation.support import ADDRESSES, Accepted, HalfNotes, Notes, Pair
from tests.support import PureTestCase


class Connecting(PureTestCase):
    def test_a_connection_takes_a_round_trip_and_the_listener_half_a_one_more(self) -> None:
        pair = Pair()
        pair.connect()
        pair.run(0.0199)
        self.assertFalse(pair.client.made)
        pair.run(0.0002)
        self.assertTrue(pair.client.made)
        self.assertEqual(pair.server.protocols, [])
        pair.run(0.01)
        self.assertEqual(len(pair.server.protocols), 1)
        transport = pair.client.transport
        verifyObject(ITCPTransport, transport)
        verifyObject(IPushProducer, transport)
        verifyObject(IConsumer, transport)
        verifyObject(IListeningPort, pair.port)
        self.assertEqual((transport.getPeer().host, transport.getPeer().port), (ADDRESSES[1], 80))
        self.assertEqual(pair.server.protocols[0].transport.getPeer(), transport.getHost())

    def test_a_port_where_nobody_listens_refuses(self) -> None:
        pair = Pair()
        pair.port.stopListening()
        pair.connect()
        pair.run(1)
        self.assertIs(pair.dialled.failed, ConnectionRefusedError)

    def test_a_host_that_never_answers_ends_in_the_callers_timeout(self) -> None:
        for fault in ("deaf", "down", "cut there", "cut back", "absent"):
            with self.subTest(fault):
                pair = Pair()
                if fault in {"deaf", "down"}:
                    setattr(pair.hosts[1], fault, True)
                elif fault == "absent":
                    pair.net._hosts.pop(ADDRESSES[1])
                else:
                    pair.cut(*((0, 1) if fault == "cut there" else (1, 0)))
                pair.connect(timeout=5)
                pair.run(4.9)
                self.assertIsNone(pair.dialled.failed)
                pair.run(0.2)
                self.assertIs(pair.dialled.failed, TimeoutError)

    def test_a_lost_syn_is_sent_again(self) -> None:
        pair = Pair()
        pair.cut(0, 1)
        pair.connect()
        pair.run(2)
        pair.cut(0, 1, -1)
        pair.run(2)
        self.assertTrue(pair.client.made)

    def test_giving_up_is_not_connecting(self) -> None:
        pair = Pair()
        pair.connect().stopConnecting()
        pair.run(1)
        self.assertIs(pair.dialled.failed, UserError)
        self.assertEqual((pair.client.made, pair.server.protocols), (False, []))

    def test_a_listener_may_not_want_a_connection(self) -> None:
        pair = Pair(make=lambda: None)
        pair.connect()
        pair.run(1)
        self.assertIs(pair.client.lost, ConnectionLost)

    def test_a_taken_port_is_refused(self) -> None:
        pair = Pair()
        self.assertRaises(CannotListenError, pair.reactors[1].listenTCP, 80, Accepted(Notes))
        self.assertRaises(CannotListenError, pair.reactors[1].listenTCP, 81, Accepted(Notes), interface="10.9.9.9")
        pair.port.stopListening()
        pair.reactors[1].listenTCP(80, Accepted(Notes))


class Bytes(PureTestCase):
    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 2**32),
        st.sampled_from([SMALL, LARGE]),
        st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
        st.floats(0, 0.2),
        st.sampled_from([0.0, 200_000.0]),
    )
    def test_what_is_written_comes_out_in_order_whatever_the_segments(self, seed, cutting, sizes, loss, rate) -> None:  # type: ignore[no-untyped-def]
        quality = LinkQuality(delay=5 * MILLISECOND, jitter=40 * MILLISECOND, loss=loss, rate=rate)
        pair = Pair(seed, quality=quality, cutting=cutting)
        client, server = pair.connected() if not loss else self.patiently(pair)
        rng = random.Random(seed)
        sent = {client: b"", server: b""}
        for size in sizes:
            for end in (client, server):
                data = rng.randbytes(size)
                sent[end] += data
                end.transport.write(data)
            pair.run(rng.random() * 0.05)
        pair.run(50)
        for end, other in ((client, server), (server, client)):
            if end.lost is None:
                self.assertEqual(other.data, sent[end])
            else:
                self.assertTrue(sent[end].startswith(other.data))

    def patiently(self, pair: Pair) -> tuple[Notes, Notes]:
        pair.connect(timeout=300)
        pair.run(200)
        return pair.client, pair.server.protocols[0]

    def test_tier_a_cuts_to_single_bytes_and_joins_writes(self) -> None:
        pair = Pair(cutting=SMALL)
        client, server = pair.connected()
        for _ in range(300):
            client.transport.write(b"abc" * 20)
        pair.run(1)
        sizes = {len(segment) for segment in server.segments}
        self.assertIn(1, sizes)
        self.assertTrue(any(size > 60 for size in sizes))
        self.assertEqual(server.data, b"abc" * 6000)

    def test_a_rate_bounds_what_comes_in_a_second(self) -> None:
        pair = Pair(quality=LinkQuality(rate=50_000))
        client, server = pair.connected()
        client.transport.write(bytes(200_000))
        pair.run(2)
        self.assertTrue(60_000 < len(server.data) <= 130_000, len(server.data))

    def test_a_slow_reader_holds_the_writer_back(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        states: list[str] = []

        @implementer(IPushProducer)
        class Producer:
            def pauseProducing(self) -> None:
                states.append("pause")

            def resumeProducing(self) -> None:
                states.append("resume")

            def stopProducing(self) -> None:
                states.append("stop")

        server.transport.pauseProducing()
        client.transport.registerProducer(Producer(), True)
        client.transport.write(bytes(WINDOW))
        self.assertEqual(states, [])
        client.transport.write(bytes(HIGH_WATER + 1))
        self.assertEqual(states, ["pause"])
        pair.run(30)
        self.assertEqual((server.data, states), (b"", ["pause"]))
        server.transport.resumeProducing()
        pair.run(1)
        self.assertEqual((len(server.data), states), (WINDOW + HIGH_WATER + 1, ["pause", "resume"]))
        client.transport.abortConnection()
        pair.run(1)
        self.assertEqual(states[-1], "stop")

    def test_bytes_are_asked_for(self) -> None:
        pair = Pair()
        client, _ = pair.connected()
        self.assertRaises(TypeError, client.transport.write, "text")
        self.assertRaises(TypeError, client.transport.write, bytearray(b"x"))


class Faults(PureTestCase):
    def test_a_cut_shows_as_delay(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        pair.cut(0, 1)
        client.transport.write(b"late")
        pair.run(3)
        self.assertEqual(server.data, b"")
        pair.cut(0, 1, -1)
        pair.run(4)
        self.assertEqual((server.data, client.lost), (b"late", None))

    def test_a_cut_is_one_way(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        pair.cut(0, 1)
        client.transport.write(b"no")
        server.transport.write(b"yes")
        pair.run(1)
        self.assertEqual((server.data, client.data), (b"", b"yes"))

    def test_who_hears_no_acknowledgement_gives_up_though_its_bytes_arrived(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        pair.cut(1, 0)
        client.transport.write(b"there")
        pair.run(3 * GIVE_UP / SECOND)
        self.assertEqual((server.data, client.lost, server.lost), (b"there", ConnectionLost, None))

    def test_the_end_that_was_given_up_learns_it_when_it_sends(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        pair.cut(0, 1)
        client.transport.write(b"x")
        pair.run(3 * GIVE_UP / SECOND)
        self.assertIs(client.lost, ConnectionLost)
        self.assertIsNone(server.lost)
        pair.cut(0, 1, -1)
        server.transport.write(b"hello?")
        pair.run(1)
        self.assertIs(server.lost, ConnectionLost)

    def test_bytes_changed_on_the_way(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        pair.net.link(0, 1).tamper = lambda data: data.upper()
        client.transport.write(b"abc")
        pair.run(1)
        self.assertEqual(server.data, b"ABC")

    def test_a_killed_process_is_closed_by_its_kernel_one_without_power_is_not(self) -> None:
        for power in (False, True):
            with self.subTest(power=power):
                pair = Pair()
                client, server = pair.connected()
                pair.reactors[1].kill()
                pair.hosts[1].crash(power=power)
                pair.run(5)
                self.assertIs(client.lost, None if power else ConnectionDone)
                self.assertIsNone(server.lost)
                if power:
                    client.transport.write(b"anybody?")
                    pair.run(1)
                    pair.hosts[1].down = False
                    pair.run(5)
                    self.assertIs(client.lost, ConnectionLost)

    def test_a_killed_client_in_the_middle_of_connecting(self) -> None:
        pair = Pair()
        pair.connect()
        pair.run(0.005)
        pair.reactors[0].kill()
        pair.hosts[0].crash(power=False)
        pair.run(200)
        self.assertEqual((pair.client.made, pair.server.protocols), (False, []))


class Ending(PureTestCase):
    def test_what_was_written_before_closing_arrives(self) -> None:
        pair = Pair(cutting=SMALL)
        client, server = pair.connected()
        client.transport.write(bytes(100_000))
        client.transport.loseConnection()
        client.transport.loseConnection()
        pair.run(5)
        self.assertEqual((len(server.data), server.lost, client.lost), (100_000, ConnectionDone, ConnectionDone))
        self.assertEqual([host.transports for host in pair.hosts], [{}, {}])

    def test_an_abort_in_mid_frame_loses_what_was_under_way(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        client.transport.write(b"gone")
        client.transport.abortConnection()
        client.transport.write(b"ignored")
        pair.run(1)
        self.assertEqual((server.data, server.lost, client.lost), (b"", ConnectionLost, ConnectionAborted))

    def test_closing_with_unread_bytes_is_a_reset(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        server.transport.pauseProducing()
        client.transport.write(b"unread")
        pair.run(1)
        server.transport.loseConnection()
        pair.run(1)
        self.assertEqual((client.lost, server.lost), (ConnectionLost, ConnectionDone))

    def test_writing_to_a_closed_end_is_answered_by_a_reset(self) -> None:
        pair = Pair(dial=HalfNotes)
        client, server = pair.connected()
        server.transport.loseConnection()
        pair.run(1)
        self.assertEqual((client.read_ended, client.lost), (True, None))
        client.transport.write(b"x")
        pair.run(1)
        self.assertIs(client.lost, ConnectionLost)

    def test_half_a_close_leaves_the_other_direction(self) -> None:
        pair = Pair(dial=HalfNotes, make=HalfNotes)
        client, server = pair.connected()
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        client.transport.write(b"ignored")
        pair.run(1)
        self.assertEqual((server.data, server.read_ended, server.lost), (b"question", True, None))
        self.assertTrue(client.write_ended)
        server.transport.write(b"answer")
        server.transport.loseConnection()
        pair.run(1)
        self.assertEqual((client.data, client.lost, server.lost), (b"answer", ConnectionDone, ConnectionDone))

    def test_an_end_that_crossed_with_data(self) -> None:
        pair = Pair()
        client, server = pair.connected()
        client.transport.write(b"crossing")
        server.transport.loseConnection()
        pair.run(1)
        self.assertEqual((server.data, server.lost, client.lost), (b"", ConnectionDone, ConnectionDone))
