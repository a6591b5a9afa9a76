"""Peer exchange: peers that we name in a PRUNE, and which of the named ones we dial (GossipSub 1.1).

Both are bounded for each peer and heartbeat, over all topics: a PRUNE a topic would multiply them.
"""

from __future__ import annotations

from collections.abc import Iterable

from chorus.protocols.gossipsub import choices
from chorus.protocols.gossipsub.params import MAX_PX_BYTES, MAX_PX_GIVEN, MAX_PX_PEERS, MAX_PX_RECORD, MAX_PX_TAKEN
from chorus.protocols.gossipsub.rpc import Exchanged
from chorus.protocols.gossipsub.state import GossipState, SignedRecord


class PeerExchange:
    """`record(peer)` is a peer's signed record."""

    __slots__ = ("_given", "_peers", "_record", "_rng", "_scores", "_taken")

    def __init__(self, state: GossipState, record: SignedRecord) -> None:
        self._peers = state.peers
        self._scores = state.scores
        self._rng = state.rng
        self._record = record
        self._given: dict[bytes, int] = {}
        """Peer → how many others were named to it since the last heartbeat; stays when it leaves and comes back."""
        self._taken: dict[bytes, dict[bytes, None]] = {}
        """Peer → whom it named since the last heartbeat."""

    def heartbeat(self) -> None:
        self._given.clear()
        self._taken.clear()

    def give(self, topic: str, peer: bytes) -> tuple[Exchanged, ...]:
        """Others of the topic whom the peer may try instead of us."""
        left = min(MAX_PX_PEERS, MAX_PX_GIVEN - self._given.get(peer, 0))
        if left <= 0:
            return ()
        candidates = [
            other
            for other in self._peers.subscribers(topic)
            if other != peer and not self._peers[other].direct and self._scores.score(other) >= 0
        ]
        others, room = [], MAX_PX_BYTES
        for other in choices.choose(candidates, left, self._rng):
            record = self._record(other)
            if record is not None and len(record) > min(MAX_PX_RECORD, room):
                record = None
            room -= len(record or b"")
            others.append(Exchanged(other, record))
        self._given[peer] = self._given.get(peer, 0) + len(others)
        return tuple(others)

    def take(self, source: bytes, exchanged: Iterable[Exchanged]) -> list[Exchanged]:
        """Those that `source` may name, each once: to be checked and dialled. Too large a record is left out."""
        named = self._taken.setdefault(source, {})
        taken: list[Exchanged] = []
        for each in exchanged:
            if len(named) >= MAX_PX_TAKEN:
                break
            if each.peer not in named:
                named[each.peer] = None
                small = each.record is None or len(each.record) <= MAX_PX_RECORD
                taken.append(each if small else Exchanged(each.peer, None))
        return taken
