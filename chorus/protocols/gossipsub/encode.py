"""Encodes RPCs within the smallest limits of deployed peers. Functions return frames: RPCs with their length prefix,
ready for a stream.

Together with the functions of `decode`, this module is the network's `Codec`. (Python finds the functions of a module
quicker than those of an object.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from chorus.multiformats import varint
from chorus.protocols.delimited import delimit
from chorus.protocols.gossipsub.decode import decode_message as decode_message  # noqa: PLC0414 (of the codec)
from chorus.protocols.gossipsub.decode import decode_rpc as decode_rpc  # noqa: PLC0414
from chorus.protocols.gossipsub.decode import lone_message as lone_message  # noqa: PLC0414
from chorus.protocols.gossipsub.params import MAX_CONTROL, MAX_SENT_RPC, MAX_SUBSCRIPTIONS
from chorus.protocols.gossipsub.rpc import IDENTITY_MULTIHASH, Message, MessageTooLarge, Prune
from chorus.protocols.proto import rpc_pb2 as pb

_SIGNATURE_FIELD = 66
"""Bytes of an Ed25519 signature with its tag and length."""


def message_frame(raw: bytes) -> bytes:
    """One serialised Message as an RPC of its own; the same bytes serve every peer."""
    return delimit(b"\x12" + varint.encode(len(raw)) + raw)


def forward_frame(raw: bytes, message: Message) -> bytes | None:
    """A verified message as it is passed on, which is as it came; None where peers would refuse its frame.

    A relay may rewrite what the signature does not cover: a key that the publisher's id holds already is left out,
    and a signature's field is brought to its shortest form, so that nobody pushes another's message over that limit.
    """
    if message.key is not None or len(raw) != len(message.signed) + _SIGNATURE_FIELD:
        raw = message.signed + b"\x2a" + varint.encode(len(message.signature)) + message.signature
        if message.key is not None and message.origin[0] != IDENTITY_MULTIHASH:
            raw += b"\x32" + varint.encode(len(message.key)) + message.key
    frame = message_frame(raw)
    return frame if len(frame) <= MAX_SENT_RPC else None


def subscription_frames(changes: Sequence[tuple[bool, str]]) -> list[bytes]:
    frames = []
    for start in range(0, len(changes), MAX_SUBSCRIPTIONS):
        rpc = pb.RPC()
        for subscribe, topic in changes[start : start + MAX_SUBSCRIPTIONS]:
            rpc.subscriptions.add(subscribe=subscribe, topicid=topic)
        frames.append(delimit(rpc.SerializeToString()))
    return frames


def mesh_frames(grafts: Iterable[str], prunes: Iterable[Prune]) -> list[bytes]:
    """A PRUNE for a peer before 1.1 has neither backoff nor peers."""
    entries: list[pb.ControlMessage] = [pb.ControlMessage(graft=[pb.ControlGraft(topicID=topic)]) for topic in grafts]
    for topic, wait, peers in prunes:
        infos = [pb.PeerInfo(peerID=peer, signedPeerRecord=record) for peer, record in peers]
        entries.append(pb.ControlMessage(prune=[pb.ControlPrune(topicID=topic, backoff=wait, peers=infos)]))
    return entry_frames(entry.SerializeToString() for entry in entries)


def ihave_entries(topic: str, ids: Sequence[bytes]) -> list[bytes]:
    """For `entry_frames`: encoded once for all peers, whatever else each of them is told."""
    return [
        pb.ControlMessage(ihave=[pb.ControlIHave(topicID=topic, messageIDs=part)]).SerializeToString()
        for part in _parts(ids, len(topic.encode()))
    ]


def ihave_frames(ids: Mapping[str, Sequence[bytes]]) -> list[bytes]:
    """Several topics share a frame while they fit: peers count RPCs with IHAVE, not topics."""
    return entry_frames(entry for topic, topic_ids in ids.items() for entry in ihave_entries(topic, topic_ids))


def iwant_frames(ids: Sequence[bytes]) -> list[bytes]:
    return entry_frames(
        pb.ControlMessage(iwant=[pb.ControlIWant(messageIDs=part)]).SerializeToString() for part in _parts(ids, 0)
    )


def idontwant_frames(ids: Sequence[bytes]) -> list[bytes]:
    if len(ids) == 1 and len(ids[0]) < 0x78:
        # One large message has come: the usual case, and not worth four objects of protobuf.
        entry = b"\x0a%c%b" % (len(ids[0]), ids[0])
        size = len(entry)
        return [b"%c\x1a%c\x2a%c%b" % (size + 4, size + 2, size, entry)]
    return entry_frames(
        pb.ControlMessage(idontwant=[pb.ControlIDontWant(messageIDs=part)]).SerializeToString()
        for part in _parts(ids, 0)
    )


_ENTRY_OVERHEAD = 16
"""Tags and lengths around an IHAVE or IWANT entry and its topic."""


def _parts(ids: Sequence[bytes], topic_bytes: int) -> Iterator[Sequence[bytes]]:
    """Cut ids into runs whose entry fits `MAX_CONTROL`."""
    room = MAX_CONTROL - topic_bytes - _ENTRY_OVERHEAD
    start = size = 0
    for index, message_id in enumerate(ids):
        cost = len(message_id) + 3
        if size + cost > room:
            yield ids[start:index]
            start, size = index, 0
        size += cost
    if start < len(ids):
        yield ids[start:]


def entry_frames(entries: Iterable[bytes]) -> list[bytes]:
    """Serialised ControlMessages concatenate to their merge: fill frames up to `MAX_CONTROL`."""
    frames = []
    pending: list[bytes] = []
    size = 0
    for entry in entries:
        if pending and size + len(entry) > MAX_CONTROL:
            frames.append(_control_frame(pending, size))
            pending, size = [], 0
        pending.append(entry)
        size += len(entry)
    if pending:
        frames.append(_control_frame(pending, size))
    return frames


def _control_frame(entries: list[bytes], size: int) -> bytes:
    prefix = b"\x1a" + varint.encode(size)
    return b"".join((varint.encode(len(prefix) + size), prefix, *entries))


def check_sendable(frame: bytes) -> bytes:
    """Raises `MessageTooLarge` for a frame of ours that a deployed peer would refuse."""
    if len(frame) > MAX_SENT_RPC:
        raise MessageTooLarge(f"message is {len(frame)} bytes on the wire; peers take up to {MAX_SENT_RPC}")
    return frame
