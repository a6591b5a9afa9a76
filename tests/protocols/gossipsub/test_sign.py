"""StrictSign against the published vector, and every way a message can be refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import Identity, KeyType, PeerId, PublicKey
from chorus.protocols.gossipsub.decode import decode_message
from chorus.protocols.gossipsub.encode import forward_frame, message_frame
from chorus.protocols.gossipsub.rpc import MessageError
from chorus.protocols.gossipsub.sign import KEY_CACHE, MAX_SIGNATURE, SIGNING_PREFIX, Signer, Verifier
from chorus.protocols.proto import rpc_pb2 as pb
from tests.protocols.gossip_network import identity
from tests.support import PureTestCase, vectors

ME = identity(1)


def parts(**changes: object) -> pb.Message:
    """A signed message with fields replaced (None removes one); the signature is not made again."""
    message = pb.Message.FromString(Signer(ME).sign("topic", b"data", bytes(7) + b"\x01"))
    for field, value in changes.items():
        name = "from" if field == "from_" else field
        if value is None:
            message.ClearField(name)
        else:
            setattr(message, name, value)
    return message


def signed_anew(message: pb.Message, by: Identity = ME) -> pb.Message:
    message.ClearField("signature")
    key = message.key if message.HasField("key") else None
    message.ClearField("key")
    message.signature = by.sign(SIGNING_PREFIX + message.SerializeToString())
    if key is not None:
        message.key = key
    return message


class Vector(PureTestCase):
    def setUp(self) -> None:
        derived = vectors("libp2p-identity.json")["derived"]
        self.vector = derived["pubsub_message"]
        self.raw = bytes.fromhex(self.vector["message_hex"])

    def test_verifies(self) -> None:
        message = decode_message(self.raw)
        self.assertEqual(SIGNING_PREFIX + message.signed, bytes.fromhex(self.vector["signed_bytes_hex"]))
        self.assertEqual(message.message_id, bytes.fromhex(self.vector["default_message_id_hex"]))
        self.assertEqual(str(PeerId.from_bytes(message.origin)), self.vector["from_peer_id"])
        self.assertEqual((message.topic, message.data), (self.vector["topic"], b"hello"))
        self.assertEqual(int.from_bytes(message.seqno, "big"), self.vector["seqno"])
        Verifier(any_key=True).verify(message)

    def test_any_flipped_bit_is_refused(self) -> None:
        verifier = Verifier(any_key=True)
        for index in range(len(self.raw)):
            damaged = bytearray(self.raw)
            damaged[index] ^= 1
            with self.assertRaises(MessageError):
                verifier.verify(decode_message(bytes(damaged)))

    def test_we_write_what_others_write(self) -> None:
        """Same bytes as the vector with our key in place of theirs."""
        ours = Signer(ME).sign("test-topic", b"hello", (1).to_bytes(8, "big"))
        theirs = pb.Message.FromString(self.raw)
        setattr(theirs, "from", ME.peer_id.raw)
        self.assertEqual(ours, signed_anew(theirs).SerializeToString())


class Signing(PureTestCase):
    @given(
        st.text(min_size=1, max_size=50).filter(lambda t: len(t.encode("utf-8", "replace")) <= 256),
        st.binary(max_size=300),
    )
    @settings(max_examples=60, deadline=None)
    def test_round_trip(self, topic, data):
        try:
            topic.encode()
        except UnicodeEncodeError:
            return
        raw = Signer(ME).sign(topic, data, bytes(8))
        message = decode_message(raw)
        Verifier(any_key=True).verify(message)
        self.assertEqual((message.topic, message.data, message.origin), (topic, data, ME.peer_id.raw))
        parsed = pb.Message.FromString(raw)
        self.assertEqual(parsed.SerializeToString(), raw)

    def test_empty_data_absent_or_present(self) -> None:
        """`12 00` and no field at all are both signed as they stand (spec/wire.md 12)."""
        verifier = Verifier(any_key=True)
        present = Signer(ME).sign("t", b"", bytes(8))
        self.assertIn(b"\x12\x00", present)
        verifier.verify(decode_message(present))
        absent = signed_anew(parts(data=None)).SerializeToString()
        verifier.verify(decode_message(absent))
        self.assertEqual((decode_message(present).data, decode_message(absent).data), (b"", b""))
        for raw in (
            present.replace(b"\x12\x00", b""),
            signed_anew(parts(data=None), by=identity(2)).SerializeToString(),
        ):
            with self.assertRaises(MessageError, msg="one is not signed by the other's signature") as caught:
                verifier.verify(decode_message(raw))
            self.assertEqual(caught.exception.reason, "bad_signature")

    def test_fields_in_another_order_and_unknown_fields(self) -> None:
        """The signature covers the bytes received, whatever their order."""
        body = b"\x22\x01t" + b"\x1a\x08" + bytes(8) + b"\x0a\x26" + ME.peer_id.raw + b"\x3a\x03xyz"
        signature = ME.sign(SIGNING_PREFIX + body)
        for raw in (
            body + b"\x2a\x40" + signature,
            b"\x2a\x40" + signature + body,
            body[:3] + b"\x2a\x40" + signature + body[3:],
        ):
            message = decode_message(raw)
            Verifier(any_key=True).verify(message)
            self.assertEqual((message.signed, message.topic, message.data), (body, "t", b""))
            self.assertEqual((message.origin, message.seqno), (ME.peer_id.raw, bytes(8)))
            with self.assertRaises(MessageError) as caught:
                Verifier(any_key=True).verify(decode_message(raw.replace(b"xyz", b"xyy")))
            self.assertEqual(caught.exception.reason, "bad_signature", "unknown fields are signed too")

    def test_key_beside_the_message(self) -> None:
        key = ME.public_key.to_protobuf()
        verifier = Verifier(any_key=True)
        for _ in range(2):
            for message in (parts(key=key), parts()):
                verifier.verify(decode_message(message.SerializeToString()))
                self.assertEqual(list(verifier._keys), [ME.peer_id.raw])
        with self.assertRaises(MessageError) as caught:
            verifier.verify(decode_message(parts(key=key[:-1] + b"\x00").SerializeToString()))
        self.assertEqual(caught.exception.reason, "key_mismatch")

    def test_other_keys_than_ed25519_are_asked_for(self) -> None:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        private = ec.generate_private_key(ec.SECP256R1())
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        public = PublicKey(KeyType.ECDSA, spki)
        message = parts(from_=PeerId.from_public_key(public).raw, signature=None)
        message.signature = private.sign(SIGNING_PREFIX + message.SerializeToString(), ec.ECDSA(hashes.SHA256()))
        message.key = public.to_protobuf()
        with self.assertRaises(MessageError) as caught:
            Verifier().verify(decode_message(message.SerializeToString()))
        self.assertEqual(caught.exception.reason, "key_type")
        Verifier(any_key=True).verify(decode_message(message.SerializeToString()))

    def test_publisher_with_a_hashed_id_needs_its_key(self) -> None:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        private = ec.generate_private_key(ec.SECP256R1())
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        public = PublicKey(KeyType.ECDSA, spki)
        message = parts(from_=PeerId.from_public_key(public).raw, signature=None)
        message.signature = private.sign(SIGNING_PREFIX + message.SerializeToString(), ec.ECDSA(hashes.SHA256()))
        with self.assertRaises(MessageError) as caught:
            Verifier(any_key=True).verify(decode_message(message.SerializeToString()))
        self.assertEqual(caught.exception.reason, "no_key")
        message.key = public.to_protobuf()
        raw = message.SerializeToString()
        Verifier(any_key=True).verify(decode_message(raw))
        self.assertEqual(
            forward_frame(raw, decode_message(raw)), message_frame(raw), "and so does the next to verify it"
        )

    def test_key_cache_is_bounded(self) -> None:
        verifier = Verifier(any_key=True)
        raw = Signer(ME).sign("t", b"", bytes(8))
        message = decode_message(raw)
        for number in range(KEY_CACHE):
            verifier._keys[number.to_bytes(4, "big")] = (ME.public_key, b"")
        verifier.verify(message)
        self.assertEqual(len(verifier._keys), KEY_CACHE)
        self.assertIn(ME.peer_id.raw, verifier._keys)
        self.assertNotIn(bytes(4), verifier._keys, "the one used longest ago left")


class Refused(PureTestCase):
    """Rows of spec/security.md 2.4, "own, from the fixes": the message's own fields."""

    def reason(self, message: pb.Message | bytes) -> str:
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        with self.assertRaises(MessageError) as caught:
            Verifier(any_key=True).verify(decode_message(raw))
        return caught.exception.reason

    def test_table(self) -> None:
        other = identity(2)
        rows = {
            "seqno absent": (parts(seqno=None), "bad_seqno"),
            "seqno of 0 bytes": (signed_anew(parts(seqno=b"")), "bad_seqno"),
            "seqno of 7 bytes": (signed_anew(parts(seqno=bytes(7))), "bad_seqno"),
            "seqno of 9 bytes": (signed_anew(parts(seqno=bytes(9))), "bad_seqno"),
            "from absent": (parts(from_=None), "no_from"),
            "from empty": (parts(from_=b""), "no_from"),
            "from not a peer id": (signed_anew(parts(from_=b"not a peer id")), "bad_from"),
            "from over the length limit": (signed_anew(parts(from_=b"\x00\x2b" + bytes(43))), "bad_from"),
            "from inlines no key": (signed_anew(parts(from_=b"\x00\x04abcd")), "key_mismatch"),
            "from of another": (signed_anew(parts(from_=other.peer_id.raw)), "bad_signature"),
            "key of another": (parts(key=other.public_key.to_protobuf()), "key_mismatch"),
            "key of another that signed": (
                signed_anew(parts(key=other.public_key.to_protobuf()), by=other),
                "key_mismatch",
            ),
            "key is no key": (parts(key=b"\x08\x63\x12\x00"), "key_mismatch"),
            "key empty": (parts(key=b""), "key_mismatch"),
            "signature absent": (parts(signature=None), "unsigned"),
            "signature empty": (parts(signature=b""), "bad_signature"),
            "signature short": (parts(signature=bytes(63)), "bad_signature"),
            "signature of zeros": (parts(signature=bytes(64)), "bad_signature"),
            "signature too long": (parts(signature=bytes(5000)), "bad_signature"),
            "topic absent": (parts(topic=None), "bad_topic"),
            "topic empty": (signed_anew(parts(topic="")), "bad_topic"),
            "topic too long": (signed_anew(parts(topic="x" * 257)), "bad_topic"),
            "topic not UTF-8": (parts(topic=None).SerializeToString() + b"\x22\x02\xff\xfe", "bad_topic"),
            "two topics": (parts().SerializeToString() + b"\x22\x01t", "duplicate_field"),
            "two signatures": (parts().SerializeToString() + b"\x2a\x00", "duplicate_field"),
            "data changed": (parts(data=b"other"), "bad_signature"),
            "unknown field added": (parts().SerializeToString() + b"\x78\x01", "bad_signature"),
            "not protobuf": (b"\x0a\xff", "malformed"),
            "a group": (b"\x0b\x0c", "malformed"),
            "empty": (b"", "bad_topic"),
        }
        for name, (message, reason) in rows.items():
            self.assertEqual(self.reason(message), reason, name)

    def test_too_long_a_signature_is_refused_before_any_key_is_looked_at(self) -> None:
        for size, parsed in ((MAX_SIGNATURE, 1), (MAX_SIGNATURE + 1, 0)):
            verifier = Verifier()
            message = decode_message(parts(signature=bytes(size)).SerializeToString())
            self.assertRaises(MessageError, verifier.verify, message)
            self.assertEqual(len(verifier._keys), parsed, size)

    def test_a_forged_key_does_not_stay_in_the_cache(self) -> None:
        verifier = Verifier(any_key=True)
        other = identity(2)
        with self.assertRaises(MessageError):
            verifier.verify(decode_message(parts(key=other.public_key.to_protobuf()).SerializeToString()))
        verifier.verify(decode_message(parts().SerializeToString()))
