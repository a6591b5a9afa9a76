from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from chorus.errors import LimitExceeded, PeerError
from chorus.identity import Identity
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import identify
from chorus.protocols.identify import Identification, IdentifyError
from chorus.protocols.proto.identify_pb2 import Identify
from chorus.protocols.streamio import StreamIO
from tests.protocols.stream_fakes import FakeStream
from tests.support import PureTestCase

ALICE = Identity.from_seed(bytes(32))
BOB = Identity.from_seed(bytes([1]) * 32)
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")


def said(**fields: object) -> bytes:
    return Identify(**fields).SerializeToString()


def raw(*texts: str) -> list[bytes]:
    return [Multiaddr.parse(text).to_bytes() for text in texts]


class Building(PureTestCase):
    def test_round_trip(self) -> None:
        message = identify.build(
            ALICE.public_key, [ADDRESS], [identify.PROTOCOL], agent_version="chorus/0.5", signed_record=b"record"
        )
        framed = identify.with_observed(message, Multiaddr.parse("/ip4/198.51.100.7/tcp/9"))
        size, start = varint.decode(framed)
        self.assertEqual(len(framed) - start, size)
        heard = identify.parse([framed[start:]], ALICE.peer_id)
        self.assertEqual(
            heard,
            Identification(
                addresses=(ADDRESS,),
                protocols=frozenset([identify.PROTOCOL]),
                observed=Multiaddr.parse("/ip4/198.51.100.7/tcp/9"),
                protocol_version=identify.PROTOCOL_VERSION,
                agent_version="chorus/0.5",
                signed_record=b"record",
            ),
        )

    def test_never_over_what_rust_reads(self) -> None:
        addresses = [Multiaddr.parse(f"/dns4/{'x' * 200}{n}/tcp/1") for n in range(100)]
        for record_bytes, record_fits in ((0, False), (1000, True), (3900, True), (4096, False)):
            record = bytes(record_bytes)
            message = identify.build(
                ALICE.public_key, addresses, ["/a/1"], agent_version="v", signed_record=record or None
            )
            framed = identify.with_observed(message, Multiaddr.parse("/ip6/2001:db8::1/tcp/65535"))
            self.assertLessEqual(len(framed) - 2, identify.MAX_SENT_BYTES)
            heard = identify.parse([framed[2:]], ALICE.peer_id)
            self.assertEqual(heard.signed_record, record if record_fits else None)
            self.assertEqual(heard.addresses, tuple(addresses[: len(heard.addresses)]))
            if record_bytes <= 1000:
                self.assertGreater(len(heard.addresses), 10)
            self.assertEqual(heard.protocols, {"/a/1"})

    def test_protocols_that_do_not_fit_are_a_bug_here(self) -> None:
        with self.assertRaises(ValueError):
            identify.build(ALICE.public_key, [], ["/" + "p" * 5000], agent_version="v")


class Parsing(PureTestCase):
    def parse(self, *parts: bytes) -> Identification:
        return identify.parse(parts, ALICE.peer_id)

    def test_cve_2026_40094_empty_lists_everywhere(self) -> None:
        self.assertEqual(self.parse(b""), Identification())
        self.assertEqual(self.parse(said(listenAddrs=[], protocols=[])), Identification())
        self.assertEqual(self.parse(said(listenAddrs=[b""], protocols=[""])), Identification())
        with self.assertRaises(IdentifyError):
            identify.parse([], ALICE.peer_id)

    def test_the_key_of_another_is_refused(self) -> None:
        self.parse(said(publicKey=ALICE.public_key.to_protobuf()))
        with self.assertRaises(IdentifyError):
            self.parse(said(publicKey=BOB.public_key.to_protobuf()))

    def test_parts_merge(self) -> None:
        heard = self.parse(
            said(protocols=["/a"], agentVersion="one"), said(protocols=["/b"], agentVersion="two"), said()
        )
        self.assertEqual(heard.protocols, {"/a", "/b"})
        self.assertEqual(heard.agent_version, "two")

    def test_addresses_of_unknown_protocols_and_of_others_are_skipped(self) -> None:
        heard = self.parse(
            said(
                listenAddrs=[
                    b"\xff\xff\x01",
                    *raw(
                        "/ip4/192.0.2.1/tcp/4001",
                        f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE.peer_id}",
                        f"/ip4/192.0.2.9/tcp/4001/p2p/{BOB.peer_id}",
                        f"/p2p/{ALICE.peer_id}",
                    ),
                ],
                observedAddr=b"\x00",
            )
        )
        self.assertEqual(heard.addresses, (ADDRESS,))
        self.assertIsNone(heard.observed)

    def test_go_3501_protocols_planted_through_ten_parts(self) -> None:
        part = said(protocols=[f"/planted/{n}" for n in range(200)])
        self.parse(part)
        with self.assertRaises(LimitExceeded) as caught:
            self.parse(*[part] * 10)
        self.assertEqual(caught.exception.limit, "identify_protocols")

    def test_every_limit(self) -> None:
        for name, parts in {
            "identify_parts": [b""] * (identify.MAX_PARTS + 1),
            "identify_bytes": [said(agentVersion="x" * 8000)] * 9,
            "identify_addresses": [said(listenAddrs=[b""] * (identify.MAX_ADDRESSES + 1))],
            "identify_protocols": [said(protocols=[""] * (identify.MAX_PROTOCOLS + 1))],
            "identify_protocol_bytes": [said(protocols=["/" + "é" * 128])],
            "identify_version_bytes": [said(agentVersion="x" * 257)],
            "identify_record_bytes": [said(signedPeerRecord=bytes(identify.MAX_RECORD_BYTES + 1))],
        }.items():
            with self.subTest(name), self.assertRaises(LimitExceeded) as caught:
                self.parse(*parts)
            self.assertEqual(caught.exception.limit, name)

    def test_text_that_is_not_utf_8(self) -> None:
        for field in (b"\x1a", b"\x2a", b"\x32"):
            with self.assertRaises(IdentifyError):
                self.parse(field + b"\x02\xff\xfe")

    def test_pushes_replace_and_leave_unsaid_fields_alone(self) -> None:
        known = self.parse(said(listenAddrs=raw("/ip4/192.0.2.1/tcp/4001"), protocols=["/a"], agentVersion="v"))
        known = known.changed_by(self.parse(said(protocols=["/b"])))
        self.assertEqual(known.protocols, {"/b"})
        self.assertEqual(known.addresses, (ADDRESS,))
        self.assertEqual(known.agent_version, "v")

    def test_py_1415_a_hundred_pushes_do_not_grow(self) -> None:
        push = said(listenAddrs=raw(*[f"/ip4/192.0.2.1/tcp/{n}" for n in range(1, 101)]), protocols=["/a", "/b"])
        known = Identification()
        for _ in range(100):
            known = known.changed_by(self.parse(push))
        self.assertEqual((len(known.addresses), len(known.protocols)), (100, 2))

    def test_time_is_linear_in_the_bytes(self) -> None:
        bomb = said(protocols=[""] * 256) + said(listenAddrs=[b""] * 100) + b"\xfa\x01\x00" * 20000
        parts = [bomb[n : n + 8192] for n in range(0, len(bomb), 8192)]
        self.assert_cheap(lambda: self.parse(*parts[:8]), 100)

    @settings(deadline=None, max_examples=300)
    @given(parts=st.lists(st.binary(max_size=200), min_size=1, max_size=4))
    def test_any_bytes_are_parsed_or_refused(self, parts: list[bytes]) -> None:
        self.assert_refused_or_as_protobuf(*parts)

    def assert_refused_or_as_protobuf(self, *parts: bytes) -> None:
        """What is taken is what protobuf reads in it."""
        try:
            found = self.parse(*parts)
        except PeerError:
            return
        whole = Identify.FromString(b"".join(parts))
        self.assertEqual(found.protocols, frozenset(whole.protocols))
        self.assertEqual(
            (found.protocol_version or "", found.agent_version or "", found.signed_record or b""),
            (whole.protocolVersion, whole.agentVersion, whole.signedPeerRecord),
        )
        self.assertLessEqual(len(found.addresses), len(whole.listenAddrs))

    @settings(deadline=None, max_examples=200)
    @given(data=st.data())
    def test_any_damage_to_a_good_message_is_parsed_or_refused(self, data: st.DataObject) -> None:
        good = bytearray(identify.build(ALICE.public_key, [ADDRESS], ["/a", "/b"], agent_version="v"))
        good[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        self.assert_refused_or_as_protobuf(bytes(good))


class Reading(PureTestCase):
    def setUp(self) -> None:
        self.stream = FakeStream()
        self.reading = Deferred.fromCoroutine(identify.read(StreamIO(self.stream, self.clock()), ALICE.peer_id))

    def test_until_the_end_of_the_stream(self) -> None:
        part = said(protocols=["/a"])
        self.stream.arrive(bytes([len(part)]) + part)
        self.assertNoResult(self.reading)
        self.stream.arrive_eof()
        self.assertEqual(self.successResultOf(self.reading).protocols, {"/a"})

    def test_an_eleventh_part_is_refused_as_it_comes(self) -> None:
        part = said(agentVersion="v")
        self.stream.arrive((bytes([len(part)]) + part) * 11)
        self.failureResultOf(self.reading, LimitExceeded)

    def test_a_part_over_8_kib_is_refused_by_its_length(self) -> None:
        self.stream.arrive(varint.encode(identify.MAX_PART_BYTES + 1))
        self.failureResultOf(self.reading, LimitExceeded)
