"""The router's rules one at a time, and the rows of spec/security.md 2.4 named by their ids."""

from __future__ import annotations

import random
import tracemalloc

from chorus.errors import LimitExceeded
from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub import encode
from chorus.protocols.gossipsub.decode import decode_message, decode_rpc
from chorus.protocols.gossipsub.encode import message_frame
from chorus.protocols.gossipsub.events import Delivery, Kind, Validation
from chorus.protocols.gossipsub.params import (
    FLOODSUB,
    MAX_BACKOFFS,
    MAX_PEERS,
    MAX_SENT_RPC,
    MAX_TOPICS_PER_PEER,
    MESHSUB_1_0,
    MESHSUB_1_1,
    GossipParams,
)
from chorus.protocols.gossipsub.rpc import RPC, MessageTooLarge
from chorus.protocols.gossipsub.score import UNJUDGED
from chorus.protocols.gossipsub.sign import Signer
from chorus.protocols.proto import rpc_pb2 as pb
from tests.protocols.gossip_network import identity, router, unframe
from tests.support import PureTestCase

TOPIC = "chorus/coordination/v1"
NOW = 1000.0


def peer(number: int) -> bytes:
    return identity(number).peer_id.raw


def subscription(*topics: str, subscribe: bool = True) -> bytes:
    return pb.RPC(
        subscriptions=[pb.RPC.SubOpts(subscribe=subscribe, topicid=topic) for topic in topics]
    ).SerializeToString()


def control(**parts: object) -> bytes:
    return pb.RPC(control=pb.ControlMessage(**parts)).SerializeToString()


def graft(*topics: str) -> bytes:
    return control(graft=[pb.ControlGraft(topicID=topic) for topic in topics])


def prune(topic: str, backoff: int | None = None) -> bytes:
    return control(prune=[pb.ControlPrune(topicID=topic, backoff=backoff)])


def ihave(*ids: bytes, topic: str = TOPIC) -> bytes:
    return control(ihave=[pb.ControlIHave(topicID=topic, messageIDs=ids)])


def iwant(*ids: bytes) -> bytes:
    return control(iwant=[pb.ControlIWant(messageIDs=ids)])


def published(by: int, data: bytes = b"data", seqno: int = 1, topic: str = TOPIC) -> bytes:
    raw = Signer(identity(by)).sign(topic, data, seqno.to_bytes(8, "big"))
    return pb.RPC(publish=[pb.Message.FromString(raw)]).SerializeToString()


class RouterCase(PureTestCase):
    def router(
        self,
        peers: int = 0,
        *,
        params: GossipParams | None = None,
        protocol: str = MESHSUB_1_1,
        outbound: int = 0,
        subscribed: bool = True,
    ) -> GossipRouter:
        """Node 0, subscribed, with peers 1… of which the last `outbound` were dialled by us."""
        node = router(0, params=params)
        if subscribed:
            node.subscribe(TOPIC, NOW)
        for number in range(1, peers + 1):
            node.peer_joined(peer(number), protocol, outbound=number > peers - outbound)
            node.receive(peer(number), subscription(TOPIC), NOW)
        node.take_sends()
        return node

    def sent(self, node: GossipRouter, number: int) -> RPC:
        """What went to a peer since the last look, as one RPC."""
        whole: dict[str, list] = {
            name: [] for name in ("subscriptions", "messages", "ihave", "iwant", "graft", "prune")
        }
        for raw in unframe(frame for _, frame in node.take_sends().get(peer(number), [])):
            decoded = decode_rpc(raw)
            for name, values in whole.items():
                values.extend(getattr(decoded, name))
        return RPC(**whole)


class Grafting(RouterCase):
    def test_a_thin_mesh_grafts_at_once_and_stops_at_d(self) -> None:
        node = self.router(10)
        self.assertEqual(len(node.mesh(TOPIC)), node.params.d)

    def test_subscribing_grafts_d_of_those_who_have_the_topic(self) -> None:
        node = self.router(10, subscribed=False)
        node.subscribe(TOPIC, NOW)
        members = node.mesh(TOPIC)
        self.assertEqual(len(members), node.params.d)
        sends = node.take_sends()
        for number in range(1, 11):
            rpcs = [decode_rpc(raw) for raw in unframe(frame for _, frame in sends[peer(number)])]
            self.assertEqual(rpcs[0].subscriptions, [(True, TOPIC)])
            self.assertEqual(any(rpc.graft for rpc in rpcs), peer(number) in members)

    def test_graft_is_taken_below_d_hi_and_refused_with_prune_above(self) -> None:
        node = self.router(13)
        for number in range(1, 13):
            node.receive(peer(number), graft(TOPIC), NOW)
        self.assertEqual(len(node.mesh(TOPIC)), 12)
        node.take_sends()
        node.receive(peer(13), graft(TOPIC), NOW)
        self.assertNotIn(peer(13), node.mesh(TOPIC))
        (refusal,) = self.sent(node, 13).prune
        self.assertEqual((refusal.topic, refusal.backoff), (TOPIC, 60))
        self.assertEqual({each.peer for each in refusal.peers}, {peer(number) for number in range(1, 13)})

    def test_a_full_mesh_still_takes_connections_that_we_dialled(self) -> None:
        node = self.router(14, outbound=1)
        for number in range(1, 15):
            node.receive(peer(number), graft(TOPIC), NOW)
        self.assertIn(peer(14), node.mesh(TOPIC))
        self.assertEqual(len(node.mesh(TOPIC)), 13)

    def test_graft_of_an_unknown_topic_is_met_with_silence(self) -> None:
        node = self.router(1)
        node.receive(peer(1), subscription("other"), NOW)
        node.receive(peer(1), graft("other"), NOW)
        self.assertEqual(node.take_sends(), {})

    def test_graft_by_a_peer_that_is_not_subscribed_is_met_with_silence(self) -> None:
        node = self.router()
        node.peer_joined(peer(1), MESHSUB_1_1, outbound=False)
        node.take_sends()
        node.receive(peer(1), graft(TOPIC), NOW)
        self.assertEqual((node.mesh(TOPIC), node.take_sends()), ([], {}))

    def test_graft_by_a_floodsub_peer_is_met_with_silence(self) -> None:
        node = self.router(1, protocol=FLOODSUB)
        node.receive(peer(1), graft(TOPIC), NOW)
        self.assertEqual((node.mesh(TOPIC), node.take_sends()), ([], {}))

    def test_graft_during_backoff_is_pruned_and_starts_it_again(self) -> None:
        node = self.router(1)
        node.receive(peer(1), prune(TOPIC, 60), NOW)
        node.receive(peer(1), graft(TOPIC), NOW + 30)
        self.assertEqual(node.mesh(TOPIC), [])
        self.assertEqual(self.sent(node, 1).prune, [(TOPIC, 60, ())])
        self.assertEqual(node.counters.grafts_in_backoff, 1)
        node.receive(peer(1), graft(TOPIC), NOW + 89)
        self.assertEqual(node.mesh(TOPIC), [])
        node.receive(peer(1), graft(TOPIC), NOW + 150)
        self.assertEqual(node.mesh(TOPIC), [peer(1)])

    def test_a_negative_score_is_pruned_and_never_grafted(self) -> None:
        node = self.router(3)
        node.scores.misbehaved(peer(1), 50)
        node.heartbeat(NOW + 1)
        self.assertEqual(node.mesh(TOPIC), [peer(2), peer(3)])
        self.assertEqual(self.sent(node, 1).prune, [(TOPIC, 60, ())])
        node.receive(peer(1), graft(TOPIC), NOW + 100)
        self.assertNotIn(peer(1), node.mesh(TOPIC))

    def test_prune_is_honoured_for_its_backoff(self) -> None:
        node = self.router(1)
        node.receive(peer(1), prune(TOPIC, 5), NOW)
        for second in range(1, 6):
            node.heartbeat(NOW + second)
            self.assertEqual(node.mesh(TOPIC), [])
        node.heartbeat(NOW + 6.1)
        self.assertEqual(node.mesh(TOPIC), [peer(1)])

    def test_prune_without_backoff_counts_a_minute(self) -> None:
        node = self.router(1, protocol=MESHSUB_1_0)
        node.receive(peer(1), prune(TOPIC), NOW)
        node.heartbeat(NOW + 59)
        self.assertEqual(node.mesh(TOPIC), [])
        node.heartbeat(NOW + 62)
        self.assertEqual(node.mesh(TOPIC), [peer(1)])

    def test_peers_before_1_1_get_no_backoff_field(self) -> None:
        node = self.router(1, protocol=MESHSUB_1_0)
        node.unsubscribe(TOPIC, NOW)
        self.assertEqual(self.sent(node, 1).prune, [(TOPIC, None, ())])

    def test_unsubscribing_prunes_with_ten_seconds_then_announces(self) -> None:
        node = self.router(1)
        node.unsubscribe(TOPIC, NOW)
        sent = self.sent(node, 1)
        self.assertEqual((sent.prune, sent.subscriptions), ([(TOPIC, 10, ())], [(False, TOPIC)]))
        node.unsubscribe(TOPIC, NOW)
        self.assertEqual(node.take_sends(), {})

    def test_heartbeat_cuts_an_overfull_mesh_to_d(self) -> None:
        node = self.router(20, outbound=8)
        for number in range(1, 21):
            node.receive(peer(number), graft(TOPIC), NOW)
        self.assertGreater(len(node.mesh(TOPIC)), node.params.d_hi)
        node.heartbeat(NOW + 1)
        members = node.mesh(TOPIC)
        self.assertEqual(len(members), node.params.d)
        self.assertGreaterEqual(sum(node._meshes._is_outbound(member) for member in members), node.params.d_out)

    def test_heartbeat_keeps_d_out_connections_that_we_dialled(self) -> None:
        node = self.router(15, outbound=3)
        for number in range(1, 8):
            node.receive(peer(number), graft(TOPIC), NOW)
        self.assertEqual([member for member in node.mesh(TOPIC) if node._meshes._is_outbound(member)], [])
        node.heartbeat(NOW + 1)
        self.assertEqual(sum(node._meshes._is_outbound(member) for member in node.mesh(TOPIC)), node.params.d_out)

    def test_greeting_again_repeats_the_mesh(self) -> None:
        node = self.router(1)
        self.assertEqual(node.mesh(TOPIC), [peer(1)])
        node.greet(peer(1), NOW)
        sent = self.sent(node, 1)
        self.assertEqual((sent.subscriptions, sent.graft, sent.prune), ([(True, TOPIC)], [TOPIC], []))

    def test_greeting_again_repeats_who_is_not_in_the_mesh(self) -> None:
        """A PRUNE that was lost with its stream."""
        node = self.router(2)
        node.subscribe("other", NOW)
        node.receive(peer(2), prune(TOPIC, 40), NOW)
        node.take_sends()
        node.greet(peer(2), NOW + 10)
        self.assertEqual(self.sent(node, 2).prune, [(TOPIC, 30, ())])
        node.greet(peer(2), NOW + 100)
        self.assertEqual(self.sent(node, 2).prune, [(TOPIC, 1, ())])


class Messages(RouterCase):
    def test_delivered_once_and_forwarded_to_the_mesh_but_not_back(self) -> None:
        node = self.router(5)
        node.receive(peer(1), published(9), NOW)
        deliveries = node.take_deliveries()
        self.assertEqual(deliveries, [Delivery(TOPIC, peer(9), b"data", peer(9) + (1).to_bytes(8, "big"), peer(1))])
        sends = node.take_sends()
        self.assertEqual(sorted(sends), sorted(peer(number) for number in range(2, 6)))
        frames = {frame for items in sends.values() for _, frame in items}
        self.assertEqual(unframe(frames), [published(9)], "the bytes received, in one RPC for everybody")
        for number in (1, 2, 3):
            node.receive(peer(number), published(9), NOW)
        self.assertEqual((node.take_deliveries(), node.take_sends()), ([], {}))
        self.assertEqual(node.counters.duplicates, 3)

    def test_not_forwarded_to_its_publisher(self) -> None:
        node = self.router(3)
        node.receive(peer(1), published(2), NOW)
        self.assertEqual(list(node.take_sends()), [peer(3)])

    def test_foreign_encodings_are_forwarded_as_they_came(self) -> None:
        node = self.router(2)
        body = b"\x22" + bytes([len(TOPIC)]) + TOPIC.encode() + b"\x1a\x08" + bytes(8)
        body += b"\x0a\x26" + peer(9) + b"\x3a\x03xyz"
        raw = b"\x2a\x40" + identity(9).sign(b"libp2p-pubsub:" + body) + body
        node.receive(peer(1), b"\x12" + bytes([len(raw) & 127 | 128, len(raw) >> 7]) + raw, NOW)
        self.assertEqual(len(node.take_deliveries()), 1)
        self.assertEqual(self.sent(node, 2).messages, [raw])

    def test_what_peers_would_refuse_is_delivered_and_not_passed_on(self) -> None:
        for waits in (False, True):
            node = self.router(2)
            if waits:
                node.subscribe(TOPIC, NOW, lambda delivery: Validation.LATER, waits=True)
            sizes = [
                MAX_SENT_RPC - len(message_frame(Signer(identity(9)).sign(TOPIC, bytes(40_000), bytes(8)))) + 40_000
            ]
            sizes += [sizes[0] + 1, 500_000]
            for seqno, size in enumerate(sizes):
                node.receive(peer(1), published(9, bytes(size), seqno), NOW)
                if waits:
                    node.validated(peer(9) + seqno.to_bytes(8, "big"), Validation.ACCEPT, NOW)
            self.assertEqual([len(delivery.data) for delivery in node.take_deliveries()], sizes)
            frames = [frame for kind, frame in node.take_sends()[peer(2)] if kind is Kind.MESSAGE]
            self.assertEqual([len(frame) for frame in frames], [MAX_SENT_RPC])
            self.assertEqual(node.counters.oversized, 2)
            node.receive(peer(2), iwant(*(peer(9) + seqno.to_bytes(8, "big") for seqno in range(3))), NOW)
            self.assertEqual(len(self.sent(node, 2).messages), 1, "nor kept")

    def test_what_a_relay_adds_beside_the_signature_is_left_out(self) -> None:
        raw = Signer(identity(9)).sign(TOPIC, b"data", bytes(8))
        key = identity(9).public_key.to_protobuf()
        key_field = b"\x32" + bytes([len(key)]) + key
        signature = raw[-64:]
        for written in (
            raw + key_field,
            key_field + raw,
            raw[:-66] + key_field + raw[-66:],
            raw[:-65] + b"\xc0\x80\x80\x00" + signature,
            raw[:-66] + b"\xaa\x80\x00\x40" + signature,
        ):
            node = self.router(2)
            node.receive(peer(1), *unframe([message_frame(written)]), NOW)
            self.assertEqual(len(node.take_deliveries()), 1)
            self.assertEqual(self.sent(node, 2).messages, [raw])

    def test_topics_we_do_not_have(self) -> None:
        node = self.router(2)
        node.receive(peer(1), published(9, topic="other"), NOW)
        self.assertEqual((node.take_deliveries(), node.take_sends()), ([], {}))
        self.assertEqual(node.counters.unwanted, 1)

    def test_validators(self) -> None:
        node = self.router(2)
        for seqno, verdict in enumerate((Validation.REJECT, Validation.IGNORE, Validation.ACCEPT)):
            node.subscribe(TOPIC, NOW, lambda delivery, verdict=verdict: verdict)
            for _ in range(2):
                node.receive(peer(1), published(9, seqno=seqno), NOW)
            accepted = verdict is Validation.ACCEPT
            self.assertEqual((len(node.take_deliveries()), len(node.take_sends())), (accepted, accepted))
        self.assertEqual(node.counters.rejected, {"validator": 1})
        self.assertEqual((node.counters.ignored, node.counters.duplicates), (1, 3))

    def test_flood_publish_goes_to_all_who_have_the_topic(self) -> None:
        node = self.router(20)
        node.publish(TOPIC, b"x", NOW)
        self.assertEqual(len(node.take_sends()), 20)

    def test_flood_publish_in_a_topic_that_we_take_no_part_in(self) -> None:
        node = self.router(20, subscribed=False)
        node.scores.misbehaved(peer(4), 100)
        node.publish(TOPIC, b"x", NOW)
        self.assertEqual(sorted(node.take_sends()), sorted(peer(number) for number in range(1, 21) if number != 4))
        self.assertEqual(node.fanout(TOPIC), [])

    def test_without_flood_publish_the_mesh_and_floodsub_peers(self) -> None:
        node = self.router(20, params=GossipParams(flood_publish=False))
        node.peer_joined(peer(30), FLOODSUB, outbound=False)
        node.receive(peer(30), subscription(TOPIC), NOW)
        node.take_sends()
        node.publish(TOPIC, b"x", NOW)
        self.assertEqual(set(node.take_sends()), {*node.mesh(TOPIC), peer(30)})

    def test_one_encoding_for_all(self) -> None:
        node = self.router(5)
        node.publish(TOPIC, b"x", NOW)
        frames = [frame for items in node.take_sends().values() for _, frame in items]
        self.assertEqual(len({id(frame) for frame in frames}), 1)

    def test_sequence_numbers_count_up_from_the_first(self) -> None:
        node = router(0, seqno=1_700_000_000_000_000_000)
        ids = [node.publish(TOPIC, b"", NOW) for _ in range(3)]
        self.assertEqual([int.from_bytes(i[-8:], "big") - 1_700_000_000_000_000_000 for i in ids], [0, 1, 2])
        self.assertTrue(all(i.startswith(node.peer_id) for i in ids))

    def test_what_peers_would_refuse_is_not_published(self) -> None:
        node = self.router(1)
        with self.assertRaises(MessageTooLarge):
            node.publish(TOPIC, bytes(65_500), NOW)
        for topic in ("", "x" * 257):
            with self.assertRaises(ValueError):
                node.publish(topic, b"", NOW)
            with self.assertRaises(ValueError):
                node.subscribe(topic, NOW)
        self.assertEqual((node.take_sends(), node.counters.published), ({}, 0))

    def test_unknown_peers_are_not_heard(self) -> None:
        node = self.router()
        node.receive(peer(1), published(9), NOW)
        self.assertEqual(node.take_deliveries(), [])

    def test_peers_are_bounded(self) -> None:
        node = self.router()
        for number in range(MAX_PEERS + 5):
            node.peer_joined(number.to_bytes(4, "big"), MESHSUB_1_1, outbound=False)
            node.take_sends()
        self.assertEqual(len(node.peers()), MAX_PEERS)


class Gossip(RouterCase):
    def test_ihave_goes_outside_the_mesh_and_iwant_brings_the_message(self) -> None:
        node = self.router(9, params=GossipParams(flood_publish=False))
        message_id = node.publish(TOPIC, b"x", NOW)
        members = node.mesh(TOPIC)
        node.take_sends()
        node.heartbeat(NOW + 1)
        sends = node.take_sends()
        told = [raw for raw, items in sends.items() if any(kind is Kind.GOSSIP for kind, _ in items)]
        outside = [peer(number) for number in range(1, 10) if peer(number) not in node.mesh(TOPIC)]
        self.assertEqual(sorted(told), sorted(outside))
        self.assertLessEqual(set(members), set(node.mesh(TOPIC)))
        node.receive(told[0], iwant(message_id), NOW + 1)
        ((kind, frame),) = node.take_sends()[told[0]]
        self.assertIs(kind, Kind.MESSAGE)
        self.assertEqual(decode_message(decode_rpc(unframe([frame])[0]).messages[0]).data, b"x")

    def test_ihave_goes_to_at_least_d_lazy_and_a_quarter(self) -> None:
        node = self.router(60, params=GossipParams(flood_publish=False))
        node.publish(TOPIC, b"x", NOW)
        node.take_sends()
        node.heartbeat(NOW + 1)
        told = sum(any(kind is Kind.GOSSIP for kind, _ in items) for items in node.take_sends().values())
        outside = 60 - len(node.mesh(TOPIC))
        self.assertEqual(told, int(outside * 0.25))

    def test_gossip_ends_after_three_heartbeats_and_the_message_after_five(self) -> None:
        node = self.router(9)
        message_id = node.publish(TOPIC, b"x", NOW)
        node.take_sends()
        told = []
        for beat in range(1, 7):
            node.heartbeat(NOW + beat)
            told.append(any(kind is Kind.GOSSIP for items in node.take_sends().values() for kind, _ in items))
        self.assertEqual(told, [True, True, True, False, False, False])
        node.receive(peer(1), iwant(message_id), NOW + 7)
        self.assertEqual(node.take_sends(), {})

    def test_asks_only_for_what_it_has_not_seen_in_its_own_topics(self) -> None:
        node = self.router(2)
        node.receive(peer(1), published(9), NOW)
        known = node.take_deliveries()[0].message_id
        node.take_sends()
        node.receive(peer(2), ihave(known, b"new", b"new"), NOW)
        self.assertEqual(self.sent(node, 2).iwant, [b"new"])
        node.receive(peer(2), ihave(b"elsewhere", topic="other"), NOW)
        self.assertEqual(self.sent(node, 2).iwant, [])

    def test_ihave_messages_in_a_heartbeat_are_limited(self) -> None:
        node = self.router(1)
        for number in range(15):
            node.receive(peer(1), ihave(b"%d" % number), NOW)
        self.assertEqual(len(self.sent(node, 1).iwant), 10)
        self.assertEqual(node.counters.ihave_ignored, 5)
        node.heartbeat(NOW + 1)
        node.receive(peer(1), ihave(b"next"), NOW + 1)
        self.assertEqual(self.sent(node, 1).iwant, [b"next"])

    def test_ids_asked_of_one_peer_in_a_heartbeat_are_limited(self) -> None:
        node = self.router(1, params=GossipParams(max_ihave_length=50))
        node.receive(peer(1), ihave(*(b"%d" % number for number in range(40))), NOW)
        node.receive(peer(1), ihave(*(b"%d" % number for number in range(40, 80))), NOW)
        self.assertEqual(len(self.sent(node, 1).iwant), 50)
        node.receive(peer(1), ihave(b"more"), NOW)
        self.assertEqual(self.sent(node, 1).iwant, [])

    def test_own_ihave_keeps_the_limits_of_others(self) -> None:
        node = self.router(20)
        for _ in range(6000):
            node.publish(TOPIC, b"", NOW)
        node.take_sends()
        node.heartbeat(NOW + 1)
        for items in node.take_sends().values():
            gossip = [decode_rpc(raw) for raw in unframe(frame for kind, frame in items if kind is Kind.GOSSIP)]
            self.assertLessEqual(len(gossip), 10)
            self.assertLessEqual(sum(len(ids) for rpc in gossip for _, ids in rpc.ihave), 5000)
            self.assertEqual(sum(rpc.passed_over for rpc in gossip), 0)

    def told(self, node: GossipRouter, now: float) -> dict[bytes, dict[str, list[bytes]]]:
        """Peer → topic → ids of the heartbeat's gossip, whose limits are looked at on the way."""
        node.heartbeat(now)
        told: dict[bytes, dict[str, list[bytes]]] = {}
        for name, items in node.take_sends().items():
            frames = unframe(frame for kind, frame in items if kind is Kind.GOSSIP)
            self.assertLessEqual(len(frames), node.params.max_ihave_messages)
            for topic, ids in (each for raw in frames for each in decode_rpc(raw).ihave):
                told.setdefault(name, {}).setdefault(topic, []).extend(ids)
        return told

    def many_topics(self, peers: int, own: int, params: GossipParams | None = None) -> tuple[GossipRouter, list[str]]:
        """Peers that have `own` of thirty topics, each its own choice of them."""
        topics = [f"topic/{number}" for number in range(30)]
        node = self.router(subscribed=False, params=params)
        for topic in topics:
            node.subscribe(topic, NOW)
        for number in range(1, peers + 1):
            node.peer_joined(peer(number), MESHSUB_1_1, outbound=False)
            node.receive(peer(number), subscription(*random.Random(number).sample(topics, own)), NOW)
        return node, topics

    def say(self, node: GossipRouter, topics: list[str], times: int) -> None:
        for topic in topics * times:
            node.publish(topic, b"", NOW)
        node.take_sends()

    def test_ids_are_chosen_and_encoded_once_for_all_peers(self) -> None:
        """Once for each peer that had its own choice of topics, 128 peers and 20,000 messages took 140 ms."""
        node, topics = self.many_topics(60, 20)
        self.say(node, topics, 200)
        encoded: list[int] = []
        parts = encode._parts

        def counted(ids: list[bytes], topic_bytes: int) -> object:
            encoded.append(len(ids))
            return parts(ids, topic_bytes)

        self.patch(encode, "_parts", counted)
        told = self.told(node, NOW + 1)
        self.assertGreater(len({tuple(topics) for topics in told.values()}), 50)
        self.assertEqual(encoded, [node.params.max_ihave_length // 30] * 30)
        self.assertEqual({len(ids) for topics in told.values() for ids in topics.values()}, {encoded[0]})

    def test_few_ids_are_all_told(self) -> None:
        node, topics = self.many_topics(60, 20)
        self.say(node, topics, 5)
        self.say(node, topics[:1], 2000)
        for told in self.told(node, NOW + 1).values():
            for topic, ids in told.items():
                self.assertEqual(len(set(ids)), 2005 if topic == topics[0] else 5)

    def test_every_topic_has_its_chance_where_not_all_fit(self) -> None:
        params = GossipParams(d=1, d_lo=1, d_hi=1, d_out=0, d_score=0, max_ihave_messages=2)
        node, topics = self.many_topics(3, 30, params)
        whole: set[str] = set()
        for beat in range(6):
            if beat % 3 == 0:
                self.say(node, topics, 30)
            for told in self.told(node, NOW + 1 + beat).values():
                self.assertLess(len(told), 25, "the rest is over the limit of messages")
                whole |= set(told)
        self.assertEqual(sorted(whole), sorted(topics))

    def test_fanout_topics_are_gossiped_too(self) -> None:
        node = self.router(10, subscribed=False, params=GossipParams(flood_publish=False))
        node.publish(TOPIC, b"x", NOW)
        fanout = node.fanout(TOPIC)
        self.assertEqual(sorted(node.take_sends()), sorted(fanout))
        node.heartbeat(NOW + 1)
        told = [raw for raw, items in node.take_sends().items() if items]
        self.assertEqual(len(told), 4)
        self.assertEqual(set(told) & set(fanout), set())
        node.subscribe(TOPIC, NOW + 2)
        self.assertEqual(set(node.mesh(TOPIC)), set(fanout), "fanout peers come first")
        self.assertEqual(node.fanout(TOPIC), [])

    def test_fanout_without_subscribers_keeps_nothing(self) -> None:
        node = self.router(0, subscribed=False, params=GossipParams(flood_publish=False))
        for number in range(100):
            node.publish(f"topic/{number}", b"x", NOW)
        self.assertEqual(node._meshes.fanouts, {})


class Attacks(RouterCase):
    """spec/security.md 2.4."""

    def test_cve_2026_46679_topics_are_freed(self) -> None:
        """js gossipsub: 349,525 topics in one frame; empty topic sets never freed."""
        node = self.router(3, subscribed=False)
        flood = [subscription(*(f"t{n + i}" for i in range(100))) for n in range(0, 100_000, 100)]
        leave = [subscription(*(f"t{n + i}" for i in range(100)), subscribe=False) for n in range(0, 100_000, 100)]
        baseline = node._peers.topics()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for rpc in flood:
                node.receive(peer(1), rpc, NOW)
            self.assertEqual(len(node.topics_of(peer(1))), MAX_TOPICS_PER_PEER)
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, 256 * 1024)
            for rpc in leave:
                node.receive(peer(1), rpc, NOW)
            node.peer_left(peer(1), NOW)
            self.assertEqual(node._peers.topics(), baseline)
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, 64 * 1024)
        finally:
            tracemalloc.stop()
        self.assertEqual(node.subscribers(TOPIC), [peer(2), peer(3)], "the others keep their place")

    def test_cve_2026_86040_empty_subscriptions(self) -> None:
        """js floodsub: 1 MiB of `0a 00`, processed in one tick."""
        self.assert_refused_cheaply(b"\x0a\x00" * (1 << 19))

    def assert_refused_cheaply(self, bomb: bytes) -> None:
        """At no more than reading its bytes once costs."""
        node = self.router(1)

        def refused() -> None:
            with self.assertRaises(LimitExceeded):
                node.receive(peer(1), bomb, NOW)

        self.assert_cheap(refused, 15)

    def test_other_bombs_of_empty_fields(self) -> None:
        for bomb in (
            b"\x12\x00" * (1 << 19),
            b"\x1a\x00" * (1 << 19),
            b"\x52\x00" * (1 << 19),
            b"\x1a\xfc\xff\x3f" + b"\x0a\x00" * ((1 << 19) - 2),
            b"\x1a\xfc\xff\x3f" + b"\x1a\x00" * ((1 << 19) - 2),
            b"\x1a\xfc\xff\x3f" + b"\x2a\x00" * ((1 << 19) - 2),
            b"\x1a\xfc\xff\x3f\x22\xf8\xff\x3f" + b"\x12\x00" * ((1 << 19) - 4),
        ):
            self.assert_refused_cheaply(bomb)
        message = b"\x12\xfc\xff\x3f" + b"\x3a\x00" * ((1 << 19) - 2)

        def rejected() -> None:
            node = self.router(1)
            node.receive(peer(1), message, NOW)
            self.assertEqual(node.counters.rejected, {"malformed": 1})

        self.assert_cheap(rejected, 15)

    def test_cve_2026_95859_graft_of_unknown_topics_leaves_no_state(self) -> None:
        """rust gossipsub: topics named in GRAFT added to the peer's set."""
        node = self.router(1)
        for start in range(0, 100_000, 200):
            node.receive(peer(1), graft(*(f"unknown/{start + i}" for i in range(200))), NOW)
        self.assertEqual(node.topics_of(peer(1)), [TOPIC])
        self.assertEqual(node._meshes.topics(), [TOPIC])
        self.assertEqual((len(node._meshes.backoffs), node.take_sends()), (0, {}))

    def test_prune_of_unknown_topics_leaves_no_state(self) -> None:
        node = self.router(1)
        for number in range(1000):
            node.receive(peer(1), prune(f"unknown/{number}", 60), NOW)
        self.assertEqual(len(node._meshes.backoffs), 0)

    def test_cve_2026_33040_cve_2026_34219_prune_backoffs(self) -> None:
        """rust gossipsub: backoff u64 max, then near-max plus slack, at the next heartbeat."""
        for backoff in (0, 1, 2**32, 2**63, 2**64 - 61, 2**64 - 1):
            node = self.router(2)
            node.receive(peer(1), prune(TOPIC, backoff), NOW)
            for beat in range(1, 40):
                node.heartbeat(NOW + beat)
            node.receive(peer(1), graft(TOPIC), NOW + 40)
            node.heartbeat(NOW + 3_800)
            self.assertIn(peer(1), node.mesh(TOPIC), f"backoff {backoff} ends within the clamp of an hour")

    def test_backoffs_are_bounded(self) -> None:
        node = self.router(0)
        for number in range(MAX_BACKOFFS + 100):
            raw = number.to_bytes(4, "big")
            node.peer_joined(raw, MESHSUB_1_1, outbound=False)
            node.receive(raw, prune(TOPIC, 3600), NOW)
            node.peer_left(raw, NOW)
            node.take_sends()
        self.assertEqual(len(node._meshes.backoffs), MAX_BACKOFFS)

    def test_iwant_floods(self) -> None:
        """Duplicates of one id, unknown ids, and the same id again and again."""
        node = self.router(2)
        message_id = node.publish(TOPIC, b"x", NOW)
        node.take_sends()
        node.receive(peer(1), iwant(*[message_id] * 300), NOW)
        self.assertEqual(len(self.sent(node, 1).messages), 1)
        for _ in range(10):
            node.receive(peer(1), iwant(message_id), NOW)
        self.assertEqual(len(self.sent(node, 1).messages), 2, "three times in all")
        node.receive(peer(1), iwant(*(b"unknown%d" % number for number in range(300))), NOW)
        self.assertEqual(node.take_sends(), {})
        node.receive(peer(2), iwant(message_id), NOW)
        self.assertEqual(len(self.sent(node, 2).messages), 1, "counted for each peer")

    def test_ihave_with_duplicates_asks_once(self) -> None:
        node = self.router(1)
        node.receive(peer(1), ihave(*[b"id"] * 300), NOW)
        self.assertEqual(self.sent(node, 1).iwant, [b"id"])

    def test_messages_from_oneself(self) -> None:
        """Neither delivered nor forwarded; nobody's fault, since our own messages do come back."""
        node = self.router(3)
        node.publish(TOPIC, b"x", NOW)
        node.take_sends()
        own = published(0, b"x", 1)
        node.receive(peer(1), own, NOW)
        node.receive(peer(1), published(0, b"from an earlier life", 77), NOW)
        self.assertEqual((node.take_deliveries(), node.take_sends()), ([], {}))
        self.assertEqual((node.counters.duplicates, node.counters.own, node.counters.rejected), (1, 1, {}))

    def test_bad_messages_are_counted_and_the_rest_goes_on(self) -> None:
        node = self.router(2)
        good = decode_rpc(published(9)).messages[0]
        unsigned = pb.Message.FromString(good)
        unsigned.ClearField("signature")
        forged = pb.Message.FromString(good)
        forged.data = b"forged"
        rpc = b"".join(
            pb.RPC(publish=[message]).SerializeToString()
            for message in (unsigned, forged, pb.Message(topic=TOPIC), pb.Message.FromString(good))
        )
        node.receive(peer(1), rpc + b"\x12\x01\xff", NOW)
        self.assertEqual([delivery.data for delivery in node.take_deliveries()], [b"data"])
        self.assertEqual(node.counters.rejected, {"unsigned": 2, "bad_signature": 1, "malformed": 1})

    def test_a_forgery_does_not_keep_the_real_message_out(self) -> None:
        node = self.router(2)
        forged = pb.RPC.FromString(published(9))
        forged.publish[0].data = b"forged"
        node.receive(peer(1), forged.SerializeToString(), NOW)
        node.receive(peer(2), published(9), NOW)
        self.assertEqual([delivery.data for delivery in node.take_deliveries()], [b"data"])

    def test_nothing_of_a_refused_rpc_counts(self) -> None:
        node = self.router(1)
        bad = published(9) + subscription("new") + b"\x0a\x00" * 200
        with self.assertRaises(LimitExceeded):
            node.receive(peer(1), bad, NOW)
        self.assertEqual((node.take_deliveries(), node.subscribers("new")), ([], []))

    def test_seen_messages_are_bounded(self) -> None:
        node = self.router(1, params=GossipParams(seen_entries=100))
        for seqno in range(150):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        self.assertEqual(len(node._seen), 100)

    def test_a_replay_is_heard_once(self) -> None:
        node = self.router(2)
        for second in range(0, 110, 10):
            node.receive(peer(1), published(9), NOW + second)
            node.heartbeat(NOW + second)
        self.assertEqual(len(node.take_deliveries()), 1)

    def test_leaving_frees_everything(self) -> None:
        node = self.router(5)
        node.receive(peer(1), ihave(b"x"), NOW)
        for number in range(1, 6):
            node.peer_left(peer(number), NOW)
            node.peer_left(peer(number), NOW)
        self.assertEqual((len(node._peers), node._peers.topics()), (0, 0))
        node.heartbeat(NOW + UNJUDGED)
        self.assertEqual(len(node.scores), 0)
        self.assertEqual((node.mesh(TOPIC), node.take_sends()), ([], {}))
