"""Lazy gossip, promises and the history of messages on their own: limits met exactly, and what each branch does."""

from __future__ import annotations

import random

from chorus.protocols.gossipsub import promises as gossip_promises
from chorus.protocols.gossipsub.codec import WIRE
from chorus.protocols.gossipsub.decode import decode_rpc
from chorus.protocols.gossipsub.history import SeenMessages
from chorus.protocols.gossipsub.lazy import USELESS_PER_MISBEHAVIOUR, LazyGossip
from chorus.protocols.gossipsub.params import FLOODSUB, GossipParams
from chorus.protocols.gossipsub.promises import Promises
from chorus.protocols.gossipsub.rpc import RPC
from chorus.protocols.gossipsub.score import PeerScores
from chorus.protocols.gossipsub.state import GossipState
from tests.protocols.gossip_network import unframe
from tests.protocols.gossipsub.test_meshes import NOW, MeshCase, T, name
from tests.support import PureTestCase

GOSSIP = PeerScores().params.thresholds.gossip


def ids(count: int, start: int = 0) -> list[bytes]:
    return [b"id%06d" % number for number in range(start, start + count)]


class LazyCase(MeshCase):
    def lazy(self, members: int = 0, **params: object) -> LazyGossip:
        chosen = GossipParams(**params)  # type: ignore[arg-type]
        meshes = self.joined(members, chosen)
        self.seen = SeenMessages(chosen)
        return LazyGossip(
            GossipState(chosen, self.peers, self.said, self.scores, self.counters, WIRE, random.Random(1)),
            meshes=meshes,
            seen=self.seen,
        )

    def sent(self) -> dict[bytes, list[RPC]]:
        return {
            peer: [decode_rpc(raw) for raw in unframe(frame for _, frame in sends)]
            for peer, sends in self.said.take().items()
        }

    def asked(self, number: int = 1) -> set[bytes]:
        return {each for rpc in self.sent().get(name(number), []) for each in rpc.iwant}

    def told(self) -> dict[bytes, dict[str, set[bytes]]]:
        """Peer → topic → ids."""
        told: dict[bytes, dict[str, set[bytes]]] = {}
        for peer, rpcs in self.sent().items():
            for rpc in rpcs:
                for topic, some in rpc.ihave:
                    told.setdefault(peer, {}).setdefault(topic, set()).update(some)
        return told


class Asking(LazyCase):
    def test_what_is_not_here_in_topics_of_ours(self) -> None:
        lazy = self.lazy()
        state = self.peer(1)
        self.seen.arrived(b"seen", NOW)
        lazy.ihave_received(name(1), state, [(T, [b"new", b"seen", b"new"]), ("other", [b"foreign"])], NOW)
        self.assertEqual(self.asked(), {b"new"})
        self.assertEqual((state.asked, state.useless, state.ihaves), (1, 0, 1))
        self.assertEqual((self.counters.iwant_sent, self.counters.ihave_ignored), (1, 0))
        self.assertEqual((lazy.promises.broken(NOW + 2.9), lazy.promises.broken(NOW + 3)), ({}, {name(1): 1}))

    def test_nothing_to_ask_promises_nothing(self) -> None:
        lazy = self.lazy()
        lazy.ihave_received(name(1), self.peer(1), [("other", [b"foreign"])], NOW)
        self.assertEqual((self.asked(), len(lazy.promises)), (set(), 0))

    def test_messages_in_a_heartbeat(self) -> None:
        lazy = self.lazy(max_ihave_messages=2)
        state = self.peer(1)
        for number, asked in enumerate((1, 1, 0)):
            lazy.ihave_received(name(1), state, [(T, ids(1, number)), ("other", ids(2))], NOW)
            self.assertEqual(len(self.asked()), asked)
        self.assertEqual((state.useless, self.counters.ihave_ignored), (3, 1))
        lazy.begin_heartbeat(1, NOW)
        lazy.ihave_received(name(1), state, [(T, ids(1, 9))], NOW)
        self.assertEqual(self.asked(), set(ids(1, 9)))

    def test_ids_in_a_heartbeat(self) -> None:
        lazy = self.lazy(max_ihave_length=5)
        state = self.peer(1)
        for start, count, asked, ignored in ((0, 4, 4, 0), (10, 4, 1, 0), (20, 1, 0, 1)):
            lazy.ihave_received(name(1), state, [(T, ids(count, start))], NOW)
            self.assertEqual((len(self.asked()), self.counters.ihave_ignored), (asked, ignored))
        self.assertEqual((state.asked, state.useless, self.counters.iwant_sent), (5, 1, 5))
        lazy.begin_heartbeat(1, NOW)
        self.assertEqual((state.asked, state.useless), (0, 0))

    def test_the_score_that_gossip_takes(self) -> None:
        for score, asked in ((GOSSIP, 1), (GOSSIP - 0.1, 0)):
            lazy = self.lazy()
            state = self.peer(1)
            self.scores.table[name(1)] = score
            lazy.cache.put(b"m", T, b"frame")
            lazy.ihave_received(name(1), state, [(T, ids(1))], NOW)
            self.assertEqual(len(self.asked()), asked)
            lazy.iwant_received(name(1), state, [b"m"])
            self.assertEqual((self.counters.iwant_served, len(self.said.take())), (asked, asked))
            lazy.end_heartbeat()
            self.assertEqual(len(self.told()), asked)


class Answering(LazyCase):
    def test_a_message_is_sent_three_times(self) -> None:
        lazy = self.lazy()
        state = self.peer(1)
        lazy.cache.put(b"m", T, b"\x01f")
        lazy.iwant_received(name(1), state, [b"m", b"unknown", b"m", b"m", b"m"])
        self.assertEqual([frame for _, frame in self.said.take()[name(1)]], [b"\x01f"] * 3)
        self.assertEqual((self.counters.iwant_served, state.useless), (3, 2))

    def test_unwanted_ids_in_a_heartbeat(self) -> None:
        lazy = self.lazy(idontwant_per_heartbeat=3)
        state = self.peer(1)
        lazy.idontwant_received(state, ids(2))
        lazy.idontwant_received(state, ids(2, 10))
        self.assertEqual(list(state.unwanted), [*ids(2), *ids(1, 10)])
        self.assertEqual((self.counters.idontwant_taken, self.counters.passed_over, state.useless), (3, 1, 1))
        lazy.begin_heartbeat(1, NOW)
        lazy.idontwant_received(state, ids(1, 20))
        self.assertIn(ids(1, 20)[0], state.unwanted)

    def test_an_unwanted_id_stands_for_three_heartbeats(self) -> None:
        lazy = self.lazy()
        state = self.peer(1)
        self.peer(2)
        lazy.begin_heartbeat(7, NOW)
        targets = [name(1), name(2)]
        self.assertEqual(lazy.wanted(targets, b"m"), targets)
        lazy.idontwant_received(state, [b"m"])
        self.assertEqual((lazy.wanted(targets, b"m"), lazy.wanted(targets, b"x")), ([name(2)], targets))
        self.assertEqual(self.counters.spared, 1)
        for tick, left in ((8, [name(2)]), (10, [name(2)]), (11, targets)):
            lazy.begin_heartbeat(tick, NOW)
            if tick == 8:
                lazy.idontwant_received(state, [b"m"])
            self.assertEqual(lazy.wanted(targets, b"m"), left, "said again it does not stand for longer")

    def test_large_messages_are_announced_to_those_who_know_it(self) -> None:
        lazy = self.lazy(4)
        for number in (1, 2, 3):
            self.peers[name(number)].known = True
        lazy.tell_idontwant(T, b"m", name(3))
        sent = self.sent()
        self.assertEqual({peer: rpcs[0].idontwant for peer, rpcs in sent.items()}, {name(1): [b"m"], name(2): [b"m"]})
        self.assertEqual(self.counters.idontwant_sent, 2)
        lazy.tell_idontwant(T, b"m", name(1), name(2), name(3))
        self.assertEqual((self.sent(), self.counters.idontwant_sent), ({}, 2))


class Charges(LazyCase):
    def test_useless_entries_above_what_is_allowed(self) -> None:
        allowed = GossipParams().max_useless
        for useless, charged in ((allowed, []), (allowed + USELESS_PER_MISBEHAVIOUR, [1.0]), (allowed + 50, [0.5])):
            for leaves in (False, True):
                lazy = self.lazy()
                state = self.peer(1)
                state.useless = useless
                if leaves:
                    lazy.left(name(1), state)
                else:
                    lazy.begin_heartbeat(1, NOW)
                    self.assertEqual(state.useless, 0)
                self.assertEqual([each for _, _, each in self.scores.heard if each], charged)

    def test_broken_promises(self) -> None:
        for leaves in (False, True):
            lazy = self.lazy()
            state = self.peer(1)
            lazy.promises.made(name(1), b"m", NOW)
            lazy.promises.made(name(1), b"n", NOW)
            if leaves:
                lazy.left(name(1), state)
            else:
                lazy.begin_heartbeat(1, NOW)
            self.assertEqual(self.scores.heard, [("misbehaved", name(1), 2)])
            self.assertEqual((self.counters.promises_broken, len(lazy.promises)), (2, 0))


class Telling(LazyCase):
    def test_outside_of_the_mesh_to_those_who_take_gossip(self) -> None:
        lazy = self.lazy(2)
        lazy.cache.put(b"m", T, b"")
        self.peer(3)
        self.peer(4, protocol=FLOODSUB)
        self.peer(5, direct=True)
        self.peer(6, topic="other")
        lazy.end_heartbeat()
        self.assertEqual(self.told(), {name(3): {T: {b"m"}}})

    def test_d_lazy_or_a_quarter(self) -> None:
        for count, factor, told in ((30, 0.25, 7), (24, 0.25, 6), (20, 0.25, 6), (5, 0.25, 5), (20, 1.0, 20)):
            lazy = self.lazy(gossip_factor=factor)
            lazy.cache.put(b"m", T, b"")
            for number in range(count):
                self.peer(number)
            lazy.end_heartbeat()
            self.assertEqual(len(self.told()), told)

    def test_the_window_moves_on(self) -> None:
        lazy = self.lazy(mcache_gossip=2)
        self.peer(1)
        lazy.cache.put(b"m", T, b"")
        told = []
        for _ in range(3):
            lazy.end_heartbeat()
            told.append(bool(self.told()))
        self.assertEqual(told, [True, True, False])

    def test_a_topic_tells_no_more_than_its_share(self) -> None:
        lazy = self.lazy(max_ihave_length=10)
        self.peer(1)
        self.peers.subscribe(name(1), self.peers[name(1)], "other")
        for topic, start in ((T, 0), ("other", 100)):
            for each in ids(50, start):
                lazy.cache.put(each, topic, b"")
        lazy.end_heartbeat()
        told = self.told()[name(1)]
        self.assertEqual({topic: len(some) for topic, some in told.items()}, {T: 5, "other": 5})
        self.assertLessEqual(told[T], set(ids(50)))

    def test_frames_in_a_heartbeat(self) -> None:
        lazy = self.lazy(max_ihave_messages=1, max_ihave_length=5000)
        self.peer(1)
        for each in ids(4000):
            lazy.cache.put(each * 5, T, b"")
        lazy.end_heartbeat()
        self.assertEqual(len(self.sent()[name(1)]), 1)


class PromiseTests(PureTestCase):
    def test_the_first_time_stands(self) -> None:
        promises = Promises()
        promises.made(b"a", b"m", 5.0)
        promises.made(b"a", b"m", 9.0)
        promises.made(b"b", b"m", 7.0)
        self.assertEqual([promises.broken(now) for now in (4.9, 5.0, 7.0)], [{}, {b"a": 1}, {b"b": 1}])
        self.assertEqual(len(promises), 0)

    def test_what_came_by_another_way_blames_nobody(self) -> None:
        promises = Promises()
        for peer in (b"a", b"b"):
            promises.made(peer, b"m", 5.0)
        self.assertFalse(promises.kept(b"m", b"c"))
        self.assertEqual(promises.broken(9.0), {})
        promises.made(b"a", b"m", 5.0)
        self.assertTrue(promises.kept(b"m", b"a"))
        self.assertFalse(promises.kept(b"m", b"a"))

    def test_who_sent_what_is_of_no_use_has_kept_its_own(self) -> None:
        promises = Promises()
        for peer in (b"a", b"b"):
            promises.made(peer, b"m", 5.0)
        promises.sent(b"m", b"a")
        promises.sent(b"m", b"stranger")
        promises.sent(b"unknown", b"a")
        self.assertEqual((len(promises), promises.left(b"a"), promises.left(b"b"), len(promises)), (1, 0, 1, 0))

    def test_who_leaves_leaves_those_of_others(self) -> None:
        promises = Promises()
        for message in (b"m", b"n"):
            promises.made(b"a", message, 5.0)
        promises.made(b"b", b"n", 5.0)
        self.assertEqual((promises.left(b"a"), promises.broken(5.0)), (2, {b"b": 1}))

    def test_they_are_bounded(self) -> None:
        self.patch(gossip_promises, "MAX_PROMISES", 2)
        promises = Promises()
        for message in (b"m", b"n", b"o"):
            promises.made(b"a", message, 5.0)
        promises.made(b"b", b"m", 5.0)
        self.assertEqual((len(promises), promises.broken(5.0)), (2, {b"a": 2, b"b": 1}))


class HistoryTests(PureTestCase):
    AUTHOR = b"\x00\x24" + bytes(36)

    def message(self, number: int) -> bytes:
        return self.AUTHOR + number.to_bytes(8, "big")

    def history(self, *, growing: bool) -> SeenMessages:
        return SeenMessages(GossipParams(growing_seqno=growing, seen_ttl=120.0))

    def test_said_once(self) -> None:
        history = self.history(growing=False)
        self.assertTrue(history.published(b"m", NOW))
        self.assertFalse(history.published(b"m", NOW))
        self.assertEqual((len(history), b"m" in history, b"n" in history), (1, True, False))

    def test_what_was_passed_on_raises_the_floor_when_it_is_forgotten(self) -> None:
        for growing, passed, floors in ((True, True, 1), (True, False, 0), (False, True, 0)):
            history = self.history(growing=growing)
            history.arrived(self.message(7), NOW)
            if passed:
                history.passed_on(self.message(7))
            history.passed_on(b"unknown")
            history.expire(NOW + 119)
            self.assertEqual((len(history), history.floors), (1, 0))
            history.expire(NOW + 120)
            self.assertEqual((len(history), history.floors), (0, floors))
            replays = [history.is_replay(self.AUTHOR, number.to_bytes(8, "big")) for number in (6, 7, 8)]
            self.assertEqual(replays, [bool(floors), bool(floors), False])
            self.assertEqual(history._not_passed_on, {})
