"""One pub/sub RPC as values: subscriptions, messages, control; and the errors of malformed ones (spec/wire.md 12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import attrs

from chorus.errors import PeerError, UserError
from chorus.protocols.gossipsub.params import MAX_TOPIC_BYTES

IDENTITY_MULTIHASH: Final = 0x00
"""How a peer id begins that holds its key instead of a hash of it."""


class RPCError(PeerError):
    """An RPC that is not the protobuf it should be; its stream is reset."""

    code = "bad_rpc"


class MessageError(PeerError):
    """One message that is refused and counted under `reason`; the rest of its RPC and its stream go on."""

    code = "bad_message"

    def __init__(self, reason: str) -> None:
        super().__init__(f"message refused: {reason}")
        self.reason = reason


class MessageTooLarge(UserError):
    """A message to publish that rust's peers would refuse: over `MAX_SENT_RPC` on the wire."""

    code = "message_too_large"


class Exchanged(NamedTuple):
    """A peer that a PRUNE names; both are the sender's word until somebody has checked them."""

    peer: bytes
    record: bytes | None
    """Its signed peer record, as an envelope."""


class Prune(NamedTuple):
    topic: str
    backoff: int | None
    """Seconds."""
    peers: tuple[Exchanged, ...] = ()


@attrs.frozen
class RPC:
    """One decoded RPC. Topics are valid (see `topic_of`), ids are distinct and 1..`MAX_ID_BYTES` long."""

    subscriptions: Sequence[tuple[bool, str]] = ()
    messages: Sequence[bytes] = ()
    """Serialised `Message`s, as received."""
    ihave: Sequence[tuple[str, list[bytes]]] = ()
    iwant: Sequence[bytes] = ()
    graft: Sequence[str] = ()
    prune: Sequence[Prune] = ()
    idontwant: Sequence[bytes] = ()
    passed_over: int = 0
    """Entries with an impossible topic, and gossip beyond `MAX_CONTROL`."""


class Message(NamedTuple):
    """One message that has the shape of StrictSign; its signature is not verified yet. (A tuple is made in a quarter of
    the time of a frozen class, once for each copy that arrives.)"""

    origin: bytes
    """`from`: the publisher's peer id."""
    data: bytes
    seqno: bytes
    topic: str
    signature: bytes
    key: bytes | None
    signed: bytes
    """The received bytes without fields 5 and 6."""

    @property
    def message_id(self) -> bytes:
        return self.origin + self.seqno


def topic_of(raw: bytes) -> str | None:
    """The topic's text, or None when it is empty, too long or not UTF-8."""
    if not 0 < len(raw) <= MAX_TOPIC_BYTES:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
