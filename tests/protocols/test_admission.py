from __future__ import annotations

import hashlib
import hmac

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import Identity
from chorus.protocols.admission import (
    FAILURES_FORGOTTEN,
    SLOW_AFTER,
    SLOW_FIRST,
    SLOW_MAX,
    TIME_LIMIT,
    AdmissionError,
    BadHello,
    Exchange,
    Failures,
    Reflected,
    WrongProof,
    proof,
    slowness,
)
from chorus.protocols.noise.handshake import NoiseHandshake
from chorus.protocols.proto.admission_pb2 import Hello
from tests.support import PureTestCase

ALICE = Identity.from_seed(b"\1" * 32)
BOB = Identity.from_seed(b"\2" * 32)
MALLORY = Identity.from_seed(b"\3" * 32)
SECRET = bytes(range(32))
CLUSTER = b"\7" * 32
H = hashlib.sha256(b"handshake").digest()


def ends(**changes: object) -> tuple[Exchange, Exchange]:
    """(dialer Alice, listener Bob) of one connection; `changes` are the dialer's."""
    values = {"secret": SECRET, "dialer": True, "handshake_hash": H, "own": ALICE.peer_id, "other": BOB.peer_id}
    return Exchange(**(values | changes)), Exchange(SECRET, False, H, BOB.peer_id, ALICE.peer_id)


class ProofTests(PureTestCase):
    def test_formula_of_the_specification(self) -> None:
        def lp(part: bytes) -> bytes:
            return bytes((len(part),)) + part

        message = lp(b"chorus-admission/1") + lp(b"dialer") + lp(H) + lp(ALICE.peer_id.raw) + lp(BOB.peer_id.raw)
        expected = hmac.new(SECRET, message, "sha256").digest()
        self.assertEqual(proof(SECRET, b"dialer", H, ALICE.peer_id, BOB.peer_id), expected)
        hello = Hello.FromString(ends()[0].hello(CLUSTER))
        self.assertEqual((hello.proof, hello.cluster_id, hello.certificate), (expected, CLUSTER, b""))

    def test_every_part_counts(self) -> None:
        good = proof(SECRET, b"dialer", H, ALICE.peer_id, BOB.peer_id)
        for other in (
            proof(SECRET[:-1], b"dialer", H, ALICE.peer_id, BOB.peer_id),
            proof(SECRET, b"listener", H, ALICE.peer_id, BOB.peer_id),
            proof(SECRET, b"dialer", bytes(32), ALICE.peer_id, BOB.peer_id),
            proof(SECRET, b"dialer", H, BOB.peer_id, ALICE.peer_id),
            proof(SECRET, b"dialer", H, ALICE.peer_id, MALLORY.peer_id),
            proof(SECRET, b"dialer", H, MALLORY.peer_id, BOB.peer_id),
        ):
            self.assertNotEqual(other, good)

    def test_secret_under_128_bits(self) -> None:
        with self.assertRaises(ValueError):
            proof(bytes(15), b"dialer", H, ALICE.peer_id, BOB.peer_id)


class ExchangeTests(PureTestCase):
    def test_members(self) -> None:
        dialer, listener = ends()
        self.assertEqual(listener.check(dialer.hello(CLUSTER)), CLUSTER)
        self.assertEqual(dialer.check(listener.hello(b"")), b"")

    def test_wrong_secret(self) -> None:
        dialer, listener = ends(secret=bytes(32))
        with self.assertRaises(WrongProof):
            listener.check(dialer.hello(CLUSTER))
        with self.assertRaises(WrongProof):
            dialer.check(listener.hello(CLUSTER))

    def test_reflected(self) -> None:
        for end in ends():
            with self.assertRaises(Reflected):
                end.check(end.hello(CLUSTER))

    def test_replayed_on_another_connection(self) -> None:
        old, _ = ends(handshake_hash=bytes(32))
        with self.assertRaises(WrongProof):
            ends()[1].check(old.hello(CLUSTER))

    def test_the_listeners_proof_used_by_a_dialer(self) -> None:
        """Bob's answer to Alice, sent by Bob's enemy when dialling Alice, in the same connection or another."""
        _, bob = ends()
        alice_listening = Exchange(SECRET, False, H, ALICE.peer_id, BOB.peer_id)
        with self.assertRaises(WrongProof):
            alice_listening.check(bob.hello(CLUSTER))

    def test_relayed_by_a_man_in_the_middle(self) -> None:
        """Alice dials Mallory, who dials Bob and carries the bytes of both; the handshake hashes differ."""

        def connect(dialer: Identity, listener: Identity) -> tuple[bytes, bytes]:
            initiator = NoiseHandshake(dialer, initiator=True)
            responder = NoiseHandshake(listener, initiator=False)
            responder.receive_data(initiator.data_to_send())
            initiator.receive_data(responder.data_to_send())
            responder.receive_data(initiator.data_to_send())
            assert initiator.result is not None and responder.result is not None
            return initiator.result.handshake_hash, responder.result.handshake_hash

        to_mallory, _ = connect(ALICE, MALLORY)
        _, from_mallory = connect(MALLORY, BOB)
        alice = Exchange(SECRET, True, to_mallory, ALICE.peer_id, MALLORY.peer_id)
        bob = Exchange(SECRET, False, from_mallory, BOB.peer_id, MALLORY.peer_id)
        with self.assertRaises(WrongProof):
            bob.check(alice.hello(CLUSTER))
        with self.assertRaises(WrongProof):
            alice.check(bob.hello(CLUSTER))

    def test_garbage(self) -> None:
        _, listener = ends()
        good = Hello.FromString(ends()[0].hello(CLUSTER))
        for encoded in (
            b"",
            b"\xff",
            bytes(100),
            Hello(cluster_id=CLUSTER).SerializeToString(),
            Hello(proof=good.proof[:-1], cluster_id=CLUSTER).SerializeToString(),
            Hello(proof=good.proof + b"\0", cluster_id=CLUSTER).SerializeToString(),
            Hello(proof=good.proof, cluster_id=CLUSTER[:-1]).SerializeToString(),
        ):
            with self.assertRaises(BadHello, msg=encoded.hex()):
                listener.check(encoded)

    def test_each_bit_of_the_proof(self) -> None:
        dialer, listener = ends()
        good = Hello.FromString(dialer.hello(CLUSTER)).proof
        for bit in range(256):
            flipped = bytearray(good)
            flipped[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(WrongProof):
                listener.check(Hello(proof=bytes(flipped), cluster_id=CLUSTER).SerializeToString())

    def test_certificate_is_ignored_until_certificates_come(self) -> None:
        dialer, listener = ends()
        hello = Hello.FromString(dialer.hello(CLUSTER))
        hello.certificate = b"whatever"
        self.assertEqual(listener.check(hello.SerializeToString()), CLUSTER)

    def test_repr_shows_no_secret(self) -> None:
        self.assertNotIn("secret", repr(ends()[0]))

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        with self.assertRaises(AdmissionError):
            ends()[1].check(data)


class SlownessTests(PureTestCase):
    def test_formula(self) -> None:
        for failures, seconds in (
            (0, 0.0),
            (SLOW_AFTER - 1, 0.0),
            (SLOW_AFTER, SLOW_FIRST),
            (SLOW_AFTER + 1, SLOW_FIRST * 2),
            (SLOW_AFTER + 4, SLOW_MAX),
            (10**9, SLOW_MAX),
        ):
            self.assertEqual(slowness(failures), seconds)
        self.assertLess(SLOW_MAX, TIME_LIMIT / 2)

    def test_forgotten(self) -> None:
        failures = Failures()
        self.assertEqual([failures.record("a", now) for now in (0.0, 1.0)], [1, 2])
        self.assertEqual(failures.count("a", 1.0 + FAILURES_FORGOTTEN - 0.1), 2)
        self.assertEqual(failures.count("b", 1.0), 0)
        self.assertEqual(failures.count("a", 1.0 + FAILURES_FORGOTTEN), 0)
        self.assertEqual(len(failures), 0)
        self.assertEqual(failures.record("a", 9999.0), 1)

    def test_limit_failures_kept(self) -> None:
        failures = Failures(kept=3)
        failures.record("attacker", 0.0)
        for number in range(10):
            failures.record(str(number), float(number))
            failures.record("attacker", float(number))
        self.assertEqual(len(failures), 3)
        self.assertEqual(failures.count("attacker", 9.0), 11)
