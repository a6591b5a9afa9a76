"""Serving and asking over streams: what peers that lie, flood or fall silent can do."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from chorus.errors import ChorusError
from chorus.multiformats.varint import VarintError
from chorus.protocols.delimited import DelimitedDecoder, delimit
from chorus.protocols.kad.messages import Contact, KadMessage, KadRecord, RequestKind, decode, encode
from chorus.protocols.kad.params import (
    ANNOUNCE_COST,
    MAX_MESSAGE,
    MAX_REQUESTS_A_STREAM,
    PUT_COST,
    REQUESTS_A_SECOND,
    REQUESTS_AT_ONCE,
)
from chorus.protocols.streamio import StreamTimeout
from chorus.services.dht.ports import RecordNotFound
from chorus.services.dht.service import DhtService
from chorus.store.dht import Quotas, usage
from tests.protocols.kad.support import peer
from tests.services.dht.kit import KEY, DhtTestCase, DialHost
from tests.services.memory_host import MemoryStream, connect


class Collected:
    """Receiver of a raw stream: replies, and how it ended."""

    def __init__(self) -> None:
        self.decoder = DelimitedDecoder(MAX_MESSAGE)
        self.replies: list[KadMessage] = []
        self.ended = False
        self.error: ChorusError | None = None

    def data_received(self, data: bytes) -> None:
        self.decoder.feed(data)
        while (raw := self.decoder.next_message()) is not None:
            self.replies.append(decode(raw))

    def eof_received(self) -> None:
        self.ended = True

    def stream_closed(self, error: ChorusError | None) -> None:
        self.ended, self.error = True, error

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class ServingTests(DhtTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.dht = self.node(1)
        self.peer = DialHost(self.net, 2, self.time)
        connect(self.peer, self.host(self.dht))

    def open(self) -> tuple[MemoryStream, Collected]:
        stream = self.successResultOf(self.peer.open_stream(self.host(self.dht).peer_id, [self.dht.known.protocol]))
        collected = Collected()
        stream.set_receiver(collected)
        return stream, collected

    def ask(self, *requests: KadMessage) -> Collected:
        stream, collected = self.open()
        stream.write(b"".join(delimit(encode(request)) for request in requests))
        self.run_for(0.1)
        return collected

    def test_several_requests_of_one_stream_are_answered_in_order(self) -> None:
        put = KadMessage(RequestKind.PUT_VALUE, KEY, KadRecord(KEY, b"value"))
        get = KadMessage(RequestKind.GET_VALUE, KEY)
        collected = self.ask(put, get, KadMessage(RequestKind.FIND_NODE, self.peer.peer_id.raw), get)
        self.assertEqual([reply.kind for reply in collected.replies], [0, 1, 4, 1])
        self.assertEqual(collected.replies[1].record, KadRecord(KEY, b"value"))
        self.assertFalse(collected.ended)

    def test_cve_2026_45783_keys_without_a_namespace_store_nothing(self) -> None:
        for key in (b"abc", b"/x", b"//", b"/unknown/x", b"/test/"):
            collected = self.ask(KadMessage(RequestKind.PUT_VALUE, key, KadRecord(key, b"value")))
            self.assertIsNotNone(collected.error, key)
        self.assertEqual(self.dht.held.rows, 0)

    def test_cve_2026_45783_endless_requests_on_a_stream(self) -> None:
        stream, collected = self.open()
        request = delimit(encode(KadMessage(RequestKind.FIND_NODE, self.peer.peer_id.raw)))
        for _ in range(1000):
            if collected.ended:
                break
            stream.write(request * 1000)
            self.run_for(1)
        self.assertTrue(collected.ended)
        self.assertEqual(len(collected.replies), MAX_REQUESTS_A_STREAM)

    def test_requests_over_the_rate_wait(self) -> None:
        request = delimit(encode(KadMessage(RequestKind.FIND_NODE, self.peer.peer_id.raw)))
        stream, collected = self.open()
        stream.write(request * (REQUESTS_AT_ONCE + 500))
        self.run_for(0.001)
        self.assertLess(len(collected.replies), REQUESTS_AT_ONCE + 20)
        self.run_for(500 / REQUESTS_A_SECOND + 0.1)
        self.assertEqual(len(collected.replies), REQUESTS_AT_ONCE + 500)

    def test_puts_and_announcements_count_as_several_requests(self) -> None:
        put = KadMessage(RequestKind.PUT_VALUE, KEY, KadRecord(KEY, b"value"))
        most = REQUESTS_AT_ONCE // PUT_COST
        stream, collected = self.open()
        for _ in range(most // 20 + 5):
            stream.write(delimit(encode(put)) * 20)
            self.run_for(0.0001)
        self.assertIn(len(collected.replies), range(most, most + 4))
        self.run_for(100 * PUT_COST / REQUESTS_A_SECOND + 0.1)
        self.assertEqual(len(collected.replies), most + 100)
        self.run_for(REQUESTS_AT_ONCE / REQUESTS_A_SECOND)
        announcement = KadMessage(RequestKind.ADD_PROVIDER, b"\x12\x20" + bytes(32))
        get = delimit(encode(KadMessage(RequestKind.GET_VALUE, KEY)))
        stream, collected = self.open()
        for _ in range(REQUESTS_AT_ONCE // ANNOUNCE_COST // 20):
            stream.write(delimit(encode(announcement)) * 20)
            self.run_for(0.0001)
        stream.write(get * 100)
        self.run_for(0.0001)
        self.assertLess(len(collected.replies), 10)
        self.run_for(0.2)
        self.assertEqual(len(collected.replies), 100)

    def test_many_replies_that_are_there_at_once(self) -> None:
        """Announcements of nobody need no store."""
        announcement = KadMessage(RequestKind.ADD_PROVIDER, b"\x12\x20" + bytes(32))
        stream, collected = self.open()
        ping = KadMessage(RequestKind.PING)
        stream.write(delimit(encode(announcement)) * (REQUESTS_AT_ONCE // ANNOUNCE_COST) + delimit(encode(ping)))
        self.run_for(1)
        self.assertEqual([reply.kind for reply in collected.replies], [RequestKind.PING])

    def test_a_record_under_another_key_is_refused(self) -> None:
        collected = self.ask(KadMessage(RequestKind.PUT_VALUE, KEY, KadRecord(b"/test/b", b"value")))
        self.assertIsNotNone(collected.error)
        self.assertEqual(self.dht.held.rows, 0)

    def test_providers_are_taken_of_themselves_alone(self) -> None:
        key = b"\x12\x20" + bytes(32)
        other = Contact(self.host(self.dht).peer_id)
        self.ask(KadMessage(RequestKind.ADD_PROVIDER, key, providers=(other,)))
        self.assertEqual(self.result(Deferred.fromCoroutine(self.dht.held.providers(key, 20))), [])
        self.ask(KadMessage(RequestKind.ADD_PROVIDER, key, providers=(Contact(self.peer.peer_id),)))
        found = self.result(Deferred.fromCoroutine(self.dht.held.providers(key, 20)))
        self.assertEqual([each.peer for each in found], [self.peer.peer_id])

    def test_a_full_quota_is_a_refusal_and_evicts_nothing(self) -> None:
        self.dht.held._quotas = self.dht.held._quotas.__class__(one_records=2)
        for name in (b"/test/a", b"/test/b", b"/test/c"):
            collected = self.ask(KadMessage(RequestKind.PUT_VALUE, name, KadRecord(name, b"value")))
        self.assertIsNotNone(collected.error)
        self.assertEqual(self.dht.held.rows, 2)

    def test_a_disk_that_fails_is_a_refusal(self) -> None:
        self.stores[self.host(self.dht).peer_id].close()
        collected = self.ask(KadMessage(RequestKind.PUT_VALUE, KEY, KadRecord(KEY, b"value")))
        self.assertIsNotNone(collected.error)
        self.assertTrue(self.dht.running)

    def test_idle_streams_are_closed(self) -> None:
        _, collected = self.open()
        self.run_for(70)
        self.assertTrue(collected.ended)


class ProbeTests(DhtTestCase):
    def test_a_stop_during_a_dial_is_no_internal_error(self) -> None:
        dht = self.node(1)
        self.patch(self.host(dht), "dial", lambda *_: Deferred())
        dht.known.probe(Contact(peer(1)))
        self.stop(dht)
        self.assertEqual((self.flushLoggedErrors(), dht.known._probing), ([], {}))


class AskingTests(DhtTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.dht = self.node(1)
        self.liar = DialHost(self.net, 2, self.time)

    def serve(self, answer: Callable[[KadMessage], bytes | None]) -> None:
        """The liar answers each request with those bytes; None: never."""
        time = self.time

        class Receiver(Collected):
            def __init__(self, stream: MemoryStream) -> None:
                super().__init__()
                self.stream = stream
                stream.set_receiver(self)

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                while self.replies:
                    reply = answer(self.replies.pop(0))
                    if reply is not None:
                        time.callLater(0, self.stream.write, reply)

        self.liar.served[self.dht.known.protocol] = Receiver  # type: ignore[assignment]
        connect(self.host(self.dht), self.liar)
        self.run_for(5)

    def test_cve_2026_44505_a_bad_record_as_the_only_answer(self) -> None:
        def answer(request: KadMessage) -> bytes:
            record = KadRecord(b"/number/a", b"no number") if request.kind is RequestKind.GET_VALUE else None
            return delimit(encode(KadMessage(request.kind, request.key, record)))

        self.serve(answer)
        self.failure(self.dht.get(b"/number/a"), RecordNotFound)

    def test_ghsa_xqvc_92cf_94j4_a_reply_without_end(self) -> None:
        self.serve(lambda request: b"\xff\xff\xff\xff\x0f" + bytes(1000))
        contact = Contact(self.liar.peer_id)
        request = KadMessage(RequestKind.FIND_NODE, self.liar.peer_id.raw)
        self.failure(Deferred.fromCoroutine(self.dht.known.ask(contact, request)), VarintError)

    def test_silence_ends(self) -> None:
        self.serve(lambda request: None)
        contact = Contact(self.liar.peer_id)
        request = KadMessage(RequestKind.FIND_NODE, self.liar.peer_id.raw)
        self.failure(Deferred.fromCoroutine(self.dht.known.ask(contact, request)), StreamTimeout)
        self.assertNotIn(self.liar.peer_id, self.dht.known.table)

    def test_py_1405_a_reply_that_names_ourselves(self) -> None:
        own = Contact(self.host(self.dht).peer_id, (self.host(self.dht).address,))
        self.serve(lambda request: delimit(encode(KadMessage(request.kind, request.key, closer=(own,)))))
        self.failure(self.dht.get(KEY), RecordNotFound)
        self.assertNotIn(own.peer, self.dht.known.table)


class UpkeepTests(DhtTestCase):
    def test_junk_that_is_passed_on_does_not_use_up_the_quota_of_its_holder(self) -> None:
        nodes = self.nodes(3, quotas=Quotas(one_records=5))
        holder, liar = self.host(nodes[0]).peer_id, peer(1)
        for number in range(5):
            self.result(Deferred.fromCoroutine(nodes[0].held.put(b"/test/%d" % number, b"junk", liar)))
        self.run_for(2 * 3600)
        for node in nodes[1:]:
            store = self.stores[self.host(node).peer_id]
            counts = [
                self.result(store.read(lambda connection, who=who: usage(connection, f"{who}:{holder}")))[0]  # type: ignore[misc]
                for who in "sc"
            ]
            self.assertEqual(counts, [0, 5])
            (copy,) = self.result(Deferred.fromCoroutine(node.held.get(b"/test/0")))
            self.assertEqual((copy.sender, copy.publisher), (str(holder), str(liar)))
            self.assertEqual(node.held.publisher(copy), liar)
        self.assertEqual(len(self.result(nodes[0].put(KEY, b"own")).holders), 3)

    def test_who_names_this_node_as_the_publisher_stands_for_it(self) -> None:
        node = self.node(1)
        own, liar = self.host(node).peer_id, peer(1)
        self.result(Deferred.fromCoroutine(node.held.put(KEY, b"junk", liar, own)))
        (record,) = self.result(Deferred.fromCoroutine(node.held.get(KEY)))
        self.assertEqual(node.held.publisher(record), liar)

    def test_a_correction_is_a_copy(self) -> None:
        nodes = self.nodes(3)
        self.result(nodes[0].put(b"/number/a", b"1"))
        self.result(Deferred.fromCoroutine(nodes[1].held.put(b"/number/a", b"2", peer(1))))
        self.assertEqual(self.result(nodes[2].get(b"/number/a", quorum=3)), b"2")
        self.run_for(1)
        (record,) = self.result(Deferred.fromCoroutine(nodes[0].held.get(b"/number/a")))
        reader, teller = (str(self.host(node).peer_id) for node in (nodes[2], nodes[1]))
        self.assertEqual((record.value, record.sender, record.publisher), (b"2", reader, teller))

    def test_a_server_that_joins_gets_copies(self) -> None:
        nodes: list[DhtService] = self.nodes(3)
        self.result(nodes[0].put(b"/number/a", b"1"))
        late = self.node(9)
        connect(self.host(late), self.host(nodes[0]))
        self.run_for(400)
        self.assertEqual(late.held.rows, 1)

    def test_what_was_put_alone_is_copied_once_others_come(self) -> None:
        alone = self.node(1)
        stored = self.result(alone.put(b"/number/a", b"1"))
        self.assertFalse(stored.safe)
        other = self.node(2)
        connect(self.host(alone), self.host(other))
        self.run_for(70)
        self.assertEqual(other.held.rows, 1)

    def test_expired_records_are_gone(self) -> None:
        nodes = self.nodes(2)
        self.result(nodes[0].put(KEY, b"value"))
        self.wall += 49 * 3600
        self.failure(nodes[1].get(KEY), RecordNotFound)
        self.run_for(70)
        for node in nodes:
            self.assertEqual((node.held.rows, node._keeper._copies), (0, {}))

    def test_a_record_whose_end_is_known_is_not_passed_on(self) -> None:
        nodes = self.nodes(2)
        self.result(Deferred.fromCoroutine(nodes[0].held.put(KEY, b"value", peer(1))))
        self.wall += 25 * 3600
        self.run_for(2 * 3600)
        self.assertEqual([node.held.rows for node in nodes], [1, 0])

    def test_a_dead_server_leaves_the_table(self) -> None:
        nodes = self.nodes(3)
        self.kill(nodes[2])
        self.run_for(10)
        self.assertEqual([node.servers for node in nodes[:2]], [2, 2])
        stored = self.result(nodes[0].put(KEY, b"value"))
        self.assertEqual((len(stored.holders), stored.wanted, stored.safe), (2, 2, True))

    def test_the_table_survives_a_restart(self) -> None:
        nodes = self.nodes(3)
        host, store = self.host(nodes[0]), self.stores[self.host(nodes[0]).peer_id]
        self.stop(nodes[0])
        for connection in host.connections():
            connection.close()
        again = self.start(host, store)
        self.assertEqual(len(again.known), 2)
        self.result(nodes[1].put(KEY, b"value"))
        self.assertEqual(self.result(again.get(KEY)), b"value")
