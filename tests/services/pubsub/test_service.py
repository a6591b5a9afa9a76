"""The pub/sub service over hosts in memory."""

from __future__ import annotations

import random

from twisted.internet.task import Clock

from chorus.errors import LimitExceeded
from chorus.multiformats import varint
from chorus.protocols.delimited import delimit
from chorus.protocols.gossipsub.encode import message_frame, subscription_frames
from chorus.protocols.gossipsub.events import Kind, Validation
from chorus.protocols.gossipsub.params import FLOODSUB, MAX_RPC, MESHSUB_1_1, PROTOCOLS
from chorus.protocols.gossipsub.queue import MAX_QUEUE, SendQueue
from chorus.protocols.gossipsub.rpc import MessageTooLarge
from chorus.protocols.gossipsub.sign import Signer
from chorus.services.pubsub.congestion import PUBLISH_WAIT, QUEUE_ROOM, Congestion
from chorus.services.pubsub.link import READ_LIMIT, REOPEN
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.topics import Received
from tests.protocols.gossip_network import identity
from tests.services.memory_host import MemoryConnection, MemoryHost, MemoryStream, connect
from tests.support import PureTestCase

TOPIC = "chorus/coordination/v1"


class Node:
    def __init__(self, number: int, clock: Clock) -> None:
        self.identity = identity(number)
        self.host = MemoryHost(self.identity.peer_id, clock)
        self.pubsub = PubSubService(
            self.host, self.identity, clock, rng=random.Random(number), first_seqno=lambda: 1_000_000
        )
        self.heard: list[Received] = []


class ServiceCase(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()

    def node(self, number: int, *topics: str) -> Node:
        node = Node(number, self.time)
        node.pubsub.startService()
        self.addCleanup(self.run_a_while, 0.0)
        self.addCleanup(lambda: node.pubsub.running and node.pubsub.stopService())
        for topic in topics:
            node.pubsub.subscribe(topic, node.heard.append)
        return node

    def run_a_while(self, seconds: float) -> None:
        for _ in range(50):
            self.time.advance(0)
        steps = int(seconds / 0.05)
        for _ in range(steps):
            self.time.advance(0.05)

    def pair(self, *topics: str) -> tuple[Node, Node, MemoryConnection]:
        one, two = self.node(1, *topics), self.node(2, *topics)
        out, _ = connect(one.host, two.host)
        self.run_a_while(1.2)
        return one, two, out

    def stream(self, connection: MemoryConnection, *, inbound: bool) -> MemoryStream:
        """The live pub/sub stream of one direction."""
        return [s for s in connection.streams if s.inbound is inbound and not s.closed][-1]


class PubSub(ServiceCase):
    def test_messages_both_ways(self) -> None:
        one, two, _ = self.pair(TOPIC)
        self.assertEqual(one.pubsub.mesh_of(TOPIC), [two.identity.peer_id])
        self.assertEqual(two.pubsub.router.subscribers(TOPIC), [one.identity.peer_id.raw])
        first = one.pubsub.publish(TOPIC, b"ping")
        self.run_a_while(0)
        second = two.pubsub.publish(TOPIC, b"pong")
        self.run_a_while(0)
        self.assertEqual(two.heard, [Received(TOPIC, one.identity.peer_id, b"ping", first)])
        self.assertEqual(one.heard, [Received(TOPIC, two.identity.peer_id, b"pong", second)])
        counters = one.pubsub.counters()
        self.assertEqual((counters["published"], counters["delivered"], counters["duplicates"]), (1, 1, 0))

    def test_each_side_writes_on_its_own_stream_only(self) -> None:
        one, two, out = self.pair(TOPIC)
        one.pubsub.publish(TOPIC, b"x")
        two.pubsub.publish(TOPIC, b"y")
        self.run_a_while(2)
        for connection in (out, out.reverse):
            for stream in connection.streams:
                self.assertEqual(bool(stream.written), not stream.inbound)

    def test_first_rpc_lists_all_subscriptions(self) -> None:
        _, _, out = self.pair("a", "b")
        first = bytes(self.stream(out, inbound=False).written)
        self.assertTrue(first.startswith(subscription_frames([(True, "a"), (True, "b")])[0]))

    def test_unsubscribe_ends_the_topic_with_its_last_callback(self) -> None:
        one, two, _ = self.pair()
        ends = [two.pubsub.subscribe(TOPIC, two.heard.append) for _ in range(2)]
        self.run_a_while(0)
        ends[0]()
        ends[0]()
        one.pubsub.publish(TOPIC, b"1")
        self.run_a_while(0)
        self.assertEqual(len(two.heard), 1)
        ends[1]()
        self.run_a_while(0)
        self.assertEqual(one.pubsub.router.subscribers(TOPIC), [])
        one.pubsub.publish(TOPIC, b"2")
        self.run_a_while(0)
        self.assertEqual(len(two.heard), 1)
        self.assertEqual(two.pubsub.router.topics(), [])

    def test_validators_decide(self) -> None:
        one, two, _ = self.pair()
        verdicts = {b"good": Validation.ACCEPT, b"bad": Validation.REJECT, b"late": Validation.IGNORE}
        two.pubsub.subscribe(TOPIC, two.heard.append, lambda message: verdicts[message.data])
        self.run_a_while(0)
        for data in (b"good", b"bad", b"late", b"raises KeyError"):
            one.pubsub.publish(TOPIC, data)
        self.run_a_while(0)
        self.assertEqual([message.data for message in two.heard], [b"good"])
        counters = two.pubsub.counters()
        self.assertEqual((counters["rejected"], counters["ignored"], counters["errors"]), (1, 2, 1))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_a_callback_that_raises_does_not_stop_the_others(self) -> None:
        one, two, _ = self.pair()

        def broken(message: Received) -> None:
            raise RuntimeError("callback")

        two.pubsub.subscribe(TOPIC, broken)
        two.pubsub.subscribe(TOPIC, two.heard.append)
        self.run_a_while(0)
        one.pubsub.publish(TOPIC, b"1")
        one.pubsub.publish(TOPIC, b"2")
        self.run_a_while(0)
        self.assertEqual([message.data for message in two.heard], [b"1", b"2"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_publishing_inside_a_callback(self) -> None:
        one, two, _ = self.pair(TOPIC)
        two.pubsub.subscribe(TOPIC, lambda message: message.data == b"ping" and two.pubsub.publish(TOPIC, b"pong"))
        one.pubsub.publish(TOPIC, b"ping")
        self.run_a_while(0)
        self.assertEqual([message.data for message in one.heard], [b"pong"])

    def test_a_stream_that_ends_is_opened_again(self) -> None:
        one, two, out = self.pair(TOPIC)
        self.stream(out, inbound=False).reset()
        self.run_a_while(0.5)
        one.pubsub.publish(TOPIC, b"again")
        self.run_a_while(0)
        self.assertEqual([message.data for message in two.heard], [b"again"])
        self.assertEqual(one.pubsub.counters()["streams_reopened"], 1)
        self.assertEqual(two.pubsub.mesh_of(TOPIC), [one.identity.peer_id])

    def test_reopening_backs_off(self) -> None:
        rng = random.Random(1)
        self.assertLess(REOPEN.delay(1, rng), 0.32)
        for failures in range(1, 41):
            self.assertLessEqual(REOPEN.delay(failures, rng), REOPEN.most * 1.25)
        _one, _two, out = self.pair(TOPIC)
        self.run_a_while(0)
        before = len(out.streams)
        for _ in range(1200):
            for stream in out.streams:
                if not stream.inbound:
                    stream.reset()
            self.time.advance(0.05)
        self.assertLess(len(out.streams) - before, 12, "60 s of resets cost a handful of streams")

    def test_peers_without_pubsub_are_left_alone(self) -> None:
        one = self.node(1, TOPIC)
        two = Node(2, self.time)
        out, _ = connect(one.host, two.host)
        self.run_a_while(3)
        self.assertEqual(one.pubsub.peers(), [])
        self.assertEqual(out.streams, [])

    def test_a_peer_that_refuses_the_protocol_is_forgotten(self) -> None:
        one, two = self.node(1, TOPIC), self.node(2, TOPIC)
        for protocol in PROTOCOLS:
            two.host.served.pop(protocol)
        one.host.identified = True
        one.host.protocols_of = lambda peer: frozenset(PROTOCOLS)  # type: ignore[method-assign]
        connect(one.host, two.host)
        self.run_a_while(0)
        self.assertEqual(one.pubsub.router.peers(), [])

    def test_inbound_stream_before_the_host_has_spoken(self) -> None:
        one, two = self.node(1, TOPIC), self.node(2, TOPIC)
        out, back = connect(one.host, two.host, tell=False)
        one.host.tell(out)
        self.run_a_while(0)
        self.assertEqual(two.pubsub.router.subscribers(TOPIC), [], "not heard before it is admitted and identified")
        two.host.tell(back)
        self.run_a_while(0)
        self.assertEqual(two.pubsub.router.subscribers(TOPIC), [one.identity.peer_id.raw])
        self.assertEqual(two.pubsub._waiting, {})

    def test_inbound_stream_names_what_identify_did_not(self) -> None:
        one, two = self.node(1, TOPIC), self.node(2, TOPIC)
        two.host.identified = False
        connect(one.host, two.host)
        self.run_a_while(0)
        two.pubsub.publish(TOPIC, b"hello")
        self.run_a_while(0)
        self.assertEqual([message.data for message in one.heard], [b"hello"])

    def test_a_waiting_stream_that_closes_is_forgotten(self) -> None:
        one, two = self.node(1, TOPIC), self.node(2, TOPIC)
        out, _ = connect(one.host, two.host, tell=False)
        one.host.tell(out)
        self.run_a_while(0)
        self.assertEqual(len(two.pubsub._waiting), 1)
        out.close()
        self.run_a_while(0)
        self.assertEqual(two.pubsub._waiting, {})

    def test_disconnect_forgets_and_reconnect_heals(self) -> None:
        one, two, out = self.pair(TOPIC)
        out.close()
        self.run_a_while(0.2)
        for node in (one, two):
            self.assertEqual((node.pubsub.peers(), node.pubsub.router.peers()), ([], []))
            self.assertEqual(node.pubsub.mesh_of(TOPIC), [])
        connect(two.host, one.host)
        self.run_a_while(0)
        one.pubsub.publish(TOPIC, b"back")
        self.run_a_while(0)
        self.assertEqual([message.data for message in two.heard], [b"back"])

    def test_moving_to_another_connection_of_the_same_peer(self) -> None:
        one, two, out = self.pair(TOPIC)
        connect(two.host, one.host)
        self.run_a_while(0)
        out.close()
        self.run_a_while(0.5)
        one.pubsub.publish(TOPIC, b"1")
        two.pubsub.publish(TOPIC, b"2")
        self.run_a_while(0)
        self.assertEqual([message.data for message in two.heard], [b"1"])
        self.assertEqual([message.data for message in one.heard], [b"2"])

    def test_stop_leaves_the_mesh_and_nothing_behind(self) -> None:
        one, two, _ = self.pair(TOPIC)
        one.pubsub.stopService()
        self.run_a_while(0)
        self.assertEqual(two.pubsub.mesh_of(TOPIC), [])
        self.assertEqual(two.pubsub.router.subscribers(TOPIC), [])
        self.assertEqual(one.host.served, {})
        two.pubsub.stopService()
        self.run_a_while(0)
        self.assertEqual([call for call in self.time.getDelayedCalls() if call.active()], [])

    def test_a_stream_that_arrives_after_the_stop_is_reset(self) -> None:
        _one, two, out = self.pair(TOPIC)
        opened = two.host.served[MESHSUB_1_1]
        two.pubsub.stopService()
        two.host.served[MESHSUB_1_1] = opened
        stream = self.successResultOf(out.open_stream([MESHSUB_1_1]))
        stream.set_receiver(_Deaf())
        self.run_a_while(0)
        self.assertTrue(stream.closed)
        self.assertEqual(two.pubsub._waiting, {})

    def test_start_joins_those_already_connected(self) -> None:
        one = self.node(1, TOPIC)
        two = Node(2, self.time)
        connect(two.host, one.host)
        self.run_a_while(0.5)
        self.assertEqual(one.pubsub.peers(), [])
        two.pubsub.startService()
        self.addCleanup(two.pubsub.stopService)
        self.run_a_while(0.5)
        self.assertEqual(two.pubsub.router.subscribers(TOPIC), [one.identity.peer_id.raw])

    def test_heartbeat_survives_an_error(self) -> None:
        one, _two, _ = self.pair(TOPIC)
        beat = one.pubsub.router.heartbeat
        one.pubsub.router.heartbeat = lambda now: 1 // 0  # type: ignore[method-assign]
        self.run_a_while(2.1)
        one.pubsub.router.heartbeat = beat
        self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertGreaterEqual(one.pubsub.counters()["errors"], 2)
        self.run_a_while(1.1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_floodsub_is_accepted(self) -> None:
        one, two = self.node(1, TOPIC), self.node(2, TOPIC)
        one.host.protocols_of = lambda peer: frozenset([FLOODSUB])  # type: ignore[method-assign]
        connect(one.host, two.host)
        self.run_a_while(2)
        one.pubsub.publish(TOPIC, b"flood")
        self.run_a_while(0)
        self.assertEqual([message.data for message in two.heard], [b"flood"])
        self.assertEqual(one.pubsub.mesh_of(TOPIC), [])

    def test_refuses_what_peers_would_refuse(self) -> None:
        one, _, _ = self.pair(TOPIC)
        with self.assertRaises(MessageTooLarge):
            one.pubsub.publish(TOPIC, bytes(65536))
        for topic in ("", "é" * 129):
            with self.assertRaises(ValueError):
                one.pubsub.publish(topic, b"")
            with self.assertRaises(ValueError):
                one.pubsub.subscribe(topic, one.heard.append)


class SlowPeers(ServiceCase):
    def test_queue_of_a_peer_that_does_not_read_is_bounded_and_others_go_on(self) -> None:
        one, two, out = self.pair(TOPIC)
        three = self.node(3, TOPIC)
        connect(one.host, three.host)
        self.run_a_while(1.2)
        self.stream(out.reverse, inbound=True).stalled = True
        for index in range(400):
            one.pubsub.publish(TOPIC, index.to_bytes(2, "big") + bytes(16 * 1024))
            self.time.advance(0)
        self.run_a_while(0)
        self.assertEqual(len(three.heard), 400)
        link = one.pubsub._peers[two.identity.peer_id.raw].link
        self.assertLessEqual(link.queue.size, MAX_QUEUE)
        self.assertGreater(one.pubsub.counters()["dropped_messages"], 0)

    def test_a_peer_that_reads_again_gets_what_was_kept(self) -> None:
        one, two, out = self.pair(TOPIC)
        inbound = self.stream(out.reverse, inbound=True)
        inbound.stalled = True
        for index in range(100):
            one.pubsub.publish(TOPIC, index.to_bytes(2, "big") + bytes(4096))
        self.run_a_while(0)
        inbound.stalled = False
        inbound.deliver()
        self.run_a_while(0)
        self.assertEqual([message.data[:2] for message in two.heard], [i.to_bytes(2, "big") for i in range(100)])

    def test_publishers_are_asked_to_wait(self) -> None:
        one, _two, out = self.pair(TOPIC)
        self.successResultOf(one.pubsub.ready())
        inbound = self.stream(out.reverse, inbound=True)
        inbound.stalled = True
        for _ in range(80):
            one.pubsub.publish(TOPIC, bytes(30_000))
        self.run_a_while(0)
        waiting = one.pubsub.ready()
        self.assertNoResult(waiting)
        inbound.stalled = False
        inbound.deliver()
        self.run_a_while(0)
        self.successResultOf(waiting)

    def test_publishers_do_not_wait_for_ever(self) -> None:
        one, _two, out = self.pair(TOPIC)
        self.stream(out.reverse, inbound=True).stalled = True
        for _ in range(80):
            one.pubsub.publish(TOPIC, bytes(30_000))
        self.run_a_while(0)
        waiting = one.pubsub.ready()
        self.run_a_while(PUBLISH_WAIT + 0.1)
        self.successResultOf(waiting)

    def test_a_publisher_that_comes_back_at_once_waits_for_the_next_time(self) -> None:
        queued = [QUEUE_ROOM + 1]
        congestion, gone_on = Congestion(self.time, lambda: queued), list[int]()

        def go_on(_: None) -> None:
            gone_on.append(len(gone_on))
            queued[0] = QUEUE_ROOM + 1
            congestion.ready().addCallback(go_on)

        congestion.ready().addCallback(go_on)
        for times in (1, 2):
            queued[0] = 0
            congestion.drained()
            self.assertEqual(len(gone_on), times)
        self.time.advance(PUBLISH_WAIT)
        self.assertEqual(len(gone_on), 3)
        self.time.getDelayedCalls()[0].cancel()


class BadPeers(ServiceCase):
    turn = 0

    def attack(self, data: bytes) -> tuple[Node, MemoryStream]:
        """Node 1 under a peer that writes `data` on its stream."""
        node = self.node(1, TOPIC)
        return node, self.attacker(node, 9, data)

    def attacker(self, node: Node, number: int, data: bytes) -> MemoryStream:
        peer = MemoryHost(identity(number).peer_id, self.time)
        peer.register(MESHSUB_1_1, lambda stream: stream.set_receiver(_Deaf()), None)
        out, _ = connect(peer, node.host)
        stream = self.successResultOf(out.open_stream([MESHSUB_1_1]))
        stream.set_receiver(_Deaf())
        self.run_a_while(0)
        stream.write(data)
        self.run_a_while(0)
        return stream

    def test_garbage_resets_the_stream_and_is_counted(self) -> None:
        for data in (b"\xff" * 10, varint.encode(MAX_RPC + 1), b"\x02\x0a\x7f", b"\x80\x00"):
            node, stream = self.attack(data)
            self.assertTrue(stream.closed)
            self.assertEqual(node.pubsub.counters()["streams_refused"], 1)
            node.pubsub.stopService()

    def test_a_bystander_goes_on(self) -> None:
        node, _stream = self.attack(b"\xff" * 10)
        other = self.node(2, TOPIC)
        connect(other.host, node.host)
        self.run_a_while(0)
        other.pubsub.publish(TOPIC, b"still here")
        self.run_a_while(0)
        self.assertEqual([message.data for message in node.heard], [b"still here"])

    def test_an_rpc_that_does_not_end_is_given_up(self) -> None:
        _, stream = self.attack(varint.encode(1000) + b"\x12")
        self.run_a_while(READ_LIMIT - 5)
        self.assertFalse(stream.closed)
        self.run_a_while(7)
        self.assertTrue(stream.closed)

    def test_a_slow_writer_cannot_prolong_one_rpc(self) -> None:
        _, stream = self.attack(varint.encode(100_000))
        for _ in range(70):
            if not stream.closed:
                stream.write(b"\x12")
            self.run_a_while(1)
        self.assertTrue(stream.closed)

    def test_a_burst_is_spread_over_turns(self) -> None:
        node, stream = self.attack(b"")
        turn = 0
        handled: list[tuple[int, bytes]] = []

        def costly(peer: bytes, rpc: bytes, now: float) -> None:
            self.time.rightNow += 0.0008
            handled.append((turn, rpc))

        node.pubsub.router.begin = costly  # type: ignore[method-assign]
        rpcs = [bytes([0x0A, index]) for index in range(50)]
        stream.write(b"".join(b"\x02" + rpc for rpc in rpcs))
        inbound = stream.other
        paused: list[bool] = []

        def bystander() -> None:
            nonlocal turn
            turn += 1
            paused.append(inbound.paused)
            if turn < 40:
                self.time.callLater(0, bystander)

        bystander()
        self.run_a_while(0)
        self.assertEqual([rpc for _, rpc in handled], rpcs)
        self.assertIn(True, paused, "no more is taken from the peer meanwhile")
        by_turn = [sum(1 for when, _ in handled if when == number) for number in range(41)]
        self.assertLessEqual(max(by_turn), 3, "2 ms a turn, 0.8 ms an RPC")
        self.assertFalse(inbound.paused)

    def full_rpc(self, count: int) -> bytes:
        rpc = b"".join(
            message_frame(Signer(identity(8)).sign(TOPIC, b"%d" % number, (number + 1).to_bytes(8, "big")))[2:]
            for number in range(count)
        )
        return delimit(rpc)

    def costly(self, node: Node) -> list[tuple[float, bytes]]:
        """When each message was heard; each takes 0.8 ms, and reactor turns nothing."""
        heard: list[tuple[float, bytes]] = []

        def validator(received: Received) -> Validation:
            self.time.rightNow += 0.0008
            heard.append((self.turn, received.data))
            return Validation.ACCEPT

        node.pubsub.subscribe(TOPIC, node.heard.append, validator)
        self.turn = 0

        def next_turn() -> None:
            self.turn += 1
            if self.turn < 200:
                self.time.callLater(0, next_turn)

        next_turn()
        return heard

    def test_one_rpc_of_many_messages_is_spread_over_turns(self) -> None:
        node, stream = self.attack(b"")
        quiet = self.attacker(node, 7, b"")
        heard = self.costly(node)
        stream.write(self.full_rpc(60) + message_frame(Signer(identity(8)).sign(TOPIC, b"next", b"\xff" * 8)))
        quiet.write(message_frame(Signer(identity(7)).sign(TOPIC, b"quiet", b"\xff" * 8)))
        for _ in range(4):
            self.run_a_while(0)
        said = [data for _, data in heard]
        self.assertLess(said.index(b"quiet"), 10, "others are heard in between")
        said.remove(b"quiet")
        self.assertEqual(said, [*(b"%d" % number for number in range(60)), b"next"], "in order, each once")
        when = [turn for turn, data in heard if data != b"quiet"]
        self.assertLessEqual(max(when.count(turn) for turn in when), 3, "2 ms a turn, 0.8 ms a message")
        self.assertFalse(stream.other.paused)

    def test_a_stream_that_ends_within_an_rpc(self) -> None:
        """Closed in order, all of it is heard; reset, what is left is forgotten, and nothing waits any more."""
        for reset, expected in ((False, range(60, 61)), (True, range(3, 10))):
            node, stream = self.attack(b"")
            heard = self.costly(node)
            stream.write(self.full_rpc(60))
            if reset:
                self.time.callLater(0.001, stream.reset)
            else:
                stream.close()
            for _ in range(4):
                self.run_a_while(0)
            self.assertIn(len(heard), expected)
            self.assertEqual(node.pubsub._turns._waiting, {})
            node.pubsub.stopService()

    def test_a_read_in_many_pieces_is_one_turn(self) -> None:
        """One read of the socket is handed on frame by frame, without the reactor coming round in between."""
        node = self.node(1, TOPIC)
        self.attacker(node, 5, b"")
        (peer,) = node.pubsub._peers.values()
        assert peer.inbound is not None
        handled: list[bytes] = []

        def costly(peer: bytes, rpc: bytes, now: float) -> None:
            self.time.rightNow += 0.0008
            handled.append(rpc)

        node.pubsub.router.begin = costly  # type: ignore[method-assign]
        for _ in range(2):
            handled.clear()
            for number in range(50):
                peer.inbound.data_received(bytes([2, 0x0A, number]))
            self.assertLessEqual(len(handled), 3, "2 ms a turn, 0.8 ms an RPC")
            self.run_a_while(0)
            self.assertEqual(len(handled), 50)
            self.time.advance(1)

    def test_bursts_of_many_do_not_add_up(self) -> None:
        """Each goes on in a turn of its own; who says little is not made to wait for them."""
        node = self.node(1, TOPIC)
        *floods, quiet = [self.attacker(node, number, b"") for number in range(5, 10)]
        handled: list[tuple[int, bytes]] = []
        turn = 0

        def costly(peer: bytes, rpc: bytes, now: float) -> None:
            self.time.rightNow += 0.0008
            handled.append((turn, rpc))

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            if turn == 5:
                quiet.write(b"\x02\x0a\x02")
            if turn < 40:
                self.time.callLater(0, next_turn)

        node.pubsub.router.begin = costly  # type: ignore[method-assign]
        for stream in floods:
            stream.write(b"\x02\x0a\x01" * 30)
        next_turn()
        self.run_a_while(0)
        self.assertEqual(len(handled), 4 * 30 + 1)
        # The first turn of each is an event of its own.
        later = [when for when, _ in handled if when > 1]
        self.assertLessEqual(max(later.count(when) for when in later), 3 + 1, "2 ms a turn, 0.8 ms an RPC")
        self.assertLess(next(when for when, rpc in handled if rpc == b"\x0a\x02"), 8)

    def test_a_second_stream_replaces_the_first(self) -> None:
        node, first = self.attack(subscription_frames([(True, TOPIC)])[0])
        second = self.successResultOf(first.connection.open_stream([MESHSUB_1_1]))
        second.set_receiver(_Deaf())
        self.run_a_while(0)
        self.assertTrue(first.closed)
        self.assertFalse(second.closed)
        second.write(message_frame(Signer(identity(9)).sign(TOPIC, b"new", bytes(8))))
        self.run_a_while(0)
        self.assertEqual([message.data for message in node.heard], [b"new"])

    def test_bug_in_the_router_resets_only_that_stream(self) -> None:
        node, stream = self.attack(b"")
        node.pubsub.router.begin = lambda peer, rpc, now: 1 // 0  # type: ignore[method-assign]
        stream.write(subscription_frames([(True, "a")])[0])
        self.run_a_while(0)
        self.assertTrue(stream.closed)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Queue(PureTestCase):
    def test_gossip_goes_first_then_the_oldest_messages(self) -> None:
        queue = SendQueue(100)
        queue.push((Kind.MESSAGE, b"m" * 30))
        queue.push((Kind.GOSSIP, b"g" * 30))
        queue.push((Kind.CONTROL, b"c" * 30))
        queue.push((Kind.MESSAGE, b"n" * 30))
        self.assertEqual((queue.dropped_gossip, queue.dropped_messages), (1, 0))
        queue.push((Kind.MESSAGE, b"o" * 30))
        self.assertEqual((queue.dropped_gossip, queue.dropped_messages), (1, 1))
        self.assertEqual(queue.take(1000), b"c" * 30 + b"n" * 30 + b"o" * 30)
        self.assertEqual((len(queue), queue.size), (0, 0))

    def test_control_alone_over_the_limit_is_an_error(self) -> None:
        queue = SendQueue(100)
        queue.push((Kind.CONTROL, b"c" * 60))
        with self.assertRaises(LimitExceeded):
            queue.push((Kind.CONTROL, b"c" * 60))

    def test_take_is_bounded_but_never_stuck(self) -> None:
        queue = SendQueue(1000)
        for byte in b"abc":
            queue.push((Kind.MESSAGE, bytes([byte]) * 50))
        self.assertEqual(queue.take(10), b"a" * 50)
        self.assertEqual(queue.take(100), b"b" * 50 + b"c" * 50)
        self.assertEqual(queue.take(100), b"")

    def test_frames_are_bounded_too(self) -> None:
        queue = SendQueue()
        for _ in range(20_000):
            queue.push((Kind.MESSAGE, b"x"))
        self.assertEqual((len(queue), queue.dropped_messages), (16384, 20_000 - 16384))


class _Deaf:
    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def stream_closed(self, error: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...
