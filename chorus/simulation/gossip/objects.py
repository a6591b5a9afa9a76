"""A codec of GossipSub without bytes: tier D of spec/simulation.md section 3.

Frames are objects that hold the decoded RPC and know the size it has on the wire, so that the real router (scores,
backoffs, gossip and all) runs for many thousand nodes in one process. Frequent content (a subscription, a GRAFT, a
message) is one object for all senders and receivers: nobody may change it. Sizes and the places where frames are
split are those of `chorus.protocols.gossipsub.encode`, for publishers with Ed25519 keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar, cast

from chorus.protocols.gossipsub.codec import Codec
from chorus.protocols.gossipsub.params import MAX_CONTROL, MAX_SENT_RPC, MAX_SUBSCRIPTIONS
from chorus.protocols.gossipsub.rpc import RPC, Message, MessageError, MessageTooLarge, Prune

SIGNATURE_BYTES: Final = 64
"""Of Ed25519."""

ENTRY_OVERHEAD: Final = 16
"""Left free in a frame for the tags and lengths around an entry of ids (as `encode` does)."""

T = TypeVar("T")

IHave = tuple[int, tuple[str, list[bytes]]]
"""Its size on the wire, its topic and its ids."""


class ObjectFrame:
    """A delimited RPC: `rpc` is what decoding gives, its length what the wire would carry."""

    __slots__ = ("_size", "lone", "rpc")

    def __init__(self, rpc: RPC, size: int, lone: RawMessage | None = None) -> None:
        self.rpc = rpc
        self.lone = lone
        """The one message that is all of it."""
        self._size = _varint(size) + size

    def __len__(self) -> int:
        return self._size


class RawMessage:
    """A serialised Message; `frame` is its RPC."""

    __slots__ = ("_size", "frame", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self._size = (
            _field(len(message.origin))
            + _field(len(message.data))
            + _field(len(message.seqno))
            + _field(len(message.topic.encode()))
            + _field(SIGNATURE_BYTES)
        )
        self.frame = ObjectFrame(RPC(messages=(cast("bytes", self),)), _field(self._size), self)

    def __len__(self) -> int:
        return self._size


def make_message(signer: bytes, origin: bytes, topic: str, data: bytes, seqno: bytes) -> RawMessage:
    """`signer` is who makes it, `origin` who it says has made it: a forgery where they differ."""
    # A signature is the name of who made it, and what it was made of.
    signature = hashlib.blake2b(data, digest_size=8).digest() + signer
    return RawMessage(Message(origin, data, seqno, topic, signature, None, b""))


def signer(peer: bytes) -> Callable[[str, bytes, bytes], bytes]:
    """The `sign` of that peer's router."""

    def sign(topic: str, data: bytes, seqno: bytes) -> bytes:
        return cast("bytes", make_message(peer, peer, topic, data, seqno))

    return sign


def verify(message: Message) -> None:
    """Raises `MessageError` for a forgery."""
    if message.signature[8:] != message.origin:
        raise MessageError("bad_signature")


class ObjectCodec:
    """One for a whole network: it keeps the frames that everybody says."""

    def __init__(self) -> None:
        self._subscriptions: dict[tuple[bool, str], ObjectFrame] = {}
        self._grafts: dict[str, ObjectFrame] = {}

    @staticmethod
    def lone_message(raw: ObjectFrame) -> RawMessage | None:
        return raw.lone

    @staticmethod
    def decode_rpc(raw: ObjectFrame) -> RPC:
        return raw.rpc

    @staticmethod
    def decode_message(raw: RawMessage) -> Message:
        return raw.message

    @staticmethod
    def message_frame(raw: RawMessage) -> ObjectFrame:
        return raw.frame

    @staticmethod
    def forward_frame(raw: RawMessage, message: Message) -> ObjectFrame | None:
        return raw.frame if len(raw.frame) <= MAX_SENT_RPC else None

    @staticmethod
    def check_sendable(frame: ObjectFrame) -> ObjectFrame:
        if len(frame) > MAX_SENT_RPC:
            raise MessageTooLarge(f"message is {len(frame)} bytes on the wire; peers take up to {MAX_SENT_RPC}")
        return frame

    def subscription_frames(self, changes: Sequence[tuple[bool, str]]) -> list[ObjectFrame]:
        if len(changes) == 1:
            frame = self._subscriptions.get(changes[0])
            if frame is None:
                frame = self._subscriptions[changes[0]] = _subscription_frame(changes)
            return [frame]
        parts = [changes[start : start + MAX_SUBSCRIPTIONS] for start in range(0, len(changes), MAX_SUBSCRIPTIONS)]
        return [_subscription_frame(part) for part in parts]

    def mesh_frames(self, grafts: Iterable[str], prunes: Iterable[Prune]) -> list[ObjectFrame]:
        grafts, prunes = tuple(grafts), tuple(prunes)
        if len(grafts) == 1 and not prunes:
            topic = grafts[0]
            frame = self._grafts.get(topic)
            if frame is None:
                frame = self._grafts[topic] = ObjectFrame(RPC(graft=grafts), _field(_graft_size(topic)))
            return [frame]
        entries: list[tuple[int, str | Prune]] = [(_graft_size(topic), topic) for topic in grafts]
        entries += [(_prune_size(prune), prune) for prune in prunes]
        return [
            ObjectFrame(
                RPC(
                    graft=[entry for entry in group if isinstance(entry, str)],
                    prune=[entry for entry in group if not isinstance(entry, str)],
                ),
                size,
            )
            for size, group in _groups(entries)
        ]

    @staticmethod
    def ihave_entries(topic: str, ids: Sequence[bytes]) -> list[IHave]:
        topic_bytes = len(topic.encode())
        return [(_field(_field(topic_bytes) + size), (topic, list(part))) for size, part in _parts(ids, topic_bytes)]

    @staticmethod
    def entry_frames(entries: Iterable[IHave]) -> list[ObjectFrame]:
        return [ObjectFrame(RPC(ihave=group), size) for size, group in _groups(entries)]

    def ihave_frames(self, ids: Mapping[str, Sequence[bytes]]) -> list[ObjectFrame]:
        return self.entry_frames(
            entry for topic, topic_ids in ids.items() for entry in self.ihave_entries(topic, topic_ids)
        )

    @staticmethod
    def iwant_frames(ids: Sequence[bytes]) -> list[ObjectFrame]:
        entries = [(_field(size), part) for size, part in _parts(ids, 0)]
        return [ObjectFrame(RPC(iwant=_joined(group)), size) for size, group in _groups(entries)]

    @staticmethod
    def idontwant_frames(ids: Sequence[bytes]) -> list[ObjectFrame]:
        entries = [(_field(size), part) for size, part in _parts(ids, 0)]
        return [ObjectFrame(RPC(idontwant=_joined(group)), size) for size, group in _groups(entries)]


def object_codec() -> Codec:
    """An `ObjectCodec` as routers take it: to them a frame is bytes that they never look into."""
    return cast("Codec", ObjectCodec())


# Sizes of protobuf fields whose numbers are below 16


def _varint(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _field(size: int) -> int:
    return 1 + _varint(size) + size


def _subscription_frame(changes: Sequence[tuple[bool, str]]) -> ObjectFrame:
    size = sum(_field(2 + _field(len(topic.encode()))) for _, topic in changes)
    return ObjectFrame(RPC(subscriptions=tuple(changes)), size)


def _graft_size(topic: str) -> int:
    return _field(_field(len(topic.encode())))


def _prune_size(prune: Prune) -> int:
    size = _field(len(prune.topic.encode()))
    for peer, record in prune.peers:
        size += _field(_field(len(peer)) + (_field(len(record)) if record is not None else 0))
    if prune.backoff is not None:
        size += 1 + _varint(prune.backoff)
    return _field(size)


# Frames of control


def _parts(ids: Sequence[bytes], topic_bytes: int) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Runs of ids that fit one frame, with the size of their fields."""
    room = MAX_CONTROL - topic_bytes - ENTRY_OVERHEAD
    start = cost = size = 0
    for index, message_id in enumerate(ids):
        if cost + len(message_id) + 3 > room:
            yield size, ids[start:index]
            start, cost, size = index, 0, 0
        cost += len(message_id) + 3
        size += _field(len(message_id))
    if start < len(ids):
        yield size, ids[start:]


def _groups(entries: Iterable[tuple[int, T]]) -> Iterator[tuple[int, list[T]]]:
    """Entries that share a frame, with the size of its control field."""
    group: list[T] = []
    total = 0
    for size, entry in entries:
        if group and total + size > MAX_CONTROL:
            yield _field(total), group
            group, total = [], 0
        group.append(entry)
        total += size
    if group:
        yield _field(total), group


def _joined(parts: Iterable[Sequence[bytes]]) -> list[bytes]:
    return [message_id for part in parts for message_id in part]
