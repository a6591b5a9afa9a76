"""Messages of libp2p's Kad-DHT (spec/wire.md 13).

The fields of a message are walked and counted before protobuf builds any of them. Peers are read where their kind of
message carries them, and nowhere else. They come again and again in replies: their bytes are read once and remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Final

import attrs
from google.protobuf.message import DecodeError

from chorus.errors import LimitExceeded, PeerError
from chorus.identity import PeerId, PeerIdError
from chorus.multiformats.multiaddr import Multiaddr, MultiaddrError
from chorus.protocols.delimited import delimit
from chorus.protocols.gossipsub.decode import fields
from chorus.protocols.gossipsub.rpc import RPCError
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.params import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_ANNOUNCED,
    MAX_CONTACTS,
    MAX_FIELDS,
    MAX_KEY,
    MAX_MESSAGE,
    MAX_PEER_FIELDS,
    MAX_REPLY,
    MAX_REQUEST_FIELDS,
    MAX_TIME_TEXT,
    MAX_VALUE,
)
from chorus.protocols.proto import kad_pb2 as pb

_TYPE, _KEY, _RECORD, _CLOSER, _PROVIDER = 0x08, 0x12, 0x1A, 0x42, 0x4A
_SMALL: Final = frozenset((_TYPE, _KEY, _RECORD))
_PEER_CACHE: Final = 2048
"""Peers whose bytes are remembered; each takes 2 KiB, and at most 24 (16 addresses of 12 parts)."""
_PEER_CACHED: Final = 1024
"""Bytes of a peer that is remembered; 16 addresses of IPv6 have 420. Larger ones are read again each time."""


class BadKadMessage(PeerError):
    """Bytes that are no message of this protocol, or one that its kind does not allow."""

    code = "bad_kad_message"


class RequestKind(IntEnum):
    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


_Carried = Mapping[RequestKind, tuple[int, int]]
_IN_REPLIES: Final[_Carried] = {
    RequestKind.GET_VALUE: (MAX_CONTACTS, 0),
    RequestKind.GET_PROVIDERS: (MAX_CONTACTS, MAX_CONTACTS),
    RequestKind.FIND_NODE: (MAX_CONTACTS, 0),
}
"""Closer peers and providers that are read of a reply, by its kind; none of other kinds."""
_IN_REQUESTS: Final[_Carried] = {RequestKind.ADD_PROVIDER: (0, MAX_ANNOUNCED)}

PUBLIC, PRIVATE, LOOPBACK = range(3)
"""Reach of an address, the widest first."""


@lru_cache(maxsize=4096)
def scope_of(address: Multiaddr) -> int:
    return LOOPBACK if address.is_loopback else PRIVATE if address.is_private else PUBLIC


@attrs.frozen
class Contact:
    """A peer with the addresses that it is said to have."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...] = ()
    point: int = attrs.field(init=False, eq=False, repr=False)
    """Its place in the key space."""
    wire: bytes = attrs.field(init=False, eq=False, repr=False)
    """The `Peer` of a message, after its tag."""
    scope: int = attrs.field(init=False, eq=False, repr=False)
    """Of the address with the narrowest reach."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "point", point_of(self.peer.raw))
        object.__setattr__(self, "wire", peer_bytes(self, MAX_ADDRESSES))
        object.__setattr__(self, "scope", max(map(scope_of, self.addresses), default=PUBLIC))


@attrs.frozen
class KadRecord:
    """A value under its key. `received` is the RFC 3339 text of the holder, or empty; nothing is decided by it."""

    key: bytes
    value: bytes
    received: str = ""
    publisher: PeerId | None = None
    """Of a copy: who put it first, as the sender says. None: the sender itself."""


@attrs.frozen
class KadMessage:
    """A request or a reply; they look alike."""

    kind: RequestKind
    key: bytes = b""
    record: KadRecord | None = None
    closer: tuple[Contact, ...] = ()
    providers: tuple[Contact, ...] = ()


def believed(contact: Contact, source: Multiaddr | None) -> Contact:
    """The contact as heard over a connection from `source`: without addresses that lead into a network which the
    teller is not part of."""
    reach = LOOPBACK if source is None else scope_of(source)
    if contact.scope <= reach:
        return contact
    return Contact(contact.peer, tuple(address for address in contact.addresses if scope_of(address) <= reach))


def peer_bytes(contact: Contact, most: int) -> bytes:
    """The `Peer` of a message after its tag, with at most so many addresses."""
    addresses = [raw for address in contact.addresses if len(raw := address.raw) <= MAX_ADDRESS]
    return delimit(pb.Peer(id=contact.peer.raw, addrs=addresses[:most]).SerializeToString())


def encode(message: KadMessage, limit: int = MAX_REPLY) -> bytes:
    """Without its length. Peers keep as many addresses as fit `limit` bytes: at first all, at last none.

    Raises `ValueError` for a key or value over its limit, or for more than 20 peers.
    """
    record, closer, providers = message.record, message.closer, message.providers
    if max(len(message.key), len(record.key) if record else 0) > MAX_KEY or (record and len(record.value) > MAX_VALUE):
        raise ValueError("a key or value over its limit")
    if max(len(closer), len(providers)) > MAX_CONTACTS:
        raise ValueError("more peers than a message holds")
    head = pb.Message(type=message.kind, key=message.key)
    if record is not None:
        head.record.key = record.key
        head.record.value = record.value
        if record.received:
            head.record.timeReceived = record.received
        if record.publisher is not None:
            head.record.publisher = record.publisher.raw
    raw = head.SerializeToString()
    encoded = raw + _peers(b"\x42", [c.wire for c in closer]) + _peers(b"\x4a", [c.wire for c in providers])
    for most in (8, 4, 2, 1, 0):
        if len(encoded) <= limit:
            break
        near, providing = ([peer_bytes(contact, most) for contact in group] for group in (closer, providers))
        encoded = raw + _peers(b"\x42", near) + _peers(b"\x4a", providing)
    return encoded


def _peers(tag: bytes, wires: list[bytes]) -> bytes:
    return tag + tag.join(wires) if wires else b""


def decode(raw: bytes) -> KadMessage:
    """One reply without its length. Peers without a valid id, and what is over the limits of peers and addresses, are
    passed over, as peers of a kind that has none; so is every unknown field.

    Raises `BadKadMessage`, or `LimitExceeded` for a message, key or value that is too long.
    """
    return _decode(raw, MAX_FIELDS, _IN_REPLIES)


def decode_request(raw: bytes) -> KadMessage:
    """One request without its length; as `decode`."""
    return _decode(raw, MAX_REQUEST_FIELDS, _IN_REQUESTS)


def _decode(raw: bytes, most_fields: int, carried: _Carried) -> KadMessage:
    if len(raw) > MAX_MESSAGE:
        raise LimitExceeded("kad.MAX_MESSAGE", len(raw), MAX_MESSAGE)
    closer: list[bytes] = []
    providers: list[bytes] = []
    small: list[bytes] = []
    try:
        for tag, begin, start, stop in fields(raw, most_fields):
            if tag in (_CLOSER, _PROVIDER):
                peers = closer if tag == _CLOSER else providers
                if len(peers) < MAX_CONTACTS:
                    peers.append(raw[start:stop])
            elif tag in _SMALL:
                small.append(raw[begin:stop])
        head = pb.Message.FromString(b"".join(small))
        kind = RequestKind(head.type)
    except (RPCError, DecodeError) as error:
        raise BadKadMessage(f"not a message of Kad-DHT: {error}") from None
    except ValueError:
        raise BadKadMessage("a message of an unknown kind") from None
    if not head.HasField("type") and not small:
        raise BadKadMessage("an empty message")
    _limit("kad.MAX_KEY", len(head.key), MAX_KEY)
    record = _record(head.record) if head.HasField("record") else None
    near, providing = carried.get(kind, (0, 0))
    return KadMessage(kind, head.key, record, _contacts(closer[:near]), _contacts(providers[:providing]))


def _record(record: pb.Record) -> KadRecord:
    _limit("kad.MAX_KEY", len(record.key), MAX_KEY)
    _limit("kad.MAX_VALUE", len(record.value), MAX_VALUE)
    received = record.timeReceived
    try:
        publisher = PeerId.from_bytes(record.publisher) if record.publisher else None
    except PeerIdError:
        publisher = None
    return KadRecord(record.key, record.value, received if len(received) <= MAX_TIME_TEXT else "", publisher)


def _limit(name: str, value: int, maximum: int) -> None:
    if value > maximum:
        raise LimitExceeded(name, value, maximum)


def _contacts(wires: Iterable[bytes]) -> tuple[Contact, ...]:
    found: dict[bytes, Contact] = {}
    for wire in wires:
        contact = _known(wire) if len(wire) <= _PEER_CACHED else _contact(wire)
        if contact is not None:
            found.setdefault(contact.peer.raw, contact)
    return tuple(found.values())


def _contact(wire: bytes) -> Contact | None:
    peer: PeerId | None = None
    addresses: list[bytes] = []
    try:
        for tag, _, start, stop in fields(wire, MAX_PEER_FIELDS):
            if tag == 0x0A:
                peer = PeerId.from_bytes(wire[start:stop])
            elif tag == 0x12 and len(addresses) < MAX_ADDRESSES:
                addresses.append(wire[start:stop])
    except (RPCError, LimitExceeded, PeerIdError):
        return None
    return None if peer is None else Contact(peer, _own(peer, map(_address, addresses)))


_known = lru_cache(maxsize=_PEER_CACHE)(_contact)


def _address(raw: bytes) -> Multiaddr | None:
    try:
        return Multiaddr.from_bytes(raw) if 0 < len(raw) <= MAX_ADDRESS else None
    except MultiaddrError:
        return None


def _own(peer: PeerId, addresses: Iterable[Multiaddr | None]) -> tuple[Multiaddr, ...]:
    """Once each and without `/p2p/…`; those that name another peer are dropped."""
    own: dict[Multiaddr, None] = {}
    for address in addresses:
        if address is None:
            continue
        named = address.peer_id()
        if named is None:
            own[address] = None
        elif named == peer and len(address.parts) > 1:
            own[address.without_peer()] = None
    return tuple(own)
