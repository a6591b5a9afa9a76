"""The wire of Kad-DHT."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chorus.errors import ChorusError, LimitExceeded
from chorus.identity import PeerId
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import kademlia
from chorus.protocols.delimited import DelimitedDecoder
from chorus.protocols.kad import messages as module
from chorus.protocols.kad.keys import common_bits, point_of
from chorus.protocols.kad.messages import (
    BadKadMessage,
    Contact,
    KadMessage,
    KadRecord,
    RequestKind,
    decode,
    decode_request,
    encode,
)
from chorus.protocols.kad.params import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_ANNOUNCED,
    MAX_CONTACTS,
    MAX_FIELDS,
    MAX_KEY,
    MAX_MESSAGE,
    MAX_REPLY,
    MAX_REQUEST_FIELDS,
    MAX_VALUE,
)
from tests.protocols.kad.support import peer
from tests.support import PureTestCase, vectors

LONG = tuple(Multiaddr.parse(f"/dns4/{'a' * 200}/tcp/{port}") for port in range(1, MAX_ADDRESSES + 1))

contacts = st.builds(
    Contact,
    st.binary(min_size=32, max_size=32).map(lambda digest: PeerId(b"\x12\x20" + digest)),
    st.lists(st.integers(1, 65535).map(lambda port: Multiaddr.tcp("192.0.2.1", port)), max_size=4, unique=True).map(
        tuple
    ),
)
peer_lists = st.lists(contacts, max_size=MAX_CONTACTS, unique_by=lambda contact: contact.peer).map(tuple)
messages = st.builds(
    KadMessage,
    st.just(RequestKind.GET_PROVIDERS),
    st.binary(max_size=MAX_KEY),
    st.none()
    | st.builds(KadRecord, st.binary(max_size=MAX_KEY), st.binary(max_size=500), st.text("0Z:-", max_size=20)),
    peer_lists,
    peer_lists,
)
"""Replies of the kind that carries everything."""


def field(tag: int, value: bytes) -> bytes:
    return varint.encode(tag) + varint.encode(len(value)) + value


class Vectors(PureTestCase):
    """Captures of js-libp2p and go: old ones, with fields that must be skipped."""

    def test_messages(self) -> None:
        for vector in vectors("kad-dht-messages.json")["messages"]:
            with self.subTest(vector["name"]):
                message = decode_request(bytes.fromhex(vector["hex"]))
                self.assertEqual(message.kind, vector["type"])
                self.assertEqual(message.record is not None, 3 in vector["fields"])
                self.assertEqual(bool(message.providers), 9 in vector["fields"])
                self.assertEqual(decode_request(encode(message)), message)

    def test_put_and_provider(self) -> None:
        found = {
            v["name"]: decode_request(bytes.fromhex(v["hex"])) for v in vectors("kad-dht-messages.json")["messages"]
        }
        self.assertEqual(found["msg-2"].record, KadRecord(b"/v/hello", b"world"))
        (provider,) = found["msg-7"].providers
        self.assertEqual(provider.addresses, (Multiaddr.parse("/ip4/127.0.0.1/tcp/58555"),))

    def test_records(self) -> None:
        for vector in vectors("kad-dht-messages.json")["records"]:
            raw = b"\x08\x00" + field(0x1A, bytes.fromhex(vector["hex"]))
            self.assertEqual(decode(raw).record, KadRecord(vector["key"].encode(), vector["value"].encode()))

    def test_fields_of_rust_and_unknown_ones_are_skipped(self) -> None:
        record = (
            field(0x0A, b"k")
            + field(0x12, b"v")
            + field(666 << 3 | 2, b"publisher")
            + varint.encode(777 << 3)
            + b"\x05"
        )
        raw = b"\x08\x00" + field(0x1A, record) + b"\x50\x00" + field(99 << 3 | 2, b"x")
        self.assertEqual(decode(raw).record, KadRecord(b"k", b"v"))

    def test_the_publisher_of_a_copy(self) -> None:
        """rust's field."""
        put = KadMessage(RequestKind.PUT_VALUE, b"k", KadRecord(b"k", b"v", "", peer(1)))
        self.assertIn(field(666 << 3 | 2, peer(1).raw), encode(put))
        self.assertEqual(decode_request(encode(put)), put)

    def test_a_type_of_zero_is_written_and_may_be_left_out(self) -> None:
        self.assertTrue(encode(KadMessage(RequestKind.PUT_VALUE, b"k")).startswith(b"\x08\x00"))
        self.assertEqual(decode(field(0x12, b"k")).kind, RequestKind.PUT_VALUE)


class Keys(PureTestCase):
    def test_points_are_sha_256_of_the_bytes(self) -> None:
        self.assertEqual(f"{point_of(b'abc'):064x}", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        one = peer(1)
        self.assertEqual(Contact(one).point, point_of(one.raw))

    def test_common_bits(self) -> None:
        self.assertEqual(common_bits(0, 0), 256)
        self.assertEqual(common_bits(0, 1), 255)
        self.assertEqual(common_bits(1 << 255, 0), 0)


class RoundTrips(PureTestCase):
    @given(messages)
    def test_what_is_encoded_is_decoded(self, message: KadMessage) -> None:
        self.assertEqual(decode(encode(message, MAX_MESSAGE)), message)

    @given(st.binary(max_size=300))
    def test_any_bytes_are_refused_by_name(self, raw: bytes) -> None:
        self.survives(raw)

    @given(messages, st.data())
    def test_a_changed_byte_is_no_crash(self, message: KadMessage, data: st.DataObject) -> None:
        raw = bytearray(encode(message))
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
        self.survives(bytes(raw))
        self.survives(bytes(raw[:place]))

    def survives(self, raw: bytes) -> None:
        for read in (decode, decode_request):
            try:
                message = read(raw)
            except ChorusError:
                continue
            encode(message)

    def test_a_stream_split_at_every_byte(self) -> None:
        message = KadMessage(RequestKind.FIND_NODE, b"key", closer=(Contact(peer(1)), Contact(peer(2))))
        raw = encode(message)
        stream = (varint.encode(len(raw)) + raw) * 2
        for place in range(len(stream)):
            decoder = DelimitedDecoder(MAX_MESSAGE)
            found = []
            for part in (stream[:place], stream[place:]):
                decoder.feed(part)
                while (one := decoder.next_message()) is not None:
                    found.append(decode(one))
            self.assertEqual(found, [message, message])


class Limits(PureTestCase):
    def test_key_and_value(self) -> None:
        for raw in (
            b"\x08\x04" + field(0x12, bytes(MAX_KEY + 1)),
            b"\x08\x00" + field(0x1A, field(0x0A, bytes(MAX_KEY + 1))),
            b"\x08\x00" + field(0x1A, field(0x12, bytes(MAX_VALUE + 1))),
        ):
            self.assertRaises(LimitExceeded, decode, raw)
        for message in (
            KadMessage(RequestKind.FIND_NODE, bytes(MAX_KEY + 1)),
            KadMessage(RequestKind.PUT_VALUE, b"k", KadRecord(b"k", bytes(MAX_VALUE + 1))),
            KadMessage(RequestKind.FIND_NODE, b"k", closer=tuple(Contact(peer(n)) for n in range(MAX_CONTACTS + 1))),
        ):
            self.assertRaises(ValueError, encode, message)
        longest = KadMessage(RequestKind.PUT_VALUE, bytes(MAX_KEY), KadRecord(bytes(MAX_KEY), bytes(MAX_VALUE)))
        self.assertEqual(decode(encode(longest)), longest)

    def test_size_is_refused_before_anything_is_read(self) -> None:
        self.assertRaises(LimitExceeded, decode, bytes(MAX_MESSAGE + 1))

    def test_ghsa_xqvc_92cf_94j4_the_length_of_a_reply(self) -> None:
        """A reply that claims 2^62 bytes is refused by its prefix, with nothing buffered."""
        decoder = DelimitedDecoder(MAX_MESSAGE)
        decoder.feed(varint.encode(2**62))
        with self.assertRaises(ChorusError):
            decoder.next_message()

    def test_many_empty_peers_are_refused_by_counting(self) -> None:
        bomb = b"\x08\x04" + b"\x42\x00" * (MAX_FIELDS + 1)
        self.assertRaises(LimitExceeded, decode, bomb)

    def test_a_request_has_few_fields(self) -> None:
        bomb = b"\x08\x05" + b"\x42\x00" * MAX_REQUEST_FIELDS
        self.assertRaises(LimitExceeded, decode_request, bomb)
        self.assertEqual(decode_request(bomb[:-2]), KadMessage(RequestKind.PING))

    def test_peers_are_read_where_their_kind_carries_them(self) -> None:
        """A PING of 64 KiB with 20 providers took 54 ms."""
        raw = b"\x42" + Contact(peer(1)).wire + b"".join(b"\x4a" + Contact(peer(n)).wire for n in range(2, 5))
        for kind in RequestKind:
            request = decode_request(bytes([8, kind]) + raw)
            announced = MAX_ANNOUNCED if kind is RequestKind.ADD_PROVIDER else 0
            self.assertEqual((len(request.closer), len(request.providers)), (0, announced))
        kinds = (RequestKind.GET_VALUE, RequestKind.GET_PROVIDERS, RequestKind.FIND_NODE)
        replies = {kind: decode(bytes([8, kind]) + raw) for kind in RequestKind}
        self.assertEqual([kind for kind, reply in replies.items() if reply.closer], list(kinds))
        self.assertEqual([kind for kind, reply in replies.items() if reply.providers], [RequestKind.GET_PROVIDERS])

    def test_what_is_not_valid_is_counted_as_read(self) -> None:
        good = Contact(peer(1), (Multiaddr.tcp("192.0.2.1", 1),))
        bad = field(0x42, field(0x0A, b"no peer id"))
        self.assertEqual(decode(b"\x08\x04" + bad * (MAX_CONTACTS - 1) + b"\x42" + good.wire).closer, (good,))
        self.assertEqual(decode(b"\x08\x04" + bad * MAX_CONTACTS + b"\x42" + good.wire).closer, ())
        for junk in (b"a", b"", bytes(MAX_ADDRESS + 1)):
            addresses = field(0x12, junk) * MAX_ADDRESSES + field(0x12, good.addresses[0].raw)
            (one,) = decode(b"\x08\x04" + field(0x42, field(0x0A, peer(1).raw) + addresses)).closer
            self.assertEqual(one.addresses, ())

    def test_further_peers_and_addresses_are_passed_over(self) -> None:
        many = b"".join(b"\x42" + Contact(peer(n)).wire for n in range(50))
        self.assertEqual([c.peer for c in decode(b"\x08\x04" + many).closer], [peer(n) for n in range(MAX_CONTACTS)])
        addresses = b"".join(field(0x12, Multiaddr.tcp("192.0.2.1", port).raw) for port in range(1, 60))
        (one,) = decode(b"\x08\x04" + field(0x42, field(0x0A, peer(1).raw) + addresses)).closer
        self.assertEqual(len(one.addresses), MAX_ADDRESSES)

    def test_large_peers_are_not_remembered(self) -> None:
        """16,384 of them with 64 KiB each were remembered."""
        addresses = tuple(Multiaddr.parse(f"/dns4/{'b' * 200}/tcp/{port}") for port in range(1, 9))
        before = module._known.cache_info().currsize
        for number in range(5):
            contact = Contact(peer(1_000 + number), addresses)
            self.assertEqual(decode(b"\x08\x04\x42" + contact.wire).closer, (contact,))
        self.assertEqual(module._known.cache_info().currsize, before)
        decode(b"\x08\x04\x42" + Contact(peer(1_000), addresses[:4]).wire)
        self.assertEqual(module._known.cache_info().currsize, before + 1)

    def test_bad_peers_are_passed_over(self) -> None:
        good = b"\x42" + Contact(peer(1), (Multiaddr.tcp("192.0.2.1", 1),)).wire
        for bad in (
            b"",
            field(0x0A, b""),
            field(0x0A, b"no peer id"),
            field(0x12, Multiaddr.tcp("192.0.2.1", 1).raw),
            field(0x12, b"\0") * 200 + field(0x0A, peer(2).raw),
        ):
            message = decode(b"\x08\x04" + field(0x42, bad) + good)
            self.assertEqual([contact.peer for contact in message.closer], [peer(1)])

    def test_bad_addresses_and_those_of_others_are_passed_over(self) -> None:
        base = Multiaddr.tcp("192.0.2.1", 1)
        parts = [b"", b"\xff\xff", base.with_peer(peer(2)).raw, base.with_peer(peer(1)).raw, base.raw, b"\x04" * 300]
        raw = field(0x0A, peer(1).raw) + b"".join(field(0x12, part) for part in parts)
        (one,) = decode(b"\x08\x04" + field(0x42, raw)).closer
        self.assertEqual(one.addresses, (base,))

    def test_replies_keep_the_addresses_that_fit(self) -> None:
        full = tuple(Contact(peer(n), LONG) for n in range(MAX_CONTACTS))
        for message in (
            KadMessage(RequestKind.FIND_NODE, bytes(34), closer=full),
            KadMessage(RequestKind.GET_PROVIDERS, bytes(34), closer=full, providers=full),
            KadMessage(
                RequestKind.GET_VALUE,
                bytes(80),
                KadRecord(bytes(80), bytes(MAX_VALUE), "2026-11-30T00:00:00Z"),
                full,
                full,
            ),
        ):
            raw = encode(message)
            self.assertLessEqual(len(raw), MAX_REPLY)
            self.assertEqual(len(decode(raw).closer), MAX_CONTACTS)
        self.assertTrue(decode(encode(KadMessage(RequestKind.FIND_NODE, bytes(34), closer=full))).closer[0].addresses)

    def test_what_is_no_message(self) -> None:
        for raw in (b"", b"\x08\x06", b"\x08\xff\xff\xff\xff\x0f", b"\x0b\x0c", b"\x12\x05abc", b"\x0a"):
            self.assertRaises(BadKadMessage, decode, raw)

    def test_a_long_time_is_dropped(self) -> None:
        record = field(0x0A, b"k") + field(0x12, b"v") + field(0x2A, b"2" * 65)
        self.assertEqual(decode(b"\x08\x00" + field(0x1A, record)).record, KadRecord(b"k", b"v"))


class Protocol(PureTestCase):
    def test_its_id_follows_the_prefix(self) -> None:
        self.assertEqual(kademlia.protocol_id(), kademlia.PROTOCOL)
        self.assertEqual(kademlia.protocol_id("/ipfs"), "/ipfs/kad/1.0.0")
