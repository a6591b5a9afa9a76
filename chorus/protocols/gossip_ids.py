"""Message ids: what makes two messages the same one (spec/wire.md 12)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from chorus.protocols.gossip_rpc import Message

MessageId = Callable[[Message], bytes]
"""Pure; 1 to `MAX_ID_BYTES` bytes. Every node of a topic must use the same one."""


def publisher_id(message: Message) -> bytes:
    """The default: publisher ‖ sequence number."""
    return message.origin + message.seqno


def content_id(message: Message) -> bytes:
    """SHA-256 of topic ‖ data ‖ publisher: the same words of one publisher are one message, however often said."""
    return sha256(message.topic.encode() + message.data + message.origin).digest()
