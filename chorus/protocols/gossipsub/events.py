"""Values between the GossipSub router and its service: sends, deliveries, verdicts, unfinished RPCs, counters."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import attrs

from chorus.protocols.gossipsub.rpc import RPC


class Kind(enum.IntEnum):
    """Content of a frame; decides what a full queue drops first."""

    CONTROL = 0
    """Subscriptions, GRAFT, PRUNE: the peer's picture of us is wrong without them."""
    MESSAGE = 1
    GOSSIP = 2
    """IHAVE, IWANT: repeated by the next heartbeat."""


class Validation(enum.Enum):
    """A validator's verdict. Only accepted messages are delivered and forwarded."""

    ACCEPT = "accept"
    REJECT = "reject"
    """Invalid whoever looks at it: its sender should not have passed it on."""
    IGNORE = "ignore"
    """Not wanted here (late, unknown); nobody's fault."""
    THROTTLE = "throttle"
    """Not from this peer now: it is not seen, so that a copy of somebody else, or gossip, may find room. Said at once;
    after `LATER`, when other copies have come and gone, it is `IGNORE`."""
    LATER = "later"
    """Not known yet: the validator will tell the router with `validated`."""


class Delivery(NamedTuple):
    """One message, seen for the first time."""

    topic: str
    origin: bytes
    data: bytes
    message_id: bytes
    source: bytes
    """The peer that sent it to us."""


Frame = bytes
"""A delimited RPC, ready for a stream. The simulation's codec puts objects with a length in its place."""

Entry = bytes
"""Of a frame: one topic's IHAVE, which several frames may hold. An object in the simulation, too."""

Send = tuple[Kind, Frame]
Validator = Callable[[Delivery], Validation]


def accept_all(delivery: Delivery) -> Validation:
    return Validation.ACCEPT


class Unfinished:
    """An RPC that is worked off step by step: one may hold 512 messages, and each costs what its validators do with it.

    Held by whoever reads the peer's stream, and gone with it: the router remembers nothing of it. Messages come first,
    then IHAVE, IWANT and GRAFT together, then each PRUNE, whose peers have signed records to be checked."""

    __slots__ = ("controlled", "messages", "prunes", "rpc")

    def __init__(self, rpc: RPC) -> None:
        self.rpc = rpc
        self.messages = iter(rpc.messages)
        self.prunes = iter(rpc.prune)
        self.controlled = not (rpc.ihave or rpc.iwant or rpc.graft)
        """True if what stands between messages and PRUNEs is done."""


@attrs.define
class GossipCounters:
    """Since start."""

    rpcs: int = 0
    published: int = 0
    delivered: int = 0
    duplicates: int = 0
    forwarded: int = 0
    """Copies sent of others' messages."""
    oversized: int = 0
    """Others' messages that were delivered and not passed on: peers would refuse their frames."""
    own: int = 0
    """Our own messages coming back."""
    unwanted: int = 0
    """Messages of topics we are not subscribed to."""
    ignored: int = 0
    """By a validator."""
    rejected: dict[str, int] = attrs.field(factory=dict)
    """By reason: what `MessageError` names, and `validator`."""
    grafted: int = 0
    pruned: int = 0
    grafts_refused: int = 0
    grafts_in_backoff: int = 0
    passed_over: int = 0
    """Entries of RPCs beyond a limit or without a meaning here."""
    graylisted: int = 0
    """RPCs of peers whose score is below the graylist threshold."""
    throttled: int = 0
    """Messages passed over because too many await their validators, or too many came from that peer."""
    ihave_ignored: int = 0
    iwant_sent: int = 0
    iwant_served: int = 0
    promises_broken: int = 0
    equivocations: int = 0
    """Second messages that a publisher signed under an id it had used."""
    replays: int = 0
    """Messages older than the seen cache remembers."""
    idontwant_sent: int = 0
    idontwant_taken: int = 0
    spared: int = 0
    """Copies not sent because of an IDONTWANT."""
    exchanged: int = 0
    """Peers named to us in PRUNEs that were taken up."""
    opportunistic: int = 0

    def reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


@attrs.frozen(kw_only=True)
class Held:
    """How full a router's bounded tables are: entries, and bytes where the name says so."""

    seen: int = 0
    cache_bytes: int = 0
    records: int = 0
    """Of the senders of messages (P3, P4)."""
    scored: int = 0
    """Peers with a score, those that left with a bad one included."""
    promises: int = 0
    backoffs: int = 0
    floors: int = 0
