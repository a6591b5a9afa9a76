"""The peers of a GossipSub router and their subscriptions: bounded, in the order in which they came."""

from __future__ import annotations

from chorus.protocols.gossipsub.params import FLOODSUB, MAX_PEERS, MAX_TOPICS_PER_PEER, MESHSUB_1_0, MESHSUB_1_2


class Peer:
    """One connected peer, as the router knows it."""

    __slots__ = (
        "asked",
        "direct",
        "floods",
        "idontwants",
        "ihaves",
        "known",
        "old",
        "outbound",
        "told",
        "topics",
        "unwanted",
        "useless",
    )

    def __init__(self, protocol: str, outbound: bool, direct: bool) -> None:
        self.outbound = outbound
        self.direct = direct
        self.floods = protocol == FLOODSUB
        """It has no meshes: it gets every message of its topics."""
        self.old = protocol == MESHSUB_1_0
        """Its PRUNEs have neither backoff nor peers."""
        self.known = protocol == MESHSUB_1_2
        """It knows IDONTWANT."""
        self.topics: dict[str, None] = {}
        self.told: dict[str, None] = {}
        """Topics of ours in which this connection has seen a PRUNE: a peer that has restarted since cannot know of a
        backoff."""
        self.ihaves = 0
        """RPCs with IHAVE since the last heartbeat."""
        self.asked = 0
        """Ids asked for since the last heartbeat."""
        self.idontwants = 0
        """Ids of IDONTWANTs since the last heartbeat."""
        self.useless = 0
        """Entries without a use since the last heartbeat."""
        self.unwanted: dict[bytes, int] = {}
        """Message id → the last heartbeat at which the peer does not want it; oldest first."""


class Peers:
    """By raw id, and by topic."""

    __slots__ = ("_floods", "_peers", "_subscribers")

    def __init__(self) -> None:
        self._peers: dict[bytes, Peer] = {}
        self._floods: dict[bytes, Peer] = {}
        self._subscribers: dict[str, dict[bytes, None]] = {}
        """No topic stands here without a peer."""

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._peers

    def __getitem__(self, peer: bytes) -> Peer:
        return self._peers[peer]

    def get(self, peer: bytes) -> Peer | None:
        return self._peers.get(peer)

    def ids(self) -> list[bytes]:
        return list(self._peers)

    def all(self) -> list[Peer]:
        return list(self._peers.values())

    def add(self, peer: bytes, state: Peer) -> bool:
        """False when there are `MAX_PEERS`."""
        if len(self._peers) >= MAX_PEERS:
            return False
        self._peers[peer] = state
        if state.floods:
            self._floods[peer] = state
        return True

    def remove(self, peer: bytes) -> Peer | None:
        self._floods.pop(peer, None)
        state = self._peers.pop(peer, None)
        if state is not None:
            for topic in state.topics:
                self._drop(peer, topic)
        return state

    # Subscriptions

    def topics(self) -> int:
        """How many topics have a subscriber."""
        return len(self._subscribers)

    def subscribers(self, topic: str) -> dict[bytes, None]:
        """Not to be changed; a view of a topic nobody has is empty."""
        return self._subscribers.get(topic, _NOBODY)

    def floodsub(self, topic: str) -> list[bytes]:
        """Subscribers that speak only floodsub."""
        return [peer for peer, state in self._floods.items() if topic in state.topics] if self._floods else []

    def subscribe(self, peer: bytes, state: Peer, topic: str) -> bool:
        """False when the peer has `MAX_TOPICS_PER_PEER`."""
        if len(state.topics) >= MAX_TOPICS_PER_PEER:
            return False
        state.topics[topic] = None
        self._subscribers.setdefault(topic, {})[peer] = None
        return True

    def unsubscribe(self, peer: bytes, state: Peer, topic: str) -> None:
        del state.topics[topic]
        self._drop(peer, topic)

    def _drop(self, peer: bytes, topic: str) -> None:
        subscribers = self._subscribers[topic]
        del subscribers[peer]
        if not subscribers:
            del self._subscribers[topic]


_NOBODY: dict[bytes, None] = {}
