"""Which messages have been here: ids for as long as the seen cache keeps them, and of those that it has forgotten the
sequence numbers below which everything is a replay."""

from __future__ import annotations

from chorus.protocols.gossip_floors import SeqnoFloors
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.seen import SeenCache


class History:
    __slots__ = ("_floors", "_growing", "_not_passed_on", "_seen")

    def __init__(self, params: GossipParams) -> None:
        self._growing = params.growing_seqno
        self._floors = SeqnoFloors()
        self._not_passed_on: dict[bytes, None] = {}
        """Ids that raise no floor, for others need not know them: kept where numbers grow, and gone with the id or its
        acceptance."""
        self._seen = SeenCache(params.seen_ttl, params.seen_entries, self._forgotten if self._growing else None)

    def __len__(self) -> int:
        """Ids that are remembered."""
        return len(self._seen)

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._seen

    @property
    def floors(self) -> int:
        """Publishers of whom a floor is known."""
        return len(self._floors)

    def is_replay(self, origin: bytes, seqno: bytes) -> bool:
        """Whether it is from before the seen cache's time; never where numbers need not grow."""
        return bool(self._floors) and self._floors.is_replay(origin, seqno)

    def published(self, message_id: bytes, now: float) -> bool:
        """We say it; false if it has been said."""
        return self._seen.add(message_id, now)

    def arrived(self, message_id: bytes, now: float) -> None:
        """It is here, and not passed on yet."""
        self._seen.add(message_id, now)
        if self._growing:
            self._not_passed_on[message_id] = None

    def passed_on(self, message_id: bytes) -> None:
        self._not_passed_on.pop(message_id, None)

    def expire(self, now: float) -> None:
        self._seen.expire(now)

    def _forgotten(self, message_id: bytes) -> None:
        if message_id in self._not_passed_on:
            del self._not_passed_on[message_id]
        else:
            self._floors.forgotten(message_id)
