"""Starts of a node, and how a node whose data directory was copied learns of its twin (pure).

Each start has a count, kept in the data directory, and an instance, drawn anew. A node signs both with the time, says
so in identify and in its availability, and members show a node the newest such record of its own peer id that another
instance signed. One that was signed after this start began, and a moment ago, can only come from a twin that runs: the
lower of the two stops. Any other is a memory: it stops nobody, but a node that was restored from a backup counts on
above it.
"""

from __future__ import annotations

from enum import Enum

import attrs
from google.protobuf.message import DecodeError

from chorus.bounded import Bounded
from chorus.identity import Identity, PeerId
from chorus.protocols.envelope import EnvelopeError, open_envelope, seal
from chorus.protocols.proto.starts_pb2 import StartRecord as Wire

DOMAIN = b"chorus-start"
PAYLOAD_TYPE = b"/chorus/start"
INSTANCE_BYTES = 16
MAX_COUNT = 2**53 - 1
"""Of starts: what every JSON implementation keeps exact."""
MAX_RECORD_BYTES = 256
"""Of a sealed record; ours have about 170."""
LIVE_S = 120.0
"""A record is of now when it is no older, and no further ahead: clocks of members differ by less, and it is passed on
within seconds."""
MAX_PEERS = 4096
"""Peers whose records are remembered; whoever was heard of longest ago is forgotten first."""


@attrs.frozen(order=True)
class Start:
    """Of two that run at the same time, the higher one goes on."""

    count: int
    instance: bytes


@attrs.frozen
class StartRecord:
    """Signed by a node: this start of it was running at `at`, in Unix seconds."""

    peer: PeerId
    start: Start
    at: float

    def seal(self, identity: Identity) -> bytes:
        payload = Wire(count=self.start.count, instance=self.start.instance, at_ms=int(self.at * 1000))
        return seal(identity, DOMAIN, PAYLOAD_TYPE, payload.SerializeToString())

    @classmethod
    def open(cls, encoded: bytes) -> StartRecord:
        """Verify and decode; `peer` is who signed. Raises `EnvelopeError`."""
        if len(encoded) > MAX_RECORD_BYTES:
            raise EnvelopeError(f"the record of a start has {len(encoded)} bytes, over {MAX_RECORD_BYTES}")
        key, payload = open_envelope(encoded, DOMAIN, PAYLOAD_TYPE)
        try:
            wire = Wire.FromString(payload)
        except DecodeError:
            raise EnvelopeError("not the record of a start") from None
        if len(wire.instance) != INSTANCE_BYTES or not 0 < wire.count <= MAX_COUNT:
            raise EnvelopeError("not the record of a start")
        return cls(PeerId.from_public_key(key), Start(wire.count, wire.instance), wire.at_ms / 1000)


class Verdict(Enum):
    NOTHING = "nothing"
    RAISE = "raise"
    """Count on above that one: this data directory is older than it."""
    STOP = "stop"
    """Its twin runs, and is the higher one."""
    ANSWER = "answer"
    """Its twin runs, and is the lower one: it should hear of us."""


def decide(own: Start, began: float, heard: StartRecord, now: float) -> Verdict:
    """The meaning of a record of our own peer id for this start, which began at `began`. All times are Unix seconds."""
    if heard.start.instance == own.instance:
        return Verdict.NOTHING
    if began < heard.at and abs(now - heard.at) <= LIVE_S:
        return Verdict.STOP if own < heard.start else Verdict.ANSWER
    return Verdict.RAISE if own.count <= heard.start.count < MAX_COUNT else Verdict.NOTHING


class KnownStarts:
    """The newest records of other peers, two instances of each at most."""

    def __init__(self) -> None:
        self._peers: Bounded[PeerId, list[tuple[StartRecord, bytes]]] = Bounded(MAX_PEERS)

    def note(self, record: StartRecord, encoded: bytes) -> StartRecord | None:
        """The record of another instance of the peer that is remembered as well, if any."""
        known = self._peers.get(record.peer, [])
        others = [each for each in known if each[0].start.instance != record.start.instance]
        same = [each for each in known if each not in others]
        newest = max([*same, (record, encoded)], key=lambda each: each[0].at)
        self._peers.put(record.peer, [*others, newest][-2:])
        return others[-1][0] if others else None

    def other_than(self, peer: PeerId, instance: bytes | None) -> bytes | None:
        """The newest record of `peer` by another instance than that one."""
        records = [each for each in self._peers.get(peer, ()) if each[0].start.instance != instance]
        return max(records, key=lambda each: each[0].at)[1] if records else None
