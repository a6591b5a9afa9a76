"""Messages with a checked signature that found no room: the signature of a later copy is not checked again."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from chorus.bounded import Bounded
from chorus.protocols.gossipsub.rpc import Message

MAX_VERIFIED: Final = 8192
"""Messages remembered (1 MB), for a heartbeat at most: copies come within milliseconds of each other. The first leaves
first."""


class Verified:
    __slots__ = ("_digests",)

    def __init__(self) -> None:
        self._digests: Bounded[bytes, None] = Bounded(MAX_VERIFIED)

    def __contains__(self, message: Message) -> bool:
        return bool(self._digests) and _digest(message) in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, message: Message) -> None:
        self._digests.put(_digest(message), None)

    def forget(self) -> None:
        """All of them; called by the heartbeat."""
        self._digests.clear()


def _digest(message: Message) -> bytes:
    """Of all that a signature depends on; as hard to meet with another message as the signature is to forge."""
    parts = (message.origin, message.seqno, message.topic.encode(), message.signature, message.key or b"")
    lengths = b"%d,%d,%d,%d,%d," % tuple(map(len, parts))
    return blake2b(b"".join((lengths, *parts, message.signed)), digest_size=32).digest()
