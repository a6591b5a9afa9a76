"""Messages whose validators have not answered yet: bounded over all peers and for each."""

from __future__ import annotations

import attrs

from chorus.protocols.gossipsub.events import Delivery, Frame
from chorus.protocols.gossipsub.params import MAX_PENDING, MAX_PENDING_PER_PEER


@attrs.frozen
class Pending:
    delivery: Delivery
    frame: Frame | None
    """The frame to pass on; None where it is too large for that."""


class PendingMessages:
    """By message id. A peer may hold `per_peer` of `total` places, so a flood of one keeps nobody else out."""

    __slots__ = ("_by_id", "_by_peer", "_per_peer", "_total")

    def __init__(self, total: int = MAX_PENDING, per_peer: int = MAX_PENDING_PER_PEER) -> None:
        self._total = total
        self._per_peer = per_peer
        self._by_id: dict[bytes, Pending] = {}
        self._by_peer: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def has_room(self, peer: bytes) -> bool:
        return len(self._by_id) < self._total and self._by_peer.get(peer, 0) < self._per_peer

    def add(self, pending: Pending) -> None:
        source = pending.delivery.source
        self._by_id[pending.delivery.message_id] = pending
        self._by_peer[source] = self._by_peer.get(source, 0) + 1

    def take(self, message_id: bytes) -> Pending | None:
        pending = self._by_id.pop(message_id, None)
        if pending is not None:
            source = pending.delivery.source
            left = self._by_peer[source] - 1
            if left:
                self._by_peer[source] = left
            else:
                del self._by_peer[source]
        return pending
