"""Values that the parts of a router share: its tables, its outbox, its random source, its signing and encoding."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from chorus.protocols.gossipsub.codec import WIRE, Codec
from chorus.protocols.gossipsub.events import GossipCounters
from chorus.protocols.gossipsub.outbox import Outbox
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.gossipsub.peers import Peers
from chorus.protocols.gossipsub.rpc import Message
from chorus.protocols.gossipsub.score import PeerScores

SignedRecord = Callable[[bytes], bytes | None]
"""A peer's signed record, as it is given in peer exchange; None where there is none."""


def no_record(peer: bytes) -> bytes | None:
    return None


@attrs.frozen
class Sealing:
    """How messages are signed, verified and encoded, and the signed records of peers.

    `sign(topic, data, seqno)` returns a serialised Message, `verify(message)` raises `MessageError`.
    """

    sign: Callable[[str, bytes, bytes], bytes]
    verify: Callable[[Message], None]
    record: SignedRecord = no_record
    codec: Codec = WIRE


@attrs.frozen
class GossipState:
    """Shared by the parts of one router; each of them changes the tables that it is named for."""

    params: GossipParams
    peers: Peers
    outbox: Outbox
    scores: PeerScores
    counters: GossipCounters
    codec: Codec
    rng: random.Random
