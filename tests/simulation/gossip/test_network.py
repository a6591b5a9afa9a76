"""Many real routers on simulated links: what honest ones do, and what becomes of others."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from unittest import mock

import attrs

from chorus.messages.rates import OWN
from chorus.protocols.gossipsub.events import Frame, Kind, Send
from chorus.simulation.gossip.attackers import CLASSES, ReplayingNode
from chorus.simulation.gossip.links import RETRANSMISSION, SEGMENT, Line, LinkParams, Uplink, link
from chorus.simulation.gossip.nodes import HONEST, TOPIC
from chorus.simulation.gossip.scenario import ATTACKS, PARAMS, Attack
from chorus.simulation.world import MILLISECOND, SECOND, World
from tests.simulation.gossip_support import ran, shared
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[3]


def send(text: bytes) -> list[Send]:
    return [(Kind.MESSAGE, cast("Frame", text))]


class Ear:
    def __init__(self, world: World) -> None:
        self.world = world
        self.heard_at: list[tuple[int, bytes]] = []
        self.ended: list[int] = []

    def heard(self, peer: bytes, sends: list[Send]) -> None:
        self.heard_at.append((self.world.now_ns, bytes(sends[0][1])))

    def hung_up(self, line: Line) -> None:
        self.ended.append(self.world.now_ns)
        line.close()


class Links(PureTestCase):
    def pair(self, params: LinkParams | None = None) -> tuple[World, Ear, Ear, Line, Line]:
        world = World(3)
        uplink = Uplink(params, random.Random(5)) if params is not None else None
        one, other = Ear(world), Ear(world)
        there, back = link(world, (b"one", one, uplink), (b"other", other, None), 10 * MILLISECOND)
        return world, one, other, there, back

    def test_frames_arrive_after_the_delay_of_the_link(self) -> None:
        world, one, other, there, back = self.pair()
        there.carry(send(b"a"))
        back.carry(send(b"b"))
        world.run_for(1)
        self.assertEqual((other.heard_at, one.heard_at), ([(10 * MILLISECOND, b"a")], [(10 * MILLISECOND, b"b")]))
        self.assertEqual((there.outbound, back.outbound), (True, False))

    def test_loss_is_delay_in_steps_of_doubled_timeouts_and_keeps_the_order(self) -> None:
        world, _, other, there, _ = self.pair(LinkParams(loss=0.4))
        for number in range(200):
            world.at(number * MILLISECOND, lambda number=number: there.carry(send(b"%d" % number)))
        world.run_for(60)
        self.assertEqual([text for _, text in other.heard_at], [b"%d" % number for number in range(200)])
        late = {at - 10 * MILLISECOND - number * MILLISECOND for number, (at, _) in enumerate(other.heard_at)}
        self.assertIn(0, late)
        self.assertIn(RETRANSMISSION, late)
        self.assertTrue(any(each >= 3 * RETRANSMISSION for each in late), "lost twice: 200 and then 400 ms")

    def test_many_segments_are_lost_more_often_than_one(self) -> None:
        def late(size: int) -> int:
            uplink = Uplink(LinkParams(loss=0.05), random.Random(2))
            return sum(uplink.leaves(size, 0) > 0 for _ in range(2000))

        self.assertLess(abs(late(100) / 2000 - 0.05), 0.02)
        self.assertLess(abs(late(9 * SEGMENT) / 2000 - (1 - 0.95**10)), 0.05)

    def test_a_rate_bounds_all_links_of_a_node_together(self) -> None:
        uplink = Uplink(LinkParams(rate_mbit=8.0), random.Random(1))
        self.assertEqual([uplink.leaves(1000, 0), uplink.leaves(1000, 0)], [MILLISECOND, 2 * MILLISECOND])
        self.assertEqual(uplink.leaves(1000, 10 * MILLISECOND), 11 * MILLISECOND)

    def test_what_was_sent_before_a_close_arrives_and_what_comes_to_a_closed_end_does_not(self) -> None:
        world, one, other, there, back = self.pair()
        there.carry(send(b"last words"))
        back.carry(send(b"too late"))
        there.close()
        there.close()
        world.run_for(1)
        self.assertEqual([text for _, text in other.heard_at], [b"last words"])
        self.assertEqual((other.ended, one.heard_at, one.ended), ([10 * MILLISECOND], [], []))


class Honest(PureTestCase):
    def assert_all_once(self, net: Any) -> None:
        owed, came = net.measures.owed(net.honest)
        self.assertEqual(owed, net.measures.messages * (net.scenario.nodes - 1))
        self.assertEqual((came, net.measures.twice, net.measures.unasked), (owed, 0, 0))

    def test_every_subscriber_gets_each_message_exactly_once(self) -> None:
        for flood_publish in (True, False):
            net = ran(params=attrs.evolve(PARAMS, flood_publish=flood_publish))
            self.assertEqual(net.measures.messages, 20)
            self.assert_all_once(net)
            self.assertEqual(len(net.measures.latencies), 20 * 59)

    def test_meshes_are_within_bounds_and_mutual_and_hold_connections_we_dialled(self) -> None:
        for seed in (1, 2):
            net = shared(seed)
            params = net.scenario.params
            for node in net.honest:
                mesh = node.router.mesh(TOPIC)
                self.assertTrue(params.d_lo <= len(mesh) <= params.d_hi, f"node {node.number}: {len(mesh)}")
                self.assertGreaterEqual(sum(node.lines[peer].outbound for peer in mesh), params.d_out)
                for peer in mesh:
                    other = net.nodes[int.from_bytes(peer[-4:], "big")]
                    self.assertIn(node.peer_id, cast("Any", other).router.mesh(TOPIC))
            # In every second since, not only at the end.
            for sample in net.measures.samples:
                if sample.seconds >= net.scenario.warm_up:
                    self.assertGreaterEqual(sample.degrees.low, params.d_lo)
                    self.assertLessEqual(sample.degrees.high, params.d_hi)

    def test_everybody_is_connected_as_often_as_was_asked_for(self) -> None:
        net = ran(degree=9, nodes=100)
        self.assertLess(abs(sum(len(node.lines) for node in net.honest) / 100 - 9), 0.5)

    def test_losses_and_a_bound_on_the_rate_delay_and_lose_nothing(self) -> None:
        quick = shared()
        slow = ran(links=LinkParams(loss=0.2))
        narrow = ran(links=LinkParams(rate_mbit=0.3))
        for net in (slow, narrow):
            self.assert_all_once(net)
            self.assertGreater(sum(net.measures.latencies), 1.1 * sum(quick.measures.latencies))

    def test_who_stays_gets_everything_while_others_come_and_go(self) -> None:
        net = ran(churn=1.0, seconds=20.0)
        gone = [node for node in net.honest if node.starts > 1]
        self.assertGreater(len(gone), 10)
        owed, came = net.measures.owed(net.honest)
        self.assertEqual((came, net.measures.twice), (owed, 0))
        self.assertLess(owed, net.measures.messages * 59, "who is away is owed nothing")
        self.assertGreater(owed, net.measures.messages * 30)
        for node in net.honest:
            self.assertGreaterEqual(len(node.router.mesh(TOPIC)), net.scenario.params.d_lo)

    def test_nobody_is_scored_below_0_in_an_hour_of_a_quiet_topic(self) -> None:
        net = ran(nodes=12, degree=8, publishers=12, rate=0.01, seconds=3600.0)
        self.assertEqual(net.measures.messages, 36)
        self.assert_all_once(net)
        low = min(sample.scores[HONEST].low for sample in net.measures.samples if sample.scores)
        self.assertGreaterEqual(low, 0)

    def test_few_lose_their_place_and_nobody_the_gossip_where_one_node_says_everything(self) -> None:
        """All its messages come to a node by the same way. Whom we bring each of them before it has it otherwise can
        bring us none, ever, as one that forwards nothing: P3 cannot tell them apart, and takes its place away."""
        net = ran(publishers=1, seconds=90.0)
        self.assert_all_once(net)
        params, samples = net.scenario.score_params, [sample for sample in net.measures.samples if sample.scores]
        # P3 in the mesh for a moment, P3b after it: a place, and never the gossip.
        self.assertGreater(min(sample.scores[HONEST].low for sample in samples), params.thresholds.gossip / 2)
        self.assertLess(max(sample.below[HONEST] for sample in samples), 0.1)
        self.assertGreaterEqual(samples[-1].scores[HONEST].p10, 0)
        self.assertGreater(samples[-1].degrees.low, 0)

    def test_the_same_seed_gives_the_same_run_whatever_the_interpreters_hash_seed(self) -> None:
        program = (
            "from tests.simulation.gossip_support import ran, shared\n"
            "from chorus.simulation.gossip.links import LinkParams\n"
            "from chorus.simulation.gossip.scenario import ATTACKS, Attack\n"
            "net = ran(3, nodes=30, churn=1.0, links=LinkParams(loss=0.02), seconds=15.0,"
            " attacks=tuple(Attack(kind, 1, 10) for kind in ATTACKS if kind != 'flooding'))\n"
            "print(net.trace.hexdigest(), net.trace.entries, net.world.events)\n"
        )
        runs = [
            subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
                timeout=60,
            )
            for hash_seed in ("1", "2")
        ]
        self.assertEqual(runs[0].stdout, runs[1].stdout)
        self.assertGreater(int(runs[0].stdout.split()[1]), 300)
        self.assertNotEqual(shared(1).trace.hexdigest(), shared(2).trace.hexdigest())


class Attackers(PureTestCase):
    def attacked(self, kind: str, count: int = 4, links: int = 20, *, seconds: float = 30.0, **changes: Any) -> Any:
        """`count` of that kind, connected to 20 of 60 nodes, for half a minute of messages."""
        net = ran(attacks=(Attack(kind, count, links),), seconds=seconds, **changes)
        owed, came = net.measures.owed(net.honest)
        self.assertEqual((came, net.measures.twice), (owed, 0), "nobody honest misses anything")
        return net

    def assert_lost(self, net: Any, kind: str) -> None:
        """Their score is below 0 and they are in no mesh, or hardly any."""
        end = net.measures.samples[-1]
        self.assertLess(end.scores[kind].p90, 0)
        self.assertLessEqual(end.places[kind], 1)
        self.assertGreaterEqual(end.scores[HONEST].p50, 0)

    def test_there_is_a_class_for_each(self) -> None:
        self.assertEqual(sorted(CLASSES), sorted(ATTACKS))

    def test_silent_ones_have_places_at_first_and_lose_them(self) -> None:
        net = self.attacked("silent")
        self.assertGreater(net.measures.samples[16].places["silent"], 10)
        self.assert_lost(net, "silent")

    def test_who_forwards_nothing_loses_its_place_though_it_does_all_else(self) -> None:
        net = self.attacked("withholding", 3, 12, nodes=30, seconds=90.0)
        self.assertGreater(net.measures.samples[16].places["withholding"], 2)
        self.assert_lost(net, "withholding")

    def test_forgers(self) -> None:
        net = self.attacked("forging", seconds=10.0)
        self.assert_lost(net, "forging")
        self.assertEqual(net.measures.unasked, 0, "no forgery is delivered")

    def test_who_advertises_and_never_sends(self) -> None:
        self.assert_lost(self.attacked("advertising"), "advertising")

    def test_who_grafts_in_spite_of_a_backoff(self) -> None:
        self.assert_lost(self.attacked("grafting"), "grafting")

    def test_replays_are_delivered_to_nobody(self) -> None:
        net = self.attacked("replaying")
        attacker = next(node for node in net.nodes if isinstance(node, ReplayingNode))
        self.assertGreater(len(attacker._heard), 10, "it has something to replay")
        self.assertGreater(sum(node.router.counters.duplicates for node in net.honest), 4 * 20 * 10 * 15)

    def test_who_replays_loses_its_place(self) -> None:
        self.assert_lost(self.attacked("replaying", 2), "replaying")

    def test_who_replays_what_everybody_has_forgotten_is_heard_by_nobody(self) -> None:
        """Sequence numbers grow: what is below those that the seen cache has let go is a replay. What it costs whom is
        not said here: a node that has just started passes such a message on in good faith."""
        with mock.patch.object(ReplayingNode, "OLD", 130 * SECOND):
            net = self.attacked("replaying", 2, nodes=20, degree=10, seconds=150.0)
        self.assertGreater(sum(node.router.counters.replays for node in net.honest), 20)
        self.assertEqual((net.measures.twice, net.measures.unasked), (0, 0))
        self.assertEqual(
            sum(node.router.counters.delivered for node in net.honest), net.measures.messages * (len(net.honest) - 1)
        )

    def test_one_of_two_versions_reaches_each_node_and_the_proof_all(self) -> None:
        net = self.attacked("equivocating", seconds=10.0)
        self.assertGreaterEqual(net.measures.unasked, 4 * 59)
        self.assertLess(net.measures.unasked, 4 * 4 * 59, "who signs two is soon not heard any more")
        for node in net.honest:
            self.assertGreater(node.router.counters.equivocations, 0)
            self.assertLessEqual(node.router.counters.delivered, net.measures.messages + 4 * (10 + 6))

    def test_who_equivocates_loses_its_place(self) -> None:
        self.assert_lost(self.attacked("equivocating", 2, seconds=20.0), "equivocating")

    def test_who_floods_loses_its_place(self) -> None:
        """It may say 2,000 at once; then nothing more of it is passed on, and soon nothing is heard."""
        net = ran(nodes=12, degree=6, publishers=12, attacks=(Attack("flooding", 1, 6),), seconds=5.0)
        owed, came = net.measures.owed(net.honest)
        self.assertEqual((came, net.measures.twice), (owed, 0))
        self.assert_lost(net, "flooding")
        self.assertGreater(net.measures.unasked, 12 * OWN.burst)
        self.assertLess(net.measures.unasked, 12 * (OWN.burst + 10 * OWN.per_second))
        graylist = net.scenario.score_params.thresholds.graylist
        self.assertTrue(any(sample.scores["flooding"].p90 < graylist for sample in net.measures.samples[17:]))
        self.assertGreater(sum(node.router.counters.graylisted for node in net.honest), 100)
        self.assertGreaterEqual(net.measures.samples[-1].scores[HONEST].low, 0)

    def test_sybils_with_two_thirds_of_all_connections_keep_nobody_from_anything(self) -> None:
        net = ran(attacks=(Attack("silent", 40, 24),), seconds=40.0)
        owed, came = net.measures.owed(net.honest)
        self.assertEqual((came, net.measures.twice), (owed, 0))
        self.assertLess(net.measures.latency_ms()[-1], 2000)
        # Where hardly any of a mesh's members forwards, P3 has nothing to measure the others by; opportunistic grafting
        # (each minute) brings better ones. Until then such a mesh lives of lazy gossip.
        held = [sum(net.kinds[peer] == "silent" for peer in node.router.mesh(TOPIC)) for node in net.honest]
        self.assertLessEqual(sum(count > 2 for count in held), 6)
        self.assertEqual(sorted(held)[len(held) // 2], 0)

    def test_a_hung_up_attacker_is_redialled_by_nobody(self) -> None:
        net = ran(attacks=(Attack("silent", 1, 20),))
        attacker = net.attackers[0]
        self.assertEqual(len(attacker.lines), 20)
        for line in list(attacker.lines.values()):
            line.close()
        net.world.run_until(net.world.now_ns + 5 * SECOND)
        self.assertEqual([node for node in net.honest if attacker.peer_id in node.lines], [])
