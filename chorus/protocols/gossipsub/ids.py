"""Message ids: two messages with the same id are the same message (spec/wire.md 12)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from chorus.protocols.gossipsub.rpc import Message

MessageId = Callable[[Message], bytes]
"""Pure; 1 to `MAX_ID_BYTES` bytes. Every node of a topic must use the same one."""


_IDENTITY = b"\x00\x24"
"""Multihash code and length before an Ed25519 key in a peer id."""
_ED25519 = b"\x08\x01\x12\x20"
"""How that key's protobuf begins."""
_BARE_LENGTH = 44
"""36 bytes of key and 8 of sequence number."""


def canonical(message_id: bytes) -> bytes:
    """The id as the specification has it, where a peer may have named the message otherwise.

    js-libp2p names it by the publisher's bare key instead of its peer id. Without this we would ask it again and again
    for what we have, take its promises for broken ones, and miss its IDONTWANTs.
    """
    if len(message_id) == _BARE_LENGTH and message_id.startswith(_ED25519):
        return _IDENTITY + message_id
    return message_id


def publisher_id(message: Message) -> bytes:
    """The default: publisher ‖ sequence number."""
    return message.origin + message.seqno


def content_id(message: Message) -> bytes:
    """SHA-256 of topic ‖ data ‖ publisher: the same words of one publisher are one message, however often said."""
    return sha256(message.topic.encode() + message.data + message.origin).digest()
