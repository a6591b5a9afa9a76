"""The GossipSub router, 1.1 in full with 1.2's IDONTWANT: every message delivered once (spec/wire.md 12).

A pure core. Frames and `now` (seconds of any steady clock) come in; sends, deliveries and peers to dial are drained
with the `take_…` methods. Peers are their raw ids. Nothing depends on the order of a set: peers stand in dicts, in the
order in which they came, and chance comes from `rng`. Its parts stand in files of their own: meshes (`gossip_meshes`),
lazy gossip (`gossip_lazy`), scores (`gossip_score`), messages under validation (`gossip_pending`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import cast

from chorus.protocols import gossip_rpc
from chorus.protocols.gossip_codec import Codec
from chorus.protocols.gossip_events import (
    Counters,
    Delivery,
    Frame,
    Held,
    Kind,
    Send,
    Validation,
    Validator,
    accept_all,
)
from chorus.protocols.gossip_exchange import SignedRecord
from chorus.protocols.gossip_floors import SeqnoFloors
from chorus.protocols.gossip_ids import MessageId, publisher_id
from chorus.protocols.gossip_lazy import LazyGossip
from chorus.protocols.gossip_meshes import Meshes
from chorus.protocols.gossip_outbox import Outbox
from chorus.protocols.gossip_params import GossipParams
from chorus.protocols.gossip_peers import Peer, Peers
from chorus.protocols.gossip_pending import Pending, PendingMessages
from chorus.protocols.gossip_rpc import RPC, Exchanged, Message, MessageError, topic_of
from chorus.protocols.gossip_score import PeerScores
from chorus.protocols.gossip_score_params import ScoreParams
from chorus.protocols.gossip_score_view import PeerScoreView
from chorus.protocols.gossip_unfinished import Unfinished
from chorus.protocols.gossip_verified import Verified
from chorus.protocols.seen import SeenCache

__all__ = ["GossipRouter"]


class GossipRouter:
    """One node's part in GossipSub.

    `sign(topic, data, seqno)` returns a serialised Message, `verify(message)` raises `MessageError`. `first_seqno`
    should be the Unix time in nanoseconds, so that a restarted node does not repeat its message ids. `record(peer)` is
    the signed peer record given in peer exchange, None where there is none. `direct` peers get every message of their
    topics and are in no mesh; whoever names one is named by it too.
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
        score_params: ScoreParams | None = None,
        record: SignedRecord = lambda peer: None,
        direct: Iterable[bytes] = (),
        codec: Codec | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.params = params = params or GossipParams()
        self.counters = counters = Counters()
        self.scores = scores = PeerScores(score_params)
        self._codec = codec = codec or cast("Codec", gossip_rpc)
        self._sign = sign
        self._verify = verify
        self._seqno = first_seqno
        self._peers = peers = Peers()
        self._outbox = outbox = Outbox(codec)
        self._floors = SeqnoFloors()
        self._not_passed_on: dict[bytes, None] = {}
        """Ids in the seen cache that raise no floor, for others need not know them: kept where numbers grow, and gone
        with the id or its acceptance."""
        self._seen = seen = SeenCache(
            params.seen_ttl, params.seen_entries, self._forgotten if params.growing_seqno else None
        )
        self._direct = dict.fromkeys(direct)
        self._meshes = meshes = Meshes(
            params=params,
            peers=peers,
            outbox=outbox,
            scores=scores,
            counters=counters,
            rng=rng,
            record=record,
            direct=self._direct,
        )
        self._lazy = LazyGossip(
            params=params,
            peers=peers,
            meshes=meshes,
            outbox=outbox,
            scores=scores,
            seen=seen,
            counters=counters,
            codec=codec,
            rng=rng,
        )
        self._validators: dict[str, Validator] = {}
        """Our subscriptions; the mesh of each stands in `_meshes`."""
        self._message_ids: dict[str, MessageId] = {}
        self._pending = PendingMessages()
        self._verified = Verified()
        self._heartbeats = 0
        self._deliveries: list[Delivery] = []
        self._arrivals: list[tuple[bytes, str]] = []
        self._exchanged: list[tuple[bytes, Exchanged]] = []
        self._waits: dict[str, None] = {}
        """Topics whose validators may answer later."""

    # What goes out

    def take_sends(self) -> dict[bytes, list[Send]]:
        """Frames to write, by peer, in order; each frame is a delimited RPC and may be shared between peers."""
        return self._outbox.take()

    def take_deliveries(self) -> list[Delivery]:
        deliveries, self._deliveries = self._deliveries, []
        return deliveries

    def take_arrivals(self) -> list[tuple[bytes, str]]:
        """(peer, topic) of each peer that has come to a topic of ours since the last call."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def take_exchanged(self) -> list[tuple[bytes, Exchanged]]:
        """(who says so, whom it names) of the peers that useful peers named when they pruned us: to be checked and
        dialled. At most `MAX_PX_TAKEN` of one peer in a heartbeat, each once."""
        exchanged, self._exchanged = self._exchanged, []
        return exchanged

    # What can be seen

    def peers(self) -> list[bytes]:
        return self._peers.ids()

    def topics(self) -> list[str]:
        """Our subscriptions."""
        return list(self._validators)

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
        """Whether neither side may graft the other yet."""
        return now < self._meshes.backoffs.until(topic, peer) + self.params.backoff_slack

    def score(self, peer: bytes) -> float:
        return self.scores.score(peer)

    def score_view(self, peer: bytes) -> PeerScoreView | None:
        return self.scores.view(peer)

    def absent_direct_peers(self) -> list[bytes]:
        return [peer for peer in self._direct if peer not in self._peers]

    @property
    def pending(self) -> int:
        """Messages that await their validators."""
        return len(self._pending)

    def held(self) -> Held:
        return Held(
            seen=len(self._seen),
            cache_bytes=self._lazy.cache.size,
            records=self.scores.records,
            scored=len(self.scores),
            promises=len(self._lazy.promises),
            backoffs=len(self._meshes.backoffs),
            floors=len(self._floors),
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
        frames = self._codec.subscription_frames([(True, topic) for topic in self._validators])
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
        known = topic in self._validators
        self._validators[topic] = validator
        if waits:
            self._waits[topic] = None
        else:
            self._waits.pop(topic, None)
        if known:
            return
        self._announce(True, topic)
        self._meshes.join(topic, now)
        self._outbox.flush()

    def unsubscribe(self, topic: str, now: float) -> None:
        """Leave a topic; its mesh is told not to graft us for `unsubscribe_backoff` seconds."""
        if self._validators.pop(topic, None) is None:
            return
        self._waits.pop(topic, None)
        self._meshes.leave(topic, now)
        self._outbox.flush()
        self._announce(False, topic)

    def leave(self, now: float) -> None:
        """Leave all topics, without a PRUNE: a backoff would keep a node out of the meshes that comes back at once."""
        for topic in list(self._validators):
            del self._validators[topic]
            self._meshes.leave(topic, now, told=False)
            self._announce(False, topic)
        self._waits.clear()

    def set_message_id(self, topic: str, message_id: MessageId) -> None:
        """Before anybody speaks in a topic; every node of it must use the same function."""
        self._message_ids[topic] = message_id

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
        if topic in self._message_ids:
            message_id = self._message_ids[topic](self._codec.decode_message(raw))
        else:
            message_id = self.peer_id + seqno
        if not self._seen.add(message_id, now):
            return message_id
        self._lazy.cache.put(message_id, topic, frame)
        self.counters.published += 1
        targets = dict.fromkeys(self._meshes.publish_targets(topic, now))
        self._outbox.send_to(self._lazy.wanted(list(targets), message_id), Kind.MESSAGE, frame)
        return message_id

    # What comes in

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
            self._message_received(peer, state, lone, now)
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
            self._message_received(peer, state, raw, now)
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

    def _message_received(self, peer: bytes, state: Peer, raw: bytes, now: float) -> None:
        try:
            message = self._codec.decode_message(raw)
        except MessageError as error:
            # It has no topic that could be blamed, or none that can be trusted.
            self.counters.reject(error.reason)
            self.scores.misbehaved(peer)
            return
        topic = message.topic
        if topic not in self._validators:
            self.counters.unwanted += 1
            state.useless += 1
            return
        message_id = self._message_ids.get(topic, publisher_id)(message)
        if message_id in self._seen:
            self.counters.duplicates += 1
            if not self.scores.duplicate(peer, topic, message_id, _mark(message), now):
                self._second_message(peer, message, message_id)
            return
        if message.origin == self.peer_id:
            self.counters.own += 1
            self._useless_message(peer, state, message_id)
            return
        if self._floors and self._floors.is_replay(message.origin, message.seqno):
            # Nobody is blamed: a node that has just started passes on in good faith what others have forgotten.
            self.counters.replays += 1
            self._useless_message(peer, state, message_id)
            return
        # The signature comes before the seen cache: a forgery with a message's id must not keep the message out.
        try:
            if message not in self._verified:
                self._verify(message)
        except MessageError as error:
            self.counters.reject(error.reason)
            self.scores.invalid(peer, topic)
            return
        self._validate(peer, message, message_id, raw, now)

    def _useless_message(self, peer: bytes, state: Peer, message_id: bytes) -> None:
        """It has sent what it advertised; many such messages are a flood."""
        self._lazy.promises.sent(message_id, peer)
        state.useless += 1

    def _second_message(self, peer: bytes, message: Message, message_id: bytes) -> None:
        """Another message under an id that has been here: forged by who sent it, or signed twice by its publisher. Once
        that is proven, the signatures of further ones are not checked."""
        try:
            self._verify(message)
        except MessageError as error:
            self.counters.reject(error.reason)
            self.scores.invalid(peer, message.topic)
            return
        self.counters.equivocations += 1
        self.scores.equivocated(peer, message.topic, message_id)

    def _forgotten(self, message_id: bytes) -> None:
        if message_id in self._not_passed_on:
            del self._not_passed_on[message_id]
        else:
            self._floors.forgotten(message_id)

    def _validate(self, peer: bytes, message: Message, message_id: bytes, raw: bytes, now: float) -> None:
        topic = message.topic
        delivery = Delivery(topic, message.origin, message.data, message_id, peer)
        verdict = Validation.THROTTLE
        if not self._waits or topic not in self._waits or self._pending.has_room(peer):
            verdict = self._validators[topic](delivery)
        if verdict is Validation.THROTTLE:
            # Not seen: a copy of somebody else, or gossip, may find room.
            self._verified.add(message)
            self.counters.throttled += 1
            self._lazy.promises.sent(message_id, peer)
            return
        self._seen.add(message_id, now)
        if self.params.growing_seqno:
            self._not_passed_on[message_id] = None
        promised = self._lazy.promises.kept(message_id, by=peer)
        self.scores.arrived(peer, message.origin, message_id, _mark(message), now, promised=promised)
        if len(message.data) >= self.params.idontwant_threshold:
            self._lazy.tell_idontwant(topic, message_id, peer, message.origin)
        frame = self._codec.forward_frame(raw, message)
        if verdict is Validation.LATER:
            self._pending.add(Pending(delivery, frame))
        else:
            self._judge(delivery, frame, verdict, now)

    def validated(self, message_id: bytes, verdict: Validation, now: float) -> None:
        """The late verdict on a message whose validator said `LATER`; unknown ids are passed over."""
        pending = self._pending.take(message_id)
        if pending is not None and pending.delivery.topic in self._validators:
            self._judge(pending.delivery, pending.frame, verdict, now)

    def _judge(self, delivery: Delivery, frame: Frame | None, verdict: Validation, now: float) -> None:
        topic = delivery.topic
        if verdict is Validation.REJECT:
            self.counters.reject("validator")
            self.scores.rejected(topic, delivery.message_id)
        elif verdict is Validation.IGNORE or verdict is Validation.THROTTLE:
            self.counters.ignored += 1
            source = self._peers.get(delivery.source)
            if source is not None:
                source.useless += 1
        else:
            self._not_passed_on.pop(delivery.message_id, None)
            self.counters.delivered += 1
            self.scores.accepted(delivery.source, topic, delivery.message_id, now)
            self._deliveries.append(delivery)
            self._forward(delivery, frame)

    def _forward(self, delivery: Delivery, frame: Frame | None) -> None:
        if frame is None:
            self.counters.oversized += 1
            return
        topic = delivery.topic
        self._lazy.cache.put(delivery.message_id, topic, frame)
        targets = self._meshes.forward_targets(topic, delivery.source, delivery.origin)
        targets = self._lazy.wanted(targets, delivery.message_id)
        self.counters.forwarded += len(targets)
        self._outbox.send_to(targets, Kind.MESSAGE, frame)

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
        self._verified.forget()


def _mark(message: Message) -> bytes:
    """Equal for equal messages: a copy with other words under a known id and signature is not taken for one."""
    return blake2b(message.signed + message.signature + message.topic.encode(), digest_size=16).digest()
