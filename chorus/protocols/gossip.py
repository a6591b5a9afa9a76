"""The GossipSub router, 1.1 in full with 1.2's IDONTWANT: every message delivered once (spec/wire.md 12).

A pure core. Frames and `now` (seconds of any steady clock) come in; sends, deliveries and peers to dial are drained
with the `take_…` methods. Peers are their raw ids. Nothing depends on the order of a set: peers stand in dicts, in the
order in which they came, and chance comes from `rng`. Its parts are in `gossipsub`: `meshes`, `lazy` gossip, `score`,
`messages`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from chorus.protocols.gossipsub.events import (
    Delivery,
    GossipCounters,
    Held,
    Kind,
    Send,
    Unfinished,
    Validation,
    Validator,
    accept_all,
)
from chorus.protocols.gossipsub.history import SeenMessages
from chorus.protocols.gossipsub.ids import MessageId
from chorus.protocols.gossipsub.lazy import LazyGossip
from chorus.protocols.gossipsub.meshes import Meshes
from chorus.protocols.gossipsub.messages import GossipMessages
from chorus.protocols.gossipsub.outbox import Outbox
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.gossipsub.peers import Peer, Peers
from chorus.protocols.gossipsub.rpc import RPC, Exchanged, topic_of
from chorus.protocols.gossipsub.score import PeerScores
from chorus.protocols.gossipsub.score_params import ScoreParams
from chorus.protocols.gossipsub.score_stats import PeerScoreView
from chorus.protocols.gossipsub.state import GossipState, Sealing

__all__ = ["GossipRouter"]


class GossipRouter:
    """One node's part in GossipSub.

    `first_seqno` should be the Unix time in nanoseconds, so that a restarted node does not repeat its message ids.
    `direct` peers get every message of their topics and are in no mesh; whoever names one is named by it too.
    """

    def __init__(
        self,
        peer_id: bytes,
        sealing: Sealing,
        *,
        rng: random.Random,
        first_seqno: int,
        params: GossipParams | None = None,
        score_params: ScoreParams | None = None,
        direct: Iterable[bytes] = (),
    ) -> None:
        self.peer_id = peer_id
        self.params = params or GossipParams()
        self.counters = GossipCounters()
        self.scores = PeerScores(score_params)
        self._codec = sealing.codec
        self._sign = sealing.sign
        self._seqno = first_seqno
        self._peers = Peers()
        self._outbox = Outbox(sealing.codec)
        self._seen = seen = SeenMessages(self.params)
        self._direct = dict.fromkeys(direct)
        state = GossipState(self.params, self._peers, self._outbox, self.scores, self.counters, self._codec, rng)
        self._meshes = meshes = Meshes(state, direct=self._direct, record=sealing.record)
        self._lazy = lazy = LazyGossip(state, meshes=meshes, seen=seen)
        self._messages = GossipMessages(
            state, peer_id=peer_id, verify=sealing.verify, seen=seen, meshes=meshes, lazy=lazy
        )
        self._heartbeats = 0
        self._arrivals: list[tuple[bytes, str]] = []
        self._exchanged: list[tuple[bytes, Exchanged]] = []

    # Output

    def take_sends(self) -> dict[bytes, list[Send]]:
        """Frames to write, by peer, in order; each frame is a delimited RPC and may be shared between peers."""
        return self._outbox.take()

    def take_deliveries(self) -> list[Delivery]:
        return self._messages.take_deliveries()

    def take_arrivals(self) -> list[tuple[bytes, str]]:
        """(peer, topic) of each peer that has come to a topic of ours since the last call."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def take_exchanged(self) -> list[tuple[bytes, Exchanged]]:
        """(source, named peer) for each peer that a useful peer named when it pruned us: to be checked and
        dialled. At most `MAX_PX_TAKEN` of one peer in a heartbeat, each once."""
        exchanged, self._exchanged = self._exchanged, []
        return exchanged

    # State

    def peers(self) -> list[bytes]:
        return self._peers.ids()

    def topics(self) -> list[str]:
        """Our subscriptions."""
        return self._messages.topics()

    def topics_of(self, peer: bytes) -> list[str]:
        state = self._peers.get(peer)
        return list(state.topics) if state is not None else []

    def mesh(self, topic: str) -> list[bytes]:
        return list(self._meshes.members(topic))

    def fanout(self, topic: str) -> list[bytes]:
        return list(self._meshes.around(topic)) if topic not in self._meshes else []

    def subscribers(self, topic: str) -> list[bytes]:
        return list(self._peers.subscribers(topic))

    def in_backoff(self, topic: str, peer: bytes, now: float) -> bool:
        """True if neither side may graft the other yet."""
        return now < self._meshes.backoffs.until(topic, peer) + self.params.backoff_slack

    def score(self, peer: bytes) -> float:
        return self.scores.score(peer)

    def score_view(self, peer: bytes) -> PeerScoreView | None:
        return self.scores.view(peer)

    def is_direct(self, peer: bytes) -> bool:
        return peer in self._direct

    def absent_direct_peers(self) -> list[bytes]:
        return [peer for peer in self._direct if peer not in self._peers]

    @property
    def pending(self) -> int:
        """Messages that await their validators."""
        return self._messages.pending

    def held(self) -> Held:
        return Held(
            seen=len(self._seen),
            cache_bytes=self._lazy.cache.size,
            records=self.scores.records,
            scored=len(self.scores),
            promises=len(self._lazy.promises),
            backoffs=len(self._meshes.backoffs),
            floors=self._seen.floors,
        )

    # Peers

    def peer_joined(self, peer: bytes, protocol: str, *, outbound: bool, group: str | None = None) -> None:
        """A peer that speaks `protocol`; `outbound` when we dialled it. It is greeted with our subscriptions.

        `group` is the public network it comes from, None where addresses are not counted (P6).
        """
        if peer in self._peers or peer == self.peer_id:
            return
        if self._peers.add(peer, Peer(protocol, outbound, peer in self._direct)):
            self.scores.joined(peer, group)
            self._tell_subscriptions(peer)

    def greet(self, peer: bytes, now: float) -> None:
        """Tell a peer everything again: our subscriptions, and the meshes it is in. For a stream opened anew."""
        state = self._peers.get(peer)
        if state is None:
            return
        self._outbox.forget(peer)
        self._tell_subscriptions(peer)
        self._meshes.greet(peer, state, now)
        self._outbox.flush()

    def _tell_subscriptions(self, peer: bytes) -> None:
        frames = self._codec.subscription_frames([(True, topic) for topic in self._messages.topics()])
        self._outbox.send_all(peer, Kind.CONTROL, frames)

    def peer_left(self, peer: bytes, now: float) -> None:
        """Forget a peer; its backoffs, a bad score and the ids of its messages stay."""
        state = self._peers.remove(peer)
        if state is None:
            return
        self._outbox.forget(peer)
        self._lazy.left(peer, state)
        # Before it leaves the meshes: what it lacked there stays with it.
        self.scores.left(peer, now)
        for topic in state.topics:
            self._meshes.unsubscribed(topic, peer, now)

    # Our topics

    def subscribe(self, topic: str, now: float, validator: Validator = accept_all, *, waits: bool = False) -> None:
        """Join a topic's mesh. Raises `ValueError` for a topic that peers would refuse.

        A validator that may say `LATER` is announced with `waits`: while its queue is full it is not asked at all.
        Subscribing again replaces the validator.
        """
        if topic_of(topic.encode()) is None:
            raise ValueError(f"not a topic: {topic[:80]!r}")
        if not self._messages.subscribe(topic, validator, waits=waits):
            return
        self._announce(True, topic)
        self._meshes.join(topic, now)
        self._outbox.flush()

    def unsubscribe(self, topic: str, now: float) -> None:
        """Leave a topic; its mesh is told not to graft us for `unsubscribe_backoff` seconds."""
        if not self._messages.unsubscribe(topic):
            return
        self._meshes.leave(topic, now)
        self._outbox.flush()
        self._announce(False, topic)

    def leave(self, now: float) -> None:
        """Leave all topics, without a PRUNE: a backoff would keep a node out of the meshes that comes back at once."""
        for topic in self._messages.topics():
            self._messages.unsubscribe(topic)
            self._meshes.leave(topic, now, told=False)
            self._announce(False, topic)

    def set_message_id(self, topic: str, message_id: MessageId) -> None:
        """Set a topic's function of ids before its first message; all of its nodes must use the same one."""
        self._messages.set_message_id(topic, message_id)

    def _announce(self, subscribe: bool, topic: str) -> None:
        frames = self._codec.subscription_frames([(subscribe, topic)])
        for peer in self._peers.ids():
            self._outbox.send_all(peer, Kind.CONTROL, frames)

    def publish(self, topic: str, data: bytes, now: float) -> bytes:
        """Sign and send; returns the message id. Not delivered to ourselves.

        Raises `MessageTooLarge`, or `ValueError` for a topic that peers would refuse. With `content_id`, words that
        were said before are not said again.
        """
        if topic_of(topic.encode()) is None:
            raise ValueError(f"not a topic: {topic[:80]!r}")
        seqno = self._seqno.to_bytes(8, "big")
        raw = self._sign(topic, data, seqno)
        frame = self._codec.check_sendable(self._codec.message_frame(raw))
        self._seqno += 1
        message_id = self._messages.own_id(topic, seqno, raw)
        if not self._seen.published(message_id, now):
            return message_id
        self._lazy.cache.put(message_id, topic, frame)
        self.counters.published += 1
        targets = dict.fromkeys(self._meshes.publish_targets(topic, now))
        self._outbox.send_to(self._lazy.wanted(list(targets), message_id), Kind.MESSAGE, frame)
        return message_id

    # Input

    def receive(self, peer: bytes, rpc: bytes, now: float) -> None:
        """One RPC, without its length prefix. Raises `PeerError`: its stream should be reset; nothing of it counts."""
        unfinished = self.begin(peer, rpc, now)
        while unfinished is not None and self.go_on(peer, unfinished, now):
            pass

    def begin(self, peer: bytes, rpc: bytes, now: float) -> Unfinished | None:
        """As `receive`, but no longer than one message takes: what is left, if any, is for `go_on`, before the peer's
        next RPC."""
        state = self._heard(peer)
        if state is None:
            return None
        self.counters.rpcs += 1
        lone = self._codec.lone_message(rpc)
        if lone is not None:
            self._messages.received(peer, state, lone, now)
            return None
        decoded = self._codec.decode_rpc(rpc)
        self.counters.passed_over += decoded.passed_over
        state.useless += decoded.passed_over
        for subscribe, topic in decoded.subscriptions:
            self._subscription_received(peer, state, subscribe, topic, now)
        if decoded.idontwant:
            self._lazy.idontwant_received(state, decoded.idontwant)
        self._outbox.flush()
        return Unfinished(decoded)

    def go_on(self, peer: bytes, unfinished: Unfinished, now: float) -> bool:
        """The next step of an RPC: one message, or some of its control. False when that was all: it is done, or the
        peer has left or is below the graylist threshold by now."""
        state = self._heard(peer)
        if state is None:
            return False
        raw = next(unfinished.messages, None)
        if raw is not None:
            self._messages.received(peer, state, raw, now)
            return True
        if not unfinished.controlled:
            unfinished.controlled = True
            self._control_received(peer, state, unfinished.rpc, now)
            return True
        prune = next(unfinished.prunes, None)
        if prune is None:
            return False
        self._take_up(peer, self._meshes.prune_received(peer, state, prune, now))
        return True

    def _heard(self, peer: bytes) -> Peer | None:
        state = self._peers.get(peer)
        if state is None:
            return None
        if self.scores.score(peer) < self.scores.params.thresholds.graylist and not state.direct:
            self.counters.graylisted += 1
            return None
        return state

    def _control_received(self, peer: bytes, state: Peer, rpc: RPC, now: float) -> None:
        if rpc.ihave:
            self._lazy.ihave_received(peer, state, rpc.ihave, now)
        if rpc.iwant:
            self._lazy.iwant_received(peer, state, rpc.iwant)
        for topic in rpc.graft:
            self._meshes.graft_received(peer, state, topic, now)
        self._outbox.flush()

    def _take_up(self, source: bytes, exchanged: Iterable[Exchanged]) -> None:
        new = [each for each in exchanged if each.peer != self.peer_id and each.peer not in self._peers]
        for each in self._meshes.exchange.take(source, new) if new else ():
            self.counters.exchanged += 1
            self._exchanged.append((source, each))

    def _subscription_received(self, peer: bytes, state: Peer, subscribe: bool, topic: str, now: float) -> None:
        # Also those that change something: who comes and goes without end means no good.
        state.useless += 1
        if not subscribe:
            if topic in state.topics:
                self._peers.unsubscribe(peer, state, topic)
                self._meshes.unsubscribed(topic, peer, now)
            return
        if topic in state.topics:
            return
        if not self._peers.subscribe(peer, state, topic):
            self.counters.passed_over += 1
        elif self._meshes.arrived(topic, peer, state, now):
            self._arrivals.append((peer, topic))

    def validated(self, message_id: bytes, verdict: Validation, now: float) -> None:
        """The late verdict on a message whose validator said `LATER`; unknown ids are passed over."""
        self._messages.validated(message_id, verdict, now)

    # The heartbeat

    def heartbeat(self, now: float) -> None:
        """Keep the meshes, gossip, and let caches age. Called every `params.heartbeat` seconds."""
        self._heartbeats += 1
        self._lazy.begin_heartbeat(self._heartbeats, now)
        self.scores.refresh(now)
        self._meshes.heartbeat(self._heartbeats, now)
        self._outbox.flush()
        self._lazy.end_heartbeat()
        self._seen.expire(now)
        self._messages.verified.forget()
