"""Replies of a server."""

from __future__ import annotations

from chorus.multiformats import multihash
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.messages import BadKadMessage, Contact, KadMessage, KadRecord, RequestKind
from chorus.protocols.kad.namespaces import BadRecordKey, Namespaces
from chorus.protocols.kad.serving import KadServer, provider_of
from chorus.protocols.kad.table import RoutingTable
from chorus.services.dht.namespaces import Unvalidated
from tests.protocols.kad.support import LOCAL, PARAMS, peer, peers
from tests.support import PureTestCase

KEY = b"/test/a"
RECORD = KadRecord(KEY, b"value")
HASH = multihash.sha2_256(b"blob")


class Replies(PureTestCase):
    def setUp(self) -> None:
        self.table = RoutingTable(peer(0), PARAMS, 0.0)
        for one in peers(100):
            self.table.answered(Contact(one, (LOCAL,)), 0.0)
        self.server = KadServer(Contact(peer(0), (LOCAL,)), self.table, Namespaces({"test": Unvalidated()}))

    def reply(self, request: KadMessage, sender: int = 77_777, **known: object) -> KadMessage:
        self.server.check(request)
        reply = self.server.reply(request, peer(sender), **known)  # type: ignore[arg-type]
        assert reply is not None
        self.assertIs(reply.kind, request.kind)
        return reply

    def test_find_node_names_the_closest_and_never_who_asks(self) -> None:
        target = peers(3)[2]
        closer = self.reply(KadMessage(RequestKind.FIND_NODE, target.raw)).closer
        self.assertEqual(list(closer), self.table.nearest(point_of(target.raw), 20))
        self.assertEqual(closer[0].peer, target)
        asking = self.server.reply(KadMessage(RequestKind.FIND_NODE, target.raw), target)
        assert asking is not None
        self.assertNotIn(target, [one.peer for one in asking.closer])

    def test_find_node_includes_a_known_target_and_this_node(self) -> None:
        known = Contact(peer(4711), (LOCAL,))
        closer = self.reply(KadMessage(RequestKind.FIND_NODE, known.peer.raw), target=known).closer
        self.assertEqual((closer[0], len(closer)), (known, 20))
        own = self.reply(KadMessage(RequestKind.FIND_NODE, peer(0).raw)).closer
        self.assertEqual((own[0].peer, len(own)), (peer(0), 20))

    def test_get_value_has_closer_peers_always(self) -> None:
        for held in (None, RECORD):
            reply = self.reply(KadMessage(RequestKind.GET_VALUE, KEY), held=held)
            self.assertEqual((reply.record, len(reply.closer)), (held, 20))

    def test_put_and_ping_are_echoed_and_a_provider_gets_no_reply(self) -> None:
        put = KadMessage(RequestKind.PUT_VALUE, KEY, RECORD)
        self.assertEqual(self.reply(put), put)
        self.assertEqual(self.reply(KadMessage(RequestKind.PING)).kind, RequestKind.PING)
        self.assertIsNone(self.server.reply(KadMessage(RequestKind.ADD_PROVIDER, HASH), peer(1)))

    def test_providers_at_most_20(self) -> None:
        many = [Contact(one) for one in peers(30, 9)]
        reply = self.reply(KadMessage(RequestKind.GET_PROVIDERS, HASH), providers=many)
        self.assertEqual(list(reply.providers), many[:20])
        self.assertEqual(len(reply.closer), 20)

    def test_puts_are_checked(self) -> None:
        self.server.check(KadMessage(RequestKind.PUT_VALUE, KEY, RECORD))
        for put, error in (
            (KadMessage(RequestKind.PUT_VALUE, KEY), BadKadMessage),
            (KadMessage(RequestKind.PUT_VALUE, b"/test/x", RECORD), BadKadMessage),
            (KadMessage(RequestKind.PUT_VALUE, b"/ipns/x", KadRecord(b"/ipns/x", b"")), BadRecordKey),
        ):
            self.assertRaises(error, self.server.check, put)

    def test_cve_2026_45783_keys_are_checked_before_all_else(self) -> None:
        for kind in (RequestKind.PUT_VALUE, RequestKind.GET_VALUE):
            for key in (b"abc", b"/x", b"//", b"/unknown/x"):
                self.assertRaises(BadRecordKey, self.server.check, KadMessage(kind, key, KadRecord(key, b"")))
        for kind in set(RequestKind) - {RequestKind.PING}:
            self.assertRaises(BadKadMessage, self.server.check, KadMessage(kind))
        self.assertRaises(BadRecordKey, self.server.check, KadMessage(RequestKind.ADD_PROVIDER, b"no hash"))
        self.server.check(KadMessage(RequestKind.GET_PROVIDERS, HASH))


class Providers(PureTestCase):
    def test_nobody_but_the_sender_is_stored(self) -> None:
        addresses = tuple(map(Multiaddr.parse, ("/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1")))
        request = KadMessage(
            RequestKind.ADD_PROVIDER, HASH, providers=(Contact(peer(1), addresses), Contact(peer(2), addresses))
        )
        self.assertEqual(provider_of(request, peer(2)), Contact(peer(2), addresses))
        self.assertEqual(provider_of(request, peer(2), addresses[1]), Contact(peer(2), addresses[1:]))
        self.assertIsNone(provider_of(request, peer(3)))
