from __future__ import annotations

import os
import stat
from pathlib import Path

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import (
    MAX_KEY_PROTOBUF,
    BadKey,
    Identity,
    IdentityError,
    KeyType,
    PeerId,
    PeerIdError,
    PublicKey,
    SignatureError,
)
from chorus.multiformats import base58
from chorus.protocols.proto import keys_pb2
from tests.support import PureTestCase, vectors

IDENTITY = vectors("libp2p-identity.json")


def public_of_protobuf(key_type: int, data: bytes) -> bytes:
    return keys_pb2.PublicKey(Type=key_type, Data=data).SerializeToString()


def rsa_spki(bits: int, exponent: int = 65537) -> bytes:
    """A SubjectPublicKeyInfo with an odd modulus of exactly `bits` bits; nobody holds the private half."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    numbers = rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) | (1 << (bits // 3)) | 1)
    return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class PublicKeyTests(PureTestCase):
    def test_published_keys_and_peer_ids(self) -> None:
        for row in IDENTITY["keys"]:
            encoded = bytes.fromhex(row["public_key_protobuf_hex"])
            key = PublicKey.from_protobuf(encoded)
            self.assertEqual(key.type.name.lower(), row["type"])
            self.assertEqual(key.to_protobuf(), encoded)
            peer = PeerId.from_public_key(key)
            derived = row["derived_peer_id"]
            self.assertEqual(peer.raw.hex(), derived["multihash_hex"])
            self.assertEqual(str(peer), derived["base58btc"])
            self.assertEqual(peer.to_cid(), derived["cidv1_base32"])
            for text in (derived["base58btc"], derived["cidv1_base32"]):
                self.assertEqual(PeerId.parse(text), peer)
            self.assertEqual(peer.public_key(), key if len(encoded) <= 42 else None)

    def test_every_key_type_verifies(self) -> None:
        """The private keys of the specification sign through `cryptography`; we verify what they signed."""
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

        message = b"a message"
        for row in IDENTITY["keys"]:
            private = keys_pb2.PrivateKey.FromString(bytes.fromhex(row["private_key_protobuf_hex"]))
            key = PublicKey.from_protobuf(bytes.fromhex(row["public_key_protobuf_hex"]))
            if key.type is KeyType.ED25519:
                signature = Identity.from_seed(private.Data[:32]).sign(message)
            elif key.type is KeyType.SECP256K1:
                secret = ec.derive_private_key(int.from_bytes(private.Data, "big"), ec.SECP256K1())
                signature = secret.sign(message, ec.ECDSA(hashes.SHA256()))
            else:
                loaded = serialization.load_der_private_key(private.Data, None)
                if isinstance(loaded, rsa.RSAPrivateKey):
                    signature = loaded.sign(message, padding.PKCS1v15(), hashes.SHA256())
                else:
                    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
                    signature = loaded.sign(message, ec.ECDSA(hashes.SHA256()))
            key.verify(message, signature)
            for bad in (b"", signature[:-1], b"\0" * len(signature), b"\0" * 2000):
                with self.assertRaises(SignatureError):
                    key.verify(message, bad)
            with self.assertRaises(SignatureError):
                key.verify(message + b"!", signature)

    def test_go_fixtures(self) -> None:
        for row in IDENTITY["go_ed25519_fixtures"].values():
            identity = Identity.from_private_key(bytes.fromhex(row["privateKey"]))
            self.assertEqual(identity.public_key.to_protobuf().hex(), row["publicKey"])
            self.assertEqual(identity.sign(bytes.fromhex(row["data"])).hex(), row["signature"])
            identity.public_key.verify(bytes.fromhex(row["data"]), bytes.fromhex(row["signature"]))

    def test_encoding_is_the_same_as_protobuf(self) -> None:
        for key_type, data in ((0, rsa_spki(2048)), (1, bytes(32)), (2, b"\2" * 33), (3, b"\3" * 91)):
            key = PublicKey(KeyType(key_type), data)
            self.assertEqual(key.to_protobuf(), public_of_protobuf(key_type, data))
            self.assertEqual(PublicKey.from_protobuf(key.to_protobuf()), key)

    def test_refused_encodings(self) -> None:
        good = PublicKey(KeyType.ED25519, bytes(32)).to_protobuf()
        for encoded in (
            b"",
            good[:-1],
            good + b"\0",
            good + bytes.fromhex("1a0101"),
            good[2:] + good[:2],
            b"\x08\x81\x00" + good[2:],
            b"\x08\x04" + good[2:],
            b"\x08\x81" + good[2:],
            good[2:],
            good[:3] + b"\xa0\x00" + good[4:],
            good[:2] * 2 + good[2:],
            public_of_protobuf(1, bytes(31)),
            public_of_protobuf(1, bytes(33)),
            public_of_protobuf(2, bytes(65)),
            public_of_protobuf(3, bytes(300)),
            public_of_protobuf(0, b""),
            b"\x08\x00\x12" + b"\xff" * 9,
        ):
            with self.assertRaises(BadKey, msg=encoded.hex()):
                PublicKey.from_protobuf(encoded)

    def test_limit_key_protobuf(self) -> None:
        with self.assertRaises(BadKey) as caught:
            PublicKey.from_protobuf(public_of_protobuf(0, bytes(MAX_KEY_PROTOBUF)))
        self.assertIn("limit", str(caught.exception))

    def test_rsa_sizes(self) -> None:
        for bits, accepted in ((1024, False), (2047, False), (2048, True), (8192, True)):
            key = PublicKey.from_protobuf(public_of_protobuf(0, rsa_spki(bits)))
            with self.assertRaises(SignatureError if accepted else BadKey, msg=bits):
                key.verify(b"m", bytes(bits // 8))

    def test_cve_2023_39533_huge_rsa_key(self) -> None:
        """Refused by its length, before anything is decoded."""
        from cryptography.hazmat.primitives import serialization

        encoded = public_of_protobuf(0, rsa_spki(16384))
        decoded: list[object] = []
        self.patch(serialization, "load_der_public_key", lambda *given: decoded.append(given))
        with self.assertRaises(BadKey):
            PublicKey.from_protobuf(encoded).verify(b"m", bytes(2048))
        self.assertEqual(decoded, [])

    def test_rsa_exponent_is_bounded(self) -> None:
        key = PublicKey.from_protobuf(public_of_protobuf(0, rsa_spki(2048, 2**40 + 1)))
        with self.assertRaises(BadKey):
            key.verify(b"m", bytes(256))

    def test_cve_2026_110789_der_length_beyond_the_buffer(self) -> None:
        for der in (
            bytes.fromhex("308480000000") + bytes(14),
            bytes.fromhex("3084ffffffff") + bytes(14),
            b"\x30\x80" * 9,
        ):
            for key_type in (0, 3):
                key = PublicKey.from_protobuf(public_of_protobuf(key_type, der))

                def refused(key: PublicKey = key) -> None:
                    with self.assertRaises(BadKey):
                        key.verify(b"m", bytes(64))

                self.assert_cheap(refused, 10)

    def test_mislabelled_keys(self) -> None:
        by_type = {row["type"]: bytes.fromhex(row["public_key_protobuf_hex"]) for row in IDENTITY["keys"]}
        ecdsa = PublicKey.from_protobuf(by_type["ecdsa"])
        rsa = PublicKey.from_protobuf(by_type["rsa"])
        for key in (attrs.evolve(ecdsa, type=KeyType.RSA), attrs.evolve(rsa, type=KeyType.ECDSA)):
            with self.assertRaises(BadKey):
                key.verify(b"m", bytes(64))

    def test_unaccepted_curve(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        for curve in (ec.SECP256K1(), ec.SECP224R1()):
            public = ec.generate_private_key(curve).public_key()
            der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            with self.assertRaises(BadKey):
                PublicKey.from_protobuf(public_of_protobuf(3, der)).verify(b"m", bytes(70))

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 4), st.binary(max_size=100), st.binary(max_size=80))
    def test_any_key(self, key_type: int, data: bytes, signature: bytes) -> None:
        """Refused, or the same bytes again; and no signature of chance is its own."""
        encoded = bytes((8, key_type, 0x12, len(data))) + data
        try:
            key = PublicKey.from_protobuf(encoded)
        except BadKey:
            return
        self.assertEqual((key.type, key.data, key.to_protobuf()), (key_type, data, encoded))
        with self.assertRaises((BadKey, SignatureError)):
            key.verify(b"m", signature)


class Ed25519VerifierTests(PureTestCase):
    def test_wycheproof(self) -> None:
        rows = vectors("wycheproof-subset.json")["ed25519"]
        self.assertGreater(len(rows), 100)
        for row in rows:
            public = bytes.fromhex(row["pk"])
            try:
                PublicKey(KeyType.ED25519, public).verify(bytes.fromhex(row["msg"]), bytes.fromhex(row["sig"]))
                accepted = True
            except SignatureError:
                accepted = False
            self.assertEqual(accepted, row["result"] == "valid", row)

    def test_cve_2019_15545_each_signature_bit(self) -> None:
        identity = Identity.from_seed(b"\7" * 32)
        signature = identity.sign(b"message")
        identity.public_key.verify(b"message", signature)
        for bit in range(512):
            flipped = bytearray(signature)
            flipped[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(SignatureError):
                identity.public_key.verify(b"message", bytes(flipped))

    def test_small_order_and_non_canonical_keys(self) -> None:
        """S = 0 and R = the neutral element satisfy the equation for these keys, whatever the message."""
        neutral = b"\1" + bytes(31)
        order_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
        non_canonical = bytes.fromhex("ee" + "ff" * 30 + "7f")
        for public in (neutral, order_8, non_canonical, bytes(32)):
            for r in (neutral, bytes(32)):
                with self.assertRaises(SignatureError):
                    PublicKey(KeyType.ED25519, public).verify(b"any", r + bytes(32))

    def test_malleated_s_is_refused(self) -> None:
        order = 2**252 + 27742317777372353535851937790883648493
        identity = Identity.from_seed(b"\7" * 32)
        signature = identity.sign(b"m")
        larger = int.from_bytes(signature[32:], "little") + order
        with self.assertRaises(SignatureError):
            identity.public_key.verify(b"m", signature[:32] + larger.to_bytes(32, "little"))


class PeerIdTests(PureTestCase):
    def test_published_texts(self) -> None:
        rows = IDENTITY["peer_id_strings"]
        for row in rows:
            peer = PeerId.parse(row["text"])
            if "same_as" in row:
                self.assertEqual(str(peer), row["same_as"])
                self.assertEqual(peer.to_cid(), row["text"])
            else:
                self.assertEqual(str(peer), row["text"])

    def test_refused_texts(self) -> None:
        sha = b"\x12\x20" + bytes(32)
        for text in (
            "",
            "1",
            "Qm",
            "12D3KooW",
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx50",
            base58.encode(sha[:-1]),
            "z" + base58.encode(b"\x01\x70" + sha),
            "z" + base58.encode(b"\x00\x72" + sha),
            "1" * 1000,
            "zz",
            "☃",
        ):
            with self.assertRaises(PeerIdError, msg=text):
                PeerId.parse(text)

    def test_refused_bytes(self) -> None:
        for raw in (b"", b"\0\0", b"\0\x2b" + bytes(43), b"\x12\x1f" + bytes(31), b"\x11\x14" + bytes(20), b"\x12\x20"):
            with self.assertRaises(PeerIdError, msg=raw.hex()):
                PeerId.from_bytes(raw)

    def test_order_and_hash(self) -> None:
        first, second = sorted(Identity.from_seed(bytes([n]) * 32).peer_id for n in range(2))
        self.assertLess(first.raw, second.raw)
        self.assertEqual({first: 1}[PeerId.from_bytes(first.raw)], 1)

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(st.binary(max_size=50), st.binary(min_size=32, max_size=32).map(lambda d: b"\x12\x20" + d)))
    def test_cve_2020_35909_any_bytes(self, raw: bytes) -> None:
        try:
            peer = PeerId.from_bytes(raw)
        except PeerIdError:
            return
        self.assertEqual(peer.raw, raw)
        self.assertEqual(PeerId.parse(peer.to_cid()), peer)
        if str(peer).startswith(("1", "Qm")):
            self.assertEqual(PeerId.parse(str(peer)), peer)

    @settings(max_examples=200, deadline=None)
    @given(
        st.text(max_size=60)
        | st.binary(min_size=32, max_size=32).map(lambda digest: base58.encode(b"\x12\x20" + digest))
        | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=4).map(
            lambda end: base58.encode(b"\x12\x20" + bytes(32))[:-4] + end
        )
    )
    def test_any_text(self, text: str) -> None:
        """Refused, or a peer id with that text or with that content."""
        try:
            peer = PeerId.parse(text)
        except PeerIdError:
            return
        self.assertIn(text, (str(peer), peer.to_cid(), base58.encode(peer.raw)))
        self.assertEqual(PeerId.from_bytes(peer.raw), peer)


class IdentityTests(PureTestCase):
    def test_made_once(self) -> None:
        path = Path(self.mktemp())
        first = Identity.load_or_create(path)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(Identity.load_or_create(path), first)
        self.assertEqual([entry.name for entry in path.parent.iterdir() if path.name in entry.name], [path.name])

    def test_another_process_was_first(self) -> None:
        path = Path(self.mktemp())
        winner = Identity.from_seed(b"\1" * 32)

        def race(size: int) -> bytes:
            winner_file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
            os.write(winner_file, winner.to_private_key())
            os.close(winner_file)
            return os.urandom(size)

        self.assertEqual(Identity.load_or_create(path, race), winner)

    def test_open_to_others(self) -> None:
        path = Path(self.mktemp())
        Identity.load_or_create(path)
        for mode in (0o640, 0o604, 0o620):
            path.chmod(mode)
            with self.assertRaises(IdentityError) as caught:
                Identity.load_or_create(path)
            self.assertIn("chmod 600", str(caught.exception))

    def test_damaged(self) -> None:
        path = Path(self.mktemp())
        Identity.load_or_create(path)
        whole = path.read_bytes()
        for content in (b"", whole[:-1], whole + b"x", whole[:-1] + bytes([whole[-1] ^ 1]), bytes(68), bytes(100_000)):
            path.write_bytes(content)
            with self.assertRaises(IdentityError) as caught:
                Identity.load_or_create(path)
            self.assertIn(str(path), str(caught.exception))

    def test_folder_missing(self) -> None:
        with self.assertRaises(IdentityError):
            Identity.load_or_create(Path(self.mktemp()) / "absent" / "identity")

    def test_rustsec_2022_0093_mismatched_pair(self) -> None:
        """No call takes a public key apart from its seed, and a stored pair that does not match is refused."""
        good = Identity.from_seed(b"\1" * 32).to_private_key()
        for start in (36, 67):
            bad = bytearray(good)
            bad[start] ^= 1
            with self.assertRaises(BadKey):
                Identity.from_private_key(bytes(bad))

    def test_legacy_copies_must_agree(self) -> None:
        row = bytes.fromhex(IDENTITY["go_ed25519_fixtures"]["legacy_96_byte_private_key"]["privateKey"])
        with self.assertRaises(BadKey):
            Identity.from_private_key(row[:-1] + bytes([row[-1] ^ 1]))

    def test_other_private_keys(self) -> None:
        for row in IDENTITY["keys"]:
            encoded = bytes.fromhex(row["private_key_protobuf_hex"])
            if row["type"] == "ed25519":
                self.assertEqual(Identity.from_private_key(encoded).to_private_key(), encoded)
            else:
                with self.assertRaises(BadKey):
                    Identity.from_private_key(encoded)

    def test_repr_shows_no_secret(self) -> None:
        identity = Identity.from_seed(b"\x41" * 32)
        self.assertNotIn("A" * 8, repr(identity))
        self.assertEqual(repr(identity), f"Identity({identity.peer_id})")
