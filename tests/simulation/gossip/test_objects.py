"""The codec without bytes says what the wire's says, in frames of the same sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from chorus.identity import Identity
from chorus.protocols.delimited import DelimitedDecoder
from chorus.protocols.gossipsub import decode, encode
from chorus.protocols.gossipsub.codec import WIRE
from chorus.protocols.gossipsub.ids import publisher_id
from chorus.protocols.gossipsub.params import MAX_RPC
from chorus.protocols.gossipsub.rpc import RPC, Exchanged, MessageError, MessageTooLarge, Prune
from chorus.protocols.gossipsub.sign import Signer
from chorus.simulation.gossip.objects import ObjectCodec, ObjectFrame, make_message, object_codec, signer, verify
from tests.support import PureTestCase

ALICE = Identity.from_seed(b"\1" * 32)
TOPIC = "chorus/coordination/v1"
IDS = [ALICE.peer_id.raw + number.to_bytes(8, "big") for number in range(1500)]


def decoded(frames: Sequence[bytes]) -> list[RPC]:
    decoder = DelimitedDecoder(MAX_RPC)
    rpcs = []
    for frame in frames:
        decoder.feed(frame)
        while (rpc := decoder.next_message()) is not None:
            rpcs.append(decode.decode_rpc(rpc))
    return rpcs


def said(rpc: RPC) -> list[Any]:
    return [
        list(rpc.subscriptions),
        [(topic, list(ids)) for topic, ids in rpc.ihave],
        list(rpc.iwant),
        list(rpc.graft),
        list(rpc.prune),
        list(rpc.idontwant),
    ]


class Frames(PureTestCase):
    def same(self, objects: Sequence[bytes], wire: Sequence[bytes]) -> None:
        self.assertEqual([len(frame) for frame in objects], [len(frame) for frame in wire])
        codec = object_codec()
        self.assertEqual([said(codec.decode_rpc(frame)) for frame in objects], list(map(said, decoded(wire))))

    def test_subscriptions(self) -> None:
        for count in (0, 1, 2, 100, 101, 250):
            changes = [(number % 3 != 0, f"topic {number}") for number in range(1, count + 1)]
            # proto2 writes `subscribe` whether it is true or false.
            self.same(object_codec().subscription_frames(changes), encode.subscription_frames(changes))

    def test_grafts_and_prunes(self) -> None:
        peers = tuple(Exchanged(IDS[number][:38], None if number % 2 else b"r" * 200) for number in range(16))
        prunes = [Prune("a", None), Prune("b" * 200, 60, peers), Prune("c", 3600)]
        for grafts, refused in ((["x"], []), (["x", "y" * 130], []), ([], prunes), (["x"], prunes * 6)):
            self.same(object_codec().mesh_frames(grafts, refused), encode.mesh_frames(grafts, refused))

    def test_ids(self) -> None:
        for count in (0, 1, 3, 330, 340, 350, 1000, 1500):
            ids = IDS[:count]
            self.same(object_codec().iwant_frames(ids), encode.iwant_frames(ids))
            self.same(object_codec().idontwant_frames(ids), encode.idontwant_frames(ids))
            topics = {TOPIC: ids, "other": ids[: count // 2], "none": []}
            self.same(object_codec().ihave_frames(topics), encode.ihave_frames(topics))
            told = {"other": ids[: count // 2], TOPIC: ids}
            joined = [
                codec.entry_frames(entry for topic, part in told.items() for entry in codec.ihave_entries(topic, part))
                for codec in (object_codec(), WIRE)
            ]
            self.same(*joined)
            self.same(joined[0], encode.ihave_frames(told))

    def test_messages_have_the_size_of_the_signed_ones(self) -> None:
        for size in (0, 1, 127, 128, 1024, 20_000):
            wire = encode.message_frame(Signer(ALICE).sign(TOPIC, bytes(size), bytes(8)))
            raw = signer(ALICE.peer_id.raw)(TOPIC, bytes(size), bytes(8))
            self.assertEqual(len(object_codec().message_frame(raw)), len(wire), size)

    def test_too_large_messages_are_refused_as_the_wires_are(self) -> None:
        raw = signer(ALICE.peer_id.raw)(TOPIC, bytes(65_500), bytes(8))
        self.assertRaises(MessageTooLarge, WIRE.check_sendable, encode.message_frame(bytes(65_600)))
        codec = object_codec()
        self.assertRaises(MessageTooLarge, codec.check_sendable, codec.message_frame(raw))
        self.assertIsNone(codec.forward_frame(raw, codec.decode_message(raw)))
        small = signer(ALICE.peer_id.raw)(TOPIC, bytes(65_300), bytes(8))
        self.assertIs(codec.forward_frame(small, codec.decode_message(small)), codec.message_frame(small))


class Messages(PureTestCase):
    def test_a_message_is_one_object_for_everybody(self) -> None:
        codec = object_codec()
        raw = signer(b"alice")(TOPIC, b"words", b"\0" * 7 + b"\1")
        frame = codec.message_frame(raw)
        self.assertIs(codec.decode_rpc(frame).messages[0], raw)
        self.assertIs(codec.message_frame(codec.decode_rpc(frame).messages[0]), frame)
        message = codec.decode_message(raw)
        self.assertEqual((message.origin, message.data, message.topic), (b"alice", b"words", TOPIC))
        self.assertEqual(publisher_id(message), b"alice" + b"\0" * 7 + b"\1")

    def test_only_a_frame_of_one_message_is_taken_for_one(self) -> None:
        codec = ObjectCodec()
        raw = make_message(b"alice", b"alice", TOPIC, b"words", bytes(8))
        self.assertIs(codec.lone_message(raw.frame), raw)
        for frame in (*codec.mesh_frames([TOPIC], []), *codec.iwant_frames(IDS[:3])):
            self.assertIsNone(codec.lone_message(cast("ObjectFrame", frame)))

    def test_two_messages_under_one_number_are_told_apart(self) -> None:
        one, other = (make_message(b"alice", b"alice", TOPIC, data, bytes(8)).message for data in (b"aye", b"nay"))
        self.assertEqual(publisher_id(one), publisher_id(other))
        self.assertNotEqual(one.signature, other.signature)
        verify(one)
        verify(other)

    def test_a_forgery_is_found(self) -> None:
        verify(make_message(b"alice", b"alice", TOPIC, b"", bytes(8)).message)
        forged = make_message(b"mallory", b"alice", TOPIC, b"", bytes(8)).message
        error = self.assertRaises(MessageError, verify, forged)
        self.assertEqual(error.reason, "bad_signature")

    def test_what_is_said_often_is_one_object(self) -> None:
        codec = ObjectCodec()
        self.assertIs(codec.mesh_frames([TOPIC], [])[0], codec.mesh_frames(iter([TOPIC]), ())[0])
        self.assertIs(codec.subscription_frames([(True, TOPIC)])[0], codec.subscription_frames([(True, TOPIC)])[0])
        self.assertIsNot(codec.subscription_frames([(True, TOPIC)])[0], codec.subscription_frames([(False, TOPIC)])[0])
