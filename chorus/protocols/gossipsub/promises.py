"""Promises: a peer that advertises a message with IHAVE and is asked for it must send it (GossipSub 1.1, "Spam
Protection Measures": IWANT follow-up). Breaking them is P7."""

from __future__ import annotations

from typing import Final

MAX_PROMISES: Final = 16384
"""Open promises over all peers; a new one is not made beyond it. One RPC of IHAVE makes one."""


class Promises:
    """One id of each batch asked for is watched, chosen by chance, so that a peer cannot know which."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[bytes, dict[bytes, float]] = {}
        """Message id → peer → until when."""

    def __len__(self) -> int:
        return len(self._open)

    def made(self, peer: bytes, message_id: bytes, until: float) -> None:
        promises = self._open.get(message_id)
        if promises is None:
            if len(self._open) >= MAX_PROMISES:
                return
            promises = self._open[message_id] = {}
        promises.setdefault(peer, until)

    def kept(self, message_id: bytes, by: bytes) -> bool:
        """The message is here, from `by`: whether that peer had promised it. Nobody is blamed for what came by another
        way."""
        return by in self._open.pop(message_id, _NOBODY)

    def sent(self, message_id: bytes, by: bytes) -> None:
        """It has sent the message, for which we have no use (our own, one from before our time, one without a place in
        a queue): its own promise is kept."""
        promises = self._open.get(message_id)
        if promises is not None:
            promises.pop(by, None)
            if not promises:
                del self._open[message_id]

    def left(self, peer: bytes) -> int:
        """How many it leaves open: they will not be kept."""
        open_ = [message_id for message_id, promises in self._open.items() if peer in promises]
        for message_id in open_:
            self.sent(message_id, peer)
        return len(open_)

    def broken(self, now: float) -> dict[bytes, int]:
        """Peer → promises it has let pass since the last call."""
        counts: dict[bytes, int] = {}
        for message_id in list(self._open):
            promises = self._open[message_id]
            for peer in [peer for peer, until in promises.items() if until <= now]:
                counts[peer] = counts.get(peer, 0) + 1
                del promises[peer]
            if not promises:
                del self._open[message_id]
        return counts


_NOBODY: dict[bytes, float] = {}
