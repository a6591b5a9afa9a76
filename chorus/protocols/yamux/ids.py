"""Stream ids of a yamux session (spec/wire.md 7): their parity and order, and that each is used once."""

from __future__ import annotations

from chorus.bounded import Bounded
from chorus.protocols.yamux.frames import MAX_STREAM_ID, StreamLimitReached, YamuxError

MAX_GAPS = 256
"""Stream ids that the peer skipped and may still open: go-yamux takes ids and sends SYNs in two steps, so concurrent
opens overtake each other by at most its backlog."""


class StreamIds:
    """`initiator` is the side that dialled: it opens odd stream ids, the other even ones."""

    def __init__(self, initiator: bool) -> None:
        self._next = 1 if initiator else 2
        self._odd_peer = not initiator
        self._highest = -1 if not initiator else 0
        """The highest that the peer has used."""
        self._gaps: Bounded[int, None] = Bounded(MAX_GAPS)

    def next(self) -> int:
        """The id of the next own stream. Raises `StreamLimitReached` when they are used up."""
        stream_id = self._next
        if stream_id > MAX_STREAM_ID:
            raise StreamLimitReached("the connection's stream ids are used up")
        self._next = stream_id + 2
        return stream_id

    def check_parity(self, stream_id: int) -> None:
        """Raises `YamuxError` when it is not for the peer to open."""
        if bool(stream_id & 1) is not self._odd_peer:
            raise YamuxError(f"SYN on stream {stream_id}, whose parity is ours")

    def take(self, stream_id: int) -> None:
        """The peer uses it. They grow, but for the gaps that concurrent opens leave for a moment. Raises `YamuxError`
        when it was used before."""
        highest = self._highest
        if stream_id > highest:
            for skipped in range(max(highest + 2, stream_id - 2 * MAX_GAPS), stream_id, 2):
                self._gaps.put(skipped, None)
            self._highest = stream_id
        elif stream_id in self._gaps:
            del self._gaps[stream_id]
        else:
            raise YamuxError(f"stream id {stream_id} is used again")
