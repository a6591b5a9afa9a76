from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import LimitExceeded, PeerError
from chorus.identity import Identity
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.peers import (
    MAX_ADDRESSES,
    MAX_ANSWER,
    MAX_RECORD,
    MAX_RECORDS,
    BadPeersMessage,
    believable,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from chorus.protocols.proto.peers_pb2 import Answer, Request
from tests.support import PureTestCase


def record(seed: int, *addresses: str) -> bytes:
    identity = Identity.from_seed(seed.to_bytes(32, "big"))
    return PeerRecord(identity.peer_id, 1, tuple(map(Multiaddr.parse, addresses))).seal(identity)


class MessageTests(PureTestCase):
    def test_request(self) -> None:
        for limit, expected in ((0, MAX_RECORDS), (1, 1), (32, 32), (33, 32), (2**32 - 1, 32)):
            self.assertEqual(decode_request(Request(limit=limit).SerializeToString()), expected)
        self.assertEqual(decode_request(encode_request(5)), 5)
        with self.assertRaises(BadPeersMessage):
            decode_request(b"\xff")

    def test_answer_begins_with_oneself_and_is_limited(self) -> None:
        own, others = record(0), [record(seed) for seed in range(1, 50)]
        for limit in (1, 2, 32):
            answer = decode_answer(encode_answer(own, others, limit, random.Random(1)))
            self.assertEqual(len(answer), limit)
            self.assertEqual(answer[0][1], own)
            self.assertEqual(len({found.peer_id for found, _ in answer}), limit)
        self.assertEqual(len(decode_answer(encode_answer(own, others[:3], 32, random.Random(1)))), 4)

    def test_choice_is_random(self) -> None:
        own, others = record(0), [record(seed) for seed in range(1, 50)]
        first, second = (encode_answer(own, others, 8, random.Random(seed)) for seed in range(2))
        self.assertNotEqual(first, second)

    def test_limit_max_records(self) -> None:
        with self.assertRaises(LimitExceeded):
            decode_answer(Answer(records=[b""] * (MAX_RECORDS + 1)).SerializeToString())

    def test_limit_max_record(self) -> None:
        large = record(1, *(f"/dns/{'a' * 200}/tcp/{port}" for port in range(1, 12)))
        self.assertGreater(len(large), MAX_RECORD)
        self.assertEqual(len(decode_answer(encode_answer(record(0), [large], 32, random.Random(1)))), 1)
        self.assertEqual(decode_answer(Answer(records=[large]).SerializeToString()), [])

    def test_largest_answer_fits(self) -> None:
        whole = Answer(records=[bytes(MAX_RECORD)] * MAX_RECORDS).SerializeToString()
        self.assertLessEqual(len(whole), MAX_ANSWER)

    def test_bad_records_are_left_out(self) -> None:
        good, forged = record(1, "/ip4/10.0.0.1/tcp/1"), bytearray(record(2))
        forged[-1] ^= 1
        answer = decode_answer(Answer(records=[b"", bytes(forged), good, b"\xff"]).SerializeToString())
        self.assertEqual([envelope for _, envelope in answer], [good])

    def test_one_record_of_a_peer(self) -> None:
        identity = Identity.from_seed((1).to_bytes(32, "big"))
        older, newer = (PeerRecord(identity.peer_id, seq, ()).seal(identity) for seq in (1, 2))
        other = record(2)
        for records in ([older, other, newer], [newer, older, other, newer]):
            answer = decode_answer(Answer(records=records).SerializeToString())
            self.assertEqual([envelope for _, envelope in answer], [newer, other])
        whole = encode_answer(other, [newer, newer, other], MAX_RECORDS, random.Random(1))
        self.assertEqual(list(Answer.FromString(whole).records), [other, newer])

    def test_a_record_that_comes_again_and_again_is_verified_once(self) -> None:
        opened: list[bytes] = []
        real = PeerRecord.open

        def counting(envelope: bytes) -> PeerRecord:
            opened.append(envelope)
            return real(envelope)

        self.patch(PeerRecord, "open", counting)
        decode_answer(Answer(records=[record(1)] * MAX_RECORDS).SerializeToString())
        self.assertEqual(len(opened), 1)

    def test_cve_2026_40094_empty_lists(self) -> None:
        self.assertEqual(decode_answer(b""), [])
        self.assertEqual(decode_answer(Answer(records=[record(1)]).SerializeToString())[0][0].addresses, ())

    def test_ghsa_xqvc_92cf_94j4_length_of_a_reply(self) -> None:
        """The reader of an answer bounds it by its length alone."""
        with self.assertRaises(PeerError):
            varint.peek(varint.encode(2**62), 0, MAX_ANSWER)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=120))
    def test_any_bytes(self, data: bytes) -> None:
        for decode in (decode_request, decode_answer):
            try:
                decode(data)
            except PeerError:
                continue


class BelievableTests(PureTestCase):
    def test_nobody_leads_us_into_a_network_that_is_not_theirs(self) -> None:
        loopback, private, public = "/ip4/127.0.0.1/tcp/22", "/ip4/10.0.0.1/tcp/22", "/ip4/1.1.1.1/tcp/22"
        addresses = [Multiaddr.parse(text) for text in (loopback, private, public, "/ip4/1.1.1.1/udp/1/quic-v1")]
        for source, kept in ((loopback, 3), (private, 2), (public, 1)):
            found = believable(addresses, Multiaddr.parse(source))
            self.assertEqual(found, tuple(addresses[3 - kept : 3]), source)

    def test_limit_max_addresses(self) -> None:
        many = [Multiaddr.tcp("10.0.0.1", port) for port in range(1, 100)] * 2
        self.assertEqual(len(believable(many, many[0])), MAX_ADDRESSES)
