"""The libp2p handshake, its payload, and the published failures of section 2.1 of the security checklist."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import Identity, PublicKey
from chorus.protocols.noise.handshake import (
    MAX_HANDSHAKE_FRAME,
    MAX_MUXER_NAME,
    MAX_MUXERS,
    SIGNATURE_PREFIX,
    HandshakeResult,
    NoiseError,
    NoiseHandshake,
    PeerIdMismatch,
    SelfDial,
    StaticKey,
)
from chorus.protocols.noise.xx import NoiseXX, generate_keypair
from chorus.protocols.proto.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from tests.support import PureTestCase, vectors
from tests.test_identity import public_of_protobuf, rsa_spki

ALICE = Identity.from_seed(b"\1" * 32)
BOB = Identity.from_seed(b"\2" * 32)
MALLORY = Identity.from_seed(b"\3" * 32)
YAMUX = "/yamux/1.0.0"


def pair(**options: object) -> tuple[NoiseHandshake, NoiseHandshake]:
    return NoiseHandshake(ALICE, initiator=True, **options), NoiseHandshake(BOB, initiator=False, **options)


def finish(initiator: NoiseHandshake, responder: NoiseHandshake) -> tuple[HandshakeResult, HandshakeResult]:
    responder.receive_data(initiator.data_to_send())
    initiator.receive_data(responder.data_to_send())
    responder.receive_data(initiator.data_to_send())
    assert initiator.result is not None and responder.result is not None
    return initiator.result, responder.result


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def payload_of(identity: Identity, static_public: bytes, **fields: object) -> bytes:
    values = {
        "identity_key": identity.public_key.to_protobuf(),
        "identity_sig": identity.sign(SIGNATURE_PREFIX + static_public),
    }
    return NoiseHandshakePayload(**(values | fields)).SerializeToString()


class PeerWithPayload:
    """A peer that plays the pattern correctly with a payload of its own choice, in either role."""

    def __init__(self, payload: bytes, static: tuple[bytes, bytes] | None = None, first: bytes = b"") -> None:
        self.static = static or generate_keypair()
        self.payload = payload
        self.first = first

    def attack(self, victim: NoiseHandshake, *, initiator: bool) -> None:
        noise = NoiseXX(initiator=initiator, static=self.static, ephemeral=generate_keypair())
        if initiator:
            victim.receive_data(frame(noise.write_message(self.first)))
            noise.read_message(victim.data_to_send()[2:])
        else:
            noise.read_message(victim.data_to_send()[2:])
        victim.receive_data(frame(noise.write_message(self.payload)))


class HandshakeTests(PureTestCase):
    def test_both_ends_agree(self) -> None:
        initiator, responder = finish(*pair())
        self.assertEqual(initiator.peer_id, BOB.peer_id)
        self.assertEqual(responder.peer_id, ALICE.peer_id)
        self.assertEqual(responder.public_key, ALICE.public_key)
        self.assertEqual(initiator.handshake_hash, responder.handshake_hash)
        self.assertEqual(len(initiator.handshake_hash), 32)
        self.assertIsNone(initiator.muxer)
        for sender, receiver in ((initiator, responder), (responder, initiator)):
            self.assertEqual(receiver.session.open(sender.session.seal([b"hello"])), [b"hello"])

    def test_sizes_of_the_specification(self) -> None:
        initiator, responder = pair()
        first = initiator.data_to_send()
        self.assertEqual(len(first), 2 + 32)
        responder.receive_data(first)
        payload = len(payload_of(BOB, bytes(32)))
        second = responder.data_to_send()
        self.assertEqual(len(second), 2 + 96 + payload)
        initiator.receive_data(second)
        self.assertEqual(len(initiator.data_to_send()), 2 + 64 + payload)

    def test_derived_payload_vector(self) -> None:
        derived = vectors("libp2p-identity.json")["derived"]["noise_payload"]
        row = next(row for row in vectors("libp2p-identity.json")["keys"] if row["type"] == "ed25519")
        identity = Identity.from_private_key(bytes.fromhex(row["private_key_protobuf_hex"]))
        public = bytes.fromhex(derived["noise_static_public_hex"])
        self.assertEqual((SIGNATURE_PREFIX + public).hex(), derived["signed_bytes_hex"])
        static = StaticKey.make(identity, (bytes(32), public))
        extensions = NoiseExtensions(stream_muxers=derived["stream_muxers"])
        whole = static.payload + NoiseHandshakePayload(extensions=extensions).SerializeToString()
        self.assertEqual(whole.hex(), derived["payload_hex"])
        parsed = NoiseHandshakePayload.FromString(bytes.fromhex(derived["payload_hex"]))
        self.assertEqual(parsed.identity_sig.hex(), derived["identity_sig_hex"])
        PublicKey.from_protobuf(parsed.identity_key).verify(SIGNATURE_PREFIX + public, parsed.identity_sig)

    def test_leftover_belongs_to_the_session(self) -> None:
        initiator, responder = pair()
        responder.receive_data(initiator.data_to_send())
        initiator.receive_data(responder.data_to_send())
        assert initiator.result is not None
        early = initiator.result.session.seal([b"early data"])
        responder.receive_data(initiator.data_to_send() + early)
        assert responder.result is not None
        self.assertEqual(responder.result.leftover, early)
        self.assertEqual(responder.result.session.open(responder.result.leftover), [b"early data"])
        with self.assertRaises(RuntimeError):
            responder.receive_data(b"x")

    def test_prologue_must_agree(self) -> None:
        finish(*pair(prologue=b"x"))
        initiator = NoiseHandshake(ALICE, initiator=True, prologue=b"x")
        with self.assertRaises(NoiseError):
            finish(initiator, NoiseHandshake(BOB, initiator=False))

    def test_expected_peer(self) -> None:
        finish(NoiseHandshake(ALICE, initiator=True, expected_peer=BOB.peer_id), NoiseHandshake(BOB, initiator=False))
        initiator = NoiseHandshake(ALICE, initiator=True, expected_peer=MALLORY.peer_id)
        with self.assertRaises(PeerIdMismatch) as caught:
            finish(initiator, NoiseHandshake(BOB, initiator=False))
        self.assertEqual((caught.exception.expected, caught.exception.actual), (MALLORY.peer_id, BOB.peer_id))
        self.assertIsNone(initiator.result)

    def test_dialling_oneself(self) -> None:
        with self.assertRaises(SelfDial):
            finish(NoiseHandshake(ALICE, initiator=True), NoiseHandshake(ALICE, initiator=False))

    def test_every_key_type_is_accepted(self) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        secret = ec.generate_private_key(ec.SECP256K1())
        point = secret.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        peer = PeerWithPayload(b"")
        peer.payload = NoiseHandshakePayload(
            identity_key=public_of_protobuf(2, point),
            identity_sig=secret.sign(SIGNATURE_PREFIX + peer.static[1], ec.ECDSA(hashes.SHA256())),
        ).SerializeToString()
        victim = NoiseHandshake(BOB, initiator=False)
        peer.attack(victim, initiator=True)
        assert victim.result is not None
        self.assertTrue(str(victim.result.peer_id).startswith("16Uiu2"))

    def test_payload_of_message_1_is_ignored(self) -> None:
        for first in (b"\xff" * 100, payload_of(MALLORY, bytes(32))):
            peer = PeerWithPayload(b"", first=first)
            peer.payload = payload_of(ALICE, peer.static[1])
            victim = NoiseHandshake(BOB, initiator=False)
            peer.attack(victim, initiator=True)
            assert victim.result is not None
            self.assertEqual(victim.result.peer_id, ALICE.peer_id)

    def test_unknown_payload_fields_are_skipped(self) -> None:
        peer = PeerWithPayload(b"")
        peer.payload = payload_of(ALICE, peer.static[1]) + bytes.fromhex("1a03616263") + bytes.fromhex("8a40021234")
        victim = NoiseHandshake(BOB, initiator=False)
        peer.attack(victim, initiator=True)
        self.assertIsNotNone(victim.result)


class EarlyMuxerTests(PureTestCase):
    def negotiate(self, dialer: list[str], listener: list[str]) -> str | None:
        initiator, responder = finish(
            NoiseHandshake(ALICE, initiator=True, muxers=dialer), NoiseHandshake(BOB, initiator=False, muxers=listener)
        )
        self.assertEqual(initiator.muxer, responder.muxer)
        return initiator.muxer

    def test_trap_17_both_ends_reach_the_same_verdict(self) -> None:
        for dialer, listener, muxer in (
            ([YAMUX], [YAMUX], YAMUX),
            (["/a", "/b"], ["/b", "/a"], "/a"),
            (["/x", "/b"], ["/a", "/b"], "/b"),
            ([], [YAMUX], None),
            ([YAMUX], [], None),
            ([], [], None),
            (["/a"], ["/b"], None),
        ):
            self.assertEqual(self.negotiate(dialer, listener), muxer, (dialer, listener))

    def refuse(self, extensions: bytes) -> None:
        for initiator in (True, False):
            peer = PeerWithPayload(b"")
            peer.payload = payload_of(ALICE, peer.static[1]) + bytes((0x22, len(extensions))) + extensions
            with self.assertRaises(NoiseError):
                peer.attack(NoiseHandshake(BOB, initiator=not initiator, muxers=[YAMUX]), initiator=initiator)

    def test_limit_max_muxers(self) -> None:
        self.assertEqual(self.negotiate(["/a"] * (MAX_MUXERS - 1) + [YAMUX], [YAMUX]), YAMUX)
        self.refuse(b"\x12\x00" * (MAX_MUXERS + 1))

    def test_limit_max_muxer_name(self) -> None:
        with self.assertRaises(NoiseError):
            self.negotiate(["/" + "a" * MAX_MUXER_NAME], [YAMUX])

    def test_name_is_not_utf8(self) -> None:
        self.refuse(b"\x12\x02\xff\xfe")

    def test_nothing_is_used_before_the_signature(self) -> None:
        """A payload that is wrong in both ways fails by its signature."""
        peer = PeerWithPayload(payload_of(ALICE, bytes(32)) + b"\x22\x42" + b"\x12\x00" * 33)
        with self.assertRaises(NoiseError) as caught:
            peer.attack(NoiseHandshake(BOB, initiator=False), initiator=True)
        self.assertIn("signature", str(caught.exception))


class HostileTests(PureTestCase):
    def refuse(self, payload: bytes, static: tuple[bytes, bytes] | None = None) -> None:
        """The payload is refused by a responder and by an initiator, and goes on being refused."""
        for attacker_dials in (True, False):
            victim = NoiseHandshake(BOB, initiator=not attacker_dials)
            peer = PeerWithPayload(payload, static)
            with self.assertRaises(NoiseError, msg=payload.hex()):
                peer.attack(victim, initiator=attacker_dials)
            self.assertIsNone(victim.result)
            with self.assertRaises(NoiseError):
                victim.receive_data(b"")

    def test_cve_2022_24759_payloads(self) -> None:
        static = generate_keypair()
        good = payload_of(ALICE, static[1])
        other = generate_keypair()[1]
        for payload in (
            payload_of(ALICE, static[1], identity_key=MALLORY.public_key.to_protobuf()),
            payload_of(ALICE, static[1], identity_sig=MALLORY.sign(SIGNATURE_PREFIX + static[1])),
            payload_of(ALICE, other),
            payload_of(ALICE, static[1], identity_sig=ALICE.sign(static[1])),
            payload_of(ALICE, static[1], identity_sig=b""),
            payload_of(ALICE, static[1], identity_sig=ALICE.sign(SIGNATURE_PREFIX + static[1])[:63]),
            payload_of(ALICE, static[1], identity_key=b""),
            payload_of(ALICE, static[1], identity_key=ALICE.public_key.data),
            b"",
            good[:-1],
            good[: len(good) // 2],
            bytes((len(good),)) + good,
            b"\xff" * 50,
        ):
            self.refuse(payload, static)

    def test_cve_2019_15545_each_signature_bit(self) -> None:
        static = generate_keypair()
        signature = ALICE.sign(SIGNATURE_PREFIX + static[1])
        for bit in range(512):
            flipped = bytearray(signature)
            flipped[bit // 8] ^= 1 << bit % 8
            peer = PeerWithPayload(payload_of(ALICE, static[1], identity_sig=bytes(flipped)), static)
            with self.assertRaises(NoiseError):
                peer.attack(NoiseHandshake(BOB, initiator=False), initiator=True)

    def test_cve_2023_39533_huge_rsa_key(self) -> None:
        """Refused by its length, before anything is decoded."""
        from cryptography.hazmat.primitives import serialization

        peer = PeerWithPayload(
            NoiseHandshakePayload(
                identity_key=public_of_protobuf(0, rsa_spki(16384)), identity_sig=bytes(1024)
            ).SerializeToString()
        )
        decoded: list[object] = []
        self.patch(serialization, "load_der_public_key", lambda *given: decoded.append(given))
        with self.assertRaises(NoiseError):
            peer.attack(NoiseHandshake(BOB, initiator=False), initiator=True)
        self.assertEqual(decoded, [])

    def test_cve_2026_110789_der_length_beyond_the_buffer(self) -> None:
        for der in (bytes.fromhex("308480000000") + bytes(14), bytes.fromhex("30847fffffff") + bytes(14)):
            for key_type in (0, 3):
                peer = PeerWithPayload(
                    NoiseHandshakePayload(
                        identity_key=public_of_protobuf(key_type, der), identity_sig=bytes(64)
                    ).SerializeToString()
                )

                def refused(peer: PeerWithPayload = peer) -> None:
                    with self.assertRaises(NoiseError):
                        peer.attack(NoiseHandshake(BOB, initiator=False), initiator=True)

                self.assert_cheap(refused, 10)

    def test_key_over_four_kib_is_refused_before_decoding(self) -> None:
        self.refuse(payload_of(ALICE, bytes(32), identity_key=public_of_protobuf(0, bytes(4096))))

    def test_cve_2025_4565_nested_groups(self) -> None:
        self.refuse(b"\x7b" * 3500 + b"\x7c" * 3500)

    def test_all_zero_diffie_hellman(self) -> None:
        """Small-order points as ephemeral or as static key, against both roles."""
        points = [bytes(32), b"\1" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")]
        for point in points:
            victim = NoiseHandshake(BOB, initiator=False)
            with self.assertRaises(NoiseError):
                victim.receive_data(frame(point))
            victim = NoiseHandshake(BOB, initiator=True)
            with self.assertRaises(NoiseError):
                victim.receive_data(frame(point + bytes(64)))
            secret = generate_keypair()[0]
            for attacker_dials in (True, False):
                peer = PeerWithPayload(payload_of(ALICE, point), (secret, point))
                with self.assertRaises(NoiseError):
                    peer.attack(NoiseHandshake(BOB, initiator=not attacker_dials), initiator=attacker_dials)

    def test_py_1182_static_key_is_not_the_identity(self) -> None:
        from nacl import bindings

        static = StaticKey.of_process(ALICE)
        converted = bindings.crypto_sign_ed25519_pk_to_curve25519(ALICE.public_key.data)
        self.assertNotIn(static.pair[1], (converted, ALICE.public_key.data))
        self.assertIs(StaticKey.of_process(Identity.from_seed(b"\1" * 32)), static)
        self.assertNotEqual(StaticKey.of_process(BOB).pair, static.pair)
        program = (
            "from chorus.identity import Identity; from chorus.protocols.noise.handshake import StaticKey;"
            "print(StaticKey.of_process(Identity.from_seed(b'\\1' * 32)).pair[1].hex())"
        )
        output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        self.assertEqual(len(output.strip()), 64)
        self.assertNotEqual(output.strip(), static.pair[1].hex())

    def test_ephemeral_keys_are_fresh(self) -> None:
        self.assertNotEqual(pair()[0].data_to_send(), pair()[0].data_to_send())

    def test_limits_of_handshake_frames(self) -> None:
        """Refused at the two bytes of their length, in each of the three turns."""
        for turn, least in enumerate((32, 96, 64)):
            for length in (0, least - 1, MAX_HANDSHAKE_FRAME + 1, 0xFFFF):
                initiator, responder = pair()
                victim = initiator if turn == 1 else responder
                if turn == 2:
                    responder.receive_data(initiator.data_to_send())
                with self.assertRaises(NoiseError, msg=(turn, length)):
                    victim.receive_data(length.to_bytes(2, "big"))

    def test_replayed_first_message_gains_nothing(self) -> None:
        initiator, responder = pair()
        first = initiator.data_to_send()
        responder.receive_data(first)
        initiator.receive_data(responder.data_to_send())
        third = initiator.data_to_send()
        replayed = NoiseHandshake(BOB, initiator=False)
        replayed.receive_data(first)
        with self.assertRaises(NoiseError):
            replayed.receive_data(third)

    def test_split_at_every_byte_and_byte_by_byte(self) -> None:
        static = {identity: StaticKey.make(identity, generate_keypair()) for identity in (ALICE, BOB)}
        keys = [generate_keypair(), generate_keypair()]

        def fresh() -> tuple[NoiseHandshake, NoiseHandshake]:
            return (
                NoiseHandshake(ALICE, initiator=True, static=static[ALICE], generate_keypair=lambda: keys[0]),
                NoiseHandshake(BOB, initiator=False, static=static[BOB], generate_keypair=lambda: keys[1]),
            )

        initiator, responder = fresh()
        first = initiator.data_to_send()
        responder.receive_data(first)
        second = responder.data_to_send()
        initiator.receive_data(second)
        to_responder = first + initiator.data_to_send()
        for cut in [*range(1, len(to_responder)), 0]:
            _, responder = fresh()
            pieces = [to_responder[:cut], to_responder[cut:]] if cut else [bytes([byte]) for byte in to_responder]
            for piece in pieces:
                self.assertIsNone(responder.result)
                responder.receive_data(piece)
            self.assertIsNotNone(responder.result)
        initiator, _ = fresh()
        for byte in second:
            initiator.receive_data(bytes([byte]))
        self.assertIsNotNone(initiator.result)

    def test_flipped_bits_of_the_first_256_bytes(self) -> None:
        """Whatever bit is flipped, in either direction, no handshake ends in a result at the end that received it."""
        initiator, responder = pair()
        first = initiator.data_to_send()
        responder.receive_data(first)
        second = responder.data_to_send()
        for bit in range(min(256, len(first) + 160) * 8):
            initiator, responder = pair()
            victim: NoiseHandshake
            try:
                if bit < len(first) * 8:
                    victim = responder
                    victim.receive_data(self.flip(initiator.data_to_send(), bit))
                    initiator.receive_data(responder.data_to_send())
                    victim.receive_data(initiator.data_to_send())
                else:
                    victim = initiator
                    responder.receive_data(initiator.data_to_send())
                    victim.receive_data(self.flip(responder.data_to_send(), bit - len(first) * 8))
            except NoiseError:
                pass
            self.assertIsNone(victim.result, bit)
        self.assertGreater(len(second), 160)

    def flip(self, data: bytes, bit: int) -> bytes:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=300), st.booleans(), st.booleans())
    def test_any_bytes(self, data: bytes, initiator: bool, framed: bool) -> None:
        victim = NoiseHandshake(BOB, initiator=initiator)
        with contextlib.suppress(NoiseError):
            victim.receive_data(frame(data) if framed else data)
        self.assertIsNone(victim.result)

    @settings(max_examples=50, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_payload(self, payload: bytes) -> None:
        victim = NoiseHandshake(BOB, initiator=False)
        with self.assertRaises(NoiseError):
            PeerWithPayload(payload).attack(victim, initiator=True)
