from __future__ import annotations

from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.identify import MAX_ADDRESSES, Identification
from chorus.protocols.peerstore import ADDRESS_TTL, PROVEN_TTL, PeerStore
from tests.support import PureTestCase

ALICE = Identity.from_seed(bytes(32)).peer_id
PUBLIC = Multiaddr.parse("/ip4/8.8.8.8/tcp/4001")
OTHER = Multiaddr.parse("/ip4/9.9.9.9/tcp/4001")
PRIVATE = Multiaddr.parse("/ip4/192.168.1.5/tcp/4001")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")


def stranger(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


class Strangers(PureTestCase):
    def test_cve_2023_40583_a_hundred_thousand_records_of_strangers(self) -> None:
        store = PeerStore()
        for number in range(100_000):
            self.assertFalse(store.learn_record(stranger(number), 1, [PUBLIC], b"env", source=PUBLIC, now=0))
        self.assertEqual(len(store), 0)
        self.assertEqual(store.refused, 100_000)

    def test_py_958_py_1338_addresses_and_identify_of_strangers(self) -> None:
        store = PeerStore()
        self.assertFalse(store.learn(ALICE, [PUBLIC], source=PUBLIC, now=0))
        store.identified(ALICE, Identification(addresses=(PUBLIC,)), source=PUBLIC, now=0)
        self.assertEqual(len(store), 0)

    def test_identify_of_who_is_sought_and_not_connected(self) -> None:
        """It comes over a connection: without one there is none to believe."""
        store = PeerStore()
        store.seek(ALICE, until=100, now=0)
        said = Identification(addresses=(PUBLIC,), protocols=frozenset(["/a"]))
        store.identified(ALICE, said, source=PUBLIC, now=0)
        self.assertEqual((store.addresses(ALICE, 0), store.protocols(ALICE), store.refused), ([], frozenset(), 1))
        store.connected(ALICE, 0)
        store.identified(ALICE, said, source=PUBLIC, now=0)
        self.assertEqual((store.addresses(ALICE, 0), store.protocols(ALICE), store.refused), ([PUBLIC], {"/a"}, 1))

    def test_what_is_sought_is_kept_until_then(self) -> None:
        store = PeerStore()
        store.seek(ALICE, until=100, now=0)
        self.assertTrue(store.learn(ALICE, [PUBLIC], source=PUBLIC, now=99))
        self.assertFalse(store.learn(ALICE, [OTHER], source=PUBLIC, now=100))
        self.assertEqual(store.addresses(ALICE, 100), [PUBLIC])

    def test_the_store_has_a_size(self) -> None:
        store = PeerStore(max_peers=100)
        store.connected(ALICE, 0)
        for number in range(1000):
            store.seek(stranger(number), until=1000 + number, now=0)
        self.assertEqual(len(store), 100)
        self.assertIn(ALICE, store)
        self.assertIn(stranger(999), store)


class Lists(PureTestCase):
    def setUp(self) -> None:
        self.store = PeerStore()
        self.store.connected(ALICE, 0)

    def test_go_3487_3494_a_newer_record_drops_the_old_addresses(self) -> None:
        self.assertTrue(self.store.learn_record(ALICE, 5, [PUBLIC], b"5", source=PUBLIC, now=0))
        self.assertTrue(self.store.learn_record(ALICE, 6, [OTHER], b"6", source=PUBLIC, now=0))
        self.assertEqual(self.store.addresses(ALICE, 1), [OTHER])
        self.assertFalse(self.store.learn_record(ALICE, 6, [PUBLIC], b"again", source=PUBLIC, now=0))
        self.assertFalse(self.store.learn_record(ALICE, 5, [PUBLIC], b"older", source=PUBLIC, now=0))
        self.assertEqual(self.store.get(ALICE).record, b"6")
        self.assertTrue(self.store.learn_record(ALICE, 7, [], b"7", source=PUBLIC, now=0))
        self.assertEqual(self.store.addresses(ALICE, 1), [])

    def test_a_signed_record_is_not_replaced_by_hearsay(self) -> None:
        self.store.learn_record(ALICE, 5, [PUBLIC], b"5", source=PUBLIC, now=0)
        self.assertFalse(self.store.learn(ALICE, [OTHER], source=PUBLIC, now=0))
        self.store.identified(ALICE, Identification(addresses=(OTHER,)), source=PUBLIC, now=0)
        self.assertEqual(self.store.addresses(ALICE, 1), [PUBLIC])

    def test_go_3486_lists_replace_and_are_capped(self) -> None:
        many = [Multiaddr.parse(f"/ip4/8.8.8.8/tcp/{n}") for n in range(1, 500)]
        for _ in range(10):
            self.store.learn(ALICE, many, source=PUBLIC, now=0)
        self.assertEqual(len(self.store.addresses(ALICE, 1)), MAX_ADDRESSES)
        self.store.learn_record(ALICE, 1, many, b"r", source=PUBLIC, now=0)
        self.assertEqual(len(self.store.addresses(ALICE, 1)), MAX_ADDRESSES)

    def test_protocols_are_those_of_the_last_identify_and_of_this_connection(self) -> None:
        self.assertEqual(self.store.protocols(ALICE), frozenset())
        self.store.identified(ALICE, Identification(protocols=frozenset(["/a"])), source=PUBLIC, now=0)
        self.assertEqual(self.store.protocols(ALICE), {"/a"})
        self.store.disconnected(ALICE, 1)
        self.assertEqual(self.store.protocols(ALICE), frozenset())


class Credibility(PureTestCase):
    """A peer on the public network cannot make us dial into our own."""

    def addresses(self, source: Multiaddr | None) -> list[Multiaddr]:
        store = PeerStore()
        store.seek(ALICE, 10, 0)
        store.learn(ALICE, [PUBLIC, PRIVATE, LOOPBACK], source=source, now=0)
        return store.addresses(ALICE, 0)

    def test_from_a_public_peer(self) -> None:
        self.assertEqual(self.addresses(OTHER), [PUBLIC])

    def test_from_the_same_lan(self) -> None:
        self.assertEqual(self.addresses(PRIVATE), [PUBLIC, PRIVATE])

    def test_from_this_host_or_the_configuration(self) -> None:
        self.assertEqual(self.addresses(LOOPBACK), [PUBLIC, PRIVATE, LOOPBACK])
        self.assertEqual(self.addresses(None), [PUBLIC, PRIVATE, LOOPBACK])

    def test_from_identify_and_records(self) -> None:
        store = PeerStore()
        store.connected(ALICE, 0)
        store.identified(ALICE, Identification(addresses=(PRIVATE, LOOPBACK)), source=OTHER, now=0)
        self.assertEqual(store.addresses(ALICE, 0), [])
        store.learn_record(ALICE, 1, [PRIVATE, PUBLIC], b"", source=OTHER, now=0)
        self.assertEqual(store.addresses(ALICE, 0), [PUBLIC])

    def test_addresses_that_name_another_peer(self) -> None:
        store = PeerStore()
        store.seek(ALICE, 10, 0)
        store.learn(ALICE, [PUBLIC.with_peer(stranger(1)), OTHER.with_peer(ALICE)], source=None, now=0)
        self.assertEqual(store.addresses(ALICE, 0), [OTHER])


class Expiry(PureTestCase):
    def test_told_addresses_last_while_connected_and_15_minutes_more(self) -> None:
        store = PeerStore()
        store.connected(ALICE, 0)
        store.learn(ALICE, [PUBLIC], source=PUBLIC, now=0)
        self.assertEqual(store.addresses(ALICE, 10 * ADDRESS_TTL), [PUBLIC])
        store.expire(10 * ADDRESS_TTL)
        store.disconnected(ALICE, 10 * ADDRESS_TTL)
        self.assertEqual(store.addresses(ALICE, 11 * ADDRESS_TTL - 1), [PUBLIC])
        self.assertEqual(store.addresses(ALICE, 11 * ADDRESS_TTL), [])
        store.expire(11 * ADDRESS_TTL)
        self.assertNotIn(ALICE, store)

    def test_the_address_that_worked_lasts_longer_and_comes_first(self) -> None:
        store = PeerStore()
        store.connected(ALICE, 0)
        store.learn(ALICE, [PUBLIC, OTHER], source=PUBLIC, now=0)
        store.reached(ALICE, OTHER.with_peer(ALICE), 0)
        self.assertEqual(store.addresses(ALICE, 1), [OTHER, PUBLIC])
        store.disconnected(ALICE, 0)
        self.assertEqual(store.addresses(ALICE, ADDRESS_TTL), [OTHER])
        store.expire(ADDRESS_TTL)
        self.assertEqual(store.addresses(ALICE, PROVEN_TTL - 1), [OTHER])
        store.expire(PROVEN_TTL)
        self.assertEqual(len(store), 0)
