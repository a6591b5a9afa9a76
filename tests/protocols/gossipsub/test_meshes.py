"""Meshes, fanouts and backoffs on their own: each limit met exactly and missed by one, and what each branch does."""

from __future__ import annotations

import random

from chorus.protocols.gossipsub.codec import WIRE
from chorus.protocols.gossipsub.events import GossipCounters
from chorus.protocols.gossipsub.meshes import BACKOFF_SWEEP, Meshes
from chorus.protocols.gossipsub.outbox import Outbox
from chorus.protocols.gossipsub.params import FLOODSUB, MESHSUB_1_0, MESHSUB_1_1, GossipParams
from chorus.protocols.gossipsub.peers import Peer, Peers
from chorus.protocols.gossipsub.rpc import Exchanged, Prune
from chorus.protocols.gossipsub.score import PeerScores
from chorus.protocols.gossipsub.state import GossipState
from tests.support import PureTestCase

T = "topic"
NOW = 1000.0
PARAMS = GossipParams()


class Said(Outbox):
    def __init__(self) -> None:
        super().__init__(WIRE)
        self.grafts: list[tuple[bytes, str]] = []
        self.prunes: list[tuple[bytes, Prune]] = []

    def graft(self, peer: bytes, topic: str) -> None:
        self.grafts.append((peer, topic))

    def prune(self, peer: bytes, prune: Prune) -> None:
        self.prunes.append((peer, prune))


class Told(PeerScores):
    """Scores by a table, 0 without an entry; keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[bytes, float] = {}
        self.heard: list[tuple[object, ...]] = []

    def score(self, peer: bytes) -> float:
        return self.table.get(peer, 0.0)

    def grafted(self, peer: bytes, topic: str, now: float) -> None:
        self.heard.append(("grafted", peer, topic, now))

    def pruned(self, peer: bytes, topic: str, now: float) -> None:
        self.heard.append(("pruned", peer, topic, now))

    def misbehaved(self, peer: bytes, times: float = 1.0) -> None:
        self.heard.append(("misbehaved", peer, times))


def name(number: int) -> bytes:
    return b"peer %d" % number


class MeshCase(PureTestCase):
    def meshes(self, params: GossipParams = PARAMS) -> Meshes:
        self.peers, self.said, self.scores, self.counters = Peers(), Said(), Told(), GossipCounters()
        self.direct: dict[bytes, None] = {}
        return Meshes(
            GossipState(params, self.peers, self.said, self.scores, self.counters, WIRE, random.Random(1)),
            direct=self.direct,
        )

    def peer(
        self,
        number: int,
        *,
        protocol: str = MESHSUB_1_1,
        outbound: bool = False,
        direct: bool = False,
        topic: str | None = T,
    ) -> Peer:
        state = Peer(protocol, outbound, direct)
        self.peers.add(name(number), state)
        if direct:
            self.direct[name(number)] = None
        if topic is not None:
            self.peers.subscribe(name(number), state, topic)
        return state

    def joined(self, count: int, params: GossipParams = PARAMS) -> Meshes:
        """With peers 1 to `count` grafted by themselves, whatever `d` is."""
        meshes = self.meshes(params)
        meshes.join(T, NOW)
        for number in range(1, count + 1):
            meshes.graft_received(name(number), self.peer(number, outbound=True), T, NOW)
        self.assertEqual(len(meshes.members(T)), count)
        for number in range(1, count + 1):
            self.peers[name(number)].outbound = False
        self.scores.heard.clear()
        self.counters.grafted = 0
        return meshes


class Joining(MeshCase):
    def test_the_fanout_comes_first_and_is_gone(self) -> None:
        meshes = self.meshes(GossipParams(flood_publish=False))
        for number in range(1, 4):
            self.peer(number)
        self.assertEqual(set(meshes.publish_targets(T, NOW)), {name(1), name(2), name(3)})
        for number in range(4, 30):
            self.peer(number)
        self.scores.table[name(3)] = -0.1
        meshes.join(T, NOW)
        members = list(meshes.members(T))
        self.assertEqual(set(members[:2]), {name(1), name(2)})
        self.assertNotIn(name(3), members)
        self.assertEqual((len(members), len(set(members))), (PARAMS.d, PARAMS.d))
        self.assertEqual(self.said.grafts, [(member, T) for member in members])
        self.assertEqual(self.scores.heard, [("grafted", member, T, NOW) for member in members])
        self.assertEqual((meshes.fanouts, meshes.topics(), self.counters.grafted), ({}, [T], PARAMS.d))

    def test_a_fanout_gives_at_most_d(self) -> None:
        meshes = self.meshes(GossipParams(flood_publish=False))
        for number in range(1, 30):
            self.peer(number)
        meshes.publish_targets(T, NOW)
        for number in range(1, 30):
            meshes.fanouts[T].peers[name(number)] = None
        meshes.join(T, NOW)
        self.assertEqual(len(meshes.members(T)), PARAMS.d)

    def test_leaving_prunes_and_names_others(self) -> None:
        meshes = self.joined(2)
        meshes.leave(T, NOW)
        prunes = [(name(one), Prune(T, 10, (Exchanged(name(other), None),))) for one, other in ((1, 2), (2, 1))]
        self.assertEqual(self.said.prunes, prunes)
        self.assertEqual(self.scores.heard, [("pruned", name(1), T, NOW), ("pruned", name(2), T, NOW)])
        self.assertEqual(meshes.backoffs.until(T, name(1)), NOW + 10)
        self.assertNotIn(T, meshes)

    def test_leaving_in_silence_is_scored_all_the_same(self) -> None:
        meshes = self.joined(1)
        meshes.leave(T, NOW, told=False)
        self.assertEqual((self.said.prunes, self.scores.heard), ([], [("pruned", name(1), T, NOW)]))

    def test_who_arrives_is_grafted_below_d_only(self) -> None:
        meshes = self.joined(PARAMS.d - 1)
        for number, grafted in ((11, True), (12, False)):
            self.assertTrue(meshes.arrived(T, name(number), self.peer(number), NOW))
            self.assertEqual(name(number) in meshes.members(T), grafted)
        self.assertFalse(meshes.arrived("other", name(1), self.peers[name(1)], NOW))

    def test_who_arrives_and_may_not_be_grafted(self) -> None:
        meshes = self.joined(0)
        self.scores.table[name(1)] = -0.1
        meshes.arrived(T, name(1), self.peer(1), NOW)
        meshes.arrived(T, name(2), self.peer(2, protocol=FLOODSUB), NOW)
        meshes.arrived(T, name(3), self.peer(3, direct=True), NOW)
        self.assertEqual((list(meshes.members(T)), self.said.grafts), ([], []))

    def test_our_own_graft_waits_for_the_backoff_and_its_slack(self) -> None:
        meshes = self.joined(0)
        state = self.peer(1)
        meshes.backoffs.set(T, name(1), NOW)
        for now, grafted in ((NOW, False), (NOW + 0.99, False), (NOW + 1, True)):
            meshes.arrived(T, name(1), state, now)
            self.assertEqual(name(1) in meshes.members(T), grafted, now)

    def test_unsubscribing_leaves_mesh_and_fanout(self) -> None:
        meshes = self.joined(2)
        meshes.unsubscribed(T, name(1), NOW)
        meshes.unsubscribed(T, b"stranger", NOW)
        self.assertEqual((list(meshes.members(T)), self.scores.heard), ([name(2)], [("pruned", name(1), T, NOW)]))
        meshes = self.meshes(GossipParams(flood_publish=False))
        self.peer(1)
        self.peer(2)
        meshes.publish_targets(T, NOW)
        meshes.unsubscribed(T, name(1), NOW)
        self.assertEqual((list(meshes.around(T)), self.scores.heard), ([name(2)], []))


class Greeting(MeshCase):
    def test_says_which_meshes_it_is_in_and_which_not(self) -> None:
        meshes = self.joined(1)
        old = self.peer(3, protocol=MESHSUB_1_0)
        states = {1: self.peers[name(1)], 2: self.peer(2), 3: old}
        states |= {4: self.peer(4, protocol=FLOODSUB), 5: self.peer(5, topic="other")}
        meshes.backoffs.set(T, name(2), NOW + 30.2)
        for number, state in states.items():
            meshes.greet(name(number), state, NOW)
        self.assertEqual(self.said.grafts, [(name(1), T)])
        self.assertEqual(self.said.prunes, [(name(2), Prune(T, 31)), (name(3), Prune(T, None))])
        self.assertEqual([number for number, state in states.items() if T in state.told], [2, 3])

    def test_a_backoff_that_is_over_is_a_second(self) -> None:
        meshes = self.joined(0)
        meshes.greet(name(1), self.peer(1), NOW)
        self.assertEqual(self.said.prunes, [(name(1), Prune(T, 1))])


class Grafts(MeshCase):
    def grafted(self, meshes: Meshes, number: int, now: float = NOW, topic: str = T) -> bool:
        """Whether a GRAFT is taken; `said.prunes` and `scores.heard` are those of this GRAFT alone."""
        self.said.prunes.clear()
        self.scores.heard.clear()
        meshes.graft_received(name(number), self.peers[name(number)], topic, now)
        return name(number) in meshes.members(topic)

    def test_without_a_mesh_silence_is_counted(self) -> None:
        meshes = self.joined(0)
        useless = [self.peer(1, topic=None), self.peer(2, protocol=FLOODSUB), self.peer(3, topic="other")]
        self.assertFalse(self.grafted(meshes, 1))
        self.assertFalse(self.grafted(meshes, 2))
        self.assertFalse(self.grafted(meshes, 3, topic="other"))
        self.assertEqual(([state.useless for state in useless], self.counters.passed_over), ([1, 1, 1], 3))
        self.assertEqual((self.said.prunes, self.counters.grafts_refused), ([], 0))

    def test_a_member_may_say_it_again(self) -> None:
        meshes = self.joined(1)
        self.assertTrue(self.grafted(meshes, 1))
        self.assertEqual((self.said.prunes, self.scores.heard, self.counters.grafted), ([], [], 0))

    def test_a_taken_graft_is_scored_and_counted(self) -> None:
        meshes = self.joined(0)
        self.peer(1)
        self.assertTrue(self.grafted(meshes, 1))
        self.assertEqual(self.scores.heard, [("grafted", name(1), T, NOW)])
        self.assertEqual((self.said.prunes, self.counters.grafted, self.counters.grafts_refused), ([], 1, 0))

    def test_direct_peers_are_in_no_mesh(self) -> None:
        meshes = self.joined(1)
        self.peer(2, direct=True)
        self.assertFalse(self.grafted(meshes, 2))
        self.assertEqual((self.said.prunes, self.counters.grafts_refused), ([(name(2), Prune(T, 60))], 1))

    def test_the_score_that_is_taken(self) -> None:
        meshes = self.joined(1)
        self.peer(2)
        self.scores.table[name(2)] = -0.1
        self.assertFalse(self.grafted(meshes, 2))
        self.assertEqual(self.said.prunes, [(name(2), Prune(T, 60))], "and it is named nobody")
        self.assertEqual(self.scores.heard, [])
        self.scores.table[name(2)] = 0.0
        self.assertTrue(self.grafted(meshes, 2, NOW + 60))

    def test_d_hi_is_the_last_place(self) -> None:
        meshes = self.joined(PARAMS.d_hi - 1)
        for number in (21, 22, 23):
            self.peer(number, outbound=number == 23)
        self.assertEqual([self.grafted(meshes, number) for number in (21, 23)], [True, True])
        meshes.unsubscribed(T, name(21), NOW)
        self.assertFalse(self.grafted(meshes, 22))
        ((refused, prune),) = self.said.prunes
        self.assertEqual((refused, prune.backoff, len(prune.peers)), (name(22), 60, 13))
        self.assertEqual((self.counters.grafts_refused, self.counters.grafts_in_backoff), (1, 0))

    def test_within_a_backoff_it_never_heard_of(self) -> None:
        """A peer that has restarted: told what is left of it, and not charged; charged from then on."""
        meshes = self.joined(1)
        state = self.peer(2)
        meshes.backoffs.set(T, name(2), NOW + 30)
        self.assertFalse(self.grafted(meshes, 2))
        self.assertEqual((self.said.prunes, self.scores.heard), ([(name(2), Prune(T, 30))], []))
        self.assertIn(T, state.told)
        self.assertEqual((self.counters.grafts_refused, self.counters.grafts_in_backoff), (1, 1))
        self.assertFalse(self.grafted(meshes, 2))
        self.assertEqual(
            (self.said.prunes, self.scores.heard), ([(name(2), Prune(T, 60))], [("misbehaved", name(2), 1.0)])
        )
        self.assertEqual((self.counters.grafts_refused, self.counters.grafts_in_backoff), (2, 2))

    def test_a_backoff_ends_when_it_says(self) -> None:
        for now, taken in ((NOW + 29.9, False), (NOW + 30, True)):
            meshes = self.joined(0)
            self.peer(2)
            meshes.backoffs.set(T, name(2), NOW + 30)
            self.assertEqual(self.grafted(meshes, 2, now), taken, now)

    def test_a_flood_costs_twice(self) -> None:
        """Sooner than `graft_flood` after the PRUNE."""
        for after, charged in ((0.0, 2.0), (9.9, 2.0), (10.0, 1.0), (59.9, 1.0)):
            meshes = self.joined(0)
            state = self.peer(2)
            meshes.prune_received(name(2), state, Prune(T, None), NOW)
            self.assertFalse(self.grafted(meshes, 2, NOW + after))
            self.assertEqual(self.scores.heard, [("misbehaved", name(2), charged)], after)


class Prunes(MeshCase):
    NAMED = (Exchanged(b"other", None),)

    def test_of_a_topic_without_a_mesh(self) -> None:
        meshes = self.joined(1)
        state = self.peers[name(1)]
        self.assertEqual(meshes.prune_received(name(1), state, Prune("other", 9, self.NAMED), NOW), ())
        self.assertEqual((state.useless, self.counters.passed_over, len(meshes.backoffs)), (1, 1, 0))

    def test_takes_it_out_of_the_mesh(self) -> None:
        meshes = self.joined(2)
        state = self.peers[name(1)]
        meshes.prune_received(name(1), state, Prune(T, 9), NOW)
        self.assertEqual((list(meshes.members(T)), meshes.backoffs.until(T, name(1))), ([name(2)], NOW + 9))
        self.assertEqual((self.scores.heard, state.useless), ([("pruned", name(1), T, NOW)], 0))
        self.assertIn(T, state.told)

    def test_of_who_is_in_no_mesh_counts_and_names_nobody(self) -> None:
        meshes = self.joined(0)
        state = self.peer(1)
        self.scores.table[name(1)] = 1000.0
        self.assertEqual(meshes.prune_received(name(1), state, Prune(T, 9, self.NAMED), NOW), ())
        self.assertEqual((state.useless, self.scores.heard), (1, []))
        self.assertEqual(meshes.backoffs.until(T, name(1)), NOW + 9)

    def test_names_are_believed_from_accept_px_on(self) -> None:
        accept = PeerScores().params.thresholds.accept_px
        for score, believed in ((accept - 0.1, ()), (accept, self.NAMED)):
            meshes = self.joined(1)
            self.scores.table[name(1)] = score
            state = self.peers[name(1)]
            self.assertEqual(meshes.prune_received(name(1), state, Prune(T, 9, self.NAMED), NOW), believed)

    def test_none_are_named_where_exchange_is_off(self) -> None:
        meshes = self.joined(2, GossipParams(peer_exchange=False))
        meshes.leave(T, NOW)
        self.assertEqual(self.said.prunes, [(name(1), Prune(T, 10)), (name(2), Prune(T, 10))])

    def test_a_part_of_a_second_is_rounded_up(self) -> None:
        meshes = self.joined(1, GossipParams(unsubscribe_backoff=9.2))
        meshes.leave(T, NOW)
        self.assertEqual(self.said.prunes, [(name(1), Prune(T, 10))])


class Publishing(MeshCase):
    def setUp(self) -> None:
        self.threshold = PeerScores().params.thresholds.publish

    def scored(self, meshes: Meshes) -> None:
        """1 at the publish threshold, 2 below it; 3 and 4 floodsub likewise; 5 direct and 6 direct floodsub, below."""
        self.peer(1)
        self.peer(2)
        self.peer(3, protocol=FLOODSUB)
        self.peer(4, protocol=FLOODSUB)
        self.peer(5, direct=True)
        self.peer(6, direct=True, protocol=FLOODSUB)
        for number in range(1, 7):
            self.scores.table[name(number)] = self.threshold - (number not in (1, 3))

    def test_flooding_asks_for_the_score(self) -> None:
        meshes = self.meshes()
        self.scored(meshes)
        self.assertEqual(meshes.publish_targets(T, NOW), [name(number) for number in (1, 3, 5, 6)])
        self.assertEqual(meshes.fanouts, {})

    def test_a_fanout_asks_for_it_too(self) -> None:
        meshes = self.meshes(GossipParams(flood_publish=False))
        self.scored(meshes)
        self.assertEqual(sorted(meshes.publish_targets(T, NOW)), [name(number) for number in (1, 3, 5, 6)])
        self.assertEqual(list(meshes.around(T)), [name(1)])

    def test_a_mesh_comes_before_a_fanout(self) -> None:
        meshes = self.joined(1, GossipParams(flood_publish=False))
        self.peer(2)
        self.assertEqual(meshes.publish_targets(T, NOW), [name(1)])

    def test_a_fanout_nobody_is_in_is_not_kept(self) -> None:
        meshes = self.meshes(GossipParams(flood_publish=False))
        self.assertEqual((meshes.publish_targets(T, NOW), meshes.fanouts), ([], {}))

    def test_a_fanout_has_d_at_most(self) -> None:
        meshes = self.meshes(GossipParams(flood_publish=False))
        for number in range(20):
            self.peer(number)
        targets = meshes.publish_targets(T, NOW)
        self.assertEqual((len(targets), len(set(targets))), (PARAMS.d, PARAMS.d))
        self.assertEqual(sorted(meshes.publish_targets(T, NOW + 1)), sorted(targets))

    def test_forwarding(self) -> None:
        meshes = self.joined(3)
        self.peer(4, protocol=FLOODSUB)
        self.peer(5, direct=True)
        self.peer(6, direct=True, topic=None)
        self.peer(7, protocol=FLOODSUB)
        self.direct[b"away"] = None
        self.scores.table[name(4)] = self.threshold
        self.scores.table[name(7)] = self.threshold - 1
        self.assertEqual(meshes.forward_targets(T, name(9)), [name(number) for number in (1, 2, 3, 4, 5)])
        self.assertEqual(meshes.forward_targets(T, name(1), name(4)), [name(number) for number in (2, 3, 5)])
        self.assertEqual(meshes.forward_targets(T, name(5)), [name(number) for number in (1, 2, 3, 4)])


class Heartbeat(MeshCase):
    def beat(self, meshes: Meshes, tick: int = 1, now: float = NOW + 200) -> None:
        self.said.grafts.clear()
        self.said.prunes.clear()
        self.scores.heard.clear()
        meshes.heartbeat(tick, now)

    def others(self, first: int, count: int, *, outbound: bool = False) -> None:
        for number in range(first, first + count):
            self.peer(number, outbound=outbound)

    def test_backoffs_are_swept_now_and_then(self) -> None:
        for tick, after, left in ((BACKOFF_SWEEP - 1, 500, 1), (BACKOFF_SWEEP, 0.9, 1), (BACKOFF_SWEEP, 1, 0)):
            meshes = self.joined(0)
            meshes.backoffs.set(T, name(1), NOW)
            self.beat(meshes, tick, NOW + after)
            self.assertEqual(len(meshes.backoffs), left, (tick, after))

    def test_below_d_lo_it_is_filled_to_d(self) -> None:
        params = GossipParams(d_out=0)
        for members, after in ((params.d_lo - 1, params.d), (params.d_lo, params.d_lo)):
            meshes = self.joined(members, params)
            self.others(50, 10)
            self.beat(meshes)
            self.assertEqual(len(meshes.members(T)), after, members)
            self.assertEqual(len(self.said.grafts), after - members)

    def test_above_d_hi_it_is_cut_to_d(self) -> None:
        params = GossipParams(d_out=0)
        for members, after in ((params.d_hi, params.d_hi), (params.d_hi + 1, params.d)):
            meshes = self.joined(members, params)
            self.beat(meshes)
            self.assertEqual((len(meshes.members(T)), self.counters.pruned), (after, members - after))
            self.assertEqual(len(self.scores.heard), members - after)
            for peer, prune in self.said.prunes:
                self.assertNotIn(peer, meshes.members(T))
                self.assertEqual((prune.backoff, len(prune.peers)), (60, params.d_hi))
            self.assertEqual(len(self.said.prunes), members - after)

    def test_negative_members_are_cut_and_named_nobody(self) -> None:
        meshes = self.joined(3)
        self.scores.table |= {name(1): -0.1, name(2): 0.0}
        self.beat(meshes)
        self.assertEqual(list(meshes.members(T)), [name(2), name(3)])
        self.assertEqual(self.said.prunes, [(name(1), Prune(T, 60))])
        self.assertEqual(self.scores.heard, [("pruned", name(1), T, NOW + 200)])
        self.assertEqual((self.counters.pruned, meshes.backoffs.until(T, name(1))), (1, NOW + 260))

    def test_d_out_are_those_that_we_dialled(self) -> None:
        """From `d_lo` members on, and only as many as are missing."""
        for dialled, grafted in ((0, 2), (1, 1), (2, 0)):
            meshes = self.joined(PARAMS.d_lo)
            for number in range(1, dialled + 1):
                self.peers[name(number)].outbound = True
            self.others(50, 9)
            self.others(60, 9, outbound=True)
            self.beat(meshes)
            new = [peer for peer, _ in self.said.grafts]
            self.assertEqual(len(new), grafted)
            self.assertTrue(all(self.peers[peer].outbound for peer in new))
            self.assertEqual(len(meshes.members(T)), PARAMS.d_lo + grafted)

    def test_a_thin_mesh_waits_with_its_quota(self) -> None:
        """Nobody is dialled for its sake while the mesh itself is not filled."""
        meshes = self.joined(1)
        meshes.backoffs.set(T, name(50), NOW + 1000)
        self.others(50, 1, outbound=True)
        self.beat(meshes)
        self.assertEqual(list(meshes.members(T)), [name(1)])

    def opportunistic(self, members: int, score: float, better: list[float], tick: int | None = None) -> set[bytes]:
        """Of peers 50 and so on with the scores `better`: those that a mesh of such members takes in."""
        meshes = self.joined(members, GossipParams(d=2, d_lo=1, d_hi=12, d_score=1, d_out=0))
        for number in range(1, members + 1):
            self.scores.table[name(number)] = score
        for number, each in enumerate(better, 50):
            self.peer(number)
            self.scores.table[name(number)] = each
        self.beat(meshes, PARAMS.opportunistic_ticks if tick is None else tick)
        new = {peer for peer, _ in self.said.grafts}
        self.assertEqual(self.counters.opportunistic, len(new))
        return new

    def test_opportunistic_grafting(self) -> None:
        middle = PeerScores().params.thresholds.opportunistic
        self.assertEqual(self.opportunistic(2, middle, [middle + 9]), set(), "good enough")
        self.assertEqual(self.opportunistic(2, middle - 0.1, [middle + 9]), {name(50)})
        self.assertEqual(self.opportunistic(1, middle - 0.1, [middle + 9]), set(), "one is no mesh to judge")
        self.assertEqual(self.opportunistic(2, 0.5, [0.5, 0.4, 0.6]), {name(52)}, "better than the middle only")
        self.assertEqual(len(self.opportunistic(3, 0.5, [9.0] * 7)), PARAMS.opportunistic_peers)
        self.assertEqual(self.opportunistic(2, 0.5, [9.0], tick=59), set())
        self.assertEqual(self.opportunistic(2, 0.5, [9.0], tick=61), set())
        self.assertEqual(self.opportunistic(2, 0.5, [9.0], tick=120), {name(50)})

    def fanout(self, count: int) -> Meshes:
        meshes = self.meshes(GossipParams(flood_publish=False))
        self.others(1, count)
        meshes.publish_targets(T, NOW)
        return meshes

    def test_a_fanout_ends_its_time_after_its_last_use(self) -> None:
        meshes = self.fanout(2)
        meshes.publish_targets(T, NOW + 5)
        self.beat(meshes, now=NOW + 5 + PARAMS.fanout_ttl - 0.1)
        self.assertEqual(list(meshes.fanouts), [T])
        self.beat(meshes, now=NOW + 5 + PARAMS.fanout_ttl)
        self.assertEqual(meshes.fanouts, {})

    def test_a_fanout_loses_the_low_scored_and_is_filled_again(self) -> None:
        threshold = PeerScores().params.thresholds.publish
        meshes = self.fanout(2)
        self.scores.table |= {name(1): threshold, name(2): threshold - 0.1, name(4): threshold - 0.1}
        self.others(3, 2)
        self.peer(5, protocol=FLOODSUB)
        self.peer(6, direct=True)
        self.beat(meshes, now=NOW + 1)
        self.assertEqual(set(meshes.around(T)), {name(1), name(3)})

    def test_a_full_fanout_stays_as_it_is(self) -> None:
        meshes = self.fanout(PARAMS.d)
        self.others(50, 9)
        self.beat(meshes, now=NOW + 1)
        self.assertEqual(len(list(meshes.around(T))), PARAMS.d)
        meshes.unsubscribed(T, name(1), NOW)
        self.beat(meshes, now=NOW + 1)
        self.assertEqual(len(list(meshes.around(T))), PARAMS.d)
