"""What 1.1 adds to meshes (exchange, scores, opportunistic grafting, direct peers), 1.2's IDONTWANT, late verdicts."""

from __future__ import annotations

import random

from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.decode import decode_rpc
from chorus.protocols.gossipsub.encode import idontwant_frames, mesh_frames
from chorus.protocols.gossipsub.events import Delivery, Kind, Validation
from chorus.protocols.gossipsub.ids import content_id
from chorus.protocols.gossipsub.params import (
    FLOODSUB,
    MAX_CONTROL,
    MAX_PENDING,
    MAX_PENDING_PER_PEER,
    MAX_PX_BYTES,
    MAX_PX_GIVEN,
    MAX_PX_PEERS,
    MAX_PX_RECORD,
    MAX_PX_TAKEN,
    MESHSUB_1_0,
    MESHSUB_1_1,
    MESHSUB_1_2,
    GossipParams,
)
from chorus.protocols.gossipsub.rpc import Exchanged, Prune
from chorus.protocols.gossipsub.sign import Signer, Verifier
from chorus.protocols.gossipsub.state import Sealing, SignedRecord, no_record
from chorus.protocols.proto import rpc_pb2 as pb
from tests.protocols.gossip_network import identity, unframe
from tests.protocols.test_gossip import (
    NOW,
    TOPIC,
    RouterCase,
    control,
    graft,
    ihave,
    iwant,
    peer,
    prune,
    published,
    subscription,
)

LARGE = b"x" * 1024


def node_with(direct: list[bytes] | None = None, record: SignedRecord = no_record, **more: object) -> GossipRouter:
    me = identity(0)
    return GossipRouter(
        me.peer_id.raw,
        Sealing(Signer(me).sign, Verifier().verify, record),
        rng=random.Random(7),
        first_seqno=1,
        direct=direct or [],
        **more,
    )


class Exchange(RouterCase):
    def test_a_refused_graft_names_others_with_their_records_within_the_bounds(self) -> None:
        records = {peer(number): bytes([number]) * 600 for number in range(1, 30)}
        records[peer(1)] = b"z" * (MAX_PX_RECORD + 1)
        node = node_with(record=records.get)
        node.subscribe(TOPIC, NOW)
        for number in range(1, 31):
            node.peer_joined(peer(number), MESHSUB_1_1, outbound=False)
            node.receive(peer(number), subscription(TOPIC), NOW)
            if number <= 12:
                node.receive(peer(number), graft(TOPIC), NOW)
        node.take_sends()
        node.receive(peer(30), graft(TOPIC), NOW)
        (refusal,) = self.sent(node, 30).prune
        self.assertEqual(len(refusal.peers), MAX_PX_PEERS)
        self.assertNotIn(peer(30), [each.peer for each in refusal.peers])
        given = [each for each in refusal.peers if each.record is not None]
        self.assertTrue(all(records[each.peer] == each.record for each in given))
        self.assertLessEqual(sum(len(each.record) for each in given), MAX_PX_BYTES)
        self.assertGreater(len(given), 8)

    def test_one_peer_is_named_so_many_in_a_heartbeat(self) -> None:
        """An RPC of 70 GRAFTs was answered with 365 times its bytes."""
        topics = [f"topic/{number}" for number in range(70)]
        node = node_with(record=lambda raw: bytes(500))
        for topic in topics:
            node.subscribe(topic, NOW)
        for number in range(1, 41):
            node.peer_joined(peer(number), MESHSUB_1_1, outbound=False)
            node.receive(peer(number), subscription(*topics), NOW)
            if number <= 12:
                node.receive(peer(number), graft(*topics), NOW)
        node.take_sends()
        for again in range(2):
            node.receive(peer(40), graft(*topics), NOW + again)
            sent = [frame for _, frame in node.take_sends()[peer(40)]]
            prunes = [each for raw in unframe(sent) for each in decode_rpc(raw).prune]
            self.assertEqual(sorted(each.topic for each in prunes), sorted(topics))
            named = sum(len(each.peers) for each in prunes)
            self.assertEqual(named, 0 if again else MAX_PX_GIVEN)
            self.assertLess(sum(map(len, sent)), MAX_PX_BYTES + 4096)
        node.receive(peer(39), graft(topics[0]), NOW)
        self.assertEqual(len(self.sent(node, 39).prune[0].peers), MAX_PX_GIVEN, "another has its own")
        node.heartbeat(NOW + 1)
        node.take_sends()
        node.unsubscribe(topics[0], NOW + 1)
        node.unsubscribe(topics[1], NOW + 1)
        refusals = self.sent(node, 1).prune
        self.assertEqual([len(each.peers) for each in refusals], [MAX_PX_GIVEN, 0])

    def test_neither_a_bad_score_nor_an_old_peer_nor_a_switch_gets_names(self) -> None:
        for protocol, spoil, exchange in (
            (MESHSUB_1_1, True, True),
            (MESHSUB_1_0, False, True),
            (MESHSUB_1_1, False, False),
        ):
            node = self.router(13, protocol=protocol, params=GossipParams(peer_exchange=exchange))
            for number in range(1, 13):
                node.receive(peer(number), graft(TOPIC), NOW)
            if spoil:
                node.scores.misbehaved(peer(13), 100)
            node.take_sends()
            node.receive(peer(13), graft(TOPIC), NOW)
            if spoil:
                self.assertEqual(node.take_sends(), {}, "graylisted: not even heard")
                node.scores.refresh(NOW)
                continue
            self.assertEqual([each.peers for each in self.sent(node, 13).prune], [()])

    def test_only_useful_peers_are_believed(self) -> None:
        named = [pb.PeerInfo(peerID=peer(number), signedPeerRecord=b"r%d" % number) for number in (0, 1, 2, 40, 41)]
        rpc = control(prune=[pb.ControlPrune(topicID=TOPIC, backoff=60, peers=named)])
        node = self.router(3)
        node.receive(peer(1), rpc, NOW)
        self.assertEqual(node.take_exchanged(), [], "it has done nothing for us")
        for seqno in range(10):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        node.receive(peer(1), rpc, NOW)
        self.assertEqual(node.take_exchanged(), [], "it was not in the mesh any more, and has nobody to name")
        node = self.router(3)
        for seqno in range(10):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        node.receive(peer(1), rpc, NOW)
        self.assertEqual(
            node.take_exchanged(),
            [(peer(1), Exchanged(peer(40), b"r40")), (peer(1), Exchanged(peer(41), b"r41"))],
            "neither ourselves nor who is connected",
        )
        self.assertEqual(node.take_exchanged(), [])

    def test_so_many_are_taken_from_one_peer_in_a_heartbeat_and_each_once(self) -> None:
        """A PRUNE a topic, each with sixteen records: 608 were opened in one turn."""
        topics = [TOPIC, *(f"topic/{number}" for number in range(37))]
        node = self.router(2)
        node.scores.application = lambda raw: 1000.0
        for topic in topics:
            node.subscribe(topic, NOW)
        for number in (1, 2):
            node.receive(peer(number), subscription(*topics), NOW)
        names = [b"%d" % number for number in range(500)]

        def named(*groups: list[bytes]) -> list[bytes]:
            node.heartbeat(NOW)
            pruned = [
                pb.ControlPrune(topicID=topic, backoff=60, peers=[pb.PeerInfo(peerID=name) for name in group])
                for topic, group in zip(topics, groups, strict=False)
            ]
            node.receive(peer(1), control(prune=pruned), NOW)
            for topic in topics:
                node._meshes._meshes[topic][peer(1)] = None
            return [each.peer for _, each in node.take_exchanged()]

        self.assertEqual(named(*[names[16 * n :][:16] for n in range(30)]), names[:MAX_PX_TAKEN])
        node.receive(peer(1), control(prune=[pb.ControlPrune(topicID=TOPIC, peers=[pb.PeerInfo(peerID=b"x")])]), NOW)
        self.assertEqual(node.take_exchanged(), [], "within the same heartbeat")
        self.assertEqual(named(*[names[:1] * 16] * 38), names[:1])
        self.assertEqual(named(names[:3], names[2:5]), names[:5])
        self.assertEqual(node.counters.exchanged, MAX_PX_TAKEN + 1 + 5)

    def test_too_large_a_record_is_not_taken(self) -> None:
        node = self.router(1)
        node.scores.application = lambda raw: 1000.0
        node.scores.refresh(NOW)
        records = [bytes(MAX_PX_RECORD), bytes(MAX_PX_RECORD + 1)]
        named = [pb.PeerInfo(peerID=b"%d" % size, signedPeerRecord=record) for size, record in enumerate(records)]
        node.receive(peer(1), control(prune=[pb.ControlPrune(topicID=TOPIC, backoff=60, peers=named)]), NOW)
        self.assertEqual([each.record for _, each in node.take_exchanged()], [records[0], None])

    def test_more_than_sixteen_are_cut(self) -> None:
        peers = [pb.PeerInfo(peerID=b"%d" % number) for number in range(40)]
        decoded = decode_rpc(control(prune=[pb.ControlPrune(topicID=TOPIC, peers=peers)]))
        self.assertEqual(len(decoded.prune[0].peers), MAX_PX_PEERS)
        peers = [pb.PeerInfo(), pb.PeerInfo(peerID=b"x" * 65), pb.PeerInfo(peerID=b"ok")]
        decoded = decode_rpc(control(prune=[pb.ControlPrune(topicID=TOPIC, peers=peers)]))
        self.assertEqual(decoded.prune[0].peers, (Exchanged(b"ok", None),))

    def test_round_trip(self) -> None:
        prunes = [Prune("t", 60, (Exchanged(b"a", b"record"), Exchanged(b"b", None))), Prune("u", None, ())]
        decoded = [decode_rpc(raw) for raw in unframe(mesh_frames(["g"], prunes))]
        self.assertEqual([each for rpc in decoded for each in rpc.prune], prunes)
        full = [Prune(f"t{n}", 60, tuple(Exchanged(b"p" * 38, b"r" * 500) for _ in range(16))) for n in range(6)]
        self.assertTrue(all(len(raw) <= MAX_CONTROL + 4 for raw in unframe(mesh_frames([], full))))


class Behaviour(RouterCase):
    def test_grafts_in_backoff_cost_and_twice_right_after_the_prune(self) -> None:
        node = self.router(1)
        node.receive(peer(1), prune(TOPIC, 60), NOW)
        node.receive(peer(1), graft(TOPIC), NOW + 30)
        node.receive(peer(1), graft(TOPIC), NOW + 31)
        view = node.score_view(peer(1))
        assert view is not None
        self.assertEqual(view.behaviour, 3.0)
        for _ in range(5):
            node.receive(peer(1), graft(TOPIC), NOW + 32)
        self.assertLess(node.score(peer(1)), 0)

    def test_a_promise_that_is_broken_costs_and_one_that_somebody_keeps_does_not(self) -> None:
        node = self.router(2)
        node.receive(peer(1), ihave(b"never-comes"), NOW)
        raw = published(9)
        (message,) = [decode_rpc(raw).messages[0]]
        message_id = identity(9).peer_id.raw + (1).to_bytes(8, "big")
        node.receive(peer(2), ihave(message_id), NOW)
        node.receive(peer(1), raw, NOW + 1)
        for second in range(1, 6):
            node.heartbeat(NOW + second)
        self.assertEqual(node.counters.promises_broken, 1)
        views = [node.score_view(peer(number)) for number in (1, 2)]
        self.assertEqual([view is not None and view.behaviour > 0 for view in views], [True, False])
        self.assertTrue(message)

    def test_promises_end_with_their_peer(self) -> None:
        node = self.router(1)
        node.receive(peer(1), ihave(b"never-comes"), NOW)
        node.peer_left(peer(1), NOW)
        self.assertEqual(len(node._lazy.promises), 0)
        node.heartbeat(NOW + 10)
        self.assertEqual(node.counters.promises_broken, 1, "leaving in time does not keep them")

    def test_thresholds(self) -> None:
        """Below gossip: no IHAVE, no IWANT; below publish: no flood; below graylist: nothing is heard."""
        node = self.router(3)
        message_id = node.publish(TOPIC, b"x", NOW)
        node.take_sends()
        misbehaviours = {"gossip": 10.0, "publish": 11.0, "graylist": 14.0}
        node.scores.misbehaved(peer(1), misbehaviours["gossip"])
        self.assertLess(node.score(peer(1)), node.scores.params.thresholds.gossip)
        node.receive(peer(1), iwant(message_id), NOW)
        node.receive(peer(1), ihave(b"something"), NOW)
        self.assertEqual(node.take_sends(), {})
        node.publish(TOPIC, b"y", NOW)
        self.assertIn(peer(1), node.take_sends())
        node.scores.misbehaved(peer(1), 1.0)
        node.publish(TOPIC, b"z", NOW)
        self.assertEqual(set(node.take_sends()), {peer(2), peer(3)})
        node.receive(peer(1), published(9), NOW)
        self.assertEqual(len(node.take_deliveries()), 1)
        node.scores.misbehaved(peer(1), 3.0)
        node.receive(peer(1), published(9, seqno=2), NOW)
        self.assertEqual((node.take_deliveries(), node.counters.graylisted), ([], 1))

    def test_floodsub_peers_get_messages_down_to_the_publish_threshold(self) -> None:
        for times, direct, gets in ((10, False, True), (11, False, False), (11, True, True)):
            node = node_with([peer(2)] if direct else [], params=GossipParams(flood_publish=False))
            node.subscribe(TOPIC, NOW)
            for number, protocol in ((1, MESHSUB_1_1), (2, FLOODSUB)):
                node.peer_joined(peer(number), protocol, outbound=True)
                node.receive(peer(number), subscription(TOPIC), NOW)
            node.scores.misbehaved(peer(2), times)
            thresholds = node.scores.params.thresholds
            self.assertEqual(node.score(peer(2)) >= thresholds.publish, times == 10)
            self.assertGreater(node.score(peer(2)), thresholds.graylist)
            node.take_sends()
            node.receive(peer(1), published(9), NOW)
            self.assertEqual(peer(2) in node.take_sends(), gets, "another's")
            node.publish(TOPIC, b"x", NOW)
            self.assertEqual(peer(2) in node.take_sends(), gets, "our own")

    def test_forgeries_and_rejected_messages_cost_their_senders(self) -> None:
        node = self.router(3)
        node.subscribe(TOPIC, NOW, lambda delivery: Validation.REJECT)
        node.receive(peer(1), published(9), NOW)
        node.receive(peer(2), published(9), NOW)
        forged = pb.RPC.FromString(published(9, seqno=2))
        forged.publish[0].data = b"forged"
        node.receive(peer(3), forged.SerializeToString(), NOW)
        self.assertTrue(all(node.score(peer(number)) < 0 for number in (1, 2, 3)))
        node.heartbeat(NOW + 1)
        self.assertEqual(node.mesh(TOPIC), [])

    def test_own_messages_coming_back_cost_nothing(self) -> None:
        node = self.router(1)
        node.publish(TOPIC, b"x", NOW)
        for seqno in (1, 77):
            node.receive(peer(1), published(0, b"x", seqno), NOW)
        self.assertEqual(node.score(peer(1)), 0.0)

    def test_opportunistic_grafting(self) -> None:
        node = self.router(12, params=GossipParams(opportunistic_ticks=5))
        members = node.mesh(TOPIC)
        outside = [peer(number) for number in range(1, 13) if peer(number) not in members]
        for index, raw in enumerate(outside[:3]):
            for seqno in range(6):
                node.receive(raw, published(20 + index, seqno=seqno), NOW)
        for second in range(1, 6):
            node.heartbeat(NOW + second)
        grown = [raw for raw in node.mesh(TOPIC) if raw not in members]
        self.assertEqual((len(grown), node.counters.opportunistic), (2, 2))
        self.assertTrue(set(grown) <= set(outside[:3]))


class Direct(RouterCase):
    def test_in_no_mesh_yet_gets_and_is_heard_whatever_its_score(self) -> None:
        node = node_with([peer(1), peer(5)])
        node.subscribe(TOPIC, NOW)
        for number in (1, 2, 3):
            node.peer_joined(peer(number), MESHSUB_1_1, outbound=False)
            node.receive(peer(number), subscription(TOPIC), NOW)
        node.heartbeat(NOW + 1)
        self.assertEqual(sorted(node.mesh(TOPIC)), sorted([peer(2), peer(3)]))
        node.take_sends()
        node.receive(peer(1), graft(TOPIC), NOW)
        self.assertEqual([each.topic for each in self.sent(node, 1).prune], [TOPIC])
        node.scores.misbehaved(peer(1), 1000.0)
        node.receive(peer(1), published(9), NOW)
        self.assertEqual(len(node.take_deliveries()), 1)
        node.receive(peer(2), published(9, seqno=2), NOW)
        self.assertIn(peer(1), node.take_sends())
        node.publish(TOPIC, b"mine", NOW)
        self.assertIn(peer(1), node.take_sends())
        self.assertEqual(node.absent_direct_peers(), [peer(5)])

    def test_once_also_when_it_is_fanout_or_floods(self) -> None:
        for protocol in (MESHSUB_1_1, FLOODSUB):
            node = node_with([peer(1)], params=GossipParams(flood_publish=False))
            node.peer_joined(peer(1), protocol, outbound=True)
            node.receive(peer(1), subscription(TOPIC), NOW)
            node.take_sends()
            node.publish(TOPIC, b"x", NOW)
            self.assertEqual(len(node.take_sends()[peer(1)]), 1)


class DontWant(RouterCase):
    def test_the_mesh_is_told_of_a_large_message_before_its_verdict(self) -> None:
        node = self.router(4, protocol=MESHSUB_1_2)
        node.subscribe(TOPIC, NOW, lambda delivery: Validation.LATER, waits=True)
        node.receive(peer(1), published(9, LARGE), NOW)
        message_id = identity(9).peer_id.raw + (1).to_bytes(8, "big")
        self.assertEqual([self.sent_to(node, number) for number in (1, 2, 3, 4)], [[], *[[message_id]] * 3])
        node.receive(peer(1), published(9, LARGE[:-1], seqno=2), NOW)
        self.assertEqual(node.take_sends(), {}, "a small one is not worth it")

    def sent_to(self, node: GossipRouter, number: int) -> list[bytes]:
        if not hasattr(self, "_taken"):
            self._taken = node.take_sends()
        frames = [frame for kind, frame in self._taken.get(peer(number), []) if kind is Kind.CONTROL]
        return [each for raw in unframe(frames) for each in decode_rpc(raw).idontwant]

    def test_peers_of_1_1_are_not_told(self) -> None:
        node = self.router(4)
        node.subscribe(TOPIC, NOW, lambda delivery: Validation.IGNORE)
        node.receive(peer(1), published(9, LARGE), NOW)
        self.assertEqual(node.take_sends(), {})

    def test_what_a_peer_does_not_want_is_not_sent_to_it_for_three_heartbeats(self) -> None:
        for heartbeats, spared in ((0, True), (3, True), (4, False)):
            node = self.router(3, protocol=MESHSUB_1_2)
            message_id = identity(9).peer_id.raw + (1).to_bytes(8, "big")
            self.give(node, 2, [message_id])
            for beat in range(heartbeats):
                node.heartbeat(NOW + beat)
            node.take_sends()
            node.receive(peer(1), published(9), NOW + 5)
            self.assertEqual(peer(2) not in node.take_sends(), spared, heartbeats)
            self.assertEqual(node.counters.spared, int(spared))

    def test_own_messages_too(self) -> None:
        node = self.router(2, protocol=MESHSUB_1_2)
        self.give(node, 1, [identity(0).peer_id.raw + (1).to_bytes(8, "big")])
        node.publish(TOPIC, b"x", NOW)
        self.assertEqual(set(node.take_sends()), {peer(2)})

    def test_ids_of_a_heartbeat_are_bounded(self) -> None:
        node = self.router(2, protocol=MESHSUB_1_2)
        for start in range(0, 3000, 250):
            self.give(node, 1, [b"%040d" % number for number in range(start, start + 250)])
        self.assertEqual(len(node._peers[peer(1)].unwanted), 1000)
        for beat in range(5):
            node.heartbeat(NOW + beat)
        self.assertEqual(len(node._peers[peer(1)].unwanted), 0)

    def give(self, node: GossipRouter, number: int, ids: list[bytes]) -> None:
        for raw in unframe(idontwant_frames(ids)):
            node.receive(peer(number), raw, NOW)


class Later(RouterCase):
    def waiting(self, peers: int = 4) -> GossipRouter:
        node = self.router(peers)
        node.subscribe(TOPIC, NOW, lambda delivery: Validation.LATER, waits=True)
        return node

    def ids(self, *seqnos: int) -> list[bytes]:
        return [identity(9).peer_id.raw + seqno.to_bytes(8, "big") for seqno in seqnos]

    def test_each_verdict(self) -> None:
        node = self.waiting()
        for seqno in (1, 2, 3):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        self.assertEqual((node.take_deliveries(), node.take_sends(), node.pending), ([], {}, 3))
        one, two, three = self.ids(1, 2, 3)
        node.validated(one, Validation.ACCEPT, NOW + 1)
        self.assertEqual([each.message_id for each in node.take_deliveries()], [one])
        self.assertEqual(set(node.take_sends()), {peer(2), peer(3), peer(4)})
        node.validated(two, Validation.IGNORE, NOW + 1)
        node.validated(three, Validation.REJECT, NOW + 1)
        node.validated(three, Validation.ACCEPT, NOW + 1)
        node.validated(b"unknown", Validation.ACCEPT, NOW + 1)
        self.assertEqual((node.take_deliveries(), node.take_sends(), node.pending), ([], {}, 0))
        self.assertEqual((node.counters.ignored, node.counters.rejected), (1, {"validator": 1}))
        self.assertLess(node.score(peer(1)), 0)

    def test_copies_that_come_meanwhile_are_duplicates(self) -> None:
        node = self.waiting()
        node.receive(peer(1), published(9), NOW)
        node.receive(peer(2), published(9), NOW)
        self.assertEqual((node.pending, node.counters.duplicates), (1, 1))

    def test_one_peer_cannot_take_all_the_room_and_what_found_none_may_come_again(self) -> None:
        node = self.waiting()
        for seqno in range(MAX_PENDING_PER_PEER + 5):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        self.assertEqual((node.pending, node.counters.throttled), (MAX_PENDING_PER_PEER, 5))
        node.receive(peer(2), published(9, seqno=MAX_PENDING_PER_PEER + 1), NOW)
        self.assertEqual(node.pending, MAX_PENDING_PER_PEER + 1)
        for message_id in self.ids(*range(MAX_PENDING_PER_PEER)):
            node.validated(message_id, Validation.IGNORE, NOW)
        node.receive(peer(1), published(9, seqno=MAX_PENDING_PER_PEER + 2), NOW)
        self.assertEqual(node.pending, 2)

    def test_all_together_are_bounded(self) -> None:
        node = self.waiting(MAX_PENDING // MAX_PENDING_PER_PEER + 1)
        for seqno in range(MAX_PENDING + 10):
            node.receive(peer(1 + seqno // MAX_PENDING_PER_PEER), published(9, seqno=seqno), NOW)
        self.assertEqual((node.pending, node.counters.throttled), (MAX_PENDING, 10))

    def test_a_topic_without_such_validators_goes_on(self) -> None:
        node = self.waiting()
        node.subscribe("other", NOW)
        for seqno in range(MAX_PENDING_PER_PEER + 1):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        node.receive(peer(1), published(9, seqno=99, topic="other"), NOW)
        self.assertEqual(len(node.take_deliveries()), 1)

    def test_a_verdict_after_we_left_the_topic(self) -> None:
        node = self.waiting()
        node.receive(peer(1), published(9), NOW)
        node.unsubscribe(TOPIC, NOW)
        node.take_sends()
        node.validated(self.ids(1)[0], Validation.ACCEPT, NOW)
        self.assertEqual((node.take_deliveries(), node.take_sends(), node.pending), ([], {}, 0))


class Ids(RouterCase):
    def test_js_names_messages_by_the_bare_key(self) -> None:
        """Seen, promised, unwanted and cached under one name; asked for under the name that was advertised."""
        node = self.router(3, protocol=MESHSUB_1_2)
        seqno = (1).to_bytes(8, "big")
        bare, other = peer(9)[2:] + seqno, peer(8)[2:] + seqno
        node.receive(peer(1), published(9), NOW)
        node.take_sends()
        node.receive(peer(1), ihave(bare, other), NOW)
        self.assertEqual(self.sent(node, 1).iwant, [other])
        node.receive(peer(2), published(8), NOW + 1)
        node.heartbeat(NOW + 5)
        self.assertEqual(node.counters.promises_broken, 0)
        node.take_sends()
        node.receive(peer(3), iwant(bare), NOW + 5)
        self.assertEqual(len(self.sent(node, 3).messages), 1)
        for raw in unframe(idontwant_frames([peer(7)[2:] + seqno])):
            node.receive(peer(2), raw, NOW + 5)
        node.receive(peer(1), published(7), NOW + 5)
        self.assertEqual(list(node.take_sends()), [peer(3)])

    def test_content_ids(self) -> None:
        node = self.router(2)
        node.set_message_id(TOPIC, content_id)
        node.receive(peer(1), published(9, b"same", seqno=1), NOW)
        node.receive(peer(2), published(9, b"same", seqno=2), NOW)
        node.receive(peer(2), published(8, b"same", seqno=2), NOW)
        deliveries: list[Delivery] = node.take_deliveries()
        self.assertEqual([each.origin for each in deliveries], [peer(9), peer(8)])
        self.assertEqual(len(deliveries[0].message_id), 32)
        node.take_sends()
        first = node.publish(TOPIC, b"mine", NOW)
        self.assertEqual(set(node.take_sends()), {peer(1), peer(2)})
        self.assertEqual(node.publish(TOPIC, b"mine", NOW), first)
        self.assertEqual(node.take_sends(), {}, "said before")
        node.receive(peer(1), iwant(first), NOW)
        self.assertEqual(len(self.sent(node, 1).messages), 1)
