"""Decodes RPCs; every limit is checked before anything is built.

The wire bytes are walked first (counts, lengths, field numbers); only what passed goes to protobuf, so a megabyte of
empty submessages is refused by counting (CVE-2026-86040). Messages are cut out as they came: the signature covers
those bytes, and they are forwarded without being encoded again (spec/wire.md 12).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.message import DecodeError

from chorus.errors import LimitExceeded
from chorus.protocols.gossipsub.params import (
    MAX_CONTROL,
    MAX_ID_BYTES,
    MAX_MESH_CONTROL,
    MAX_MESSAGES,
    MAX_PX_PEERS,
    MAX_RPC,
    MAX_SUBSCRIPTIONS,
)
from chorus.protocols.gossipsub.rpc import RPC, Exchanged, Message, MessageError, Prune, RPCError, topic_of
from chorus.protocols.proto import rpc_pb2 as pb

MAX_FIELDS: Final = 2048
"""Fields of an RPC, and entries of its control: a bound on the walk, above what the named limits add up to."""

MAX_MESSAGE_FIELDS: Final = 32
"""Fields of one Message: six are known, the rest leaves room for what newer peers add."""

MAX_PRUNE_FIELDS: Final = 64
"""Fields of one PRUNE: topic, backoff and the 16 peers of peer exchange, with room."""

MAX_PEER_ID: Final = 64
"""Bytes of a peer id in peer exchange; the longest deployed one has 38."""

_SUBSCRIPTION, _PUBLISH, _CONTROL = 0x0A, 0x12, 0x1A
_IHAVE, _IWANT, _GRAFT, _PRUNE, _IDONTWANT = 0x0A, 0x12, 0x1A, 0x22, 0x2A
_FROM, _DATA, _SEQNO, _TOPIC, _SIGNATURE, _KEY = 0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x32
_MESSAGE_TAGS = frozenset((_FROM, _DATA, _SEQNO, _TOPIC, _SIGNATURE, _KEY))
_LENGTH_DELIMITED = 2


def _varint(data: bytes, offset: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while offset < end:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            break
    raise RPCError("truncated or oversized varint")


def fields(data: bytes, limit: int) -> Iterator[tuple[int, int, int, int]]:
    """Walk one protobuf message: (tag, where the tag begins, where the value starts, where it stops) of each field.

    Raises `RPCError` on bytes that are no protobuf (groups are refused: they nest), `LimitExceeded` past `limit`
    fields.
    """
    offset = count = 0
    end = len(data)
    while offset < end:
        count += 1
        if count > limit:
            raise LimitExceeded("protobuf fields", count, limit)
        begin = offset
        tag = data[offset]
        offset += 1
        if tag >= 0x80:
            tag, offset = _varint(data, begin, end)
        if not 8 <= tag < 1 << 32:
            raise RPCError("impossible field number")
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            if offset >= end:
                raise RPCError("truncated field")
            length = data[offset]
            offset += 1
            if length >= 0x80:
                length, offset = _varint(data, offset - 1, end)
            stop = offset + length
        elif kind == 0:
            stop = _varint(data, offset, end)[1]
        elif kind == 1:
            stop = offset + 8
        elif kind == 5:
            stop = offset + 4
        else:
            raise RPCError("groups are not taken")
        if stop > end:
            raise RPCError("truncated field")
        yield tag, begin, offset, stop
        offset = stop


class _Builder:
    """Counts and collects the parts of one RPC."""

    def __init__(self) -> None:
        self.subscriptions: list[tuple[bool, str]] = []
        self.messages: list[bytes] = []
        self.ihave: list[tuple[str, list[bytes]]] = []
        self.iwant: dict[bytes, None] = {}
        self.graft: list[str] = []
        self.prune: list[Prune] = []
        self.idontwant: dict[bytes, None] = {}
        self.passed_over = 0
        self._subscription_count = 0
        self._mesh_count = 0
        self._gossip_bytes = 0

    def subscription(self, raw: bytes) -> None:
        self._subscription_count += 1
        if self._subscription_count > MAX_SUBSCRIPTIONS:
            raise LimitExceeded("subscriptions in an RPC", self._subscription_count, MAX_SUBSCRIPTIONS)
        topic = self._topic(raw, 0x12)
        if topic is not None:
            self.subscriptions.append((pb.RPC.SubOpts.FromString(raw).subscribe, topic))

    def message(self, raw: bytes) -> None:
        self.messages.append(raw)
        if len(self.messages) > MAX_MESSAGES:
            raise LimitExceeded("messages in an RPC", len(self.messages), MAX_MESSAGES)

    def control(self, raw: bytes) -> None:
        for tag, begin, start, stop in fields(raw, MAX_FIELDS):
            if tag in (_GRAFT, _PRUNE):
                self._mesh_count += 1
                if self._mesh_count > MAX_MESH_CONTROL:
                    raise LimitExceeded("GRAFT and PRUNE in an RPC", self._mesh_count, MAX_MESH_CONTROL)
                self._mesh_control(tag, raw[start:stop])
            elif tag in (_IHAVE, _IWANT, _IDONTWANT):
                self._gossip_bytes += stop - begin
                if self._gossip_bytes > MAX_CONTROL:
                    self.passed_over += 1
                else:
                    self._gossip(tag, raw[start:stop])

    def _mesh_control(self, tag: int, raw: bytes) -> None:
        topic = self._topic(raw, 0x0A)
        if topic is None:
            return
        if tag == _GRAFT:
            self.graft.append(topic)
        else:
            prune = pb.ControlPrune.FromString(raw)
            peers = tuple(
                Exchanged(info.peerID, info.signedPeerRecord or None)
                for info in prune.peers[:MAX_PX_PEERS]
                if 0 < len(info.peerID) <= MAX_PEER_ID
            )
            self.prune.append(Prune(topic, prune.backoff if prune.HasField("backoff") else None, peers))

    def _gossip(self, tag: int, raw: bytes) -> None:
        if tag == _IWANT:
            self.iwant.update(dict.fromkeys(_ids(pb.ControlIWant.FromString(raw).messageIDs)))
            return
        if tag == _IDONTWANT:
            self.idontwant.update(dict.fromkeys(_ids(pb.ControlIDontWant.FromString(raw).messageIDs)))
            return
        topic = self._topic(raw, 0x0A, limit=MAX_CONTROL)
        if topic is not None:
            self.ihave.append((topic, list(dict.fromkeys(_ids(pb.ControlIHave.FromString(raw).messageIDs)))))

    def _topic(self, raw: bytes, tag: int, limit: int = MAX_PRUNE_FIELDS) -> str | None:
        """The topic field of a submessage, checked before protobuf builds it."""
        topic: str | None = None
        for found, _, start, stop in fields(raw, limit):
            if found == tag:
                topic = topic_of(raw[start:stop])
                if topic is None:
                    break
        if topic is None:
            self.passed_over += 1
        return topic


def _ids(ids: Iterable[bytes]) -> Iterator[bytes]:
    return (message_id for message_id in ids if 0 < len(message_id) <= MAX_ID_BYTES)


def decode_rpc(raw: bytes) -> RPC:
    """Raises `RPCError` or `LimitExceeded`; nothing of such an RPC counts."""
    if len(raw) > MAX_RPC:
        raise LimitExceeded("RPC bytes", len(raw), MAX_RPC)
    builder = _Builder()
    try:
        for tag, _, start, stop in fields(raw, MAX_FIELDS):
            if tag == _PUBLISH:
                builder.message(raw[start:stop])
            elif tag == _SUBSCRIPTION:
                builder.subscription(raw[start:stop])
            elif tag == _CONTROL:
                builder.control(raw[start:stop])
    except DecodeError as error:
        raise RPCError(str(error)) from error
    return RPC(
        builder.subscriptions,
        builder.messages,
        builder.ihave,
        list(builder.iwant),
        builder.graft,
        builder.prune,
        list(builder.idontwant),
        builder.passed_over,
    )


def lone_message(raw: bytes) -> bytes | None:
    """The message of an RPC that holds one and nothing else, which nearly all do; None for any other."""
    try:
        if raw[0] != _PUBLISH:
            return None
        length, start = raw[1], 2
        if length >= 0x80:
            length, start = _varint(raw, 1, len(raw))
    except (IndexError, RPCError):
        return None
    return raw[start:] if start + length == len(raw) <= MAX_RPC else None


def decode_message(raw: bytes) -> Message:
    """Check one message's shape under StrictSign. Raises `MessageError` with the reason it is refused for."""
    return _usual_message(raw) or _any_message(raw)


def _usual_message(raw: bytes) -> Message | None:
    """A message laid out as every deployed implementation writes it: fields 1 to 5 once each and in order, an Ed25519
    signature last. A quarter of the cost of walking the fields; what looks otherwise is left to `_any_message`."""
    try:
        size = raw[1]
        stop = 2 + size
        if raw[0] != _FROM or not 0 < size < 0x80 or raw[stop] != _DATA:
            return None
        origin = raw[2:stop]
        length, start = raw[stop + 1], stop + 2
        if length >= 0x80:
            second = raw[start]
            start += 1
            length = (length & 0x7F) | (second & 0x7F) << 7
            if second >= 0x80:
                third = raw[start]
                start += 1
                if third >= 0x80:
                    return None
                length |= third << 14
        stop = start + length
        if raw[stop] != _SEQNO or raw[stop + 1] != 8 or raw[stop + 10] != _TOPIC:
            return None
        size = raw[stop + 11]
        end = stop + 12 + size
        if not 0 < size < 0x80 or raw[end] != _SIGNATURE or raw[end + 1] != 64 or len(raw) != end + 66:
            return None
        topic = raw[stop + 12 : end].decode()
    except (IndexError, UnicodeDecodeError):
        return None
    return Message(origin, raw[start:stop], raw[stop + 2 : stop + 10], topic, raw[end + 2 :], None, raw[:end])


def _any_message(raw: bytes) -> Message:
    found: dict[int, bytes] = {}
    signed: list[bytes] = []
    copied = 0
    try:
        for tag, begin, start, stop in fields(raw, MAX_MESSAGE_FIELDS):
            if tag not in _MESSAGE_TAGS:
                continue
            if tag in found:
                raise MessageError("duplicate_field")
            found[tag] = raw[start:stop]
            if tag in (_SIGNATURE, _KEY):
                signed.append(raw[copied:begin])
                copied = stop
    except (RPCError, LimitExceeded) as error:
        raise MessageError("malformed") from error
    signed.append(raw[copied:])
    topic = topic_of(found.get(_TOPIC, b""))
    if topic is None:
        raise MessageError("bad_topic")
    if _SIGNATURE not in found:
        raise MessageError("unsigned")
    if not found.get(_FROM):
        raise MessageError("no_from")
    seqno = found.get(_SEQNO, b"")
    if len(seqno) != 8:
        raise MessageError("bad_seqno")
    return Message(
        found[_FROM],
        found.get(_DATA, b""),
        seqno,
        topic,
        found[_SIGNATURE],
        found.get(_KEY),
        b"".join(signed),
    )
