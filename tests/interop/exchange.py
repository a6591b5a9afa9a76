"""What a node and a foreign implementation must be able to do with each other, whoever dials."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from chorus import __version__
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import identify, ping
from chorus.protocols.gossipsub.params import MESHSUB_1_0, PROTOCOLS, GossipParams
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.settings import PubSubSettings
from chorus.services.pubsub.topics import Received
from tests.interop.foreign import ForeignPeer

TOPIC = "interop/messages"
LIMIT = 60.0
"""Seconds to wait for anything: meshes are mended once a second, and the machine may be busy."""

MESHSUB = tuple(protocol for protocol in PROTOCOLS if protocol.startswith("/meshsub/"))

_BYTES = random.Random(3)
PAYLOADS = (b"", "größer".encode(), bytes(range(256)), _BYTES.randbytes(1024), _BYTES.randbytes(60_000))
"""Fewer than the 10 a second that py-libp2p takes from one peer on one topic."""


async def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {LIMIT} s for {what}")
        await deferLater(reactor, 0.01)


class Signature:
    """A node's identity, which lies where it is told to."""

    def __init__(self, identity: Identity) -> None:
        self.peer_id = identity.peer_id
        self._honest = identity
        self._forger = Identity.generate()
        self.lying = False

    def sign(self, message: bytes) -> bytes:
        return (self._forger if self.lying else self._honest).sign(message)


class Node:
    """A node in open mode on a loopback socket."""

    def __init__(self, params: GossipParams | None = None) -> None:
        identity = Identity.generate()
        settings = PubSubSettings() if params is None else PubSubSettings(params)
        self.signature = Signature(identity)
        self.host = P2PService(reactor, identity, admission=OpenAdmission(), settings=HostSettings(open_mode=True))
        self.pubsub = PubSubService(self.host, self.signature, reactor, rng=random.Random(1), settings=settings)
        self.heard: list[Received] = []
        self.joined: list[PeerId] = []
        self.left: list[PeerId] = []

    def start(self) -> None:
        self.host.startService()
        self.pubsub.startService()
        self.host.watch_peers(lambda c: self.joined.append(c.peer_id), lambda c: self.left.append(c.peer_id))

    async def stop(self) -> None:
        self.pubsub.stopService()
        await self.host.stopService()

    @property
    def peer_id(self) -> PeerId:
        return self.host.peer_id

    @property
    def address(self) -> Multiaddr:
        return self.host.bound_addresses()[0].with_peer(self.peer_id)


class InteropCase(TestCase):
    timeout = 240

    def start_node(self, params: GossipParams | None = None) -> Node:
        node = Node(params)
        node.start()
        self.addCleanup(node.stop)
        return node

    async def start_foreign(self, name: str, command: list[str]) -> ForeignPeer:
        """The peer, with `peer_id` and `address` of it."""
        foreign = ForeignPeer(name)
        foreign.start(command, TOPIC)
        self.addCleanup(lambda: Deferred.fromCoroutine(foreign.stop()))
        ready = await foreign.ready
        foreign.peer_id = PeerId.parse(ready["peer_id"])
        foreign.address = Multiaddr.parse(ready["addr"])
        return foreign

    def scratch(self) -> Path:
        return Path(self.mktemp())

    async def meet(self, nodes: list[Node], foreigners: list[ForeignPeer]) -> None:
        """Everybody subscribes; then each node has all foreigners in its mesh, and they have it in theirs."""
        for node in nodes:
            node.pubsub.subscribe(TOPIC, node.heard.append)
        for foreign in foreigners:
            await foreign.ask("subscribe", topic=TOPIC)
        for node in nodes:
            there = {foreign.peer_id for foreign in foreigners}
            await until(lambda node=node, there=there: there <= set(node.pubsub.mesh_of(TOPIC)), "our mesh")
        for foreign in foreigners:
            await foreign.ask("mesh", topic=TOPIC, peers=[str(node.peer_id) for node in nodes])

    async def publish_from(self, foreign: ForeignPeer, payloads: tuple[bytes, ...]) -> dict[bytes, str]:
        """What it published → the id it computed for that."""
        return {data: (await foreign.ask("publish", topic=TOPIC, data=data.hex()))["id"] for data in payloads}

    def assert_no_fault(self, node: Node) -> None:
        self.assertEqual(node.host.counters.peer_errors, {})
        self.assertEqual(node.host.counters.identify_failed, {})
        self.assertEqual(node.left, [])
        counters = node.pubsub.counters()
        for name in ("rejected", "ignored", "streams_refused", "streams_reopened", "dropped_messages", "errors"):
            self.assertEqual(counters[name], 0, name)


class Exchange:
    """The tests; mixed into an `InteropCase` for each foreign implementation."""

    name: str
    keeps_agent = True
    """Whether it can tell the agent version it was told."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def as_they_name_it(self, message_id: bytes) -> str:
        """The id under which they know a message that we know by `message_id`."""
        return message_id.hex()

    async def setUp(self) -> None:
        command = self.command()
        self.node = self.start_node()
        self.foreign = await self.start_foreign(self.name, command)

    async def we_dial(self, node: Node | None = None) -> None:
        connection = await (node or self.node).host.dial(self.foreign.peer_id, [self.foreign.address])
        self.assertFalse(connection.inbound)

    async def they_dial(self) -> None:
        await self.foreign.ask("connect", addr=str(self.node.address))
        await until(self.node.host.connections, "their connection")
        self.assertTrue(self.node.host.connections()[0].inbound)

    # Connect, identify, ping

    async def test_identify_and_ping_when_we_dial(self) -> None:
        await self.we_dial()
        await self.check_connection()

    async def test_identify_and_ping_when_they_dial(self) -> None:
        await self.they_dial()
        await self.check_connection()

    async def check_connection(self) -> None:
        """Both sides have identified each other, and each can ping the other."""
        node, foreign = self.node, self.foreign
        await until(lambda: node.joined, "identify")
        self.assertEqual(node.joined, [foreign.peer_id])
        self.assertIn(ping.PROTOCOL, node.host.protocols_of(foreign.peer_id))
        self.assertIn(self.name, node.host.agent_version_of(foreign.peer_id))
        self.assertIn(foreign.address.without_peer(), node.host.peers.addresses(foreign.peer_id, 0))

        heard = await foreign.ask("identified", peer=str(node.peer_id))
        served = {identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL, *MESHSUB}
        self.assertLessEqual(served, set(heard["protocols"]))
        self.assertIn(str(node.host.bound_addresses()[0]), [a.split("/p2p/")[0] for a in heard["addresses"]])
        self.assertEqual(heard["agent"], f"chorus/{__version__}" if self.keeps_agent else None)
        self.assertTrue(heard["key_matches"])

        for _ in range(5):
            self.assertLess(await node.host.ping(foreign.peer_id), 10)
        self.assertEqual(len((await foreign.ask("ping", peer=str(node.peer_id), count=3))["ms"]), 3)
        self.assertEqual((await foreign.ask("pong", peer=str(node.peer_id), count=200))["rounds"], 200)
        self.assert_no_fault(node)

    async def test_they_refuse_to_be_somebody_else(self) -> None:
        stranger = Identity.generate().peer_id
        await self.assertFailure(self.node.host.dial(stranger, [self.foreign.address.without_peer()]), Exception)
        self.assertEqual(self.node.host.counters.tcp.failed["peer_id_mismatch"], 1)

    async def test_they_end_and_we_notice(self) -> None:
        await self.we_dial()
        await until(lambda: self.node.joined, "identify")
        self.foreign.transport.closeStdin()
        await until(lambda: self.node.left, "the end of the connection")
        self.assertEqual(self.node.host.connections(), [])

    # Messages

    async def test_messages_both_ways_when_we_dial(self) -> None:
        await self.we_dial()
        await self.check_messages()

    async def test_messages_both_ways_when_they_dial(self) -> None:
        await self.they_dial()
        await self.check_messages()

    async def check_messages(self) -> None:
        """Signed messages of all sizes arrive once, unchanged, from whom they are, under the id of their publisher."""
        node, foreign = self.node, self.foreign
        await self.meet([node], [foreign])
        await self.check_protocol()

        expected = []
        for data in PAYLOADS:
            message_id = self.as_they_name_it(node.pubsub.publish(TOPIC, data))
            expected.append((TOPIC, str(node.peer_id), data.hex(), message_id))
        messages = (await foreign.ask("received", count=len(PAYLOADS)))["messages"]
        self.assertCountEqual([(m["topic"], m["from"], m["data"], m["id"]) for m in messages], expected)

        theirs = await self.publish_from(foreign, PAYLOADS)
        await until(lambda: len(node.heard) >= len(PAYLOADS), "their messages")
        self.assertEqual({m.data: self.as_they_name_it(m.id) for m in node.heard}, theirs)
        self.assertEqual({(m.topic, m.from_peer) for m in node.heard}, {(TOPIC, foreign.peer_id)})
        self.assertEqual(len(node.heard), len(PAYLOADS))
        self.assert_no_fault(node)

    async def check_protocol(self) -> None:
        """Both streams speak the newest version that both sides have."""
        spoken = self.node.host.protocols_of(self.foreign.peer_id)
        newest = next(protocol for protocol in MESHSUB if protocol in spoken)
        self.assertNotEqual(newest, MESHSUB_1_0)
        streams = await self.foreign.ask("streams", peer=str(self.node.peer_id))
        for direction in ("opened", "accepted"):
            self.assertEqual([name for name in streams[direction] if "sub/" in name], [newest], direction)

    async def test_a_message_that_comes_twice_is_delivered_once(self) -> None:
        """Two nodes, both connected to the foreign peer and to each other: what it publishes reaches one twice."""
        nodes = [self.node, self.start_node()]
        for node in nodes:
            await self.we_dial(node)
        await nodes[0].host.dial(nodes[1].peer_id, [nodes[1].address])
        await self.meet(nodes, [self.foreign])
        await until(lambda: all(len(node.pubsub.mesh_of(TOPIC)) == 2 for node in nodes), "the triangle")

        payloads = (b"1", b"2", b"3", b"4")
        theirs = await self.publish_from(self.foreign, payloads)
        await until(lambda: sum(node.pubsub.counters()["duplicates"] for node in nodes) >= len(theirs), "duplicates")
        for node in nodes:
            self.assertCountEqual([self.as_they_name_it(m.id) for m in node.heard], theirs.values())

        for data in payloads:
            nodes[0].pubsub.publish(TOPIC, data)
        await until(lambda: len(nodes[1].heard) == 2 * len(payloads), "the other node")
        messages = (await self.foreign.ask("received", count=len(payloads)))["messages"]
        self.assertCountEqual([bytes.fromhex(m["data"]) for m in messages], payloads)
        for node in nodes:
            self.assert_no_fault(node)

    async def node_with_a_full_mesh(self) -> Node:
        """A node whose mesh has no place for the foreign peer: between the two there are only IHAVE and IWANT."""
        params = GossipParams(d=1, d_lo=1, d_hi=1, d_score=1, d_out=0, flood_publish=False)
        full, neighbour = self.start_node(params), self.start_node(params)
        await full.host.dial(neighbour.peer_id, [neighbour.address])
        for node in (full, neighbour):
            node.pubsub.subscribe(TOPIC, node.heard.append)
        await until(lambda: full.pubsub.mesh_of(TOPIC) and neighbour.pubsub.mesh_of(TOPIC), "the full mesh")
        return full

    async def test_they_ask_for_what_we_announce(self) -> None:
        full = await self.node_with_a_full_mesh()
        await self.foreign.ask("subscribe", topic=TOPIC)
        await self.foreign.ask("connect", addr=str(full.address))
        await until(lambda: self.foreign.peer_id.raw in full.pubsub.router.subscribers(TOPIC), "their subscription")
        full.pubsub.publish(TOPIC, b"announced")
        [message] = (await self.foreign.ask("received", count=1))["messages"]
        self.assertEqual((message["from"], message["data"]), (str(full.peer_id), b"announced".hex()))
        self.assertGreater(full.pubsub.router.counters.iwant_served, 0)
        self.assertNotIn(self.foreign.peer_id, full.pubsub.mesh_of(TOPIC))

    async def test_they_refuse_our_false_signature(self) -> None:
        await self.we_dial()
        await self.meet([self.node], [self.foreign])
        self.node.pubsub.publish(TOPIC, b"honest")
        self.node.signature.lying = True
        self.node.pubsub.publish(TOPIC, b"forged")
        await self.foreign.ask("refused", count=1)
        messages = (await self.foreign.ask("received", count=1))["messages"]
        self.assertEqual([bytes.fromhex(m["data"]) for m in messages], [b"honest"])

    async def test_we_refuse_their_false_signature(self) -> None:
        await self.we_dial()
        await self.meet([self.node], [self.foreign])
        await self.publish_from(self.foreign, (b"honest",))
        await self.foreign.ask("forge", topic=TOPIC, data=b"forged".hex())
        rejected = self.node.pubsub.router.counters.rejected
        await until(lambda: rejected, "a refusal")
        self.assertEqual(rejected, {"bad_signature": 1})
        self.assertEqual([m.data for m in self.node.heard], [b"honest"])
