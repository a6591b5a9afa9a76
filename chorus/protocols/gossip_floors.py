"""How far each publisher's sequence numbers have certainly got: what the seen cache has forgotten is not heard again
(go-libp2p-pubsub's seqno validator, made safe against messages that overtake each other)."""

from __future__ import annotations

from typing import Final

from chorus.bounded import Bounded

MAX_PUBLISHERS: Final = 65536
"""Publishers whose floor is kept (10 MB); the one raised longest ago leaves first. More than anybody can invent in the
time that new publishers are let in by (`chorus.messages.rates`)."""

_SEQNO = 8


class SeqnoFloors:
    """A floor is raised when an id leaves the seen cache: what comes at or below it is late by the time that ids are
    remembered. Only for meshes whose members count up, as go, current rust and CHORUS do; js draws numbers."""

    __slots__ = ("_floors",)

    def __init__(self) -> None:
        self._floors: Bounded[bytes, bytes] = Bounded(MAX_PUBLISHERS)

    def __len__(self) -> int:
        return len(self._floors)

    def forgotten(self, message_id: bytes) -> None:
        """An id of the form publisher ‖ sequence number has left the seen cache."""
        origin, seqno = message_id[:-_SEQNO], message_id[-_SEQNO:]
        self._floors.put(origin, max(self._floors.get(origin, b""), seqno))

    def is_replay(self, origin: bytes, seqno: bytes) -> bool:
        return seqno <= self._floors.get(origin, b"")
