"""RPCs on the wire: decoding against protobuf, every limit, and encoding to the smallest deployed limits."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import LimitExceeded, PeerError
from chorus.multiformats import varint
from chorus.protocols.delimited import delimit
from chorus.protocols.gossipsub import decode, encode
from chorus.protocols.gossipsub.decode import (
    MAX_FIELDS,
    MAX_MESSAGE_FIELDS,
    MAX_PRUNE_FIELDS,
    decode_message,
    decode_rpc,
)
from chorus.protocols.gossipsub.params import (
    MAX_CONTROL,
    MAX_ID_BYTES,
    MAX_MESH_CONTROL,
    MAX_MESSAGES,
    MAX_RPC,
    MAX_SENT_RPC,
    MAX_SUBSCRIPTIONS,
    MAX_TOPIC_BYTES,
)
from chorus.protocols.gossipsub.rpc import RPC, MessageError, Prune, RPCError
from chorus.protocols.gossipsub.sign import Signer
from chorus.protocols.proto import rpc_pb2 as pb
from tests.protocols.gossip_network import identity, unframe
from tests.support import PureTestCase

topics = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda t: len(t.encode()) <= 256
)
ids = st.lists(st.binary(min_size=1, max_size=MAX_ID_BYTES), max_size=6, unique=True)


def rpc(**parts: object) -> bytes:
    return pb.RPC(**parts).SerializeToString()


def control(**parts: object) -> bytes:
    return rpc(control=pb.ControlMessage(**parts))


class Decoding(PureTestCase):
    @given(
        st.lists(st.tuples(st.booleans(), topics), max_size=5),
        st.lists(st.binary(max_size=40), max_size=5),
        st.lists(st.tuples(topics, ids), max_size=4),
        ids,
        st.lists(topics, max_size=4),
        st.lists(st.tuples(topics, st.none() | st.integers(0, 2**64 - 1)), max_size=4),
        st.binary(max_size=20),
    )
    @settings(max_examples=150, deadline=None)
    def test_what_protobuf_wrote(self, subs, data, ihave, iwant, graft, prune, extra):
        message = pb.RPC()
        for subscribe, topic in subs:
            message.subscriptions.add(subscribe=subscribe, topicid=topic)
        for item in data:
            message.publish.add(data=item)
        for topic, topic_ids in ihave:
            message.control.ihave.add(topicID=topic, messageIDs=topic_ids)
        message.control.iwant.add(messageIDs=iwant)
        for topic in graft:
            message.control.graft.add(topicID=topic)
        for topic, backoff in prune:
            message.control.prune.add(topicID=topic, backoff=backoff)
        # Field 10 of 1.3 and a varint field nobody knows are passed over.
        raw = message.SerializeToString() + b"\x52" + bytes([len(extra)]) + extra + b"\x78\x05"
        decoded = decode_rpc(raw)
        self.assertEqual(list(decoded.subscriptions), subs)
        self.assertEqual(list(decoded.messages), [pb.Message(data=item).SerializeToString() for item in data])
        self.assertEqual(list(decoded.ihave), ihave)
        self.assertEqual(list(decoded.iwant), iwant)
        self.assertEqual(list(decoded.graft), graft)
        self.assertEqual(list(decoded.prune), [(*entry, ()) for entry in prune])
        self.assertEqual(decoded.passed_over, 0)

    @given(
        origin=st.binary(max_size=140),
        data=st.none() | st.binary(max_size=300) | st.integers(16_000, 17_000).map(bytes),
        seqno=st.binary(min_size=7, max_size=9) | st.just(bytes(8)),
        topic=st.binary(max_size=140) | st.just(b"topic"),
        signature=st.sampled_from([bytes(64), bytes(63), b""]),
        key=st.none() | st.just(b"key"),
        swap=st.booleans(),
        extra=st.sampled_from([b"", b"\x00", b"\x3a\x01x", b"\x2a\x00"]),
        flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    )
    @settings(max_examples=600, deadline=None)
    def test_the_short_way_and_the_long_one_agree(self, origin, data, seqno, topic, signature, key, swap, extra, flips):
        parts = [b"\x0a" + varint.encode(len(origin)) + origin]
        if data is not None:
            parts.append(b"\x12" + varint.encode(len(data)) + data)
        parts.append(b"\x1a" + varint.encode(len(seqno)) + seqno)
        parts.append(b"\x22" + varint.encode(len(topic)) + topic)
        parts.append(b"\x2a" + varint.encode(len(signature)) + signature)
        if key is not None:
            parts.append(b"\x32" + varint.encode(len(key)) + key)
        if swap:
            parts.reverse()
        raw = bytearray(b"".join(parts) + extra)
        for position, value in flips:
            raw[position % len(raw)] = value
        self.assert_agree(bytes(raw))

    def test_the_short_way_is_taken_for_what_deployed_peers_write(self) -> None:
        for data in (b"", b"x", bytes(127), bytes(128), bytes(16_383), bytes(16_384), bytes(60_000)):
            raw = Signer(identity(1)).sign("topic", data, bytes(8))
            self.assertIsNotNone(decode._usual_message(raw))
            self.assert_agree(raw)
            for cut in (*range(0, min(len(raw), 200)), len(raw) - 1):
                self.assert_agree(raw[:cut])

    def assert_agree(self, raw: bytes) -> None:
        short = decode._usual_message(raw)
        if short is not None:
            self.assertEqual(short, decode._any_message(raw))
        for rpc in (b"\x12" + varint.encode(len(raw)) + raw, raw):
            lone = decode.lone_message(rpc)
            if lone is not None:
                whole = decode_rpc(rpc)
                self.assertEqual(list(whole.messages), [lone])
                self.assertEqual(
                    whole, RPC(messages=[lone], subscriptions=[], ihave=[], iwant=[], graft=[], prune=[], idontwant=[])
                )

    @given(st.lists(st.binary(min_size=1, max_size=128), min_size=1, max_size=2, unique=True))
    def test_idontwant(self, ids):
        whole = self.merged_control(encode.idontwant_frames(ids))
        self.assertEqual([each for entry in whole.idontwant for each in entry.messageIDs], ids)

    def merged_control(self, frames: list[bytes]) -> pb.ControlMessage:
        whole = pb.RPC()
        for raw in unframe(frames):
            whole.MergeFromString(raw)
        return whole.control

    @given(st.binary(max_size=400))
    @settings(max_examples=400, deadline=None)
    def test_any_bytes_are_an_rpc_or_a_peer_error(self, raw):
        """What is taken is what protobuf reads in it; what protobuf cannot read is refused."""
        self.assert_as_protobuf(raw)
        try:
            message = decode_message(raw)
        except PeerError:
            return
        self.assertEqual(message, decode._any_message(raw))

    def assert_as_protobuf(self, raw: bytes) -> None:
        try:
            found = decode_rpc(raw)
        except PeerError:
            return
        whole = pb.RPC.FromString(raw)
        if not found.passed_over:
            self.assertEqual(
                [(subscribe, topic) for subscribe, topic in found.subscriptions],
                [(each.subscribe, each.topicid) for each in whole.subscriptions],
            )
            self.assertEqual(len(found.messages), len(whole.publish))
            self.assertEqual(list(found.graft), [each.topicID for each in whole.control.graft])
            self.assertEqual([topic for topic, _ in found.ihave], [each.topicID for each in whole.control.ihave])

    @given(st.data())
    @settings(max_examples=200, deadline=None)
    def test_damaged_rpcs(self, data):
        raw = bytearray(
            rpc(
                subscriptions=[pb.RPC.SubOpts(subscribe=True, topicid="topic")],
                publish=[pb.Message(data=b"data", seqno=bytes(8), topic="t", signature=bytes(64))],
                control=pb.ControlMessage(
                    ihave=[pb.ControlIHave(topicID="t", messageIDs=[b"id"])],
                    prune=[pb.ControlPrune(topicID="t", backoff=60, peers=[pb.PeerInfo(peerID=b"p")])],
                ),
            )
        )
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        raw = raw[: data.draw(st.integers(0, len(raw)))]
        with contextlib.suppress(PeerError):
            decoded = decode_rpc(bytes(raw))
            for message in decoded.messages:
                decode_message(message)

    def test_not_protobuf(self) -> None:
        for raw in (
            b"\x0a",
            b"\x0a\x05abc",
            b"\x00\x00",
            b"\x02\x00",
            b"\x0b\x0c",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x08",
            b"\x09\x00",
            b"\x0d\x00",
            b"\x1a\x01\x0a",
            b"\x1a\x04\x22\x02\x18\x80",
        ):
            with self.assertRaises(RPCError, msg=raw.hex()):
                decode_rpc(raw)

    def test_control_that_comes_in_pieces_is_one_control(self) -> None:
        raw = control(graft=[pb.ControlGraft(topicID="a")]) + control(graft=[pb.ControlGraft(topicID="b")])
        self.assertEqual(decode_rpc(raw).graft, ["a", "b"])

    def test_impossible_topics_are_passed_over(self) -> None:
        for topic in (b"", b"x" * (MAX_TOPIC_BYTES + 1), b"\xff\xfe"):
            subscription = delimit(b"\x12" + delimit(topic))
            decoded = decode_rpc(b"\x0a" + subscription)
            self.assertEqual((list(decoded.subscriptions), decoded.passed_over), ([], 1))
            entry = delimit(b"\x0a" + delimit(topic))
            for tag in (b"\x0a", b"\x1a", b"\x22"):
                decoded = decode_rpc(b"\x1a" + delimit(tag + entry))
                self.assertEqual((list(decoded.ihave), list(decoded.graft), list(decoded.prune)), ([], [], []))
                self.assertEqual(decoded.passed_over, 1)
        longest = "x" * MAX_TOPIC_BYTES
        self.assertEqual(decode_rpc(control(graft=[pb.ControlGraft(topicID=longest)])).graft, [longest])

    def test_ids_are_distinct_and_bounded(self) -> None:
        wanted = [b"a", b"a", b"", b"b", bytes(MAX_ID_BYTES + 1), bytes(MAX_ID_BYTES), b"a"]
        decoded = decode_rpc(
            control(
                ihave=[pb.ControlIHave(topicID="t", messageIDs=wanted)],
                iwant=[pb.ControlIWant(messageIDs=wanted), pb.ControlIWant(messageIDs=wanted)],
            )
        )
        self.assertEqual(list(decoded.ihave), [("t", [b"a", b"b", bytes(MAX_ID_BYTES)])])
        self.assertEqual(list(decoded.iwant), [b"a", b"b", bytes(MAX_ID_BYTES)])


class Limits(PureTestCase):
    def refused(self, raw: bytes, limit: str) -> None:
        with self.assertRaises(LimitExceeded) as caught:
            decode_rpc(raw)
        self.assertEqual(caught.exception.limit, limit)

    def test_rpc_bytes(self) -> None:
        filler = b"\x52" + b"\xfb\xff\x3f" + bytes(MAX_RPC - 5)
        self.assertEqual(len(filler), MAX_RPC - 1)
        decode_rpc(filler)
        self.refused(filler + b"\x52\x00", "RPC bytes")

    def test_subscriptions(self) -> None:
        one = b"\x0a\x05\x08\x01\x12\x01a"
        self.assertEqual(len(decode_rpc(one * MAX_SUBSCRIPTIONS).subscriptions), MAX_SUBSCRIPTIONS)
        self.refused(one * (MAX_SUBSCRIPTIONS + 1), "subscriptions in an RPC")

    def test_messages(self) -> None:
        self.assertEqual(len(decode_rpc(b"\x12\x00" * MAX_MESSAGES).messages), MAX_MESSAGES)
        self.refused(b"\x12\x00" * (MAX_MESSAGES + 1), "messages in an RPC")

    def test_graft_and_prune(self) -> None:
        grafts = [pb.ControlGraft(topicID="t")] * MAX_MESH_CONTROL
        self.assertEqual(len(decode_rpc(control(graft=grafts)).graft), MAX_MESH_CONTROL)
        self.refused(control(graft=grafts, prune=[pb.ControlPrune(topicID="t")]), "GRAFT and PRUNE in an RPC")

    def test_control_bytes_beyond_the_limit_are_not_decoded(self) -> None:
        entry = pb.ControlIHave(topicID="t", messageIDs=[bytes(46)] * 100)
        size = entry.ByteSize() + 3
        decoded = decode_rpc(
            control(
                ihave=[entry] * 10, iwant=[pb.ControlIWant(messageIDs=[b"x"])], graft=[pb.ControlGraft(topicID="g")]
            )
        )
        self.assertEqual(len(decoded.ihave), MAX_CONTROL // size)
        self.assertEqual(decoded.passed_over, 10 - MAX_CONTROL // size + 1)
        self.assertEqual(list(decoded.graft), ["g"], "the mesh is kept whatever the gossip's size")

    def test_fields(self) -> None:
        decode_rpc(b"\x78\x00" * MAX_FIELDS)
        self.refused(b"\x78\x00" * (MAX_FIELDS + 1), "protobuf fields")
        self.refused(b"\x1a\x00" * (MAX_FIELDS + 1), "protobuf fields")
        inner = b"\x32\x00" * (MAX_FIELDS + 1)
        self.refused(b"\x1a" + b"\x82\x20" + inner, "protobuf fields")

    def test_prune_peers(self) -> None:
        prune = pb.ControlPrune(topicID="t", backoff=1, peers=[pb.PeerInfo()] * (MAX_PRUNE_FIELDS - 2))
        self.assertEqual(list(decode_rpc(control(prune=[prune])).prune), [("t", 1, ())])
        prune.peers.add()
        self.refused(control(prune=[prune]), "protobuf fields")

    def test_message_fields(self) -> None:
        extra = b"".join(bytes([tag << 3 & 0x7F | 0x80, tag >> 4]) + b"\x00" for tag in range(16, 48))
        with self.assertRaises(MessageError) as caught:
            decode_message(extra + b"\x80\x04\x00")
        self.assertEqual(caught.exception.reason, "malformed")
        self.assertEqual(len(list(decode.fields(extra, MAX_MESSAGE_FIELDS))), MAX_MESSAGE_FIELDS)


class Encoding(PureTestCase):
    def merged(self, frames: list[bytes]) -> pb.RPC:
        whole = pb.RPC()
        for raw in unframe(frames):
            whole.MergeFromString(raw)
        return whole

    def test_subscriptions_are_split(self) -> None:
        changes = [(index % 2 == 0, f"topic/{index}") for index in range(250)]
        frames = encode.subscription_frames(changes)
        self.assertEqual(len(frames), 3)
        self.assertEqual([entry for raw in unframe(frames) for entry in decode_rpc(raw).subscriptions], changes)

    @given(
        st.lists(topics, max_size=300, unique=True),
        st.lists(st.tuples(topics, st.none() | st.integers(0, 3600)), max_size=100),
    )
    @settings(max_examples=25, deadline=None)
    def test_mesh_control_is_split(self, grafts, prunes):
        frames = encode.mesh_frames(grafts, [Prune(*entry) for entry in prunes])
        self.assertTrue(all(len(raw) <= MAX_CONTROL + 4 for raw in unframe(frames)))
        whole = self.merged(frames).control
        self.assertEqual([entry.topicID for entry in whole.graft], grafts)
        found = [(e.topicID, e.backoff if e.HasField("backoff") else None) for e in whole.prune]
        self.assertEqual(found, prunes)

    @given(st.dictionaries(topics, st.lists(st.binary(min_size=46, max_size=46), max_size=900), max_size=4))
    @settings(max_examples=25, deadline=None)
    def test_gossip_is_split_and_decodes_whole(self, wanted):
        wanted = {topic: list(dict.fromkeys(topic_ids)) for topic, topic_ids in wanted.items() if topic_ids}
        frames = encode.ihave_frames(wanted)
        found: dict[str, list[bytes]] = {}
        for raw in unframe(frames):
            self.assertLessEqual(len(raw), MAX_CONTROL + 4)
            decoded = decode_rpc(raw)
            self.assertEqual(decoded.passed_over, 0)
            for topic, part in decoded.ihave:
                found.setdefault(topic, []).extend(part)
        self.assertEqual(found, wanted)

    def test_iwant_is_split_and_decodes_whole(self) -> None:
        wanted = [index.to_bytes(46, "big") for index in range(5000)]
        frames = encode.iwant_frames(wanted)
        self.assertEqual([i for raw in unframe(frames) for i in decode_rpc(raw).iwant], wanted)
        self.assertLess(max(map(len, frames)), MAX_SENT_RPC)
        self.assertEqual(encode.iwant_frames([]), [])

    def test_topics_share_a_frame(self) -> None:
        frames = encode.ihave_frames({f"topic/{index}": [bytes([index])] for index in range(50)})
        self.assertEqual(len(frames), 1)
