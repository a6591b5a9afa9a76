"""/chorus/peers/1.0.0: members exchange addresses of members (spec/cluster.md). Pure.

One delimited `Request`, one delimited `Answer` (`proto/peers.proto`) of signed peer records, at most 32. A node answers
with members that were admitted here, itself first; what it hears is hearsay until that peer was dialled and admitted.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from chorus.errors import LimitExceeded, PeerError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.envelope import EnvelopeError, PeerRecord
from chorus.protocols.proto.peers_pb2 import Answer, Request

PROTOCOL = "/chorus/peers/1.0.0"
MAX_RECORDS = 32
"""Records an answer."""
MAX_RECORD = 2048
"""Bytes of one record; larger ones are not passed on."""
MAX_REQUEST = 64
MAX_ANSWER = MAX_RECORDS * (MAX_RECORD + 8)
MAX_ADDRESSES = 16
"""Addresses used of one record."""


class BadPeersMessage(PeerError):
    """Not a message of this protocol."""

    code = "bad_peers_message"


def encode_request(limit: int = MAX_RECORDS) -> bytes:
    return Request(limit=limit).SerializeToString()


def decode_request(encoded: bytes) -> int:
    """How many records are wanted, 1 to `MAX_RECORDS`."""
    try:
        limit = Request.FromString(encoded).limit
    except DecodeError:
        raise BadPeersMessage("not a request for peers") from None
    return min(limit or MAX_RECORDS, MAX_RECORDS)


def encode_answer(own: bytes, others: Iterable[bytes], limit: int, rng: random.Random) -> bytes:
    """The own record and a random choice of the others', each once."""
    small = [record for record in dict.fromkeys(others) if len(record) <= MAX_RECORD and record != own]
    chosen = rng.sample(small, min(len(small), limit - 1))
    return Answer(records=[own, *chosen]).SerializeToString()


def decode_answer(encoded: bytes) -> list[tuple[PeerRecord, bytes]]:
    """Verified records with their envelopes, one of a peer: the newest; those that do not verify are left out. A record
    that comes twice is read once.

    Raises `BadPeersMessage`, or `LimitExceeded` for more records than are legal.
    """
    try:
        records = Answer.FromString(encoded).records
    except DecodeError:
        raise BadPeersMessage("not an answer with peers") from None
    if len(records) > MAX_RECORDS:
        raise LimitExceeded("peers.MAX_RECORDS", len(records), MAX_RECORDS)
    found: dict[PeerId, tuple[PeerRecord, bytes]] = {}
    for envelope in dict.fromkeys(records):
        if len(envelope) > MAX_RECORD:
            continue
        try:
            record = PeerRecord.open(envelope)
        except EnvelopeError:
            continue
        known = found.get(record.peer_id)
        if known is None or record.seq > known[0].seq:
            found[record.peer_id] = record, envelope
    return list(found.values())


def believable(addresses: Sequence[Multiaddr], heard_from: Multiaddr) -> tuple[Multiaddr, ...]:
    """Those of a record heard from `heard_from` that may be dialled: plain TCP, and none that leads into a network
    which the teller is not part of."""
    usable = [address for address in addresses if address.tcp_endpoint() is not None]
    if not heard_from.is_loopback:
        usable = [address for address in usable if not address.is_loopback]
    if not heard_from.is_private:
        usable = [address for address in usable if not address.is_private]
    return tuple(dict.fromkeys(usable))[:MAX_ADDRESSES]
