"""P1 to P7 one at a time, their parameters, and what they must do to a peer that never forwards."""

from __future__ import annotations

import random

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.protocols.gossipsub.score import MAX_RETAINED, PeerScores
from chorus.protocols.gossipsub.score_params import ScoreParameterError, ScoreParams, ScoreThresholds, TopicScoreParams
from chorus.protocols.gossipsub.score_stats import MAX_RECORDS
from tests.support import PureTestCase

T = "topic"
A, B, C, D = b"a", b"b", b"c", b"d"
OFF = TopicScoreParams(
    mesh_time_weight=0, first_weight=0, mesh_deliveries_weight=0, mesh_failure_weight=0, invalid_weight=0
)


def scores(*peers: bytes, topic: TopicScoreParams = OFF, **more: object) -> PeerScores:
    made = PeerScores(ScoreParams(topic=topic, **more))
    for peer in peers:
        made.joined(peer, None)
    return made


def deliver(made: PeerScores, number: int, first: bytes, *others: bytes, now: float) -> None:
    message_id = number.to_bytes(8, "big")
    made.arrived(first, b"author %d" % number, message_id, b"mark", now)
    made.accepted(first, T, message_id, now)
    for other in others:
        made.duplicate(other, T, message_id, b"mark", now + 0.01)


class Parts(PureTestCase):
    def test_p1_time_in_mesh_is_capped(self) -> None:
        made = scores(A, topic=attrs.evolve(OFF, mesh_time_weight=0.5, mesh_time_quantum=2.0, mesh_time_cap=10.0))
        made.grafted(A, T, 0.0)
        for now, expected in ((2.0, 0.5), (8.0, 2.0), (1000.0, 5.0)):
            made.refresh(now)
            self.assertAlmostEqual(made.score(A), expected)
        made.pruned(A, T, 1000.0)
        self.assertEqual(made.score(A), 0.0)

    def test_p2_first_deliveries_are_capped_and_decay(self) -> None:
        made = scores(A, B, topic=attrs.evolve(OFF, first_weight=2.0, first_cap=3.0, first_decay=0.5))
        for number in range(5):
            deliver(made, number, A, B, now=0.0)
        self.assertEqual((made.score(A), made.score(B)), (6.0, 0.0))
        made.refresh(1.0)
        self.assertEqual(made.score(A), 3.0)
        for step in range(2, 12):
            made.refresh(float(step))
        self.assertEqual(made.score(A), 0.0, "what is under decay_to_zero is nothing")

    def test_p2_own_words_earn_nothing(self) -> None:
        """Else who publishes much could pay for what it signs twice."""
        made = scores(A, topic=attrs.evolve(OFF, first_weight=2.0))
        for number, author in enumerate((A, b"author", A)):
            message_id = number.to_bytes(8, "big")
            made.arrived(A, author, message_id, b"mark", 0.0)
            made.accepted(A, T, message_id, 0.0)
        self.assertEqual(made.score(A), 2.0)

    def test_p3_counts_copies_within_the_window_and_only_after_activation(self) -> None:
        topic = attrs.evolve(
            OFF,
            mesh_deliveries_weight=-1.0,
            mesh_deliveries_decay=0.999,
            mesh_deliveries_threshold=4.0,
            mesh_deliveries_share=1.0,
            mesh_deliveries_activation=10.0,
            mesh_deliveries_window=1.0,
        )
        made = scores(A, B, C, topic=topic)
        for peer in (A, B, C):
            made.grafted(peer, T, 0.0)
        for number in range(8):
            message_id = bytes([number])
            made.arrived(A, b"author" + message_id, message_id, b"mark", 1.0)
            made.accepted(A, T, message_id, 1.0)
            made.duplicate(B, T, message_id, b"mark", 1.9)
            made.duplicate(B, T, message_id, b"mark", 1.9)
            made.duplicate(C, T, message_id, b"mark", 2.1)
        self.assertEqual(made.score(C), 0.0, "not active yet")
        made.refresh(11.0)
        self.assertEqual((made.score(A), made.score(B)), (0.0, 0.0))
        self.assertAlmostEqual(made.score(C), -16.0)

    def test_p3_asks_nothing_where_messages_come_by_one_way_only(self) -> None:
        """A chain, a star of members that know nobody else."""
        topic = attrs.evolve(OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0)
        made = scores(A, B, topic=topic)
        made.grafted(A, T, 0.0)
        made.grafted(B, T, 0.0)
        for number in range(1000):
            deliver(made, number, A, now=1.0)
        made.refresh(2.0)
        self.assertEqual(made.score(B), 0.0)

    def test_two_who_work_together_cannot_make_the_rest_look_silent(self) -> None:
        """Three of a mesh must have brought a message before it is expected of the others."""
        topic = attrs.evolve(OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0)
        honest = [bytes([100 + number]) for number in range(4)]
        made = scores(A, B, C, *honest, topic=topic)
        for peer in (A, B, C, *honest):
            made.grafted(peer, T, 0.0)
        for number in range(200):
            deliver(made, number, A, B, now=1.0)
        made.refresh(2.0)
        self.assertGreaterEqual(min(made.score(peer) for peer in honest), 0.0)
        for number in range(200, 400):
            deliver(made, number, A, B, C, now=3.0)
        made.refresh(4.0)
        self.assertLess(made.score(honest[0]), 0.0)

    def test_who_is_outside_of_the_mesh_is_no_witness(self) -> None:
        topic = attrs.evolve(OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0)
        inside = [bytes([100 + number]) for number in range(6)]
        outside = [bytes([200 + number]) for number in range(6)]
        made = scores(*inside, *outside, topic=topic)
        for peer in inside:
            made.grafted(peer, T, 0.0)
        for number in range(200):
            deliver(made, number, inside[0], *outside, now=1.0)
        made.refresh(2.0)
        self.assertEqual(made.score(inside[5]), 0.0)

    def test_all_topics_together_leave_the_gossip(self) -> None:
        made = PeerScores()
        for peer in (A, B, C):
            made.joined(peer, None)
        for topic in (f"t{number}" for number in range(20)):
            for peer in (A, B, C):
                made.grafted(peer, topic, 0.0)
            for number in range(100):
                message_id = topic.encode() + bytes([number])
                made.arrived(A, b"author" + message_id, message_id, b"mark", 1.0)
                made.accepted(A, topic, message_id, 1.0)
                made.duplicate(B, topic, message_id, b"mark", 1.0)
        made.refresh(40.0)
        self.assertLess(made.score(C), -30.0)
        self.assertGreater(made.score(C), made.params.thresholds.gossip)

    def test_a_topic_that_was_left_is_forgotten(self) -> None:
        made = PeerScores()
        made.joined(A, None)
        for number in range(100):
            made.grafted(A, f"t{number}", 0.0)
            made.pruned(A, f"t{number}", 0.0)
        made.refresh(1.0)
        view = made.view(A)
        assert view is not None
        self.assertEqual((view.topics, made._mesh_sizes), ({}, {}))

    def test_p3_counts_what_gossip_had_to_bring(self) -> None:
        """In a mesh that silent peers fill nothing comes twice; that it comes by another way shows them."""
        topic = attrs.evolve(OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0)
        for author, promised, advertisers, low, high in (
            (b"author", True, (C, D), -100.0, -10.0),
            (b"author", True, (C, C, A), 0.0, 0.0),
            (b"author", False, (C, D), 0.0, 0.0),
            (A, True, (C, D), 0.0, 0.0),
        ):
            made = scores(A, B, C, D, topic=topic)
            made.grafted(B, T, 0.0)
            for number in range(50):
                message_id = number.to_bytes(8, "big")
                origin = author if author == A else author + message_id
                made.arrived(A, origin, message_id, b"mark", 1.0, promised=promised)
                made.accepted(A, T, message_id, 1.0)
                for advertiser in advertisers:
                    made.advertised(advertiser, T, message_id)
            made.refresh(2.0)
            self.assertGreaterEqual(made.score(B), low)
            self.assertLessEqual(made.score(B), high, "asked for, of three who did not publish it, or it is no gossip")

    def test_p3_counts_one_message_of_a_publisher_in_a_second(self) -> None:
        """Its burst comes by one way, and whoever we reach first with it would lack all of it at once."""
        topic = attrs.evolve(OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0)
        made = scores(A, B, C, D, topic=topic)
        for peer in (A, B, C, D):
            made.grafted(peer, T, 0.0)
        for second in range(1, 4):
            for number in range(200):
                message_id = bytes([second, number])
                made.arrived(A, b"author", message_id, b"mark", float(second))
                made.accepted(A, T, message_id, float(second))
                made.duplicate(B, T, message_id, b"mark", float(second))
                made.duplicate(C, T, message_id, b"mark", float(second))
            made.refresh(float(second))
        self.assertLess(made._traffic[T], 3.0)
        self.assertEqual(made.score(D), 0.0)

    def test_p3_neither_credits_nor_expects_own_words(self) -> None:
        topic = attrs.evolve(OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0)
        for others, low in ((0, 0.0), (100, -16.0)):
            made = scores(A, B, C, topic=topic)
            for peer in (A, B, C):
                made.grafted(peer, T, 0.0)
            for number in range(50):
                message_id = number.to_bytes(8, "big")
                made.arrived(C, C, message_id, b"mark", 1.0)
                made.accepted(C, T, message_id, 1.0)
                made.duplicate(A, T, message_id, b"mark", 1.1)
                made.duplicate(B, T, message_id, b"mark", 1.1)
            for number in range(others):
                deliver(made, 1000 + number, A, B, now=1.0)
            made.refresh(2.0)
            self.assertLessEqual(made.score(C), low)
            self.assertGreaterEqual(made.score(C), low * 2)

    def test_p3_counts_from_when_a_peer_came_to_the_mesh(self) -> None:
        topic = attrs.evolve(
            OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0, mesh_deliveries_decay=0.9999
        )
        made = scores(A, B, C, topic=topic)
        made.grafted(A, T, 0.0)
        made.grafted(B, T, 0.0)
        for number in range(1000):
            deliver(made, number, A, B, now=1.0)
        made.grafted(C, T, 1.0)
        made.refresh(2.0)
        self.assertEqual(made.score(C), 0.0)
        for number in range(1000, 1010):
            deliver(made, number, A, B, now=3.0)
        made.refresh(4.0)
        self.assertAlmostEqual(made.score(C), -1.0, places=2)

    def test_p3_asks_nothing_of_a_quiet_topic(self) -> None:
        topic = attrs.evolve(OFF, mesh_deliveries_weight=-1.0, mesh_deliveries_activation=0.0)
        made = scores(A, B, C, topic=topic)
        for peer in (A, B, C):
            made.grafted(peer, T, 0.0)
        deliver(made, 1, A, B, now=1.0)
        made.refresh(2.0)
        self.assertGreater(made.score(C), -0.03)

    def test_p3_and_p3b_leave_the_gossip(self) -> None:
        """However long it lasts, and though it is grafted anew after each backoff."""
        made = PeerScores()
        for peer in (A, B, C):
            made.joined(peer, None)
            made.grafted(peer, T, 0.0)
        worst = 0.0
        for second in range(1, 3600):
            for number in range(3):
                deliver(made, second * 10 + number, A, B, now=float(second))
            made.refresh(float(second))
            worst = min(worst, made.score(C))
            if made.score(C) < 0:
                made.pruned(C, T, float(second))
            if second % 61 == 0:
                made.grafted(C, T, float(second))
        self.assertLess(worst, -10.0)
        self.assertGreater(worst, made.params.thresholds.gossip)

    def test_p3b_stays_when_a_peer_is_pruned_and_when_it_comes_back(self) -> None:
        topic = attrs.evolve(
            OFF,
            mesh_deliveries_weight=-1.0,
            mesh_deliveries_threshold=3.0,
            mesh_deliveries_share=1.0,
            mesh_deliveries_activation=0.5,
            mesh_failure_weight=-1.0,
            mesh_failure_decay=0.5,
        )
        made = scores(A, B, C, topic=topic)
        for peer in (A, B, C):
            made.grafted(peer, T, 0.0)
        for number in range(30):
            deliver(made, number, A, C, now=1.0)
        made.refresh(1.0)
        self.assertAlmostEqual(made.score(B), -9.0)
        made.pruned(B, T, 1.0)
        self.assertAlmostEqual(made.score(B), -9.0)
        made.left(B, 2.0)
        made.joined(B, None)
        self.assertAlmostEqual(made.score(B), -9.0)
        made.refresh(3.0)
        self.assertAlmostEqual(made.score(B), -4.5)

    def test_p4_is_for_everybody_who_sent_it_before_or_after_the_verdict(self) -> None:
        made = scores(A, B, C, topic=attrs.evolve(OFF, invalid_weight=-2.0))
        made.arrived(A, b"author", b"m", b"mark", 0.0)
        made.duplicate(B, T, b"m", b"mark", 0.1)
        made.rejected(T, b"m")
        made.rejected(T, b"m")
        made.duplicate(C, T, b"m", b"mark", 0.2)
        made.duplicate(C, T, b"m", b"mark", 0.3)
        self.assertEqual([made.score(peer) for peer in (A, B, C)], [-2.0, -2.0, -2.0])
        made.invalid(A, T)
        self.assertEqual(made.score(A), -8.0, "the square")

    def test_an_ignored_message_is_nobodys_fault(self) -> None:
        made = scores(A, B, topic=attrs.evolve(OFF, invalid_weight=-2.0, first_weight=1.0))
        made.arrived(A, b"author", b"m", b"mark", 0.0)
        made.duplicate(B, T, b"m", b"mark", 0.1)
        self.assertEqual((made.score(A), made.score(B)), (0.0, 0.0))

    def test_copies_that_came_while_validators_thought_count_as_near_first(self) -> None:
        topic = attrs.evolve(
            OFF,
            mesh_deliveries_weight=-1.0,
            mesh_deliveries_threshold=1.0,
            mesh_deliveries_share=1.0,
            mesh_deliveries_activation=0.0,
            mesh_deliveries_window=0.0,
        )
        made = scores(A, B, topic=topic)
        made.grafted(B, T, 0.0)
        made.grafted(A, T, 0.0)
        for number in range(5):
            made.arrived(A, b"author", bytes([number]), b"mark", 1.0)
            made.duplicate(B, T, bytes([number]), b"mark", 8.0)
            made.accepted(A, T, bytes([number]), 9.0)
        made.refresh(10.0)
        self.assertEqual(made.score(B), 0.0)

    def test_p5(self) -> None:
        made = scores(A, application_weight=3.0)
        made.application = lambda peer: {A: -7.0}[peer]
        made.refresh(1.0)
        self.assertEqual(made.score(A), -21.0)
        made.application = lambda peer: 0.0
        made.refresh(2.0)
        self.assertEqual(made.score(A), 0.0)

    def test_p6_counts_public_networks_only(self) -> None:
        made = scores(group_weight=-1.0, group_threshold=2)
        for number in range(5):
            made.joined(bytes([number]), "192.0.2.0")
        made.joined(b"lan", None)
        self.assertEqual((made.score(b"\x00"), made.score(b"lan")), (-9.0, 0.0))
        made.joined(b"\x00", "198.51.100.0")
        self.assertEqual((made.score(b"\x00"), made.score(b"\x01")), (0.0, -4.0))
        for number in range(5):
            made.left(bytes([number]), 1.0)
        made.refresh(10_000.0)
        self.assertEqual((len(made), made._groups), (1, {}))

    def test_leaving_washes_no_fault_off_a_score_that_covers_it(self) -> None:
        made = scores(A, topic=attrs.evolve(OFF, invalid_weight=-20.0, invalid_decay=0.999, first_weight=1.0))
        for number in range(30):
            deliver(made, number, A, now=0.0)
        made.invalid(A, T)
        self.assertGreater(made.score(A), 0.0)
        made.left(A, 1.0)
        made.joined(A, None)
        self.assertEqual(made.score(A), -20.0)

    def test_p6_does_not_count_who_has_left(self) -> None:
        """However badly they behaved: an honest peer behind the same address is not to blame."""
        made = scores(A, group_weight=-1.0, group_threshold=2)
        made.joined(A, "192.0.2.0")
        for number in range(20):
            peer = bytes([number])
            made.joined(peer, "192.0.2.0")
            made.misbehaved(peer, 100.0)
            made.left(peer, 1.0)
        self.assertEqual((made.score(A), len(made)), (0.0, 21))
        made.joined(b"\x00", "192.0.2.0")
        made.joined(b"\x01", "192.0.2.0")
        self.assertEqual(made.score(A), -1.0)

    def test_p7_is_the_square_above_its_threshold_and_decays(self) -> None:
        made = scores(A, behaviour_weight=-1.0, behaviour_threshold=2.0, behaviour_decay=0.5)
        made.misbehaved(A, 2.0)
        self.assertEqual(made.score(A), 0.0)
        made.misbehaved(A, 4.0)
        self.assertEqual(made.score(A), -16.0)
        made.refresh(1.0)
        self.assertEqual(made.score(A), -1.0)

    def test_topics_together_are_capped(self) -> None:
        made = scores(A, topic=attrs.evolve(OFF, first_weight=1.0), topic_cap=5.0)
        for number in range(20):
            deliver(made, number, A, now=0.0)
        self.assertEqual(made.score(A), 5.0)


class Memory(PureTestCase):
    def test_a_good_score_goes_with_its_peer_and_a_bad_one_is_kept_for_a_time(self) -> None:
        made = scores(A, B, retain=100.0, behaviour_decay=0.999999)
        made.misbehaved(A, 50.0)
        for peer in (A, B):
            made.left(peer, 10.0)
        self.assertEqual((len(made), made.score(B)), (1, 0.0))
        self.assertLess(made.score(A), -1000)
        made.refresh(111.0)
        self.assertEqual(len(made), 0)

    def test_retained_peers_are_bounded(self) -> None:
        made = scores()
        for number in range(MAX_RETAINED + 50):
            raw = number.to_bytes(4, "big")
            made.joined(raw, None)
            made.misbehaved(raw, 50.0)
            made.left(raw, 0.0)
        self.assertEqual((len(made), len(made._gone)), (MAX_RETAINED, MAX_RETAINED))

    def test_records_are_bounded_in_number_and_in_time(self) -> None:
        made = scores(A)
        for number in range(MAX_RECORDS + 100):
            deliver(made, number, A, now=0.0)
        self.assertEqual((len(made._records), len(made._records._order)), (MAX_RECORDS, MAX_RECORDS))
        made.refresh(121.0)
        self.assertEqual((len(made._records), len(made._records._order)), (0, 0))

    def test_nothing_is_known_of_strangers(self) -> None:
        made = scores()
        made.grafted(A, T, 0.0)
        made.pruned(A, T, 0.0)
        made.misbehaved(A)
        made.invalid(A, T)
        made.left(A, 0.0)
        self.assertEqual((len(made), made.score(A), made.view(A)), (0, 0.0, None))

    def test_a_view_adds_up(self) -> None:
        made = PeerScores()
        for peer in (A, B):
            made.joined(peer, "net")
            made.grafted(peer, T, 0.0)
        for number in range(10):
            deliver(made, number, A, B, now=1.0)
        made.misbehaved(A, 8.0)
        made.refresh(50.0)
        view = made.view(A)
        assert view is not None
        self.assertEqual((view.connected, view.group_size, set(view.topics)), (True, 2, {T}))
        excess = view.behaviour - made.params.behaviour_threshold
        self.assertAlmostEqual(view.score, view.topics[T].score + made.params.behaviour_weight * excess * excess)


class Silence(PureTestCase):
    """CVE-2022-47547: with default-like parameters of 1.1 a member of a mesh that never forwards stays above 0."""

    @given(
        rate=st.floats(0.1, 20.0),
        seed=st.integers(0, 2**32),
        staying=st.integers(0, 600),
    )
    @settings(max_examples=30, deadline=None)
    def test_cve_2022_47547_a_silent_member_of_a_mesh_falls_below_zero(self, rate, seed, staying):
        """At a message every ten seconds or more: within a quarter of an hour, however long it was honest before."""
        rng = random.Random(seed)
        made = PeerScores()
        for peer in (A, B, C):
            made.joined(peer, None)
            made.grafted(peer, T, 0.0)
        number, now, end = 0, 0.0, float(staying) + 900.0
        credit = 0.0
        while now < end:
            now += 1.0
            credit += rate
            while credit >= 1.0:
                credit -= 1.0
                number += 1
                deliver(made, number, *rng.sample([A, B, C] if now < staying else [A, B], 2), now=now)
            made.refresh(now)
            if now > staying and made.score(C) < 0:
                break
        self.assertLess(made.score(C), 0.0)
        self.assertGreaterEqual(min(made.score(A), made.score(B)), 0.0)

    @given(rate=st.floats(0.001, 20.0), seed=st.integers(0, 2**32), share=st.floats(0.3, 1.0))
    @settings(max_examples=40, deadline=None)
    def test_who_forwards_a_third_stays_at_zero_or_above(self, rate, seed, share):
        """Honest members behind slow links: never first, and late with most of it."""
        rng = random.Random(seed)
        made = PeerScores()
        for peer in (A, B, C):
            made.joined(peer, None)
            made.grafted(peer, T, 0.0)
        credit, brought, worst = 0.0, 0.0, 0.0
        for second in range(1, 601):
            credit += rate
            while credit >= 1.0:
                credit -= 1.0
                brought += share
                late = brought >= 1.0
                brought -= late
                deliver(made, rng.getrandbits(60), A, C, *([B] if late else []), now=float(second))
            made.refresh(float(second))
            worst = min(worst, made.score(B))
        self.assertGreaterEqual(worst, -0.5)

    def test_an_hour_of_quiet_harms_nobody(self) -> None:
        made = PeerScores()
        made.joined(A, None)
        made.joined(B, None)
        made.grafted(A, T, 0.0)
        made.grafted(B, T, 0.0)
        for second in range(1, 3601):
            if second % 30 == 0:
                deliver(made, second, A, now=float(second))
            made.refresh(float(second))
            self.assertGreaterEqual(made.score(B), 0.0)


class Params(PureTestCase):
    def test_defaults_hold(self) -> None:
        ScoreParams()
        self.assertEqual(ScoreParams(topics={T: OFF}).of(T), OFF)
        self.assertEqual(ScoreParams(topics={T: OFF}).of("other"), TopicScoreParams())

    def test_the_set_of_the_published_thousand_node_run_is_valid(self) -> None:
        """spec/wire.md 12: the tested set of GossipSub's evaluation. It is taken, and it is what counts."""
        made = PeerScores(self.published())
        for peer in (A, B):
            made.joined(peer, None)
        made.grafted(A, T, 0.0)
        made.refresh(10_000.0)
        self.assertAlmostEqual(made.score(A), 0.25 * 0.0027 * 3600)
        deliver(made, 1, B, now=10_000.0)
        self.assertAlmostEqual(made.score(B), 0.25 * 0.664)
        made.invalid(A, T)
        self.assertAlmostEqual(made.score(A), 0.25 * (0.0027 * 3600 - 99.0))
        self.assertEqual(made.params.thresholds.graylist, -10000.0)

    @staticmethod
    def published() -> ScoreParams:
        return ScoreParams(
            topic=TopicScoreParams(
                weight=0.25,
                mesh_time_weight=0.0027,
                mesh_time_cap=3600.0,
                first_weight=0.664,
                first_decay=0.9916,
                first_cap=1500.0,
                mesh_deliveries_weight=-0.25,
                mesh_deliveries_decay=0.997,
                mesh_deliveries_cap=400.0,
                mesh_deliveries_threshold=10.0,
                mesh_deliveries_share=1.0,
                mesh_deliveries_activation=60.0,
                mesh_deliveries_window=0.005,
                mesh_failure_weight=-0.25,
                mesh_failure_decay=0.997,
                invalid_weight=-99.0,
                invalid_decay=0.9994,
            ),
            thresholds=ScoreThresholds(
                gossip=-4000.0, publish=-5000.0, graylist=-10000.0, accept_px=0.0, opportunistic=0.0
            ),
        )

    def test_contradictions_are_refused(self) -> None:
        wrong = (
            (TopicScoreParams, "weight", -1.0),
            (TopicScoreParams, "mesh_time_weight", -0.1),
            (TopicScoreParams, "mesh_time_quantum", 0.0),
            (TopicScoreParams, "mesh_time_cap", -1.0),
            (TopicScoreParams, "first_weight", -1.0),
            (TopicScoreParams, "first_decay", 1.0),
            (TopicScoreParams, "first_decay", 0.0),
            (TopicScoreParams, "first_cap", -1.0),
            (TopicScoreParams, "mesh_deliveries_weight", 1.0),
            (TopicScoreParams, "mesh_deliveries_decay", 1.5),
            (TopicScoreParams, "mesh_deliveries_cap", 1.0),
            (TopicScoreParams, "mesh_deliveries_threshold", 0.0),
            (TopicScoreParams, "mesh_deliveries_share", 1.1),
            (TopicScoreParams, "mesh_deliveries_window", 61.0),
            (TopicScoreParams, "mesh_deliveries_activation", -1.0),
            (TopicScoreParams, "mesh_failure_weight", 0.1),
            (TopicScoreParams, "mesh_failure_decay", -0.5),
            (TopicScoreParams, "invalid_weight", 1.0),
            (TopicScoreParams, "invalid_decay", 2.0),
            (TopicScoreParams, "first_weight", float("nan")),
            (TopicScoreParams, "invalid_weight", float("-inf")),
            (ScoreThresholds, "gossip", 1.0),
            (ScoreThresholds, "publish", -10.0),
            (ScoreThresholds, "graylist", -60.0),
            (ScoreThresholds, "accept_px", -1.0),
            (ScoreThresholds, "opportunistic", -1.0),
            (ScoreParams, "topic_cap", -1.0),
            (ScoreParams, "application_weight", -1.0),
            (ScoreParams, "group_weight", 1.0),
            (ScoreParams, "group_threshold", 0),
            (ScoreParams, "behaviour_weight", 1.0),
            (ScoreParams, "behaviour_threshold", -1.0),
            (ScoreParams, "behaviour_decay", 1.0),
            (ScoreParams, "decay_interval", 0.0),
            (ScoreParams, "decay_to_zero", 1.0),
            (ScoreParams, "retain", -1.0),
        )
        for kind, name, value in wrong:
            with self.assertRaises(ScoreParameterError, msg=f"{name}={value}"):
                kind(**{name: value})
