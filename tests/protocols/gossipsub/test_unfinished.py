"""Large RPCs, step by step."""

from __future__ import annotations

from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.events import Unfinished
from chorus.protocols.proto import rpc_pb2 as pb
from tests.protocols.test_gossip import NOW, TOPIC, RouterCase, graft, iwant, peer, prune, published, subscription


def large(messages: int, *more: bytes) -> bytes:
    """One RPC with messages of peer 9 and whatever else."""
    return b"".join(published(9, seqno=number + 1) for number in range(messages)) + b"".join(more)


class Steps(RouterCase):
    def steps(self, node: GossipRouter, rpc: bytes) -> list[int]:
        """Deliveries of each step."""
        unfinished = node.begin(peer(1), rpc, NOW)
        counts = [len(node.take_deliveries())]
        if unfinished is None:
            return counts
        more = True
        while more:
            more = node.go_on(peer(1), unfinished, NOW)
            counts.append(len(node.take_deliveries()))
        return counts

    def test_a_message_a_step_then_its_control(self) -> None:
        node = self.router(8)
        rpc = large(5, prune(TOPIC, 60), graft("elsewhere"), subscription("more"))
        unfinished = node.begin(peer(1), rpc, NOW)
        assert unfinished is not None
        self.assertIn("more", node.topics_of(peer(1)))
        for number in range(5):
            self.assertIn(peer(1), node.mesh(TOPIC), "what says something of messages comes after them")
            self.assertTrue(node.go_on(peer(1), unfinished, NOW))
            (delivery,) = node.take_deliveries()
            self.assertEqual(delivery.message_id, peer(9) + (number + 1).to_bytes(8, "big"))
        while node.go_on(peer(1), unfinished, NOW):
            pass
        self.assertNotIn(peer(1), node.mesh(TOPIC))
        self.assertFalse(node.go_on(peer(1), unfinished, NOW), "once")
        self.assertEqual((node.counters.rpcs, node.counters.duplicates), (9, 0))

    def test_nearly_all_have_one_step(self) -> None:
        self.assertEqual(self.steps(self.router(3), published(9)), [1])
        self.assertEqual(self.steps(self.router(3), large(3)), [0, 1, 1, 1, 0])

    def test_as_if_it_were_done_at_once(self) -> None:
        rpc = large(20, iwant(peer(9) + bytes(7) + b"\x03"), prune(TOPIC, 60), graft("elsewhere"))
        whole, stepwise = self.router(8), self.router(8)
        whole.receive(peer(1), rpc, NOW)
        self.assertEqual(sum(self.steps(stepwise, rpc)), 20)
        self.assertEqual(whole.take_sends(), stepwise.take_sends())
        self.assertEqual((whole.counters, whole.held()), (stepwise.counters, stepwise.held()))
        self.assertEqual(stepwise.counters.iwant_served, 1)

    def begun(self, node: GossipRouter) -> Unfinished:
        unfinished = node.begin(peer(1), large(9, prune(TOPIC, 60)), NOW)
        assert unfinished is not None
        for _ in range(3):
            node.go_on(peer(1), unfinished, NOW)
        self.assertEqual(len(node.take_deliveries()), 3)
        return unfinished

    def test_the_peer_leaves_in_the_middle(self) -> None:
        node = self.router(8)
        unfinished = self.begun(node)
        node.peer_left(peer(1), NOW)
        self.assertFalse(node.go_on(peer(1), unfinished, NOW))
        self.assertEqual((node.take_deliveries(), node.counters.delivered, node.held().backoffs), ([], 3, 0))
        self.assertNotIn(peer(1), node.peers())
        # Somebody else brings the rest, each once.
        node.receive(peer(2), large(9), NOW)
        self.assertEqual((node.counters.delivered, node.counters.duplicates), (9, 3))

    def test_the_peer_is_graylisted_in_the_middle(self) -> None:
        node = self.router(8)
        unfinished = self.begun(node)
        node.scores.misbehaved(peer(1), 1000)
        self.assertFalse(node.go_on(peer(1), unfinished, NOW))
        self.assertEqual((node.counters.graylisted, node.counters.delivered), (1, 3))

    def test_others_are_heard_in_between(self) -> None:
        node = self.router(8)
        unfinished = self.begun(node)
        node.receive(peer(2), large(6), NOW)
        self.assertEqual(node.counters.duplicates, 3)
        while node.go_on(peer(1), unfinished, NOW):
            pass
        self.assertEqual((node.counters.delivered, node.counters.duplicates), (9, 6))

    def test_what_prunes_name_is_taken_prune_by_prune(self) -> None:
        topics = [f"t{number}" for number in range(5)]
        node = self.router(1)
        node.scores.application = lambda each: 1000.0
        node.heartbeat(NOW)
        for topic in topics:
            node.subscribe(topic, NOW)
        node.receive(peer(1), subscription(*topics), NOW)
        infos = [pb.PeerInfo(peerID=peer(number)) for number in range(20, 36)]
        prunes = [pb.ControlPrune(topicID=topic, backoff=60, peers=infos) for topic in topics]
        rpc = pb.RPC(control=pb.ControlMessage(prune=prunes)).SerializeToString()
        unfinished = node.begin(peer(1), rpc, NOW)
        assert unfinished is not None
        taken = []
        while node.go_on(peer(1), unfinished, NOW):
            taken.append(len(node.take_exchanged()))
        self.assertEqual([count for count in taken if count], [16], "as many as are taken in a heartbeat")
        self.assertEqual(len(taken), len(topics), "a step each")
