"""Published vectors for the pattern and its primitives."""

from __future__ import annotations

import os

from nacl import bindings

from chorus.protocols.noise.aead import Aead, AuthenticationError, ChaCha20Poly1305, SodiumChaCha20Poly1305
from chorus.protocols.noise.session import NoiseSession
from chorus.protocols.noise.xx import (
    NONCE_END,
    CipherState,
    KeyPair,
    NoiseError,
    NoiseXX,
    NonceExhausted,
    diffie_hellman,
    generate_keypair,
    pack_nonce,
)
from tests.support import PureTestCase, vectors

CIPHERS = (ChaCha20Poly1305, SodiumChaCha20Poly1305)


def pair(private: str) -> KeyPair:
    secret = bytes.fromhex(private)
    return secret, bindings.crypto_scalarmult_base(secret)


def sha256_rows() -> list[dict[str, object]]:
    groups = vectors("noise-xx.json")["groups"]
    return [row for group in groups for row in group["vectors"] if row["protocol_name"].endswith("_SHA256")]


class PublishedVectorTests(PureTestCase):
    def test_there_are_rows_with_and_without_prologue(self) -> None:
        prologues = [bool(row["init_prologue"]) for row in sha256_rows()]
        self.assertGreaterEqual(len(prologues), 5)
        self.assertEqual(set(prologues), {True, False})

    def test_transcripts(self) -> None:
        for row in sha256_rows():
            for cipher in CIPHERS:
                self.replay(row, cipher)

    def replay(self, row: dict, cipher: type[Aead]) -> None:
        ends = {
            side: NoiseXX(
                initiator=side == "init",
                static=pair(row[f"{side}_static"]),
                ephemeral=pair(row[f"{side}_ephemeral"]),
                prologue=bytes.fromhex(row[f"{side}_prologue"]),
                new_cipher=cipher,
            )
            for side in ("init", "resp")
        }
        sessions: dict[str, NoiseSession] = {}
        for message in row["messages"]:
            sender, receiver = message["from"], "resp" if message["from"] == "init" else "init"
            payload, sealed = bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])
            if message["kind"] == "handshake":
                self.assertEqual(ends[sender].write_message(payload), sealed)
                self.assertEqual(ends[receiver].read_message(sealed), payload)
                continue
            if not sessions:
                sessions = {side: NoiseSession(*end.split()) for side, end in ends.items()}
            frame = len(sealed).to_bytes(2, "big") + sealed
            self.assertEqual(sessions[sender].seal([payload]), frame)
            self.assertEqual(sessions[receiver].open(frame), [payload])
        self.assertTrue(sessions)
        for end in ends.values():
            self.assertTrue(end.finished)
            if row.get("handshake_hash"):
                self.assertEqual(end.handshake_hash.hex(), row["handshake_hash"])
        self.assertEqual(ends["init"].remote_static, pair(row["resp_static"])[1])
        self.assertEqual(ends["resp"].remote_static, pair(row["init_static"])[1])

    def test_prologues_must_agree(self) -> None:
        initiator = NoiseXX(initiator=True, static=generate_keypair(), ephemeral=generate_keypair(), prologue=b"a")
        responder = NoiseXX(initiator=False, static=generate_keypair(), ephemeral=generate_keypair(), prologue=b"b")
        responder.read_message(initiator.write_message(b""))
        with self.assertRaises(NoiseError):
            initiator.read_message(responder.write_message(b""))

    def test_out_of_turn(self) -> None:
        initiator = NoiseXX(initiator=True, static=generate_keypair(), ephemeral=generate_keypair())
        with self.assertRaises(RuntimeError):
            initiator.read_message(bytes(96))
        initiator.write_message(b"")
        with self.assertRaises(RuntimeError):
            initiator.write_message(b"")


class PrimitiveTests(PureTestCase):
    def test_wycheproof_x25519(self) -> None:
        """Where the shared secret is all zeros the exchange is refused; everything else is computed."""
        refused = 0
        for row in vectors("wycheproof-subset.json")["x25519"]:
            private, public = bytes.fromhex(row["private"]), bytes.fromhex(row["public"])
            if not int(row["shared"], 16):
                refused += 1
                with self.assertRaises(NoiseError, msg=row):
                    diffie_hellman(private, public)
            else:
                self.assertEqual(diffie_hellman(private, public).hex(), row["shared"], row)
        self.assertGreater(refused, 5)

    def test_aead_of_both_libraries_agree(self) -> None:
        key, nonce = os.urandom(32), pack_nonce(2**40 + 3)
        for size in (0, 1, 15, 16, 17, 1000, 65519):
            data = os.urandom(size)
            for associated in (None, b"h" * 32):
                first, second = (cipher(key).encrypt(nonce, memoryview(data), associated) for cipher in CIPHERS)
                self.assertEqual(first, second)
                for cipher in CIPHERS:
                    self.assertEqual(cipher(key).decrypt(nonce, memoryview(first), associated), data)
                    with self.assertRaises(AuthenticationError):
                        cipher(key).decrypt(nonce, first[:-1] + bytes([first[-1] ^ 1]), associated)

    def test_nonce_is_little_endian_after_four_zero_bytes(self) -> None:
        self.assertEqual(pack_nonce(0x0102).hex(), "000000000201000000000000")


class CipherStateTests(PureTestCase):
    """The shared nonce tests, on the handshake's cipher state; the session's are in `test_noise_session`."""

    def test_cve_2021_4239_nonce_does_not_wrap(self) -> None:
        state = CipherState(ChaCha20Poly1305(bytes(32)))
        state.nonce = NONCE_END - 1
        sealed = state.encrypt(b"", b"last")
        for _ in range(2):
            with self.assertRaises(NonceExhausted):
                state.encrypt(b"", b"one more")
            with self.assertRaises(NonceExhausted):
                state.decrypt(b"", sealed)

    def test_rustsec_2024_0011_nonce_moves_on_success_only(self) -> None:
        sender, receiver = (CipherState(ChaCha20Poly1305(bytes(32))) for _ in range(2))
        sealed = sender.encrypt(b"ad", b"text")
        for bad in (bytes(20), sealed[:-1], b"", sealed + b"\0"):
            with self.assertRaises(NoiseError):
                receiver.decrypt(b"ad", bad)
            self.assertEqual(receiver.nonce, 0)
        self.assertEqual(receiver.decrypt(b"ad", sealed), b"text")
        self.assertEqual(receiver.nonce, 1)
