"""Messages for which there was no room when one peer brought them."""

from __future__ import annotations

from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.decode import decode_message, lone_message
from chorus.protocols.gossipsub.events import Delivery, Validation
from chorus.protocols.gossipsub.params import MAX_PENDING_PER_PEER, GossipParams
from chorus.protocols.gossipsub.rpc import Message
from chorus.protocols.gossipsub.verified import MAX_VERIFIED, Verified
from tests.protocols.test_gossip import NOW, TOPIC, RouterCase, ihave, peer, published


def message(rpc: bytes) -> Message:
    raw = lone_message(rpc)
    assert raw is not None
    return decode_message(raw)


class Throttle(RouterCase):
    def throttling(self, *relays: int, peers: int = 3, growing: bool = False) -> GossipRouter:
        """A router whose validator has no room for what these peers bring."""
        node = self.router(peers, params=GossipParams(growing_seqno=growing))
        full = {peer(number) for number in relays}

        def validator(delivery: Delivery) -> Validation:
            return Validation.THROTTLE if delivery.source in full else Validation.ACCEPT

        node.subscribe(TOPIC, NOW, validator)
        self.verified = 0
        verify = node._messages._verify

        def counting(message: Message) -> None:
            self.verified += 1
            verify(message)

        node._messages._verify = counting
        return node

    def test_the_copy_of_somebody_else_is_heard(self) -> None:
        for growing in (False, True):
            node = self.throttling(1, growing=growing)
            node.receive(peer(1), published(9), NOW)
            self.assertEqual((node.take_deliveries(), node.counters.throttled, node.held().seen), ([], 1, 0))
            self.assertEqual((node.held().records, node.score(peer(1)) >= 0), (0, True))
            node.receive(peer(2), published(9), NOW)
            (delivery,) = node.take_deliveries()
            self.assertEqual((delivery.source, node.counters.duplicates), (peer(2), 0))
            self.assertIn(peer(3), node.take_sends(), "and passed on")
            node.receive(peer(1), published(9), NOW)
            self.assertEqual((node.counters.duplicates, node.counters.throttled), (1, 1))

    def test_gossip_may_bring_it(self) -> None:
        node = self.throttling(1)
        node.receive(peer(1), published(9), NOW)
        message_id = message(published(9)).message_id
        node.take_sends()
        node.receive(peer(2), ihave(message_id), NOW)
        self.assertEqual(list(self.sent(node, 2).iwant), [message_id])

    def test_a_promise_is_kept_by_what_finds_no_room(self) -> None:
        for waits in (False, True):
            node = self.throttling(1)
            if waits:
                node.subscribe(TOPIC, NOW, lambda delivery: Validation.LATER, waits=True)
                for seqno in range(100, 100 + MAX_PENDING_PER_PEER):
                    node.receive(peer(1), published(9, seqno=seqno), NOW)
            node.receive(peer(1), ihave(message(published(9)).message_id), NOW)
            self.assertEqual(node.held().promises, 1)
            node.receive(peer(1), published(9), NOW)
            self.assertEqual((node.held().promises, node.counters.throttled), (0, 1))
            node.heartbeat(NOW + 10)
            self.assertEqual(node.counters.promises_broken, 0)

    def test_a_signature_is_checked_once(self) -> None:
        node = self.throttling(1, 2, 3, peers=4)
        for number in (1, 2, 3, 1, 2, 3, 4):
            node.receive(peer(number), published(9), NOW)
        self.assertEqual((self.verified, node.counters.throttled, node.counters.delivered), (1, 6, 1))
        node.heartbeat(NOW + 1)
        self.assertEqual(len(node._messages.verified), 0)

    def test_a_forgery_of_what_found_no_room_is_none_the_less_one(self) -> None:
        node = self.throttling(1)
        node.receive(peer(1), published(9), NOW)
        node.receive(peer(2), published(9).replace(b"data", b"atad"), NOW)
        self.assertEqual((node.counters.rejected, node.take_deliveries()), ({"bad_signature": 1}, []))
        self.assertLess(node.score(peer(2)), 0)
        node.receive(peer(3), published(9), NOW)
        self.assertEqual([delivery.data for delivery in node.take_deliveries()], [b"data"])

    def test_said_late_it_is_ignored(self) -> None:
        node = self.router(3)
        node.subscribe(TOPIC, NOW, lambda delivery: Validation.LATER, waits=True)
        node.receive(peer(1), published(9), NOW)
        node.validated(message(published(9)).message_id, Validation.THROTTLE, NOW)
        self.assertEqual((node.take_deliveries(), node.counters.ignored, node.counters.delivered), ([], 1, 0))

    def test_what_is_remembered_is_bounded(self) -> None:
        verified = Verified()
        first = message(published(9))
        for number in range(MAX_VERIFIED + 5):
            verified.add(first._replace(seqno=number.to_bytes(8, "big")))
        self.assertEqual(len(verified), MAX_VERIFIED)

    def test_no_two_messages_are_taken_for_one(self) -> None:
        verified = Verified()
        first = message(published(9))
        verified.add(first)
        self.assertIn(first, verified)
        self.assertIn(message(published(9)), verified)
        for changes in (
            {"origin": peer(8)},
            {"seqno": bytes(8)},
            {"topic": "other"},
            {"key": b"key"},
            {"signature": first.signature[:-1], "key": first.signature[-1:]},
            {"signed": first.signed + b"x"},
            {"signature": first.signature + first.signed[:1], "signed": first.signed[1:]},
        ):
            self.assertNotIn(first._replace(**changes), verified)
