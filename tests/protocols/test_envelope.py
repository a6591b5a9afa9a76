from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.envelope import (
    MAX_ADDRESSES,
    MAX_ENVELOPE,
    PEER_RECORD_DOMAIN,
    PEER_RECORD_TYPE,
    EnvelopeError,
    PeerRecord,
    open_envelope,
    seal,
    signed_bytes,
)
from chorus.protocols.proto import envelope_pb2
from tests.support import PureTestCase, vectors

ALICE = Identity.from_seed(b"\1" * 32)
BOB = Identity.from_seed(b"\2" * 32)
ADDRESS = Multiaddr.parse("/ip4/127.0.0.1/tcp/9000")
RECORD = PeerRecord(ALICE.peer_id, 7, (ADDRESS,))


def sealed(signer: Identity, **fields: object) -> bytes:
    """An envelope whose signature is right, around whatever record."""
    values = {"peer_id": signer.peer_id.raw, "seq": 1}
    record = envelope_pb2.PeerRecord(**(values | fields)).SerializeToString()
    return seal(signer, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, record)


class PublishedRecordTests(PureTestCase):
    def setUp(self) -> None:
        self.row = vectors("libp2p-identity.json")["go_signed_peer_record"]
        self.encoded = bytes.fromhex(self.row["envelope_hex"])

    def test_opens(self) -> None:
        record = PeerRecord.open(self.encoded)
        decoded = self.row["decoded"]
        self.assertEqual(str(record.peer_id), decoded["peer_id"])
        self.assertEqual(record.seq, int(decoded["seq"]))
        self.assertEqual([address.to_bytes().hex() for address in record.addresses], decoded["multiaddrs_hex"])

    def test_sealing_gives_the_same_bytes(self) -> None:
        identity = Identity.from_private_key(bytes.fromhex(self.row["private_key_protobuf_hex"]))
        self.assertEqual(PeerRecord.open(self.encoded).seal(identity), self.encoded)
        payload = envelope_pb2.Envelope.FromString(self.encoded).payload
        covered = signed_bytes(self.row["domain"].encode(), bytes.fromhex(self.row["payload_type_hex"]), payload)
        self.assertEqual(covered.hex(), self.row["signed_bytes_hex"])

    def test_trap_14_the_domain_of_the_rfc_is_refused(self) -> None:
        payload = envelope_pb2.Envelope.FromString(self.encoded).payload
        with self.assertRaises(EnvelopeError):
            PeerRecord.open(seal(ALICE, b"libp2p-routing-state", PEER_RECORD_TYPE, payload))

    def test_each_byte_changed(self) -> None:
        for position in range(len(self.encoded)):
            changed = bytearray(self.encoded)
            changed[position] ^= 1
            with self.assertRaises(EnvelopeError, msg=position):
                PeerRecord.open(bytes(changed))

    def test_cut_at_each_byte(self) -> None:
        for cut in range(len(self.encoded)):
            with self.assertRaises(EnvelopeError):
                PeerRecord.open(self.encoded[:cut])


class RefusalTests(PureTestCase):
    def test_rustsec_2022_0009_record_of_another_peer(self) -> None:
        with self.assertRaises(EnvelopeError):
            PeerRecord.open(sealed(BOB, peer_id=ALICE.peer_id.raw))
        with self.assertRaises(ValueError):
            RECORD.seal(BOB)

    def test_other_payload_types(self) -> None:
        payload = envelope_pb2.PeerRecord(peer_id=ALICE.peer_id.raw).SerializeToString()
        for payload_type in (b"", b"\x03\x02", b"/libp2p/routing-state-record"):
            with self.assertRaises(EnvelopeError):
                PeerRecord.open(seal(ALICE, PEER_RECORD_DOMAIN, payload_type, payload))

    def test_not_a_record(self) -> None:
        for payload in (b"\xff", b"", b"\x0a\x02\x00\x00"):
            with self.assertRaises(EnvelopeError):
                PeerRecord.open(seal(ALICE, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, payload))

    def test_limit_max_addresses(self) -> None:
        for count, accepted in ((MAX_ADDRESSES, True), (MAX_ADDRESSES + 1, False)):
            entries = [envelope_pb2.PeerRecord.AddressInfo(multiaddr=ADDRESS.to_bytes())] * count
            encoded = sealed(ALICE, addresses=entries)
            if accepted:
                self.assertEqual(len(PeerRecord.open(encoded).addresses), count)
            else:
                with self.assertRaises(EnvelopeError):
                    PeerRecord.open(encoded)

    def test_limit_max_envelope(self) -> None:
        with self.assertRaises(EnvelopeError) as caught:
            open_envelope(bytes(MAX_ENVELOPE + 1), PEER_RECORD_DOMAIN, PEER_RECORD_TYPE)
        self.assertIn("limit", str(caught.exception))

    def test_cve_2026_40094_empty_and_unknown_addresses(self) -> None:
        self.assertEqual(PeerRecord.open(sealed(ALICE)).addresses, ())
        entries = [
            envelope_pb2.PeerRecord.AddressInfo(multiaddr=data) for data in (b"", b"\x99\x99", ADDRESS.to_bytes())
        ]
        self.assertEqual(PeerRecord.open(sealed(ALICE, addresses=entries)).addresses, (ADDRESS,))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        with self.assertRaises(EnvelopeError):
            PeerRecord.open(data)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**64 - 1), st.lists(st.sampled_from(["/ip4/1.2.3.4/tcp/1", "/dns/a/tcp/2"]), max_size=5))
    def test_round_trip(self, seq: int, addresses: list[str]) -> None:
        record = PeerRecord(ALICE.peer_id, seq, tuple(map(Multiaddr.parse, addresses)))
        self.assertEqual(PeerRecord.open(record.seal(ALICE)), record)
        self.assertIsInstance(record.peer_id, PeerId)
