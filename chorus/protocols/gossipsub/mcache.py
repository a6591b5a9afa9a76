"""The message cache: IHAVE advertises from it, IWANT is answered from it (GossipSub 1.0, "Message Cache")."""

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


class _Window:
    """Messages that came between two heartbeats."""

    __slots__ = ("count", "topics")

    def __init__(self) -> None:
        self.count = 0
        self.topics: dict[str, deque[bytes]] = {}
        """Ids by topic, oldest first; no topic stands here without one."""


class MessageCache:
    """`windows` generations of messages, one per heartbeat; the newest `gossip` of them are advertised.

    Holds at most `max_bytes` of message frames: past that the oldest leave before their window does.
    """

    __slots__ = ("_bytes", "_entries", "_gossip", "_max_bytes", "_order", "_windows")

    def __init__(self, windows: int, gossip: int, max_bytes: int) -> None:
        self._windows: deque[_Window] = deque([_Window()], maxlen=windows)
        """Newest first; a full deque drops the oldest, which is empty by then, by itself."""
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
        window = self._windows[0]
        window.count += 1
        window.topics.setdefault(topic, deque()).append(message_id)
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
        ids: dict[str, list[bytes]] = {}
        for window in reversed(list(islice(self._windows, self._gossip))):
            for topic, part in window.topics.items():
                ids.setdefault(topic, []).extend(part)
        return ids

    def shift(self) -> None:
        """Begin a new window; the messages of the oldest one leave."""
        if len(self._windows) == self._windows.maxlen:
            for _ in range(self._windows[-1].count):
                self._drop_oldest()
        self._windows.appendleft(_Window())

    def _drop_oldest(self) -> None:
        message_id = self._order.popleft()
        entry = self._entries.pop(message_id)
        self._bytes -= len(entry.frame)
        window = next(window for window in reversed(self._windows) if window.count)
        window.count -= 1
        ids = window.topics[entry.topic]
        ids.popleft()
        if not ids:
            del window.topics[entry.topic]
