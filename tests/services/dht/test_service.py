"""Several nodes: what one puts another gets, whoever is gone meanwhile."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.namespaces import BadRecordValue
from chorus.services.dht.ports import DhtUnavailable, RecordNotFound
from chorus.services.dht.service import FIRST_SERVER_S
from chorus.store.dht import Quotas, RecordOutdated
from tests.services.dht.kit import KEY, DhtTestCase
from tests.services.memory_host import connect

MULTIHASH = b"\x12\x20" + bytes(32)


class PutAndGetTests(DhtTestCase):
    def test_everybody_holds_what_one_of_a_small_mesh_puts(self) -> None:
        nodes = self.nodes(5)
        stored = self.result(nodes[0].put(KEY, b"value"))
        self.assertEqual(set(stored.holders), set(self.net))
        self.assertEqual((stored.wanted, stored.safe), (3, True))
        for node in nodes:
            self.assertEqual(self.result(node.get(KEY)), b"value")
            self.assertEqual(node.servers, 5)
        self.assertEqual(self.result(nodes[3].holders(KEY)), dict.fromkeys(self.net, b"value"))

    def test_a_record_is_read_when_the_one_that_put_it_is_gone(self) -> None:
        nodes = self.nodes(3)
        self.result(nodes[0].put(KEY, b"value"))
        self.kill(nodes[0])
        self.assertEqual(self.result(nodes[1].get(KEY)), b"value")

    def test_the_closest_of_a_larger_mesh_hold_a_record(self) -> None:
        nodes = self.nodes(30)
        stored = self.result(nodes[0].put(KEY, b"value"))
        nearest = sorted(self.net, key=lambda peer: point_of(peer.raw) ^ point_of(KEY))
        self.assertLessEqual(set(nearest[:15]), set(stored.holders))
        self.assertLess(len(stored.holders), 23)
        self.assertEqual(self.result(nodes[17].get(KEY)), b"value")

    def test_the_best_value_wins_and_stale_holders_are_corrected(self) -> None:
        nodes = self.nodes(4)
        self.result(nodes[0].put(b"/number/a", b"1"))
        newer = nodes[1]
        self.result(Deferred.fromCoroutine(newer.held.put(b"/number/a", b"2")))
        self.assertEqual(self.result(nodes[3].get(b"/number/a", quorum=4)), b"2")
        self.run_for(1)
        self.assertEqual(set(self.result(nodes[0].holders(b"/number/a")).values()), {b"2"})

    def test_older_records_are_refused_by_holders(self) -> None:
        nodes = self.nodes(3)
        self.result(nodes[0].put(b"/number/a", b"2"))
        self.failure(nodes[1].put(b"/number/a", b"1"), RecordOutdated)
        self.assertEqual(self.result(nodes[2].get(b"/number/a")), b"2")

    def test_the_quota_of_one_peer_does_not_stop_it_at_its_own_node(self) -> None:
        nodes = self.nodes(2, quotas=Quotas(one_records=2))
        for number in range(4):
            stored = self.result(nodes[0].put(b"/number/%d" % number, b"1"))
            self.assertEqual(len(stored.holders), 2 if number < 2 else 1)
        self.assertEqual([node.held.rows for node in nodes], [4, 2])

    def test_what_is_not_valid_is_not_put(self) -> None:
        nodes = self.nodes(2)
        self.failure(nodes[0].put(b"/number/a", b"x"), BadRecordValue)

    def test_nobody_holds_it(self) -> None:
        nodes = self.nodes(3)
        self.failure(nodes[0].get(KEY), RecordNotFound)
        self.assertEqual(nodes[0].queries["get", "record_not_found"], 1)

    def test_nobody_answers(self) -> None:
        nodes = self.nodes(2)
        other = self.host(nodes[1])
        for protocol in other.served:
            other.served[protocol] = lambda stream: None
        nodes[0].known.stop()
        self.failure(nodes[0].get(KEY), DhtUnavailable)


class ConditionTests(DhtTestCase):
    def test_what_the_health_check_says(self) -> None:
        self.assertEqual((self.node(90).condition(), self.node(91, enabled=False).condition()), ("alone", "off"))
        first, other = self.nodes(2)
        self.assertEqual((first.trouble(), first.condition()), (None, "1 server answers"))
        self.stop(other)
        first.known.table.remove(self.host(other).peer_id)
        self.run_for(FIRST_SERVER_S)
        self.assertEqual(first.trouble(), "no server answers: 0 known")

    def test_whoever_just_came_has_not_been_asked_yet(self) -> None:
        first, other = self.node(1), self.node(2, mode="client")
        connect(self.host(first), self.host(other))
        self.assertIsNone(first.trouble())
        self.run_for(FIRST_SERVER_S)
        self.assertEqual(first.trouble(), "no server answers: 0 known")


class ProviderTests(DhtTestCase):
    def test_providers_are_found_and_withdrawn(self) -> None:
        nodes = self.nodes(4)
        stored = self.result(nodes[0].provide(MULTIHASH))
        self.assertTrue(stored.safe)
        found = self.result(nodes[2].providers(MULTIHASH))
        self.assertEqual([each.peer for each in found], [self.host(nodes[0]).peer_id])
        self.assertEqual(found[0].addresses, (self.host(nodes[0]).address,))
        self.result(nodes[0].withdraw(MULTIHASH))
        self.assertEqual(self.result(Deferred.fromCoroutine(nodes[0].held.providers(MULTIHASH, 20))), [])

    def test_none_is_no_error(self) -> None:
        nodes = self.nodes(2)
        self.assertEqual(self.result(nodes[0].providers(MULTIHASH)), ())


class ModeTests(DhtTestCase):
    def test_a_client_asks_and_is_not_asked(self) -> None:
        nodes = self.nodes(3)
        client = self.node(9, mode="client")
        connect(self.host(client), self.host(nodes[0]))
        self.run_for(5)
        stored = self.result(client.put(KEY, b"value"))
        self.assertEqual(set(stored.holders), set(self.net) - {self.host(client).peer_id})
        self.assertNotIn(self.host(client).peer_id, self.result(nodes[1].holders(KEY)))
        self.assertEqual([node.servers for node in (*nodes, client)], [3] * 4)

    def test_switched_off(self) -> None:
        nodes = self.nodes(2, enabled=False)
        self.result(nodes[0].put(KEY, b"value"))
        self.failure(nodes[1].get(KEY), RecordNotFound)
        self.assertEqual(self.host(nodes[0]).served, {})
