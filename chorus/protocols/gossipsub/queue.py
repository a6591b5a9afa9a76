"""A bounded queue of frames for one slow peer; the least important frames are dropped first."""

from __future__ import annotations

from collections import deque
from typing import Final

from chorus.errors import LimitExceeded
from chorus.protocols.gossipsub.events import Kind, Send

MAX_QUEUE: Final = 4 << 20
"""Bytes waiting for one peer: about four seconds of a stream at 1 MB/s. Frames are shared between peers' queues."""

MAX_QUEUED_FRAMES: Final = 16384
"""Frames waiting for one peer: small ones cost more than their bytes."""


class SendQueue:
    """Control first, then messages, then gossip; each in the order in which it came.

    Over the limits gossip is dropped first (the next heartbeat repeats it), then the oldest messages (lazy gossip can
    bring them); `push` raises `LimitExceeded` when only control is left to drop.
    """

    __slots__ = ("_frames", "_max_bytes", "_queues", "_size", "dropped_gossip", "dropped_messages")

    def __init__(self, max_bytes: int = MAX_QUEUE) -> None:
        self._max_bytes = max_bytes
        self._queues: tuple[deque[bytes], ...] = tuple(deque() for _ in Kind)
        self._size = 0
        self._frames = 0
        self.dropped_gossip = 0
        self.dropped_messages = 0

    def __len__(self) -> int:
        return self._frames

    @property
    def size(self) -> int:
        """Bytes waiting."""
        return self._size

    def push(self, send: Send) -> None:
        kind, frame = send
        self._queues[kind].append(frame)
        self._size += len(frame)
        self._frames += 1
        while self._size > self._max_bytes or self._frames > MAX_QUEUED_FRAMES:
            self._drop()

    def take(self, max_bytes: int) -> bytes:
        """The next frames, joined: at least one when there is one, and no second one past `max_bytes`."""
        taken: list[bytes] = []
        size = 0
        for queue in self._queues:
            while queue and (not taken or size + len(queue[0]) <= max_bytes):
                frame = queue.popleft()
                size += len(frame)
                taken.append(frame)
            if queue:
                break
        self._size -= size
        self._frames -= len(taken)
        return b"".join(taken)

    def clear(self) -> None:
        for queue in self._queues:
            queue.clear()
        self._size = self._frames = 0

    def _drop(self) -> None:
        if self._queues[Kind.GOSSIP]:
            frame = self._queues[Kind.GOSSIP].popleft()
            self.dropped_gossip += 1
        elif self._queues[Kind.MESSAGE]:
            frame = self._queues[Kind.MESSAGE].popleft()
            self.dropped_messages += 1
        else:
            raise LimitExceeded("control bytes waiting for a peer", self._size, self._max_bytes)
        self._size -= len(frame)
        self._frames -= 1
