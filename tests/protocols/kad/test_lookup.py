"""Lookups on networks in memory, and their ends whatever peers answer."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.lookup import Lookup, LookupGoal
from chorus.protocols.kad.messages import Contact, KadMessage, KadRecord, RequestKind, believed
from chorus.protocols.kad.params import LEAST_TELLERS, MAX_PROVIDERS, MAX_WALK, KadParams
from chorus.protocols.kad.region import cell_keys, is_dense, region_bits, region_radius
from tests.protocols.kad.support import LOCAL, PARAMS, RULES, StaticNetwork, peer, peers, peers_near
from tests.support import PureTestCase

KEY = b"/v/key"
RNG = random.Random(1)


def lookup(
    seeds: list[PeerId],
    kind: RequestKind = RequestKind.GET_VALUE,
    *,
    enough: int | None = 3,
    network: float | None = None,
    params: KadParams = PARAMS,
) -> Lookup:
    rules = RULES if kind is RequestKind.GET_VALUE else None
    goal = LookupGoal(kind, KEY, peer(0), rules, enough, 1, network)
    return Lookup(goal, [Contact(one) for one in seeds], params, 0.0, RNG)


def value(of: bytes, *closer: PeerId) -> KadMessage:
    return KadMessage(RequestKind.GET_VALUE, KEY, KadRecord(KEY, of), tuple(map(Contact, closer)))


NOTHING = KadMessage(RequestKind.GET_VALUE, KEY)


class StaticNetworks(PureTestCase):
    """Honest networks that stand still."""

    def test_the_k_closest_are_found_in_about_log2_n_hops(self) -> None:
        for count, tries in ((12, 10), (100, 40), (1000, 60)):
            network = StaticNetwork(peers(count, 4))
            exact = 0
            hops = 0
            for number in range(tries):
                key, own = b"/v/%d" % number, network.members[number % count]
                found = network.find(key, own)
                exact += [one.peer for one in found.closest] == network.truth(key, without=own)
                hops += found.hops
                self.assertTrue(found.complete)
                self.assertFalse(found.dense)
                self.assertLessEqual(found.asked, 60)
            self.assertGreaterEqual(exact, 0.99 * tries)
            self.assertLessEqual(hops / tries, math.log2(count))

    def test_so_they_are_on_disjoint_paths(self) -> None:
        network = StaticNetwork(peers(400, 5))
        for number in range(20):
            key, own = b"/v/%d" % number, network.members[number]
            found = network.find(key, own, paths=3)
            self.assertEqual([one.peer for one in found.closest], network.truth(key, without=own))

    def test_each_peer_is_asked_once(self) -> None:
        for paths in (1, 3):
            network = StaticNetwork(peers(200, 6))
            asked: list[PeerId] = []
            machine = network.lookup(network.goal(RequestKind.FIND_NODE, KEY, network.members[0], paths=paths))
            asks = machine.step(0.0)
            while asks:
                for ask in asks:
                    asked.append(ask.contact.peer)
                    network.answer(machine, ask, network.members[0])
                asks = machine.step(0.0)
            self.assertEqual(len(asked), len(set(asked)))
            self.assertNotIn(network.members[0], asked)

    def test_a_value_ends_it_at_its_quorum(self) -> None:
        network = StaticNetwork(peers(300, 7))
        network.store(KEY, b"new", network.truth(KEY))
        found = network.get(KEY, network.members[3])
        self.assertEqual(found.best, b"new")
        self.assertGreaterEqual(len(found.values), 3)
        self.assertLess(found.asked, 40)

    def test_in_a_small_network_no_more_are_asked_than_answers_are_wanted(self) -> None:
        network = StaticNetwork(peers(16, 8))
        network.store(KEY, b"new", network.truth(KEY))
        for enough in (1, 3):
            self.assertEqual(network.get(KEY, network.members[0], enough=enough).asked, enough)

    def test_in_a_small_network_a_value_of_one_holder_is_found(self) -> None:
        network = StaticNetwork(peers(16, 9))
        network.store(KEY, b"new", [network.members[5]])
        found = network.get(KEY, network.members[0])
        self.assertEqual((found.best, found.asked), (b"new", 15))

    def test_the_best_of_all_and_who_lacks_it(self) -> None:
        network = StaticNetwork(peers(200, 10))
        own = network.members[0]
        closest = network.truth(KEY, without=own)
        network.store(KEY, b"1", closest[:5])
        network.store(KEY, b"2", closest[5:9])
        network.store(KEY, b"bad", closest[9:11])
        found = network.get(KEY, own, enough=None)
        self.assertEqual(found.best, b"2")
        self.assertEqual({one.peer for one in found.stale(b"2")}, set(closest) - set(closest[5:9]))
        self.assertEqual(set(found.refused), set(closest[9:11]))

    def test_peers_behind_the_k_nearest_are_not_corrected(self) -> None:
        """A quorum may be there before the nearest have answered."""
        network = StaticNetwork(peers(500, 13))
        network.store(KEY, b"1", network.truth(KEY))
        for own in network.members[:20]:
            found = network.get(KEY, own)
            self.assertLessEqual({one.peer for one in found.stale(b"")}, set(network.truth(KEY, without=own)))

    def test_one_liar_hides_no_providers(self) -> None:
        """Whoever answers first with twenty false providers neither ends the lookup nor stands first."""
        real = Contact(peer(500), (LOCAL,))
        tellers = sorted(peers(5, 12), key=lambda one: point_of(one.raw) ^ point_of(KEY))
        machine = lookup(tellers, RequestKind.GET_PROVIDERS, enough=20)
        answered = 0
        while asks := machine.step(0.0):
            for ask in asks:
                lies = ask.contact.peer == tellers[0]
                named = tuple(Contact(peer(n)) for n in range(600, 620)) if lies else (real,)
                machine.answered(ask, KadMessage(RequestKind.GET_PROVIDERS, KEY, providers=named))
                answered += 1
        found = machine.outcome().providers
        self.assertEqual((answered, found[0], len(found)), (5, real, 11))

    def test_providers_are_enough_once_three_have_named_them(self) -> None:
        real = tuple(Contact(peer(n), (LOCAL,)) for n in range(500, 504))
        machine = lookup([peer(n) for n in range(1, 21)], RequestKind.GET_PROVIDERS, enough=2)
        answered = 0
        while asks := machine.step(0.0):
            for ask in asks:
                machine.answered(ask, KadMessage(RequestKind.GET_PROVIDERS, KEY, providers=real))
                answered += 1
        self.assertEqual((answered, machine.done, machine.outcome().complete), (LEAST_TELLERS, True, True))

    def test_providers_are_collected(self) -> None:
        network = StaticNetwork(peers(100, 11))
        own = network.members[0]
        known = tuple(Contact(one, (LOCAL,)) for one in peers(30, 99))
        for place, one in enumerate(network.truth(KEY, without=own)):
            shown = known[place : place + 10]
            network.answers[one] = lambda request, _, shown=shown: KadMessage(
                request.kind, request.key, providers=shown
            )
        found = network.run(network.goal(RequestKind.GET_PROVIDERS, KEY, own, enough=20))
        self.assertGreaterEqual(len(found.providers), 20)
        self.assertLessEqual(set(found.providers), set(known))


class Ends(PureTestCase):
    """The machine always ends."""

    def test_without_seeds(self) -> None:
        for network in (None, 500.0):
            machine = lookup([], network=network)
            self.assertEqual(machine.step(0.0), [])
            self.assertTrue(machine.done)
            self.assertIsNone(machine.wake_at)
            self.assertIsNone(machine.outcome().best)

    def test_cve_2026_44505_a_bad_record_as_the_only_answer(self) -> None:
        machine = lookup([peer(1)])
        (ask,) = machine.step(0.0)
        machine.answered(ask, value(b"bad"))
        self.assertEqual(machine.step(0.1), [])
        self.assertTrue(machine.done)
        found = machine.outcome()
        self.assertEqual((found.best, found.values, found.refused), (None, {}, (peer(1),)))

    def test_a_record_of_another_key_and_a_reply_of_another_kind(self) -> None:
        for reply in (
            KadMessage(RequestKind.GET_VALUE, KEY, KadRecord(b"/v/other", b"1")),
            KadMessage(RequestKind.FIND_NODE, KEY, KadRecord(KEY, b"1"), (Contact(peer(5)),)),
        ):
            machine = lookup([peer(1)])
            machine.answered(machine.step(0.0)[0], reply)
            self.assertEqual(machine.step(0.1), [])
            self.assertTrue(machine.done)
            self.assertEqual(machine.outcome().refused, (peer(1),))

    def test_all_fail(self) -> None:
        machine = lookup([peer(1), peer(2)], RequestKind.FIND_NODE, enough=None)
        for ask in machine.step(0.0):
            machine.failed(ask)
        self.assertEqual(machine.step(0.1), [])
        self.assertTrue(machine.done)
        self.assertEqual(machine.outcome().closest, ())

    def test_nobody_reports_anything(self) -> None:
        machine = lookup([peer(1), peer(2)], RequestKind.FIND_NODE, enough=None)
        now, turns = 0.0, 0
        self.assertEqual(len(machine.step(now)), 2)
        while not machine.done:
            turns += 1
            assert machine.wake_at is not None
            now = machine.wake_at
            self.assertEqual(machine.step(now), [])
        self.assertEqual((now, turns), (PARAMS.dial_s + PARAMS.rpc_s, 2))

    def test_peers_that_name_others_without_end(self) -> None:
        """Each reply names twenty that are nearer, so that nothing is ever the nearest."""
        machine = lookup([peer(1)], RequestKind.FIND_NODE, enough=None, network=1e9)
        numbers = iter(range(10, 10**6))
        asked = 0
        asks = machine.step(0.0)
        while asks:
            for ask in asks:
                asked += 1
                closer = tuple(Contact(peer(next(numbers))) for _ in range(20))
                machine.answered(ask, KadMessage(RequestKind.FIND_NODE, KEY, closer=closer))
            asks = machine.step(0.0)
        self.assertTrue(machine.done)
        self.assertLessEqual(asked, MAX_WALK)

    def test_time_ends_it_with_what_was_found(self) -> None:
        machine = lookup([peer(1), peer(2)], enough=3)
        first, _ = machine.step(0.0)
        machine.answered(first, value(b"1", peer(3)))
        machine.step(0.1)
        self.assertEqual(machine.step(PARAMS.walk_s), [])
        self.assertTrue(machine.done)
        found = machine.outcome()
        self.assertEqual((found.best, found.complete), (b"1", False))
        self.assertEqual(machine.step(99.0), [])

    def test_reports_that_come_twice_or_late_change_nothing(self) -> None:
        machine = lookup([peer(1)])
        (ask,) = machine.step(0.0)
        machine.answered(ask, value(b"1"))
        machine.answered(ask, value(b"2"))
        machine.failed(ask)
        machine.step(0.1)
        machine.answered(ask, value(b"3"))
        machine.failed(ask)
        self.assertEqual(machine.outcome().values, {peer(1): b"1"})

    def test_more_providers_than_are_kept(self) -> None:
        machine = lookup([peer(n) for n in range(1, 80)], RequestKind.GET_PROVIDERS, enough=10**6, network=80.0)
        numbers = iter(range(1000, 10**6))
        asks = machine.step(0.0)
        while asks:
            for ask in asks:
                providers = tuple(Contact(peer(next(numbers))) for _ in range(20))
                machine.answered(ask, KadMessage(RequestKind.GET_PROVIDERS, KEY, (), (), providers))
            asks = machine.step(0.0)
        self.assertLessEqual(len(machine.outcome().providers), MAX_PROVIDERS)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([None, 30.0, 1000.0]))
    def test_whatever_they_answer(self, seed: int, paths: int, network: float | None) -> None:
        """Answers, lies, failures and silence in any order; time goes on as `wake_at` says."""
        rng = random.Random(seed)
        ids = peers(60, seed)
        goal = LookupGoal(RequestKind.GET_VALUE, KEY, ids[0], RULES, rng.choice([None, 1, 3]), paths, network)
        machine = Lookup(goal, map(Contact, ids[:20]), PARAMS, 0.0, rng)
        now = 0.0
        waiting = machine.step(now)
        for _ in range(5000):
            if machine.done:
                break
            if waiting and rng.random() < 0.8:
                ask = waiting.pop(rng.randrange(len(waiting)))
                self.assertNotEqual(ask.contact.peer, ids[0])
                closer = tuple(map(Contact, rng.sample(ids, rng.randrange(20))))
                what = rng.random()
                if what < 0.2:
                    machine.failed(ask)
                elif what < 0.8:
                    record = KadRecord(KEY, rng.choice([b"1", b"2", b"bad"])) if rng.random() < 0.1 else None
                    machine.answered(ask, KadMessage(ask.request.kind, ask.request.key, record, closer))
            else:
                assert machine.wake_at is not None
                self.assertGreater(machine.wake_at, now)
                now = machine.wake_at
            waiting += machine.step(now)
        self.assertTrue(machine.done)
        self.assertLessEqual(now, PARAMS.walk_s)


class Slowness(PureTestCase):
    """Dead and slow peers."""

    def test_overdue_requests_leave_their_place_and_do_not_hold_the_end(self) -> None:
        ids = peers(30, 3)
        machine = lookup(ids, RequestKind.FIND_NODE, enough=None, network=30.0)
        first = machine.step(0.0)
        self.assertEqual(len(first), PARAMS.alpha)
        for ask in first[:7]:
            machine.answered(ask, KadMessage(RequestKind.FIND_NODE, KEY))
        second = machine.step(0.1)
        self.assertEqual(len(second), 7)
        for ask in second:
            machine.answered(ask, KadMessage(RequestKind.FIND_NODE, KEY))
        # Six of the 20 closest are left: three fill the places that answers freed.
        third = machine.step(0.2)
        for ask in third:
            machine.answered(ask, KadMessage(RequestKind.FIND_NODE, KEY))
        self.assertEqual(machine.step(0.3), [])
        self.assertFalse(machine.done)
        self.assertEqual(machine.wake_at, PARAMS.slow_s)
        # The three are overdue: the next three take their part among the closest.
        more = machine.step(PARAMS.slow_s)
        self.assertEqual(len(more), 3)
        for ask in more:
            machine.answered(ask, KadMessage(RequestKind.FIND_NODE, KEY))
        machine.step(PARAMS.slow_s)
        self.assertTrue(machine.done)
        self.assertEqual(len(machine.outcome().closest), PARAMS.k)

    def test_connected_peers_among_the_nearest_are_asked_first(self) -> None:
        ids = sorted(peers(20, 5), key=lambda one: point_of(one.raw) ^ point_of(KEY))
        live = set(ids[12:18])
        goal = LookupGoal(RequestKind.FIND_NODE, KEY, peer(0), network=100.0, connected=live.__contains__)
        machine = Lookup(goal, map(Contact, ids), PARAMS, 0.0, RNG)
        asked = [ask.contact.peer for ask in machine.step(0.0)]
        self.assertEqual(asked, [*ids[12:18], *ids[:4]])

    def test_a_late_answer_counts(self) -> None:
        machine = lookup([peer(1), peer(2)], enough=2)
        asks = machine.step(0.0)
        machine.step(1.0)
        machine.answered(asks[0], value(b"1"))
        machine.answered(asks[1], value(b"1"))
        machine.step(1.1)
        self.assertTrue(machine.done)
        self.assertEqual(len(machine.outcome().values), 2)

    def test_fewer_than_beta_answers_wait_for_the_overdue(self) -> None:
        machine = lookup([peer(n) for n in range(1, 6)], RequestKind.FIND_NODE, enough=None)
        asks = machine.step(0.0)
        for ask in asks[:2]:
            machine.answered(ask, KadMessage(RequestKind.FIND_NODE, KEY))
        machine.step(1.0)
        self.assertFalse(machine.done)
        machine.answered(asks[2], KadMessage(RequestKind.FIND_NODE, KEY))
        machine.step(1.1)
        self.assertTrue(machine.done)

    def test_with_a_fifth_of_all_dead(self) -> None:
        network = StaticNetwork(peers(500, 12))
        dead = set(network.members[::5])
        for one in dead:
            network.answers[one] = lambda request, sender: None
        for number in range(20):
            key, own = b"/v/%d" % number, network.members[1]
            truth = [one for one in network.truth(key, 60, without=own) if one not in dead][:20]
            found = [one.peer for one in network.find(key, own).closest]
            # Tables are not repaired here: everybody who is near names the same twenty, of whom four are dead.
            self.assertGreaterEqual(len(set(found) & set(truth)), 14)
            self.assertEqual(found[:8], truth[:8])


class Addresses(PureTestCase):
    """What replies may say of peers."""

    def test_py_1405_replies_that_contain_ourselves(self) -> None:
        own = peer(0)
        machine = lookup([own, peer(1)], RequestKind.FIND_NODE, enough=None)
        (ask,) = machine.step(0.0)
        self.assertEqual(ask.contact.peer, peer(1))
        machine.answered(ask, KadMessage(RequestKind.FIND_NODE, KEY, closer=(Contact(own), Contact(peer(2)))))
        asks = machine.step(0.1)
        self.assertEqual([one.contact.peer for one in asks], [peer(2)])
        machine.answered(asks[0], KadMessage(RequestKind.FIND_NODE, KEY, closer=(Contact(own),)))
        machine.step(0.2)
        self.assertTrue(machine.done)
        self.assertNotIn(own, [one.peer for one in machine.outcome().closest])

    def test_private_addresses_that_come_over_a_public_connection_are_dropped(self) -> None:
        texts = ("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1")
        loopback, private, public = map(Multiaddr.parse, texts)
        contact = Contact(peer(1), (loopback, private, public))
        self.assertEqual(believed(contact, public).addresses, (public,))
        self.assertEqual(believed(contact, private).addresses, (private, public))
        self.assertIs(believed(contact, loopback), contact)
        self.assertIs(believed(contact, None), contact)
        machine = lookup([peer(2)], RequestKind.FIND_NODE, enough=None)
        machine.answered(machine.step(0.0)[0], KadMessage(RequestKind.FIND_NODE, KEY, closer=(contact,)), public)
        (ask,) = machine.step(0.1)
        self.assertEqual(ask.contact.addresses, (public,))


class CrowdedKeys(PureTestCase):
    """Sybils around one key (CVE-2023-26248)."""

    def attacked(self, sybils: int) -> tuple[StaticNetwork, list[PeerId], set[PeerId]]:
        """A network of 400 with silent liars near the key: they say that they have nothing, and name each other."""
        honest = peers(400, 21)
        liars = peers_near(point_of(KEY), sybils, 3000, 22)
        network = StaticNetwork(honest + liars, 23)
        named = tuple(Contact(one, (LOCAL,)) for one in liars[:20])
        for one in liars:
            network.answers[one] = lambda request, _: KadMessage(request.kind, request.key, closer=named)
        return network, honest, set(liars)

    def test_cve_2023_26248_a_censored_value_is_still_found(self) -> None:
        for sybils in (25, 60):
            network, honest, _ = self.attacked(sybils)
            holders = sorted(honest, key=lambda one: point_of(one.raw) ^ point_of(KEY))[:20]
            network.store(KEY, b"1", holders)
            missed = 0
            for number in range(20):
                reader = next(one for one in honest[number:] if one not in holders)
                found = network.get(KEY, reader, enough=3)
                missed += found.best is None
                self.assertTrue(found.best is None or found.values)
            self.assertEqual(missed, 0)

    def test_a_put_reaches_the_honest_behind_them(self) -> None:
        network, honest, liars = self.attacked(40)
        nearest = sorted(honest[1:], key=lambda one: point_of(one.raw) ^ point_of(KEY))[:15]
        found = network.find(KEY, honest[0])
        self.assertTrue(found.dense)
        reached = {one.peer for one in found.closest} - liars
        self.assertGreaterEqual(len(reached & set(nearest)), 12)

    def test_density_is_told_from_chance(self) -> None:
        for seed in range(200):
            key = b"/v/%d" % seed
            closest = sorted(map(Contact, peers(300, 30)), key=lambda c: c.point ^ point_of(key))[:20]
            self.assertFalse(is_dense(point_of(key), closest, 20, 300.0))
        crowd = sorted(map(Contact, peers_near(point_of(KEY), 20, 300)), key=lambda c: c.point ^ point_of(KEY))
        self.assertTrue(is_dense(point_of(KEY), crowd, 20, 1000.0))
        self.assertFalse(is_dense(point_of(KEY), crowd[:19], 20, 1000.0))
        self.assertFalse(is_dense(point_of(KEY), crowd, 20, 20.0))

    def test_the_region_and_its_cells(self) -> None:
        for network, bits in ((20.0, 0), (39.0, 0), (40.0, 1), (1000.0, 5), (10_000.0, 8)):
            self.assertEqual(region_bits(20, network), bits)
            radius = region_radius(20, network)
            self.assertEqual(radius.bit_length(), 257 - bits)
            points = [point_of(key) for key in cell_keys(point_of(KEY), bits, RNG)]
            self.assertEqual(len({point >> (253 - bits) for point in points}), 8)
            self.assertTrue(all(point ^ point_of(KEY) < radius for point in points))
        self.assertLess(len(cell_keys(point_of(KEY), 40, RNG)), 8)
