"""Validators that answer later, peer exchange, direct peers and what the API shows, over hosts in memory."""

from __future__ import annotations

import random
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.gossipsub.encode import mesh_frames, message_frame
from chorus.protocols.gossipsub.events import Validation
from chorus.protocols.gossipsub.params import MAX_PENDING_PER_PEER, GossipParams
from chorus.protocols.gossipsub.rpc import Exchanged, Prune
from chorus.protocols.gossipsub.score_stats import TopicScore
from chorus.protocols.gossipsub.sign import Signer
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.settings import PeerRecords, PubSubSettings
from chorus.services.pubsub.topics import VALIDATION_LIMIT, Received
from chorus.services.pubsub.view import pubsub_document
from tests.protocols.gossip_network import identity
from tests.services.memory_host import MemoryHost, connect
from tests.services.pubsub.test_service import TOPIC, ServiceCase


def others_words(number: int) -> bytes:
    """A message of somebody's who is not connected: own words earn nothing."""
    return message_frame(Signer(identity(9)).sign(TOPIC, b"x", number.to_bytes(8, "big")))


class Later(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.one, self.two = self.node(1, TOPIC), self.node(2)
        self.heard: list[Received] = []
        self.answers: list[Deferred[Validation]] = []

    def validator(self, received: Received) -> Deferred[Validation]:
        answer: Deferred[Validation] = Deferred()
        self.answers.append(answer)
        return answer

    def listen(self, *validators: object, waits: bool = True) -> None:
        for validator in validators:
            self.two.pubsub.subscribe(TOPIC, self.heard.append, validator, waits=waits)
        connect(self.one.host, self.two.host)
        self.run_a_while(1.2)

    def say(self, text: bytes) -> None:
        self.one.pubsub.publish(TOPIC, text)
        self.run_a_while(0)

    def test_delivered_when_it_is_accepted(self) -> None:
        self.listen(self.validator)
        self.say(b"x")
        self.assertEqual((self.heard, self.two.pubsub.router.pending), ([], 1))
        self.answers[0].callback(Validation.ACCEPT)
        self.assertEqual([each.data for each in self.heard], [b"x"])
        self.assertEqual(self.two.pubsub.router.pending, 0)

    def test_answered_at_once(self) -> None:
        def at_once(received: Received) -> Deferred[Validation]:
            answer: Deferred[Validation] = Deferred()
            answer.callback(Validation.ACCEPT)
            return answer

        self.listen(at_once)
        self.say(b"x")
        self.assertEqual(([each.data for each in self.heard], self.two.pubsub.router.pending), ([b"x"], 0))

    def test_several_one_after_the_other_until_one_does_not_accept(self) -> None:
        asked: list[str] = []

        def plain(received: Received) -> Validation:
            asked.append("plain")
            return Validation.ACCEPT

        self.listen(self.validator, plain, self.validator)
        self.say(b"x")
        self.say(b"y")
        self.assertEqual((len(self.answers), asked), (2, []))
        self.answers[0].callback(Validation.ACCEPT)
        self.answers[1].callback(Validation.REJECT)
        self.assertEqual((len(self.answers), asked), (3, ["plain"]))
        self.answers[2].callback(Validation.ACCEPT)
        self.assertEqual([each.data for each in self.heard], [b"x"] * 3, "three callbacks, one message")
        self.assertEqual(self.two.pubsub.counters()["rejected"], 1)

    def test_no_answer_in_time_is_ignored(self) -> None:
        self.listen(self.validator)
        self.say(b"x")
        self.run_a_while(VALIDATION_LIMIT + 1)
        counters = self.two.pubsub.counters()
        self.assertEqual((self.heard, self.two.pubsub.router.pending, counters["ignored"]), ([], 0, 1))
        self.assertEqual(counters["errors"], 0)

    def test_a_failure_is_logged_and_ignored(self) -> None:
        self.listen(self.validator)
        self.say(b"x")
        self.answers[0].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((self.heard, self.two.pubsub.router.pending), ([], 0))

    def test_a_queue_that_is_full_asks_nobody(self) -> None:
        self.listen(self.validator)
        for number in range(MAX_PENDING_PER_PEER + 7):
            self.say(b"%d" % number)
        self.assertEqual(len(self.answers), MAX_PENDING_PER_PEER)
        self.assertEqual(self.two.pubsub.counters()["throttled"], 7)
        for answer in self.answers:
            answer.callback(Validation.ACCEPT)
        self.run_a_while(3)
        late = len(self.answers) - MAX_PENDING_PER_PEER
        self.assertEqual(late, 0, "a member of the mesh is not gossiped to, so they stay lost")

    def test_who_waits_must_say_so(self) -> None:
        self.listen(self.validator, waits=False)
        self.say(b"x")
        self.assertEqual((self.heard, self.two.pubsub.router.pending), ([], 0))
        self.assertEqual(self.two.pubsub.counters()["ignored"], 1)

    def test_stopping_gives_them_up(self) -> None:
        self.listen(self.validator)
        self.say(b"x")
        self.two.pubsub.stopService()
        self.run_a_while(VALIDATION_LIMIT + 1)
        self.assertEqual(self.heard, [])


class Exchange(ServiceCase):
    def test_named_peers_are_handed_on_with_who_named_them(self) -> None:
        taken: list[tuple[object, object, object]] = []
        one, two = self.node(1, TOPIC), self.node(2, TOPIC)
        two.pubsub._exchange = PeerRecords(take_up=lambda *what: taken.append(what))
        out, _ = connect(one.host, two.host)
        self.run_a_while(1.2)
        for number in range(10):
            self.stream(out, inbound=False).write(others_words(number))
        self.run_a_while(0)
        named = (Exchanged(identity(5).peer_id.raw, b"record"), Exchanged(b"no peer id", None))
        self.stream(out, inbound=False).write(mesh_frames([], [Prune(TOPIC, 60, named)])[0])
        self.run_a_while(0)
        self.assertEqual(taken, [(one.identity.peer_id, identity(5).peer_id, b"record")])

    def test_a_failure_is_counted(self) -> None:
        one, two = self.node(1, TOPIC), self.node(2, TOPIC)

        def broken(*what: object) -> None:
            raise ZeroDivisionError

        two.pubsub._exchange = PeerRecords(take_up=broken)
        two.pubsub._exchanged(one.identity.peer_id.raw, Exchanged(identity(5).peer_id.raw, None))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(two.pubsub.counters()["errors"], 1)


class DirectPeers(ServiceCase):
    def test_dialled_at_the_start_and_again_until_they_are_there(self) -> None:
        dialled: list[tuple[object, list[Multiaddr]]] = []
        me, other = identity(1), identity(2)
        address = Multiaddr.tcp("127.0.0.1", 9).with_peer(other.peer_id)
        own = Multiaddr.tcp("127.0.0.1", 8).with_peer(me.peer_id)
        host = MemoryHost(me.peer_id, self.time)

        def dial(peer: object, addresses: list[Multiaddr]) -> Deferred[object]:
            dialled.append((peer, list(addresses)))
            failed: Deferred[object] = Deferred()
            failed.errback(ValueError("nobody"))
            return failed

        host.dial = dial  # type: ignore[method-assign, assignment]
        pubsub = PubSubService(
            host,
            me,
            self.time,
            rng=random.Random(1),
            settings=PubSubSettings(GossipParams(direct_ticks=5), direct=[address, own]),
            first_seqno=lambda: 1,
        )
        told: list[dict[str, Any]] = []

        def observe(event: dict[str, Any]) -> None:
            if str(event.get("event", "")).startswith("peer.direct_"):
                told.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        pubsub.startService()
        self.addCleanup(self.run_a_while, 0.0)
        self.addCleanup(pubsub.stopService)
        self.run_a_while(0.2)
        self.assertEqual(dialled, [(other.peer_id, [address])])
        self.run_a_while(11)
        self.assertEqual(len(dialled), 3)
        there = self.node(2)
        out, _ = connect(host, there.host)
        self.run_a_while(20)
        self.assertEqual(len(dialled), 3)
        self.assertEqual([peer["direct"] for peer in pubsub_document(pubsub)["peers"]], [True])
        self.assertEqual([peer["direct"] for peer in pubsub_document(there.pubsub)["peers"]], [False])
        self.assertEqual(
            [(event["event"], event.get("peer", event.get("address"))) for event in told],
            [
                ("peer.direct_self", own),
                ("peer.direct_unreachable", other.peer_id),
                ("peer.direct_reached", other.peer_id),
            ],
        )
        # Gone and not found again: that is news once more.
        out.close()
        self.run_a_while(20)
        self.assertGreater(len(dialled), 4)
        self.assertEqual([event["event"] for event in told[3:]], ["peer.direct_unreachable"])


class View(ServiceCase):
    def test_what_the_api_shows(self) -> None:
        one, two, out = self.pair(TOPIC)
        self.stream(out, inbound=False).write(others_words(1))
        self.run_a_while(2)
        document = pubsub_document(two.pubsub)
        self.assertEqual(document["topics"], [{"topic": TOPIC, "mesh": [str(one.identity.peer_id)], "subscribers": 1}])
        (peer,) = document["peers"]
        self.assertEqual(peer["peer_id"], str(one.identity.peer_id))
        self.assertEqual(peer["score"], peer["topics"][TOPIC]["score"])
        self.assertGreater(peer["topics"][TOPIC]["first_deliveries"], 0.9)
        self.assertEqual(list(peer["topics"][TOPIC]), [field.name for field in attrs.fields(TopicScore)])
        self.assertEqual(document["thresholds"]["graylist"], -200.0)
        self.assertEqual(document["counters"]["delivered"], 1)

    def test_what_it_shows_is_explained(self) -> None:
        one, *_ = self.pair(TOPIC)
        document = pubsub_document(one.pubsub)
        page = (Path(__file__).resolve().parents[3] / "docs/api.md").read_text()
        for name, after in (("thresholds", "`counters` count"), ("counters", "## Errors")):
            text = page[page.index(f"`{name}` ", page.index("`thresholds` of")) : page.index(after)]
            rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
            self.assertEqual({word for row in rows for word in re.findall(r"`(\w+)`", row)}, set(document[name]))


class Networks(ServiceCase):
    def test_who_shares_a_known_network_is_not_counted(self) -> None:
        shared = [ip_network("8.8.8.0/24"), ip_network("2a00:1450::/32")]
        settings = PubSubSettings(shared_networks=shared)
        found = [
            settings.group(Multiaddr.parse(f"{address}/tcp/1"))
            for address in ("/ip4/8.8.8.8", "/ip4/8.8.4.4", "/ip4/192.168.1.1", "/ip6/2a00:1450::1", "/ip6/2a01::1")
        ]
        self.assertEqual(found, [None, "8.8.4.4", None, None, "2a01::/56"])
