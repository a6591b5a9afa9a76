"""The GossipSub 1.1 router: meshes, lazy gossip, and every message delivered once (spec/wire.md 12).

A pure core. Frames and `now` (seconds of any steady clock) come in; sends and deliveries are drained with
`take_sends` and `take_deliveries`. Peers are their raw ids. Nothing depends on the order of a set: peers stand in
dicts, in the order in which they came, and chance comes from `rng`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from math import ceil

from chorus.protocols import gossip_mesh
from chorus.protocols.backoff import Backoffs, clamp
from chorus.protocols.gossip_events import (
    Counters,
    Delivery,
    Kind,
    Score,
    Send,
    Validation,
    Validator,
    accept_all,
    no_score,
)
from chorus.protocols.gossip_params import (
    FLOODSUB,
    MAX_PEERS,
    MAX_TOPICS_PER_PEER,
    MESHSUB_1_0,
    GossipParams,
)
from chorus.protocols.gossip_rpc import (
    Message,
    MessageError,
    check_sendable,
    decode_message,
    decode_rpc,
    ihave_frames,
    iwant_frames,
    mesh_frames,
    message_frame,
    subscription_frames,
    topic_of,
)
from chorus.protocols.mcache import MessageCache
from chorus.protocols.seen import SeenCache

BACKOFF_SWEEP = 15
"""Heartbeats between two sweeps of ended backoffs."""


class _Peer:
    __slots__ = ("asked", "ihaves", "outbound", "protocol", "topics")

    def __init__(self, protocol: str, outbound: bool) -> None:
        self.protocol = protocol
        self.outbound = outbound
        self.topics: dict[str, None] = {}
        self.ihaves = 0
        """RPCs with IHAVE since the last heartbeat."""
        self.asked = 0
        """Ids asked for since the last heartbeat."""

    @property
    def meshes(self) -> bool:
        return self.protocol != FLOODSUB


class _Fanout:
    __slots__ = ("peers", "used")

    def __init__(self) -> None:
        self.peers: dict[bytes, None] = {}
        self.used = 0.0


class GossipRouter:
    """One node's part in GossipSub.

    `sign(topic, data, seqno)` returns a serialised Message, `verify(message)` raises `MessageError`. `first_seqno`
    should be the Unix time in nanoseconds, so that a restarted node does not repeat its message ids.
    """

    def __init__(
        self,
        *,
        peer_id: bytes,
        sign: Callable[[str, bytes, bytes], bytes],
        verify: Callable[[Message], None],
        rng: random.Random,
        first_seqno: int,
        params: GossipParams | None = None,
        score: Score = no_score,
    ) -> None:
        self.peer_id = peer_id
        self.params = params = params or GossipParams()
        self.counters = Counters()
        self._sign = sign
        self._verify = verify
        self._rng = rng
        self._score = score
        self._seqno = first_seqno
        self._peers: dict[bytes, _Peer] = {}
        self._flooders: dict[bytes, _Peer] = {}
        """Peers that speak only floodsub: they get every message of their topics."""
        self._subscribers: dict[str, dict[bytes, None]] = {}
        """Topic → peers subscribed to it; no topic stands here without a peer."""
        self._validators: dict[str, Validator] = {}
        """Our subscriptions; the mesh of each stands in `_mesh`."""
        self._mesh: dict[str, dict[bytes, None]] = {}
        self._fanout: dict[str, _Fanout] = {}
        self._backoffs = Backoffs()
        self._seen = SeenCache(params.seen_ttl, params.seen_entries)
        self._cache = MessageCache(params.mcache_windows, params.mcache_gossip, params.mcache_bytes)
        self._heartbeats = 0
        self._sends: dict[bytes, list[Send]] = {}
        self._deliveries: list[Delivery] = []
        self._arrivals: list[tuple[bytes, str]] = []
        self._grafts: dict[bytes, list[str]] = {}
        self._prunes: dict[bytes, list[tuple[str, int | None]]] = {}

    # What goes out

    def take_sends(self) -> dict[bytes, list[Send]]:
        """Frames to write, by peer, in order; each frame is a delimited RPC and may be shared between peers."""
        sends, self._sends = self._sends, {}
        return sends

    def take_deliveries(self) -> list[Delivery]:
        deliveries, self._deliveries = self._deliveries, []
        return deliveries

    def take_arrivals(self) -> list[tuple[bytes, str]]:
        """(peer, topic) of each peer that has come to a topic of ours since the last call."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    # What can be seen

    def peers(self) -> list[bytes]:
        return list(self._peers)

    def topics(self) -> list[str]:
        """Our subscriptions."""
        return list(self._validators)

    def topics_of(self, peer: bytes) -> list[str]:
        state = self._peers.get(peer)
        return list(state.topics) if state is not None else []

    def mesh(self, topic: str) -> list[bytes]:
        return list(self._mesh.get(topic, ()))

    def fanout(self, topic: str) -> list[bytes]:
        fanout = self._fanout.get(topic)
        return list(fanout.peers) if fanout is not None else []

    def subscribers(self, topic: str) -> list[bytes]:
        return list(self._subscribers.get(topic, ()))

    # Peers

    def peer_joined(self, peer: bytes, protocol: str, *, outbound: bool) -> None:
        """A peer that speaks `protocol`; `outbound` when we dialled it. It is greeted with our subscriptions."""
        if peer in self._peers or peer == self.peer_id or len(self._peers) >= MAX_PEERS:
            return
        state = self._peers[peer] = _Peer(protocol, outbound)
        if not state.meshes:
            self._flooders[peer] = state
        self.greet(peer)

    def greet(self, peer: bytes) -> None:
        """Tell a peer everything again: our subscriptions, and the meshes it is in. For a stream opened anew."""
        if peer not in self._peers:
            return
        self._sends.pop(peer, None)
        for frame in subscription_frames([(True, topic) for topic in self._validators]):
            self._send(peer, Kind.CONTROL, frame)
        self._grafts[peer] = [topic for topic, members in self._mesh.items() if peer in members]
        self._flush_mesh_control()

    def peer_left(self, peer: bytes) -> None:
        """Forget a peer; only its backoffs and the ids of its messages stay."""
        state = self._peers.pop(peer, None)
        if state is None:
            return
        self._flooders.pop(peer, None)
        self._sends.pop(peer, None)
        for topic in list(state.topics):
            self._unsubscribed(peer, state, topic)

    # Our topics

    def subscribe(self, topic: str, now: float, validator: Validator = accept_all) -> None:
        """Join a topic's mesh. Raises `ValueError` for a topic that peers would refuse."""
        if topic_of(topic.encode()) is None:
            raise ValueError(f"not a topic: {topic[:80]!r}")
        known = topic in self._validators
        self._validators[topic] = validator
        if known:
            return
        self._announce(True, topic)
        fanout = self._fanout.pop(topic, None)
        members = self._mesh[topic] = {}
        candidates = self._graftable(topic, now)
        first = [peer for peer in fanout.peers if peer in candidates] if fanout is not None else []
        first = first[: self.params.d]
        rest = [peer for peer in candidates if peer not in first]
        for peer in first + gossip_mesh.choose(rest, self.params.d - len(first), self._rng):
            self._graft(topic, members, peer)
        self._flush_mesh_control()

    def unsubscribe(self, topic: str, now: float) -> None:
        """Leave a topic; its mesh is told not to graft us for `unsubscribe_backoff` seconds."""
        if self._validators.pop(topic, None) is None:
            return
        for peer in self._mesh.pop(topic):
            self._prune(topic, peer, self.params.unsubscribe_backoff, now)
        self._flush_mesh_control()
        self._announce(False, topic)

    def _announce(self, subscribe: bool, topic: str) -> None:
        (frame,) = subscription_frames([(subscribe, topic)])
        for peer in self._peers:
            self._send(peer, Kind.CONTROL, frame)

    def publish(self, topic: str, data: bytes, now: float) -> bytes:
        """Sign and send; returns the message id. Not delivered to ourselves.

        Raises `MessageTooLarge`, or `ValueError` for a topic that peers would refuse.
        """
        if topic_of(topic.encode()) is None:
            raise ValueError(f"not a topic: {topic[:80]!r}")
        seqno = self._seqno.to_bytes(8, "big")
        frame = check_sendable(message_frame(self._sign(topic, data, seqno)))
        self._seqno += 1
        message_id = self.peer_id + seqno
        self._seen.add(message_id, now)
        self._cache.put(message_id, topic, frame)
        self.counters.published += 1
        for peer in self._publish_targets(topic, now):
            self._send(peer, Kind.MESSAGE, frame)
        return message_id

    def _publish_targets(self, topic: str, now: float) -> Iterable[bytes]:
        if self.params.flood_publish:
            return self._subscribers.get(topic, ())
        flooders = [peer for peer, state in self._flooders.items() if topic in state.topics]
        if topic in self._mesh:
            return [*self._mesh[topic], *flooders]
        fanout = self._fanout.setdefault(topic, _Fanout())
        fanout.used = now
        if not fanout.peers:
            self._fill_fanout(topic, fanout)
            if not fanout.peers:
                del self._fanout[topic]
        return [*fanout.peers, *flooders]

    # What comes in

    def receive(self, peer: bytes, rpc: bytes, now: float) -> None:
        """One RPC, without its length prefix. Raises `PeerError`: its stream should be reset; nothing of it counts."""
        state = self._peers.get(peer)
        if state is None:
            return
        decoded = decode_rpc(rpc)
        self.counters.rpcs += 1
        self.counters.passed_over += decoded.passed_over
        for subscribe, topic in decoded.subscriptions:
            self._handle_subscription(peer, state, subscribe, topic, now)
        for raw in decoded.messages:
            try:
                self._handle_message(peer, raw, now)
            except MessageError as error:
                self.counters.reject(error.reason)
        if decoded.ihave:
            self._handle_ihave(peer, state, decoded.ihave)
        if decoded.iwant:
            self._handle_iwant(peer, decoded.iwant)
        for topic in decoded.graft:
            self._handle_graft(peer, state, topic, now)
        for topic, backoff in decoded.prune:
            self._handle_prune(peer, topic, backoff, now)
        self._flush_mesh_control()

    def _handle_subscription(self, peer: bytes, state: _Peer, subscribe: bool, topic: str, now: float) -> None:
        if not subscribe:
            if topic in state.topics:
                self._unsubscribed(peer, state, topic)
            return
        if topic in state.topics:
            return
        if len(state.topics) >= MAX_TOPICS_PER_PEER:
            self.counters.passed_over += 1
            return
        state.topics[topic] = None
        self._subscribers.setdefault(topic, {})[peer] = None
        members = self._mesh.get(topic)
        if members is None:
            return
        self._arrivals.append((peer, topic))
        # A thin mesh does not wait for the heartbeat: a node that has just joined gets messages at once.
        if len(members) < self.params.d_lo and self._may_graft(topic, peer, state, now):
            self._graft(topic, members, peer)

    def _unsubscribed(self, peer: bytes, state: _Peer, topic: str) -> None:
        del state.topics[topic]
        subscribers = self._subscribers[topic]
        del subscribers[peer]
        if not subscribers:
            del self._subscribers[topic]
        self._mesh.get(topic, {}).pop(peer, None)
        fanout = self._fanout.get(topic)
        if fanout is not None:
            fanout.peers.pop(peer, None)

    def _handle_message(self, peer: bytes, raw: bytes, now: float) -> None:
        message = decode_message(raw)
        topic = message.topic
        validator = self._validators.get(topic)
        if validator is None:
            self.counters.unwanted += 1
            return
        message_id = message.message_id
        if message_id in self._seen:
            self.counters.duplicates += 1
            return
        if message.origin == self.peer_id:
            self.counters.own += 1
            return
        # The signature comes before the seen cache: a forgery with a message's id must not keep the message out.
        self._verify(message)
        self._seen.add(message_id, now)
        delivery = Delivery(topic, message.origin, message.data, message_id, peer)
        verdict = validator(delivery)
        if verdict is Validation.REJECT:
            self.counters.reject("validator")
        elif verdict is Validation.IGNORE:
            self.counters.ignored += 1
        else:
            self.counters.delivered += 1
            self._deliveries.append(delivery)
            self._forward(delivery, message_frame(raw))

    def _forward(self, delivery: Delivery, frame: bytes) -> None:
        topic = delivery.topic
        self._cache.put(delivery.message_id, topic, frame)
        not_to = (delivery.source, delivery.origin)
        targets = [member for member in self._mesh[topic] if member not in not_to]
        if self._flooders:
            targets += [p for p, state in self._flooders.items() if topic in state.topics and p not in not_to]
        self.counters.forwarded += len(targets)
        for target in targets:
            self._send(target, Kind.MESSAGE, frame)

    def _handle_ihave(self, peer: bytes, state: _Peer, ihave: Iterable[tuple[str, list[bytes]]]) -> None:
        state.ihaves += 1
        room = self.params.max_ihave_length - state.asked
        if state.ihaves > self.params.max_ihave_messages or room <= 0 or self._score(peer) < 0:
            self.counters.ihave_ignored += 1
            return
        wanted: dict[bytes, None] = {}
        for topic, ids in ihave:
            if topic in self._validators:
                wanted.update((message_id, None) for message_id in ids if message_id not in self._seen)
        # In a random order, so that a peer which advertises more than it may cannot choose what is asked for.
        ids = gossip_mesh.choose(list(wanted), room, self._rng)
        state.asked += len(ids)
        self.counters.iwant_sent += len(ids)
        for frame in iwant_frames(ids):
            self._send(peer, Kind.GOSSIP, frame)

    def _handle_iwant(self, peer: bytes, ids: Iterable[bytes]) -> None:
        for message_id in ids:
            frame = self._cache.frame_for(message_id, peer, self.params.retransmissions)
            if frame is not None:
                self.counters.iwant_served += 1
                self._send(peer, Kind.MESSAGE, frame)

    def _handle_graft(self, peer: bytes, state: _Peer, topic: str, now: float) -> None:
        members = self._mesh.get(topic)
        if members is None or topic not in state.topics or not state.meshes:
            # Silence instead of PRUNE: an answer would let anybody make us send, and say which topics we know.
            self.counters.passed_over += 1
            return
        if peer in members:
            return
        if now < self._backoffs.until(topic, peer):
            self.counters.grafts_in_backoff += 1
        elif self._score(peer) >= 0 and (len(members) < self.params.d_hi or state.outbound):
            self.counters.grafted += 1
            members[peer] = None
            return
        self.counters.grafts_refused += 1
        self._prune(topic, peer, self.params.prune_backoff, now)

    def _handle_prune(self, peer: bytes, topic: str, backoff: int | None, now: float) -> None:
        members = self._mesh.get(topic)
        if members is None:
            self.counters.passed_over += 1
            return
        members.pop(peer, None)
        self._backoffs.set(topic, peer, now + clamp(backoff, self.params.prune_backoff))

    # The heartbeat

    def heartbeat(self, now: float) -> None:
        """Keep the meshes, gossip, and let caches age. Called every `params.heartbeat` seconds."""
        self._heartbeats += 1
        for state in self._peers.values():
            state.ihaves = state.asked = 0
        if self._heartbeats % BACKOFF_SWEEP == 0:
            self._backoffs.expire(now - self.params.backoff_slack)
        for topic, members in self._mesh.items():
            self._keep_mesh(topic, members, now)
        self._keep_fanout(now)
        self._flush_mesh_control()
        self._gossip()
        self._cache.shift()
        self._seen.expire(now)

    def _keep_mesh(self, topic: str, members: dict[bytes, None], now: float) -> None:
        params = self.params
        for peer in [peer for peer in members if self._score(peer) < 0]:
            self._cut(topic, members, peer, now)
        if len(members) < params.d_lo:
            candidates = self._graftable(topic, now)
            for peer in gossip_mesh.choose(candidates, params.d - len(members), self._rng):
                self._graft(topic, members, peer)
        elif len(members) > params.d_hi:
            kept = gossip_mesh.keep(list(members), self._score, self._is_outbound, params, self._rng)
            for peer in [peer for peer in members if peer not in kept]:
                self._cut(topic, members, peer, now)
        outbound = sum(map(self._is_outbound, members))
        if len(members) >= params.d_lo and outbound < params.d_out:
            candidates = [peer for peer in self._graftable(topic, now) if self._is_outbound(peer)]
            for peer in gossip_mesh.choose(candidates, params.d_out - outbound, self._rng):
                self._graft(topic, members, peer)

    def _keep_fanout(self, now: float) -> None:
        for topic, fanout in list(self._fanout.items()):
            if fanout.used + self.params.fanout_ttl <= now:
                del self._fanout[topic]
            elif len(fanout.peers) < self.params.d:
                self._fill_fanout(topic, fanout)

    def _fill_fanout(self, topic: str, fanout: _Fanout) -> None:
        candidates = [
            peer
            for peer in self._subscribers.get(topic, ())
            if peer not in fanout.peers and self._peers[peer].meshes and self._score(peer) >= 0
        ]
        for peer in gossip_mesh.choose(candidates, self.params.d - len(fanout.peers), self._rng):
            fanout.peers[peer] = None

    def _gossip(self) -> None:
        """IHAVE to peers outside the meshes. Peers that get the same topics get the same frames, encoded once."""
        cached = self._cache.gossip_ids()
        if not cached:
            return
        to_peer: dict[bytes, list[str]] = {}
        for topic in cached:
            for peer in self._gossip_targets(topic):
                to_peer.setdefault(peer, []).append(topic)
        encoded: dict[tuple[str, ...], list[bytes]] = {}
        for peer, topics in to_peer.items():
            key = tuple(topics)
            if key not in encoded:
                share = max(1, self.params.max_ihave_length // len(topics))
                ids = {topic: gossip_mesh.choose(cached[topic], share, self._rng) for topic in topics}
                encoded[key] = ihave_frames(ids)[: self.params.max_ihave_messages]
            for frame in encoded[key]:
                self._send(peer, Kind.GOSSIP, frame)

    def _gossip_targets(self, topic: str) -> list[bytes]:
        members: Iterable[bytes]
        if topic in self._mesh:
            members = self._mesh[topic]
        elif topic in self._fanout:
            members = self._fanout[topic].peers
        else:
            members = ()
        candidates = [
            peer
            for peer in self._subscribers.get(topic, ())
            if peer not in members and self._peers[peer].meshes and self._score(peer) >= 0
        ]
        count = max(self.params.d_lazy, int(self.params.gossip_factor * len(candidates)))
        return gossip_mesh.choose(candidates, count, self._rng)

    # Mesh membership

    def _is_outbound(self, peer: bytes) -> bool:
        return self._peers[peer].outbound

    def _may_graft(self, topic: str, peer: bytes, state: _Peer, now: float) -> bool:
        until = self._backoffs.until(topic, peer)
        return state.meshes and (not until or until + self.params.backoff_slack <= now) and self._score(peer) >= 0

    def _graftable(self, topic: str, now: float) -> list[bytes]:
        members = self._mesh[topic]
        return [
            peer
            for peer in self._subscribers.get(topic, ())
            if peer not in members and self._may_graft(topic, peer, self._peers[peer], now)
        ]

    def _graft(self, topic: str, members: dict[bytes, None], peer: bytes) -> None:
        members[peer] = None
        self.counters.grafted += 1
        self._grafts.setdefault(peer, []).append(topic)

    def _cut(self, topic: str, members: dict[bytes, None], peer: bytes, now: float) -> None:
        del members[peer]
        self.counters.pruned += 1
        self._prune(topic, peer, self.params.prune_backoff, now)

    def _prune(self, topic: str, peer: bytes, backoff: float, now: float) -> None:
        """Tell a peer that it is not in our mesh; neither side grafts the other for `backoff` seconds."""
        self._backoffs.set(topic, peer, now + backoff)
        old = self._peers[peer].protocol == MESHSUB_1_0
        self._prunes.setdefault(peer, []).append((topic, None if old else ceil(backoff)))

    def _flush_mesh_control(self) -> None:
        """GRAFTs and PRUNEs of one turn leave together."""
        if not self._grafts and not self._prunes:
            return
        for peer in dict.fromkeys([*self._grafts, *self._prunes]):
            for frame in mesh_frames(self._grafts.get(peer, ()), self._prunes.get(peer, ())):
                self._send(peer, Kind.CONTROL, frame)
        self._grafts.clear()
        self._prunes.clear()

    def _send(self, peer: bytes, kind: Kind, frame: bytes) -> None:
        sends = self._sends.get(peer)
        if sends is None:
            self._sends[peer] = [(kind, frame)]
        else:
            sends.append((kind, frame))
