"""Pub/sub and presence between real nodes over loopback sockets."""

from __future__ import annotations

import os
import random
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from chorus.identity import Identity
from chorus.messages import COORDINATION
from chorus.protocols.gossipsub.params import MAX_RPC, MESHSUB_1_1, GossipParams
from chorus.protocols.stream import ProtocolOptions
from chorus.seams import PassThrough
from chorus.services.messaging import Messaging
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings
from chorus.services.presence import Load, PresenceService, Profile
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.settings import PubSubSettings
from chorus.services.pubsub.topics import Received

TOPIC = "test/topic"


class Node:
    def __init__(self, number: int, **params: object) -> None:
        identity = Identity.generate()
        self.host = P2PService(reactor, identity, admission=OpenAdmission(), settings=HostSettings(open_mode=True))
        self.pubsub = PubSubService(
            self.host, identity, reactor, rng=random.Random(number), settings=PubSubSettings(GossipParams(**params))
        )
        self.messaging = Messaging(
            self.pubsub, identity.peer_id, redactor=PassThrough(), wall=time.time, random=os.urandom
        )
        self.presence = PresenceService(
            self.messaging,
            self.pubsub,
            reactor,
            Profile(agent_id=f"node{number}", version="0", expertise=("python",)),
            lambda: Load(0, 3),
        )
        self.heard: list[Received] = []


async def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come to that")
        await deferLater(reactor, 0.02)


class Loopback(TestCase):
    timeout = 240

    def nodes(self, count: int, **params: object) -> list[Node]:
        nodes = [Node(number, **params) for number in range(count)]
        for node in nodes:
            node.host.startService()
            node.pubsub.startService()
        self.addCleanup(self._stop, nodes)
        return nodes

    async def _stop(self, nodes: list[Node]) -> None:
        for node in nodes:
            if node.presence.running:
                node.presence.stopService()
            node.pubsub.stopService()
        for node in nodes:
            await node.host.stopService()

    async def join(self, nodes: list[Node], topic: str = TOPIC) -> None:
        for node in nodes:
            node.pubsub.subscribe(topic, node.heard.append)
        for number, node in enumerate(nodes):
            for other in nodes[:number]:
                await node.host.dial(other.host.peer_id, other.host.listen_addresses())
        await until(lambda: all(len(node.pubsub.mesh_of(topic)) == len(nodes) - 1 for node in nodes))

    def test_both_ways(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._both_ways())

    async def _both_ways(self) -> None:
        one, two = self.nodes(2)
        await self.join([one, two])
        first = one.pubsub.publish(TOPIC, b"ping")
        await until(lambda: two.heard)
        self.assertEqual(two.heard, [Received(TOPIC, one.host.peer_id, b"ping", first)])
        two.pubsub.publish(TOPIC, b"pong")
        await until(lambda: one.heard)
        self.assertEqual(one.heard[0].from_peer, two.host.peer_id)

    def test_four_nodes_get_everything_once(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._four())

    async def _four(self) -> None:
        nodes = self.nodes(4, flood_publish=False)
        await self.join(nodes)
        for index in range(300):
            nodes[index % 4].pubsub.publish(TOPIC, b"%d" % index)
            if index % 50 == 0:
                await deferLater(reactor, 0)
        await until(lambda: all(len(node.heard) == 225 for node in nodes))
        for node in nodes:
            self.assertEqual(len({message.id for message in node.heard}), 225)
            self.assertEqual(node.pubsub.counters()["rejected"], 0)

    def test_nothing_is_lost_when_the_publisher_waits(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._flood())

    async def _flood(self) -> None:
        one, two = self.nodes(2)
        await self.join([one, two])
        for index in range(3000):
            one.pubsub.publish(TOPIC, index.to_bytes(4, "big") + bytes(4096))
            await one.pubsub.ready()
        await until(lambda: len(two.heard) == 3000, 30)
        self.assertEqual([int.from_bytes(m.data[:4], "big") for m in two.heard], list(range(3000)))
        self.assertEqual(one.pubsub.counters()["dropped_messages"], 0)

    def test_stream_and_connection_come_back(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._back())

    async def _back(self) -> None:
        one, two = self.nodes(2)
        await self.join([one, two])
        stream = one.pubsub._peers[two.host.peer_id.raw].link._stream
        stream.reset()
        await until(lambda: one.pubsub.counters()["streams_reopened"] == 1)
        one.pubsub.publish(TOPIC, b"1")
        await until(lambda: two.heard)
        one.host.connection(two.host.peer_id).close()
        await until(lambda: not one.pubsub.peers() and not two.pubsub.peers())
        await two.host.dial(one.host.peer_id, one.host.listen_addresses())
        await until(lambda: one.pubsub.router.subscribers(TOPIC) and two.pubsub.router.subscribers(TOPIC))
        two.pubsub.publish(TOPIC, b"2")
        await until(lambda: one.heard)

    def test_presence(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._presence())

    async def _presence(self) -> None:
        nodes = self.nodes(3)
        for node in nodes:
            node.presence.startService()
        for number, node in enumerate(nodes):
            for other in nodes[:number]:
                await node.host.dial(other.host.peer_id, other.host.listen_addresses())
        await until(lambda: all(len(node.presence.view.candidates()) == 2 for node in nodes))
        (first, _) = nodes[0].presence.view.candidates()
        self.assertEqual(first.expertise, frozenset({"python"}))
        self.assertTrue(first.available)

    def test_garbage_costs_the_sender_its_stream_and_nobody_else(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._garbage())

    async def _garbage(self) -> None:
        """CVE-2026-86040 and its like against a live node, with a bystander."""
        node, bystander = self.nodes(2)
        await self.join([node, bystander])
        bad = P2PService(reactor, Identity.generate(), admission=OpenAdmission(), settings=HostSettings(open_mode=True))
        bad.register(MESHSUB_1_1, lambda stream: stream.set_receiver(_Closed()), ProtocolOptions())
        bad.startService()
        self.addCleanup(bad.stopService)
        connection = await bad.dial(node.host.peer_id, node.host.listen_addresses())
        size = (MAX_RPC).to_bytes(3, "big")
        bombs = [
            b"\x80\x80\x40" + b"\x0a\x00" * (MAX_RPC // 2),
            b"\x80\x80\x40" + b"\x12\x00" * (MAX_RPC // 2),
            b"\x81\x80\x40" + size,
            b"\xff" * 100,
            b"\x00" * 100_000 + b"\x02\x0b\x0c",
        ]
        for number, bomb in enumerate(bombs, 1):
            stream = await connection.open_stream([MESHSUB_1_1])
            closed = _Closed()
            stream.set_receiver(closed)
            stream.write(bomb)
            bystander.pubsub.publish(TOPIC, b"%d" % number)
            await until(lambda closed=closed: closed.error is not None)
            await until(lambda number=number: len(node.heard) == number)
            self.assertEqual(node.pubsub.counters()["streams_refused"], number)
        self.assertFalse(connection.closed)
        self.assertEqual(node.pubsub.router.subscribers(COORDINATION), [bystander.host.peer_id.raw])


class _Closed:
    error: object = None

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def stream_closed(self, error: object) -> None:
        self.error = error or "closed"

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...
