"""Peer scores at their limits: each boundary met exactly and missed by one, and what each counter adds."""

from __future__ import annotations

import attrs

from chorus.protocols.gossipsub.score import REPLAY, SMALL_MESH, UNJUDGED, WITNESSES, PeerScores
from chorus.protocols.gossipsub.score_params import TopicScoreParams
from chorus.protocols.gossipsub.score_stats import RECORD_TTL, PeerScoreView, TopicScore
from tests.protocols.gossipsub.test_score import OFF, A, B, C, D, T, scores
from tests.support import PureTestCase

ASKING = attrs.evolve(
    OFF,
    mesh_deliveries_weight=-1.0,
    mesh_deliveries_share=1.0,
    mesh_deliveries_threshold=100.0,
    mesh_deliveries_cap=100.0,
    mesh_deliveries_activation=10.0,
    mesh_deliveries_window=1.0,
    mesh_deliveries_decay=0.5,
)
"""P3 asks for every message that counts, but one."""

MESH = [bytes([100 + number]) for number in range(8)]
OUTSIDE = [bytes([200 + number]) for number in range(8)]


def view(made: PeerScores, peer: bytes) -> PeerScoreView:
    seen = made.view(peer)
    assert seen is not None
    return seen


def of_topic(made: PeerScores, peer: bytes) -> TopicScore:
    return view(made, peer).topics[T]


class Counting(PureTestCase):
    """Which messages a mesh is held to."""

    def mesh(self, size: int, topic: TopicScoreParams = ASKING) -> PeerScores:
        made = scores(*MESH, *OUTSIDE, topic=topic)
        for peer in MESH[:size]:
            made.grafted(peer, T, 0.0)
        return made

    def message(
        self,
        made: PeerScores,
        number: int,
        senders: list[bytes],
        *,
        origin: bytes | None = None,
        advertisers: list[bytes] | None = None,
        promised: bool = False,
        after: float = 0.5,
    ) -> None:
        message_id = number.to_bytes(4, "big")
        made.arrived(senders[0], origin or b"author" + message_id, message_id, b"mark", 1.0, promised=promised)
        made.accepted(senders[0], T, message_id, 1.0)
        for sender in senders[1:]:
            made.duplicate(sender, T, message_id, b"mark", 1.0 + after)
        for advertiser in advertisers or []:
            made.advertised(advertiser, T, message_id)

    def counted(self, made: PeerScores, senders: list[bytes], **more: object) -> int:
        """How many of ten such messages the member that brought none is held to."""
        for number in range(10):
            self.message(made, number, senders, **more)  # type: ignore[arg-type]
        wanted = of_topic(made, MESH[0]).mesh_deliveries_wanted
        return int(wanted + 1.0) if wanted else 0

    def test_three_witnesses_in_a_mesh_of_five_and_two_in_one_of_four(self) -> None:
        for size, witnesses, expected in (
            (SMALL_MESH + 1, WITNESSES, 10),
            (SMALL_MESH + 1, WITNESSES - 1, 0),
            (SMALL_MESH, WITNESSES - 1, 10),
            (SMALL_MESH, WITNESSES - 2, 0),
        ):
            counted = self.counted(self.mesh(size), MESH[1 : 1 + witnesses])
            self.assertEqual(counted, expected, (size, witnesses))

    def test_whether_it_came_before_the_verdict_or_after(self) -> None:
        made = self.mesh(5)
        for number in range(10):
            message_id = bytes([number])
            made.arrived(MESH[1], b"author" + message_id, message_id, b"mark", 1.0)
            for sender in MESH[2:4]:
                made.duplicate(sender, T, message_id, b"mark", 1.0)
            made.accepted(MESH[1], T, message_id, 1.0)
        self.assertEqual(of_topic(made, MESH[0]).mesh_deliveries_wanted, 9.0)
        self.assertEqual([of_topic(made, peer).mesh_deliveries for peer in MESH[:5]], [0, 10, 10, 10, 0])

    def test_a_publisher_is_a_witness_and_others_outside_are_none(self) -> None:
        self.assertEqual(self.counted(self.mesh(5), [MESH[1], MESH[2], OUTSIDE[0]]), 0)
        made = self.mesh(5)
        for number in range(10):
            publisher = b"publisher %d" % number
            made.joined(publisher, None)
            self.message(made, number, [publisher, MESH[1], MESH[2]], origin=publisher)
        self.assertEqual(of_topic(made, MESH[0]).mesh_deliveries_wanted, 9.0)

    def test_copies_count_within_the_window(self) -> None:
        for after, expected in ((1.0, 10), (1.1, 0)):
            self.assertEqual(self.counted(self.mesh(5), MESH[1:4], after=after), expected)
            made = self.mesh(5)
            self.counted(made, MESH[1:3], after=after)
            self.assertEqual(of_topic(made, MESH[2]).mesh_deliveries, expected)

    def test_each_counts_once(self) -> None:
        made = self.mesh(5)
        self.assertEqual(self.counted(made, [*MESH[1:5], *OUTSIDE], advertisers=OUTSIDE, promised=True), 10)

    def test_one_of_a_publisher_between_two_decays(self) -> None:
        made = self.mesh(5)
        self.assertEqual(self.counted(made, MESH[1:4], origin=b"one"), 0, "one is less than chance")
        self.assertEqual(made._traffic[T], 1.0)
        made.refresh(1.0)
        self.message(made, 50, MESH[1:4], origin=b"one")
        self.assertEqual(made._traffic[T], 1.5)

    def test_gossip_brought_it_past_the_mesh(self) -> None:
        three = OUTSIDE[:WITNESSES]
        rows = (
            ("three say so", three[:1], three[1:], True, 10),
            ("one pushes it too", three[:2], three[2:], True, 10),
            ("all push it", three, [], True, 10),
            ("two", three[:1], three[1:2], True, 0),
            ("two, of whom one says it twice", three[:2], three[:2], True, 0),
            ("nobody was asked", three[:1], three[1:], False, 0),
            ("the mesh had it", [three[0], MESH[1]], [*three[1:], OUTSIDE[4]], True, 0),
            ("a member of the mesh says it has it", three[:1], [three[1], MESH[1]], True, 0),
        )
        for name, senders, advertisers, promised, expected in rows:
            counted = self.counted(self.mesh(5), senders, advertisers=advertisers, promised=promised)
            self.assertEqual(counted, expected, name)

    def test_its_publisher_is_no_gossip(self) -> None:
        for origin, expected in ((OUTSIDE[2], 0.0), (OUTSIDE[5], 1.0)):
            made = self.mesh(5)
            self.message(made, 1, OUTSIDE[:1], advertisers=OUTSIDE[1:3], promised=True, origin=origin)
            self.assertEqual(made._traffic.get(T, 0.0), expected)

    def test_nothing_is_expected_of_a_publisher_for_its_own(self) -> None:
        made = self.mesh(5)
        for number in range(10):
            self.message(made, number, MESH[1:4], origin=MESH[0] if number < 1 else None)
        self.assertEqual([of_topic(made, peer).mesh_deliveries_wanted for peer in (MESH[0], MESH[4])], [8.0, 9.0])

    def test_graft_and_prune_again_change_no_size(self) -> None:
        made = self.mesh(4)
        made.grafted(MESH[3], T, 0.0)
        made.pruned(OUTSIDE[0], T, 0.0)
        self.assertEqual(self.counted(made, MESH[1:3]), 10, "still four")
        made = self.mesh(6)
        made.pruned(MESH[5], T, 0.0)
        made.pruned(MESH[5], T, 0.0)
        self.assertEqual(self.counted(made, MESH[1:3]), 0, "still five")
        made.pruned(MESH[4], T, 0.0)
        self.assertEqual(made._mesh_sizes, {T: 4})


class Activation(PureTestCase):
    def made(self) -> PeerScores:
        made = scores(A, B, C, D, topic=ASKING)
        for peer in (A, B, C):
            made.grafted(peer, T, 0.0)
        return made

    def traffic(self, made: PeerScores, count: int, now: float) -> None:
        for number in range(count):
            message_id = b"%r %d" % (now, number)
            made.arrived(A, b"author" + message_id, message_id, b"mark", now)
            made.accepted(A, T, message_id, now)
            made.duplicate(B, T, message_id, b"mark", now)

    def test_more_than_the_time_that_it_takes(self) -> None:
        for now, active in ((10.0, False), (10.1, True)):
            made = self.made()
            self.traffic(made, 80, 0.0)
            made.refresh(now)
            self.assertEqual(made.score(C) < 0, active, now)

    def test_an_earlier_stay_counts_and_fades(self) -> None:
        """Eight seconds that were too short to be judged, and what came in them: half of both after one decay."""
        made = self.made()
        self.traffic(made, 80, 0.0)
        made.pruned(C, T, 8.0)
        self.assertEqual(made.score(C), 0.0)
        made.refresh(8.0)
        made.grafted(C, T, 20.0)
        self.assertEqual(of_topic(made, C).mesh_deliveries_wanted, 39.0)
        made.refresh(26.0)
        self.assertEqual(made.score(C), 0.0, "four seconds and six are not more than ten")
        made.refresh(27.0)
        self.assertLess(made.score(C), 0.0)

    def test_a_stay_in_which_nothing_came_leaves_nothing(self) -> None:
        made = self.made()
        made.pruned(C, T, 8.0)
        made.grafted(C, T, 9.0)
        self.traffic(made, 5, 9.0)
        self.assertEqual(of_topic(made, C).mesh_deliveries_wanted, 4.0)

    def test_a_stay_of_less_than_a_second_is_forgotten(self) -> None:
        for stay, wanted in ((2.0, 39.0), (1.9, 0.0)):
            made = self.made()
            self.traffic(made, 80, 0.0)
            made.pruned(C, T, stay)
            made.refresh(3.0)
            made.grafted(C, T, 4.0)
            self.assertEqual(of_topic(made, C).mesh_deliveries_wanted, wanted, stay)

    def test_grafted_again_after_stays_that_are_enough(self) -> None:
        for stay, active in ((10.0, False), (10.5, True)):
            made = self.made()
            self.traffic(made, 80, 0.0)
            made.pruned(C, T, stay)
            made.grafted(C, T, stay)
            self.assertEqual(made.score(C) < 0, active)

    def test_a_judged_stay_leaves_its_deficit_alone(self) -> None:
        """P3b: the square of what it lacked; the stay itself does not count again."""
        made = self.made()
        self.traffic(made, 80, 0.0)
        made.refresh(11.0)
        self.assertEqual(of_topic(made, C).mesh_deliveries_wanted, 39.0)
        made.pruned(C, T, 12.0)
        self.assertEqual(of_topic(made, C).mesh_failure, 39.0**2)
        made.grafted(C, T, 13.0)
        self.assertEqual((made.score(C), of_topic(made, C).time_in_mesh), (0.0, 0.0))

    def test_what_is_asked_is_capped(self) -> None:
        made = self.made()
        self.traffic(made, 150, 0.0)
        self.assertEqual(of_topic(made, C).mesh_deliveries_wanted, 100.0)
        self.assertEqual(of_topic(made, A).mesh_deliveries, 100.0)
        self.assertEqual(of_topic(made, A).first_deliveries, 50.0)


class Time(PureTestCase):
    def test_one_decay_an_interval(self) -> None:
        for second, left in ((100.98, 0.5), (100.99, 0.25)):
            made = scores(A, behaviour_decay=0.5, decay_interval=1.0)
            made.misbehaved(A, 1.0)
            made.refresh(100.0)
            made.refresh(second)
            self.assertEqual(view(made, A).behaviour, left, second)

    def test_less_than_decay_to_zero_is_nothing(self) -> None:
        for zero, left in ((0.5, 0.5), (0.51, 0.0)):
            made = scores(A, behaviour_decay=0.5, decay_to_zero=zero)
            made.misbehaved(A, 1.0)
            made.refresh(1.0)
            self.assertEqual(view(made, A).behaviour, left)

    def test_a_bad_score_is_kept_for_its_time(self) -> None:
        for now, kept in ((109.9, 1), (110.0, 0)):
            made = scores(A, retain=100.0, behaviour_decay=0.999999)
            made.misbehaved(A, 50.0)
            made.left(A, 10.0)
            made.refresh(now)
            self.assertEqual(len(made), kept, now)

    def test_what_is_not_enough_to_judge_is_kept_for_less(self) -> None:
        for now, kept in ((10.0 + UNJUDGED - 0.1, 1), (10.0 + UNJUDGED, 0)):
            made = scores(A, retain=3600.0, behaviour_decay=0.999999)
            made.misbehaved(A, 0.5)
            self.assertEqual(made.score(A), 0.0)
            made.left(A, 10.0)
            made.refresh(now)
            self.assertEqual(len(made), kept, now)

    def test_each_burden_keeps_a_peer(self) -> None:
        for burden in ("behaviour", "stay", "invalid", "none"):
            made = scores(A, B, topic=ASKING)
            made.grafted(A, T, 0.0)
            if burden == "behaviour":
                made.misbehaved(A, 0.1)
            elif burden == "invalid":
                made.pruned(A, T, 0.0)
                made.invalid(A, T)
            made.left(A, 5.0 if burden == "stay" else 0.0)
            self.assertEqual(len(made), 1 if burden == "none" else 2, burden)
            self.assertEqual(made._mesh_sizes, {})

    def test_records_go_when_their_time_is_over(self) -> None:
        made = scores(A)
        made.arrived(A, b"author", b"m", b"mark", 5.0)
        for now, left in ((5.0 + RECORD_TTL - 0.1, 1), (5.0 + RECORD_TTL, 0)):
            made.refresh(now)
            self.assertEqual(made.records, left)


class Views(PureTestCase):
    def test_it_says_what_each_part_is(self) -> None:
        topic = attrs.evolve(ASKING, mesh_time_weight=1.0, mesh_time_quantum=2.0, first_weight=1.0, invalid_weight=-1.0)
        made = scores(A, B, C, topic=topic)
        self.assertEqual((view(made, A).group_size, view(made, A).topics, view(made, A).connected), (0, {}, True))
        made.grafted(A, T, 1.0)
        for number in range(10):
            made.arrived(B, b"%d" % number, bytes([number]), b"mark", 2.0)
            made.accepted(B, T, bytes([number]), 2.0)
            made.grafted(B, T, 2.0)
            made.grafted(C, T, 2.0)
            made.duplicate(C, T, bytes([number]), b"mark", 2.0)
        made.invalid(A, T)
        made.refresh(21.0)
        part = of_topic(made, A)
        wanted = 10 * 0.5 - 1.0
        self.assertEqual((part.in_mesh, part.time_in_mesh, part.mesh_deliveries_wanted), (True, 20.0, wanted))
        self.assertAlmostEqual(part.score, 10.0 - wanted**2 - part.invalid**2)
        self.assertEqual(view(made, A).score, part.score)
        made.pruned(A, T, 22.0)
        self.assertEqual((of_topic(made, A).mesh_deliveries_wanted, of_topic(made, A).time_in_mesh), (0.0, 0.0))
        self.assertEqual(of_topic(made, A).mesh_failure, wanted**2)
        made.left(A, 23.0)
        self.assertFalse(view(made, A).connected)

    def test_outside_of_a_mesh_nothing_is_wanted(self) -> None:
        made = scores(A, topic=ASKING)
        made.invalid(A, T)
        part = of_topic(made, A)
        self.assertEqual((part.in_mesh, part.time_in_mesh, part.first_deliveries), (False, 0.0, 0.0))
        self.assertEqual((part.mesh_deliveries, part.mesh_deliveries_wanted, part.mesh_failure), (0.0, 0.0, 0.0))


class Faults(PureTestCase):
    def test_the_same_again_is_a_replay(self) -> None:
        made = scores(A, B)
        made.arrived(A, b"author", b"m", b"mark", 0.0)
        self.assertFalse(made.was_accepted(b"m"))
        made.accepted(A, T, b"m", 0.0)
        self.assertTrue(made.was_accepted(b"m"))
        self.assertTrue(made.duplicate(B, T, b"m", b"mark", 0.0))
        self.assertEqual((view(made, A).behaviour, view(made, B).behaviour), (0.0, 0.0))
        for times in (1, 2):
            self.assertTrue(made.duplicate(B, T, b"m", b"mark", 0.0))
            self.assertEqual(view(made, B).behaviour, REPLAY * times)

    def test_another_message_under_the_same_id(self) -> None:
        """Its publisher pays for each who brings it, and who brings it again for a replay."""
        made = scores(A, B, C)
        made.arrived(A, C, b"m", b"mark", 0.0)
        self.assertFalse(made.duplicate(B, T, b"m", b"other", 0.0), "not known yet")
        self.assertEqual(view(made, C).topics, {})
        made.equivocated(B, T, b"m")
        self.assertEqual(of_topic(made, C).invalid, 1.0)
        self.assertTrue(made.duplicate(A, T, b"m", b"other", 0.0))
        self.assertEqual(of_topic(made, C).invalid, 2.0)
        self.assertEqual((view(made, A).behaviour, view(made, B).behaviour), (0.0, 0.0))
        self.assertTrue(made.duplicate(B, T, b"m", b"other", 0.0))
        self.assertEqual((view(made, B).behaviour, of_topic(made, C).invalid), (REPLAY, 2.0))
        made.equivocated(B, T, b"unknown")
        self.assertTrue(made.duplicate(b"stranger", T, b"m", b"mark", 0.0))
        self.assertTrue(made.duplicate(A, T, b"unknown", b"mark", 0.0))

    def test_what_was_rejected_is_not_accepted(self) -> None:
        made = scores(A, B)
        made.arrived(A, b"author", b"m", b"mark", 0.0)
        made.rejected(T, b"m")
        made.rejected(T, b"unknown")
        self.assertFalse(made.was_accepted(b"m"))
        made.duplicate(B, T, b"m", b"mark", 0.0)
        self.assertEqual((of_topic(made, A).invalid, of_topic(made, B).invalid), (1.0, 1.0))

    def test_public_networks_above_their_threshold(self) -> None:
        made = scores(group_weight=-1.0, group_threshold=2)
        for peer, score in ((A, 0.0), (B, 0.0), (C, -1.0), (D, -4.0)):
            made.joined(peer, "net")
            self.assertEqual((made.score(A), made.score(peer)), (score, score))
        self.assertEqual(view(made, A).group_size, 4)
        made.left(D, 0.0)
        self.assertEqual((made.score(A), view(made, A).group_size), (-1.0, 3))

    def test_misbehaviour_up_to_its_threshold_is_free(self) -> None:
        made = scores(A, behaviour_weight=-10.0, behaviour_threshold=6.0)
        for times, score in ((6.0, 0.0), (1.0, -10.0), (1.0, -40.0)):
            made.misbehaved(A, times)
            self.assertEqual(made.score(A), score)
