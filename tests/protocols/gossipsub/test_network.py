"""Whole meshes of routers: everyone gets everything once, whoever comes late or loses frames."""

from __future__ import annotations

import random

from chorus.protocols.gossipsub.events import Kind
from chorus.protocols.gossipsub.params import FLOODSUB, GossipParams
from tests.protocols.gossip_network import Network
from tests.support import PureTestCase

TOPIC = "chorus/coordination/v1"


def ring_and_chords(network: Network, degree: int, seed: int) -> None:
    """A connected graph: a ring, and random chords up to about `degree` connections a node."""
    count = len(network.routers)
    rng = random.Random(seed)
    edges = {(number, (number + 1) % count) for number in range(count)}
    while len(edges) < count * degree // 2:
        a, b = rng.sample(range(count), 2)
        if (b, a) not in edges:
            edges.add((a, b))
    for a, b in sorted(edges):
        network.connect(a, b)


class ThirtyNodes(PureTestCase):
    def mesh(self, *, params: GossipParams | None = None, protocol: str | None = None) -> Network:
        network = Network(30, params=params, **({"protocol": protocol} if protocol else {}))
        for number in range(30):
            network.subscribe(number, TOPIC)
        ring_and_chords(network, 16, seed=7)
        network.run(5.5)
        return network

    def everyone_once(self, network: Network, publisher: int, data: list[bytes]) -> None:
        for number, received in enumerate(network.received):
            expected = [] if number == publisher else data
            self.assertEqual(sorted(delivery.data for delivery in received), sorted(expected), f"node {number}")

    def test_everyone_gets_each_message_once(self) -> None:
        for flood_publish in (True, False):
            network = self.mesh(params=GossipParams(flood_publish=flood_publish))
            data = [b"message %d" % index for index in range(20)]
            for item in data:
                network.publish(3, TOPIC, item)
            network.run(1.0)
            self.everyone_once(network, 3, data)

    def test_degrees_within_bounds_after_five_heartbeats(self) -> None:
        network = self.mesh()
        for node in network.routers:
            params = node.params
            degree = len(node.mesh(TOPIC))
            self.assertGreaterEqual(degree, params.d_lo)
            self.assertLessEqual(degree, params.d_hi)

    def test_meshes_are_mutual(self) -> None:
        network = self.mesh()
        for node in network.routers:
            for peer in node.mesh(TOPIC):
                self.assertIn(node.peer_id, network.routers[network.index[peer]].mesh(TOPIC))

    def test_late_joiner(self) -> None:
        network = Network(31)
        for number in range(30):
            network.subscribe(number, TOPIC)
        for a in range(30):
            for step in (1, 3, 7, 11):
                network.connect(a, (a + step) % 30)
        network.run(5)
        network.subscribe(30, TOPIC)
        for number in range(0, 30, 4):
            network.connect(30, number)
        network.run(0.3)
        self.assertGreaterEqual(len(network.routers[30].mesh(TOPIC)), 5, "grafted before its first heartbeat's end")
        network.publish(2, TOPIC, b"welcome")
        network.run(0.5)
        self.assertEqual([delivery.data for delivery in network.received[30]], [b"welcome"])

    def test_lossy_peer_recovers_through_ihave_and_iwant(self) -> None:
        # Flood publish off and every pushed message to node 5 lost: only its own IWANTs are answered.
        network = self.mesh(params=GossipParams(flood_publish=False))
        asked: set[int] = set()

        def lost(sender: int, receiver: int, kind: Kind) -> bool:
            if sender == 5 and kind is Kind.GOSSIP:
                asked.add(receiver)
            return receiver == 5 and kind is Kind.MESSAGE and sender not in asked

        network.lost = lost
        for index in range(10):
            network.publish(20, TOPIC, b"%d" % index)
        network.run(4)
        self.assertEqual(len(network.received[5]), 10)
        self.assertGreater(network.routers[5].counters.iwant_sent, 0)
        self.everyone_once(network, 20, [b"%d" % index for index in range(10)])

    def test_nothing_is_missed_when_three_in_ten_copies_are_lost(self) -> None:
        network = self.mesh(params=GossipParams(flood_publish=False))
        rng = random.Random(11)
        network.lost = lambda sender, receiver, kind: kind is Kind.MESSAGE and rng.random() < 0.3
        data = [b"%d" % index for index in range(40)]
        for item in data:
            network.publish(0, TOPIC, item)
        network.run(5)
        self.everyone_once(network, 0, data)

    def test_floodsub_peers_get_everything_and_no_control(self) -> None:
        network = self.mesh(protocol=FLOODSUB)
        network.publish(9, TOPIC, b"flood")
        network.run(3)
        self.everyone_once(network, 9, [b"flood"])
        for node in network.routers:
            self.assertEqual(node.mesh(TOPIC), [])
            self.assertEqual(node.counters.grafted, 0)

    def test_the_same_run_twice_is_the_same_run(self) -> None:
        def run() -> list[list[bytes]]:
            network = self.mesh()
            network.publish(1, TOPIC, b"x")
            network.run(3)
            return [node.mesh(TOPIC) for node in network.routers] + [[network.frames.to_bytes(8, "big")]]

        self.assertEqual(run(), run())

    def test_a_leaver_is_pruned_and_not_grafted_again_at_once(self) -> None:
        network = self.mesh()
        former = set(network.routers[4].mesh(TOPIC))
        network.unsubscribe(4, TOPIC)
        network.run(0.5)
        gone = network.routers[4].peer_id
        for node in network.routers:
            self.assertNotIn(gone, node.mesh(TOPIC))
            self.assertNotIn(gone, node.subscribers(TOPIC))
        network.subscribe(4, TOPIC)
        network.run(5)
        self.assertEqual(former & set(network.routers[4].mesh(TOPIC)), set(), "the unsubscribe backoff of 10 s holds")
        refused = sum(node.counters.grafts_in_backoff for node in network.routers)
        self.assertEqual(refused, 0, "neither side tries before the backoff has ended on both")
        network.run(10)
        self.assertGreaterEqual(len(network.routers[4].mesh(TOPIC)), 5)

    def test_a_node_that_dies_is_replaced(self) -> None:
        network = self.mesh()
        victim = network.index[network.routers[0].mesh(TOPIC)[0]]
        for number in range(30):
            if number != victim:
                network.disconnect(number, victim)
        network.run(2.5)
        for number, node in enumerate(network.routers):
            if number != victim:
                self.assertGreaterEqual(len(node.mesh(TOPIC)), 5)

    def test_fanout_publisher_without_subscription(self) -> None:
        network = Network(20, params=GossipParams(flood_publish=False))
        for number in range(1, 20):
            network.subscribe(number, TOPIC)
        for a in range(20):
            for b in range(a):
                network.connect(a, b)
        network.run(3)
        network.publish(0, TOPIC, b"from outside")
        self.assertEqual(len(network.routers[0].fanout(TOPIC)), 6)
        network.run(1)
        for number in range(1, 20):
            self.assertEqual([delivery.data for delivery in network.received[number]], [b"from outside"])
        network.run(61)
        self.assertEqual(network.routers[0].fanout(TOPIC), [], "forgotten 60 s after the last message")
