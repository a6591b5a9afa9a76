"""Received messages: drops known, replayed and forged ones, validates the rest; the accepted are
delivered and passed on."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from chorus.protocols.gossipsub.events import Delivery, Frame, Kind, Validation, Validator
from chorus.protocols.gossipsub.history import SeenMessages
from chorus.protocols.gossipsub.ids import MessageId, publisher_id
from chorus.protocols.gossipsub.lazy import LazyGossip
from chorus.protocols.gossipsub.meshes import Meshes
from chorus.protocols.gossipsub.peers import Peer
from chorus.protocols.gossipsub.pending import Pending, PendingMessages
from chorus.protocols.gossipsub.rpc import Message, MessageError
from chorus.protocols.gossipsub.state import GossipState
from chorus.protocols.gossipsub.verified import Verified


class GossipMessages:
    """Of the topics that we are subscribed to, each with its validator; those that are accepted are drained with
    `take_deliveries`. `verify(message)` raises `MessageError`."""

    def __init__(
        self,
        state: GossipState,
        *,
        peer_id: bytes,
        verify: Callable[[Message], None],
        seen: SeenMessages,
        meshes: Meshes,
        lazy: LazyGossip,
    ) -> None:
        self.verified = Verified()
        self._peer_id = peer_id
        self._verify = verify
        self._idontwant_threshold = state.params.idontwant_threshold
        self._seen = seen
        self._peers = state.peers
        self._meshes = meshes
        self._lazy = lazy
        self._outbox = state.outbox
        self._scores = state.scores
        self._counters = state.counters
        self._codec = state.codec
        self._validators: dict[str, Validator] = {}
        self._waits: dict[str, None] = {}
        """Topics whose validators may answer later."""
        self._message_ids: dict[str, MessageId] = {}
        self._pending = PendingMessages()
        self._deliveries: list[Delivery] = []

    @property
    def pending(self) -> int:
        """Messages that await their validators."""
        return len(self._pending)

    def take_deliveries(self) -> list[Delivery]:
        deliveries, self._deliveries = self._deliveries, []
        return deliveries

    # Topics

    def topics(self) -> list[str]:
        return list(self._validators)

    def subscribe(self, topic: str, validator: Validator, *, waits: bool) -> bool:
        """True if the topic is new; its validator is replaced if not."""
        known = topic in self._validators
        self._validators[topic] = validator
        if waits:
            self._waits[topic] = None
        else:
            self._waits.pop(topic, None)
        return not known

    def unsubscribe(self, topic: str) -> bool:
        """True if we were subscribed."""
        self._waits.pop(topic, None)
        return self._validators.pop(topic, None) is not None

    def set_message_id(self, topic: str, message_id: MessageId) -> None:
        self._message_ids[topic] = message_id

    def own_id(self, topic: str, seqno: bytes, raw: bytes) -> bytes:
        """Of a serialised Message of ours."""
        if topic not in self._message_ids:
            return self._peer_id + seqno
        return self._message_ids[topic](self._codec.decode_message(raw))

    # Input

    def received(self, peer: bytes, state: Peer, raw: bytes, now: float) -> None:
        """One serialised Message that a peer has sent."""
        try:
            message = self._codec.decode_message(raw)
        except MessageError as error:
            # It has no topic that could be blamed, or none that can be trusted.
            self._counters.reject(error.reason)
            self._scores.misbehaved(peer)
            return
        topic = message.topic
        if topic not in self._validators:
            self._counters.unwanted += 1
            state.useless += 1
            return
        message_id = self._message_ids.get(topic, publisher_id)(message)
        if message_id in self._seen:
            self._counters.duplicates += 1
            if not self._scores.duplicate(peer, topic, message_id, _mark(message), now):
                self._second_message(peer, message, message_id, raw)
            return
        if message.origin == self._peer_id:
            self._counters.own += 1
            self._useless_message(peer, state, message_id)
            return
        if self._seen.is_replay(message.origin, message.seqno):
            # Nobody is blamed: a node that has just started passes on in good faith what others have forgotten.
            self._counters.replays += 1
            self._useless_message(peer, state, message_id)
            return
        # The signature comes before the seen cache: a forgery with a message's id must not keep the message out.
        try:
            if message not in self.verified:
                self._verify(message)
        except MessageError as error:
            self._counters.reject(error.reason)
            self._scores.invalid(peer, topic)
            return
        self._validate(peer, message, message_id, raw, now)

    def _useless_message(self, peer: bytes, state: Peer, message_id: bytes) -> None:
        """It has sent what it advertised; many such messages are a flood."""
        self._lazy.promises.sent(message_id, peer)
        state.useless += 1

    def _second_message(self, peer: bytes, message: Message, message_id: bytes, raw: bytes) -> None:
        """Another message under an id that has been here: forged by who sent it, or signed twice by its publisher. Once
        that is proven, the signatures of further ones are not checked.

        The proof goes on, once: who has seen one of the two alone would keep the publisher among its best peers. It is
        delivered to nobody, and goes only where the first one went and only if it could stand for itself: whoever has
        not got the first one must have nothing to blame us for."""
        try:
            self._verify(message)
        except MessageError as error:
            self._counters.reject(error.reason)
            self._scores.invalid(peer, message.topic)
            return
        self._counters.equivocations += 1
        self._scores.equivocated(peer, message.topic, message_id)
        frame = self._codec.forward_frame(raw, message)
        if (
            frame is not None
            and self._scores.was_accepted(message_id)
            and self._is_acceptable(peer, message, message_id)
        ):
            targets = self._meshes.forward_targets(message.topic, peer, message.origin)
            self._outbox.send_to(self._lazy.wanted(targets, message_id), Kind.MESSAGE, frame)

    def _is_acceptable(self, peer: bytes, message: Message, message_id: bytes) -> bool:
        """To its validator, at once."""
        topic = message.topic
        if topic in self._waits:
            return False
        delivery = Delivery(topic, message.origin, message.data, message_id, peer)
        return self._validators[topic](delivery) is Validation.ACCEPT

    def _validate(self, peer: bytes, message: Message, message_id: bytes, raw: bytes, now: float) -> None:
        topic = message.topic
        delivery = Delivery(topic, message.origin, message.data, message_id, peer)
        verdict = Validation.THROTTLE
        if not self._waits or topic not in self._waits or self._pending.has_room(peer):
            verdict = self._validators[topic](delivery)
        if verdict is Validation.THROTTLE:
            # Not seen: a copy of somebody else, or gossip, may find room.
            self.verified.add(message)
            self._counters.throttled += 1
            self._lazy.promises.sent(message_id, peer)
            return
        self._seen.arrived(message_id, now)
        promised = self._lazy.promises.kept(message_id, by=peer)
        self._scores.arrived(peer, message.origin, message_id, _mark(message), now, promised=promised)
        if len(message.data) >= self._idontwant_threshold:
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
            self._counters.reject("validator")
            self._scores.rejected(topic, delivery.message_id)
        elif verdict is Validation.IGNORE or verdict is Validation.THROTTLE:
            self._counters.ignored += 1
            source = self._peers.get(delivery.source)
            if source is not None:
                source.useless += 1
        else:
            self._seen.passed_on(delivery.message_id)
            self._counters.delivered += 1
            self._scores.accepted(delivery.source, topic, delivery.message_id, now)
            self._deliveries.append(delivery)
            self._forward(delivery, frame)

    def _forward(self, delivery: Delivery, frame: Frame | None) -> None:
        if frame is None:
            self._counters.oversized += 1
            return
        topic = delivery.topic
        self._lazy.cache.put(delivery.message_id, topic, frame)
        targets = self._meshes.forward_targets(topic, delivery.source, delivery.origin)
        targets = self._lazy.wanted(targets, delivery.message_id)
        self._counters.forwarded += len(targets)
        self._outbox.send_to(targets, Kind.MESSAGE, frame)


def _mark(message: Message) -> bytes:
    """Equal for equal messages: a copy with other words under a known id and signature is not taken for one."""
    return blake2b(message.signed + message.signature + message.topic.encode(), digest_size=16).digest()
