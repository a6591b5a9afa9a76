"""The message cache: what IHAVE advertises and IWANT is answered from (GossipSub 1.0, "Message Cache")."""

from __future__ import annotations

from collections import deque
from itertools import islice


class _Entry:
    __slots__ = ("frame", "sent", "topic")

    def __init__(self, topic: str, frame: bytes) -> None:
        self.topic = topic
        self.frame = frame
        self.sent: dict[bytes, int] = {}
        """Peer → times it was sent on IWANT; goes with the message."""


class MessageCache:
    """`windows` generations of messages, one per heartbeat; the newest `gossip` of them are advertised.

    Holds at most `max_bytes` of message frames: past that the oldest leave before their window does.
    """

    __slots__ = ("_bytes", "_entries", "_gossip", "_max_bytes", "_order", "_windows")

    def __init__(self, windows: int, gossip: int, max_bytes: int) -> None:
        self._windows: deque[int] = deque([0], maxlen=windows)
        """Messages in each window, newest first; a full deque drops the oldest count by itself."""
        self._gossip = gossip
        self._max_bytes = max_bytes
        self._bytes = 0
        self._order: deque[bytes] = deque()
        """Ids, oldest first: the windows laid end to end."""
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of all frames held."""
        return self._bytes

    def put(self, message_id: bytes, topic: str, frame: bytes) -> None:
        if message_id in self._entries:
            return
        self._entries[message_id] = _Entry(topic, frame)
        self._order.append(message_id)
        self._windows[0] += 1
        self._bytes += len(frame)
        while self._bytes > self._max_bytes:
            self._drop_oldest()

    def frame_for(self, message_id: bytes, peer: bytes, limit: int) -> bytes | None:
        """The frame for a peer that asked, or None when it is not here or was sent to it `limit` times."""
        entry = self._entries.get(message_id)
        if entry is None:
            return None
        times = entry.sent.get(peer, 0)
        if times >= limit:
            return None
        entry.sent[peer] = times + 1
        return entry.frame

    def gossip_ids(self) -> dict[str, list[bytes]]:
        """Ids of the advertised windows by topic, oldest first."""
        newest = list(islice(reversed(self._order), sum(islice(self._windows, self._gossip))))
        ids: dict[str, list[bytes]] = {}
        for message_id in reversed(newest):
            ids.setdefault(self._entries[message_id].topic, []).append(message_id)
        return ids

    def shift(self) -> None:
        """Begin a new window; the messages of the oldest one leave."""
        if len(self._windows) == self._windows.maxlen:
            for _ in range(self._windows[-1]):
                self._drop_oldest()
        self._windows.appendleft(0)

    def _drop_oldest(self) -> None:
        message_id = self._order.popleft()
        self._bytes -= len(self._entries.pop(message_id).frame)
        for index in range(len(self._windows) - 1, -1, -1):
            if self._windows[index]:
                self._windows[index] -= 1
                break
