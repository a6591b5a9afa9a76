"""A node that floods, replays, equivocates or never forwards loses its score and its place (and who does not, keeps
them). What is only said by many words is bounded in `test_gossip`; here it costs who says it."""

from __future__ import annotations

from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.decode import decode_message, decode_rpc
from chorus.protocols.gossipsub.encode import idontwant_frames
from chorus.protocols.gossipsub.events import Send, Validation
from chorus.protocols.gossipsub.history import MAX_PUBLISHERS, SeqnoFloors
from chorus.protocols.gossipsub.params import MESHSUB_1_2, GossipParams
from chorus.protocols.proto import rpc_pb2 as pb
from tests.protocols.gossip_network import unframe
from tests.protocols.test_gossip import (
    NOW,
    TOPIC,
    RouterCase,
    graft,
    ihave,
    iwant,
    peer,
    prune,
    published,
    subscription,
)


class Floods(RouterCase):
    def flooded(self, *rpcs: bytes, times: int = 1) -> GossipRouter:
        """Peer 1 says this in each of ten seconds; peers 2 and 3 what honest peers say."""
        node = self.router(3, protocol=MESHSUB_1_2)
        for second in range(10):
            for _ in range(times):
                for rpc in rpcs:
                    node.receive(peer(1), rpc, NOW + second)
            node.receive(peer(2), published(9, seqno=100 + second), NOW + second)
            node.receive(peer(3), published(9, seqno=100 + second), NOW + second)
            node.heartbeat(NOW + second + 0.9)
        return node

    def assert_lost(self, node: GossipRouter) -> None:
        self.assertLess(node.score(peer(1)), node.scores.params.thresholds.graylist)
        self.assertEqual(sorted(node.mesh(TOPIC)), sorted([peer(2), peer(3)]))
        self.assertGreaterEqual(min(node.score(peer(2)), node.score(peer(3))), 0)
        before = node.counters.graylisted
        node.receive(peer(1), published(8), NOW + 11)
        self.assertEqual((node.counters.graylisted, node.take_deliveries()[-1].origin), (before + 1, peer(9)))

    def test_grafts_and_prunes_of_unknown_topics(self) -> None:
        self.assert_lost(self.flooded(graft(*(f"t{n}" for n in range(150))), times=20))
        self.assert_lost(self.flooded(prune("unknown", 60), times=3000))

    def test_subscriptions_that_come_and_go(self) -> None:
        topics = [f"t{n}" for n in range(90)]
        self.assert_lost(self.flooded(subscription(*topics), subscription(*topics, subscribe=False), times=20))

    def test_ihave(self) -> None:
        many = ihave(*(b"%046d" % number for number in range(300)))
        self.assert_lost(self.flooded(many, times=40))

    def test_iwant_of_what_is_not_here(self) -> None:
        many = iwant(*(b"%046d" % number for number in range(300)))
        self.assert_lost(self.flooded(many, times=10))

    def test_idontwant(self) -> None:
        many = [raw for raw in unframe(idontwant_frames([b"%046d" % number for number in range(300)]))]
        self.assert_lost(self.flooded(*many, times=12))

    def test_grafts_in_backoff(self) -> None:
        self.assert_lost(self.flooded(prune(TOPIC, 3600), *[graft(TOPIC)] * 3))

    def test_messages_that_are_of_no_use(self) -> None:
        """Our own words, and those of a topic that we do not have."""
        for useless in (published(0), published(9, topic="elsewhere")):
            self.assert_lost(self.flooded(useless, times=3000))

    def test_messages_from_before_our_time(self) -> None:
        node = self.router(3, params=GossipParams(seen_ttl=10, growing_seqno=True))
        node.receive(peer(2), published(9, seqno=50), NOW)
        node.heartbeat(NOW + 11)
        for _ in range(5000):
            node.receive(peer(1), published(9, seqno=50), NOW + 12)
        node.heartbeat(NOW + 12.5)
        self.assertLess(node.score(peer(1)), node.scores.params.thresholds.graylist)

    def test_messages_that_are_ignored(self) -> None:
        """New ones without end, and one again and again."""
        node = self.router(3)
        node.subscribe(TOPIC, NOW, lambda delivery: Validation.IGNORE)
        for seqno in range(3000):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        for _ in range(200):
            node.receive(peer(2), published(9, seqno=0), NOW)
        node.receive(peer(3), published(9, seqno=0), NOW)
        node.heartbeat(NOW + 0.9)
        self.assertLess(node.score(peer(1)), node.scores.params.thresholds.graylist)
        self.assertLess(node.score(peer(2)), 0)
        self.assertGreaterEqual(node.score(peer(3)), 0)

    def test_leaving_before_the_heartbeat_washes_nothing_off(self) -> None:
        node = self.router(2)
        for second in range(10):
            for _ in range(6):
                node.receive(peer(1), iwant(*(b"%046d" % number for number in range(300))), NOW + second)
            node.receive(peer(1), ihave(b"never-%d" % second), NOW + second)
            node.peer_left(peer(1), NOW + second + 0.5)
            node.heartbeat(NOW + second + 0.9)
            node.peer_joined(peer(1), MESHSUB_1_2, outbound=False)
            node.receive(peer(1), subscription(TOPIC), NOW + second + 0.95)
        self.assertLess(node.score(peer(1)), node.scores.params.thresholds.graylist)
        self.assertGreater(node.counters.promises_broken, 0)

    def test_a_message_that_has_no_use_keeps_its_promise(self) -> None:
        """Who passes on in good faith what we have said or forgotten, and was asked for it, is not blamed."""
        node = self.router(1, params=GossipParams(seen_ttl=10, growing_seqno=True))
        node.receive(peer(1), published(9, seqno=50), NOW)
        node.heartbeat(NOW + 11)
        for origin in (0, 9):
            node.receive(peer(1), ihave(peer(origin) + (50).to_bytes(8, "big")), NOW + 12)
            node.receive(peer(1), published(origin, seqno=50), NOW + 12)
        self.assertEqual((node.counters.iwant_sent, node.counters.own, node.counters.replays), (2, 1, 1))
        node.heartbeat(NOW + 20)
        self.assertEqual(node.counters.promises_broken, 0)

    def test_what_an_honest_peer_says_at_its_start_and_after_our_restart(self) -> None:
        topics = [f"t{n}" for n in range(90)]
        node = self.flooded(
            graft(*topics), ihave(*(b"%046d" % n for n in range(300))), iwant(*(b"%046d" % n for n in range(300)))
        )
        view = node.score_view(peer(1))
        assert view is not None
        self.assertEqual(node.counters.graylisted, 0)
        # It advertised what it never sent: that alone is held against it.
        self.assertLessEqual(view.behaviour, node.counters.promises_broken)


class Replays(RouterCase):
    def test_the_same_message_again_and_again(self) -> None:
        node = self.router(3)
        for second in range(40):
            for number in (1, 2, 3):
                node.receive(peer(number), published(9, seqno=100 + second), NOW + second)
            for _ in range(10):
                node.receive(peer(1), published(9, seqno=100 + second), NOW + second)
            node.heartbeat(NOW + second + 0.9)
        # It stays about where it is not heard any more: what is not heard costs nothing, and old sins fade.
        self.assertGreater(node.counters.graylisted, 100)
        self.assertLess(node.score(peer(1)), node.scores.params.thresholds.publish)
        self.assertEqual(sorted(node.mesh(TOPIC)), sorted([peer(2), peer(3)]))
        self.assertEqual(len(node.take_deliveries()), 40)
        self.assertGreaterEqual(min(node.score(peer(2)), node.score(peer(3))), 0)

    def test_once_more_by_gossip_is_no_replay(self) -> None:
        node = self.router(2)
        for seqno in range(50):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        view = node.score_view(peer(1))
        assert view is not None
        self.assertLess(view.behaviour, node.scores.params.behaviour_threshold)

    def test_what_the_seen_cache_has_forgotten(self) -> None:
        params = GossipParams(seen_ttl=10, growing_seqno=True)
        node = self.router(2, params=params)
        for seqno in range(5, 10):
            node.receive(peer(2), published(9, seqno=seqno), NOW)
        node.heartbeat(NOW + 11)
        node.take_deliveries()
        for _ in range(30):
            node.receive(peer(1), published(9, seqno=7), NOW + 12)
        self.assertEqual((node.take_deliveries(), node.counters.replays), ([], 30))
        # A node that has just started passes on in good faith what others have forgotten: nobody is blamed.
        self.assertGreaterEqual(node.score(peer(1)), 0)
        node.receive(peer(2), published(9, seqno=10), NOW + 12)
        self.assertEqual(len(node.take_deliveries()), 1, "what is new is heard")
        node.receive(peer(2), published(8, seqno=1), NOW + 12)
        self.assertEqual(len(node.take_deliveries()), 1, "another publisher has numbers of its own")

    def test_a_publisher_whose_clock_was_set_back_is_not_heard_and_not_blamed(self) -> None:
        node = self.router(2, params=GossipParams(seen_ttl=10, growing_seqno=True))
        node.receive(peer(1), published(1, seqno=1000), NOW)
        node.heartbeat(NOW + 11)
        for seqno in range(20):
            node.receive(peer(1), published(1, seqno=seqno), NOW + 12)
        self.assertEqual((len(node.take_deliveries()), node.counters.replays), (1, 20))
        self.assertGreaterEqual(node.score(peer(1)), 0)

    def test_what_was_not_passed_on_raises_no_floor(self) -> None:
        """Others cannot know of it, and would be taken for who replays."""
        node = self.router(2, params=GossipParams(seen_ttl=10, growing_seqno=True))
        for verdict in (Validation.IGNORE, Validation.REJECT):
            node.subscribe(TOPIC, NOW, lambda delivery, verdict=verdict: verdict)
            node.receive(peer(1), published(9, seqno=1 << 60), NOW)
            node.subscribe(TOPIC, NOW)
            node.heartbeat(NOW + 11)
            node.receive(peer(2), published(9, seqno=7 + len(verdict.value)), NOW + 12)
            self.assertEqual((len(node.take_deliveries()), node.counters.replays), (1, 0))
            node = self.router(2, params=GossipParams(seen_ttl=10, growing_seqno=True))

    def test_nothing_is_kept_of_what_was_not_passed_on(self) -> None:
        """Longer than its id; and not even so long where numbers need not grow."""
        for growing in (True, False):
            node = self.router(2, params=GossipParams(seen_ttl=10, growing_seqno=growing))
            verdicts = (Validation.IGNORE, Validation.REJECT, Validation.LATER, Validation.ACCEPT)
            for seqno, verdict in enumerate(verdicts, 1):
                node.subscribe(TOPIC, NOW, lambda delivery, verdict=verdict: verdict, waits=True)
                node.receive(peer(1), published(9, seqno=seqno), NOW)
            self.assertEqual(len(node._seen._not_passed_on), 3 if growing else 0)
            node.heartbeat(NOW + 11)
            self.assertEqual((len(node._seen._not_passed_on), len(node._seen)), (0, 0))

    def test_messages_that_overtake_each_other_are_all_heard(self) -> None:
        node = self.router(2, params=GossipParams(seen_ttl=10, growing_seqno=True))
        for seqno in (5, 3, 9, 1, 7):
            node.receive(peer(1), published(9, seqno=seqno), NOW)
        self.assertEqual(len(node.take_deliveries()), 5)

    def test_without_growth_numbers_may_be_drawn(self) -> None:
        node = self.router(2, params=GossipParams(seen_ttl=10))
        node.receive(peer(1), published(9, seqno=1 << 60), NOW)
        node.heartbeat(NOW + 11)
        node.receive(peer(1), published(9, seqno=77), NOW + 12)
        self.assertEqual(len(node.take_deliveries()), 2)

    def test_floors_are_bounded(self) -> None:
        floors = SeqnoFloors()
        for number in range(MAX_PUBLISHERS + 5):
            floors.forgotten(number.to_bytes(4, "big") + bytes(8))
        self.assertEqual(len(floors), MAX_PUBLISHERS)


class Equivocation(RouterCase):
    def test_two_messages_under_one_number(self) -> None:
        """Whoever brings the second is innocent; who signed both pays, and the first one stands."""
        node = self.router(3)
        for seqno in range(6):
            node.receive(peer(2), published(1, b"one", seqno=seqno), NOW)
            node.receive(peer(3), published(1, b"other", seqno=seqno), NOW)
        self.assertEqual([each.data for each in node.take_deliveries()], [b"one"] * 6)
        self.assertEqual(node.counters.equivocations, 6)
        self.assertLess(node.score(peer(1)), node.scores.params.thresholds.graylist)
        self.assertGreaterEqual(min(node.score(peer(2)), node.score(peer(3))), 0)
        node.heartbeat(NOW + 1)
        self.assertNotIn(peer(1), node.mesh(TOPIC))

    def test_the_proof_goes_on_once(self) -> None:
        """To the mesh, but not to who brought it nor to who signed it; other copies do not."""
        node = self.router(5)
        node.receive(peer(2), published(1, b"one"), NOW)
        node.take_sends()
        for number in (3, 4):
            node.receive(peer(number), published(1, b"other"), NOW)
        sends = node.take_sends()
        told = {number: self.data_of(sends.get(peer(number), [])) for number in range(1, 6)}
        self.assertEqual(told, {1: [], 2: [b"other"], 3: [], 4: [b"other"], 5: [b"other"]})
        self.assertEqual([each.data for each in node.take_deliveries()], [b"one"])

    def test_nobody_is_made_to_pass_on_what_it_would_not_accept(self) -> None:
        """Peer 5 has not got the first one, and would hold the second one against us."""
        for first, second in (
            (Validation.ACCEPT, Validation.REJECT),
            (Validation.ACCEPT, Validation.IGNORE),
            (Validation.ACCEPT, Validation.THROTTLE),
            (Validation.IGNORE, Validation.ACCEPT),
            (Validation.REJECT, Validation.ACCEPT),
        ):
            node = self.router(5)
            verdicts = {b"one": first, b"other": second}
            node.subscribe(TOPIC, NOW, lambda delivery, verdicts=verdicts: verdicts[delivery.data])
            node.receive(peer(2), published(1, b"one"), NOW)
            node.take_sends()
            node.receive(peer(3), published(1, b"other"), NOW)
            self.assertEqual((node.counters.equivocations, node.take_sends()), (1, {}), (first, second))

    def test_the_proof_does_not_go_to_who_does_not_want_the_id(self) -> None:
        node = self.router(5, protocol=MESHSUB_1_2)
        node.receive(peer(2), published(1, b"one"), NOW)
        node.take_sends()
        (unwanted,) = unframe(idontwant_frames([peer(1) + (1).to_bytes(8, "big")]))
        node.receive(peer(4), unwanted, NOW)
        node.receive(peer(3), published(1, b"other"), NOW)
        self.assertEqual(sorted(node.take_sends()), sorted([peer(2), peer(5)]))

    def data_of(self, sends: list[Send]) -> list[bytes]:
        rpcs = unframe(frame for _, frame in sends)
        return [decode_message(raw).data for rpc in rpcs for raw in decode_rpc(rpc).messages]

    def test_a_copy_with_other_words_or_another_topic_earns_nothing(self) -> None:
        """Under a known id and signature: it is looked at, found forged, and no copy."""
        node = self.router(3)
        node.subscribe("other", NOW)
        node.receive(peer(2), published(1, b"one"), NOW)
        for field, value in (("data", b""), ("topic", "other")):
            forged = pb.RPC.FromString(published(1, b"one"))
            setattr(forged.publish[0], field, value)
            node.receive(peer(3), forged.SerializeToString(), NOW)
        view = node.score_view(peer(3))
        assert view is not None
        self.assertEqual(sum(each.mesh_deliveries for each in view.topics.values()), 0.0)
        self.assertLess(node.score(peer(3)), 0)
        self.assertEqual(node.counters.equivocations, 0)

    def test_a_second_message_is_checked_once_and_playing_it_again_costs(self) -> None:
        node = self.router(3)
        checked: list[bytes] = []
        verify = node._messages._verify
        node._messages._verify = lambda message: (checked.append(message.data), verify(message))[1]
        node.receive(peer(2), published(1, b"one"), NOW)
        for _ in range(200):
            node.receive(peer(3), published(1, b"other"), NOW)
        self.assertEqual((checked, node.counters.equivocations), ([b"one", b"other"], 1))
        view = node.score_view(peer(1))
        assert view is not None
        self.assertEqual(view.topics[TOPIC].invalid, 1.0, "once for each who sends it")
        self.assertLess(node.score(peer(3)), 0)
        self.assertGreaterEqual(node.score(peer(2)), 0)

    def test_a_forged_second_message_costs_who_sent_it(self) -> None:
        node = self.router(3)
        node.receive(peer(2), published(1, b"one"), NOW)
        forged = pb.RPC.FromString(published(1, b"one"))
        forged.publish[0].signature = bytes(64)
        node.receive(peer(3), forged.SerializeToString(), NOW)
        self.assertEqual((node.counters.equivocations, node.counters.rejected), (0, {"bad_signature": 1}))
        self.assertLess(node.score(peer(3)), 0)
        self.assertGreaterEqual(min(node.score(peer(1)), node.score(peer(2))), 0)


class Silence(RouterCase):
    def test_who_has_nothing_to_bring_keeps_its_place(self) -> None:
        """The ends of a chain, the points of a star: the rest of the mesh hears of everything through us."""
        node = self.router(7)
        for second in range(600):
            node.receive(peer(1), published(9, seqno=second), NOW + second)
            node.heartbeat(NOW + second + 0.9)
        self.assertEqual(len(node.mesh(TOPIC)), node.params.d)
        self.assertGreaterEqual(min(node.score(peer(number)) for number in range(1, 8)), 0)

    def test_cve_2022_47547_who_never_forwards_loses_score_and_place(self) -> None:
        node = self.router(4)
        for second in range(120):
            for number in (1, 2, 3):
                node.receive(peer(number), published(9, seqno=second), NOW + second)
            node.heartbeat(NOW + second + 0.9)
        self.assertLess(node.score(peer(4)), 0)
        self.assertEqual(sorted(node.mesh(TOPIC)), sorted(map(peer, (1, 2, 3))))
        self.assertGreaterEqual(min(node.score(peer(number)) for number in (1, 2, 3)), 0)
        node.receive(peer(4), graft(TOPIC), NOW + 200)
        self.assertNotIn(peer(4), node.mesh(TOPIC))

    def washed(self, *words: bytes, every: int) -> GossipRouter:
        """Peer 4 brings nothing, and says `words` every so many seconds."""
        node = self.router(4)
        places = 0
        for second in range(300):
            for number in (1, 2, 3):
                node.receive(peer(number), published(9, seqno=second), NOW + second)
            if second % every == every - 1:
                for word in words:
                    node.receive(peer(4), word, NOW + second)
            node.heartbeat(NOW + second + 0.9)
            places += peer(4) in node.mesh(TOPIC)
        self.assertLess(places, 100)
        return node

    def test_cve_2022_47547_coming_back_in_time_is_no_way_out(self) -> None:
        """Before P3 counts: by unsubscribing, by pruning us, and by a new connection."""
        again = (subscription(TOPIC, subscribe=False), subscription(TOPIC), graft(TOPIC))
        for words, every in ((again, 29), (again, 5), ((prune(TOPIC, 1),), 28)):
            node = self.washed(*words, every=every)
            self.assertNotIn(peer(4), node.mesh(TOPIC))
            self.assertGreaterEqual(min(node.score(peer(number)) for number in (1, 2, 3)), 0)

    def test_cve_2022_47547_nor_is_a_new_connection(self) -> None:
        node = self.router(4)
        places = 0
        for second in range(300):
            for number in (1, 2, 3):
                node.receive(peer(number), published(9, seqno=second), NOW + second)
            if second % 20 == 19:
                node.peer_left(peer(4), NOW + second)
                node.peer_joined(peer(4), MESHSUB_1_2, outbound=False)
                node.receive(peer(4), subscription(TOPIC), NOW + second)
                node.receive(peer(4), graft(TOPIC), NOW + second)
            node.heartbeat(NOW + second + 0.9)
            places += peer(4) in node.mesh(TOPIC)
        self.assertLess(places, 100)
        self.assertNotIn(peer(4), node.mesh(TOPIC))

    def test_cve_2022_47547_own_words_are_no_substitute(self) -> None:
        node = self.router(4)
        for second in range(120):
            for number in (1, 2, 3):
                node.receive(peer(number), published(9, seqno=second), NOW + second)
            node.receive(peer(4), published(4, seqno=second), NOW + second)
            node.heartbeat(NOW + second + 0.9)
        self.assertNotIn(peer(4), node.mesh(TOPIC))


class Restarts(RouterCase):
    def back(self, node: GossipRouter, now: float) -> None:
        node.peer_left(peer(1), now)
        node.peer_joined(peer(1), MESHSUB_1_2, outbound=False)
        node.receive(peer(1), subscription(*node.topics()), now)

    def test_a_node_that_restarts_does_not_know_of_backoffs(self) -> None:
        """It grafts in all its topics at once: refused for what is left of each backoff, and not blamed."""
        node = self.router(1)
        topics = [f"t{number}" for number in range(20)]
        for topic in topics:
            node.subscribe(topic, NOW)
        node.receive(peer(1), subscription(*topics), NOW)
        for topic in topics:
            node.receive(peer(1), prune(topic, 10), NOW)
        self.back(node, NOW + 3)
        node.take_sends()
        node.receive(peer(1), graft(*topics), NOW + 3)
        self.assertEqual({each.backoff for each in self.sent(node, 1).prune}, {7})
        self.assertGreaterEqual(node.score(peer(1)), 0)
        node.receive(peer(1), graft(*topics), NOW + 10.1)
        self.assertEqual([node.mesh(topic) for topic in topics], [[peer(1)]] * len(topics))

    def test_it_is_told_once(self) -> None:
        node = self.router(1)
        node.receive(peer(1), prune(TOPIC, 60), NOW)
        self.back(node, NOW + 1)
        for _ in range(10):
            node.receive(peer(1), graft(TOPIC), NOW + 2)
        self.assertLess(node.score(peer(1)), 0)

    def test_leaving_all_topics_sets_no_backoff(self) -> None:
        node = self.router(1)
        node.take_sends()
        node.leave(NOW)
        said = self.sent(node, 1)
        self.assertEqual((said.subscriptions, said.prune), ([(False, TOPIC)], []))
        self.assertEqual((node.topics(), node.mesh(TOPIC)), ([], []))


class Outsiders(RouterCase):
    """Peer 9 is in no mesh of the node's and has every message first, so that the mesh has nothing left to bring."""

    def heard_first(self, *, asked: bool, others: bool) -> GossipRouter:
        """`others` are two more outside of the mesh, which advertise the same."""
        node = self.router(11)
        outsider = peer(9)
        self.assertNotIn(outsider, node.mesh(TOPIC))
        for second in range(120):
            now = NOW + second
            message = published(30, seqno=100 + second)
            advertised = ihave(peer(30) + (100 + second).to_bytes(8, "big"))
            if asked:
                node.receive(outsider, advertised, now)
            node.receive(outsider, message, now)
            for other in (10, 11) if others else ():
                node.receive(peer(other), advertised, now)
            node.heartbeat(now + 0.9)
        return node

    def test_pushing_past_the_mesh_makes_nobody_look_silent(self) -> None:
        node = self.heard_first(asked=False, others=True)
        self.assertGreaterEqual(min(node.score(peer(number)) for number in range(1, 9)), 0.0)

    def test_two_who_say_what_nobody_else_has_make_nobody_look_silent(self) -> None:
        """Peer 30 says its words to peer 9 alone, which gives them to the node on its asking."""
        node = self.heard_first(asked=True, others=False)
        self.assertGreaterEqual(min(node.score(peer(number)) for number in range(1, 9)), 0.0)

    def test_what_gossip_had_to_bring_is_held_against_the_mesh(self) -> None:
        node = self.heard_first(asked=True, others=True)
        self.assertLess(min(node.score(peer(number)) for number in range(1, 9)), 0.0)
