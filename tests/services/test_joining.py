"""Founding, joining and being refused, over real sockets: host, admission, cluster and discovery together."""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.security.jointoken import JoinToken
from chorus.security.membership import Wishes
from chorus.services.cluster import ClusterService
from chorus.services.discovery.mdns import MdnsService
from chorus.services.discovery.memory import MEMORY
from chorus.services.discovery.service import DiscoveryService
from chorus.services.discovery.settings import DiscoverySettings
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.host import P2PService
from tests.services.discovery.test_mdns import usable

SECRET = bytes(range(32))


class Node:
    def __init__(self, directory: Path, wishes: Wishes, contacts: list[Multiaddr], *, mdns: bool = False) -> None:
        from twisted.internet import reactor

        self.directory = directory
        self.identity = Identity.load_or_create(directory / "identity")
        self.cluster = ClusterService.open(directory, self.identity, wishes)
        self.admission = AdmissionService(self.identity.peer_id, self.cluster, reactor)
        self.host = P2PService(reactor, self.identity, admission=self.admission)
        self.discovery = DiscoveryService(
            self.host,
            self.identity,
            reactor,
            rng=random.Random(self.identity.peer_id.raw),
            wall_ns=time.time_ns,
            settings=DiscoverySettings(
                contacts=[*contacts, *self.cluster.contacts],
                memory=directory / MEMORY,
                make_mdns=self.make_mdns if mdns else None,
            ),
        )

    def make_mdns(self, cluster_id: bytes, found) -> MdnsService:
        return MdnsService(
            peer=self.identity.peer_id,
            cluster_id=cluster_id,
            addresses=self.host.listen_addresses(),
            found=found,
            rng=random.Random(self.identity.peer_id.raw),
        )

    def start(self) -> None:
        self.host.startService()
        self.cluster.keep()
        self.discovery.startService()
        self.cluster.when_adopted(self.discovery.cluster_known)

    async def stop(self) -> None:
        await self.discovery.stopService()
        await self.host.stopService()

    @property
    def address(self) -> Multiaddr:
        return self.host.listen_addresses()[0].with_peer(self.identity.peer_id)

    @property
    def token(self) -> JoinToken:
        return self.cluster.token(self.host.listen_addresses())

    @property
    def members(self) -> set[str]:
        return {str(connection.peer_id) for connection in self.host.connections()}


class JoiningTests(TestCase):
    timeout = 240

    def setUp(self) -> Deferred[None]:
        from twisted.internet import reactor

        self.reactor = reactor
        self.nodes: list[Node] = []
        self.addCleanup(self.stop_all)
        return deferLater(reactor, 0)

    def stop_all(self) -> Deferred[list[None]]:
        return gatherResults([Deferred.fromCoroutine(node.stop()) for node in self.nodes])

    def node(self, wishes: Wishes, *contacts: Multiaddr, directory: Path | None = None, mdns: bool = False) -> Node:
        if directory is None:
            directory = Path(self.mktemp())
            directory.mkdir(mode=0o700)
        node = Node(directory, wishes, list(contacts), mdns=mdns)
        node.start()
        self.nodes.append(node)
        return node

    async def until(self, condition) -> None:
        while not condition():
            await deferLater(self.reactor, 0.02)

    async def together(self, *nodes: Node) -> None:
        ids = {str(node.identity.peer_id) for node in nodes}
        await self.until(lambda: all(node.members == ids - {str(node.identity.peer_id)} for node in nodes))

    async def test_tokens(self) -> None:
        """Two join with the founder's token, the third hears of the second, and each can give the next token."""
        founder = self.node(Wishes())
        second = self.node(Wishes(join=JoinToken.parse(founder.token.text())))
        await self.together(founder, second)
        third = self.node(Wishes(join=second.token))
        await self.together(founder, second, third)
        self.assertEqual({node.cluster.cluster_id for node in self.nodes}, {founder.cluster.cluster_id})
        self.assertEqual(len({node.cluster.store_id for node in self.nodes}), 3)

    async def test_secret_and_bootstrap_peers(self) -> None:
        founder = self.node(Wishes(secret=SECRET, found=True))
        second = self.node(Wishes(secret=SECRET, bootstrap=True), founder.address)
        await self.together(founder, second)
        self.assertEqual(second.cluster.cluster_id, founder.cluster.cluster_id)
        self.assertFalse(second.cluster.founded_here)

    async def test_restart_without_any_setting(self) -> None:
        """A member comes back by its memory alone, in the same cluster, with the same store."""
        founder = self.node(Wishes())
        second = self.node(Wishes(join=founder.token))
        await self.together(founder, second)
        store = second.cluster.store_id
        await second.stop()
        self.nodes.remove(second)
        await self.until(lambda: not founder.members)
        (second.directory / "cluster.json").write_bytes(attrs.evolve(second.cluster._membership, contacts=()).to_json())
        again = self.node(Wishes(), directory=second.directory)
        self.assertEqual(again.cluster.contacts, ())
        await self.together(founder, again)
        self.assertEqual((again.cluster.store_id, again.cluster.cluster_id), (store, founder.cluster.cluster_id))

    async def test_wrong_secret(self) -> None:
        """Never admitted at either side, whoever dials; the others stay together."""
        founder = self.node(Wishes())
        second = self.node(Wishes(join=founder.token))
        await self.together(founder, second)
        stranger = self.node(Wishes(join=attrs.evolve(founder.token, secret=os.urandom(32))))
        await self.until(lambda: founder.admission.counters["admission_wrong_proof"] >= 2)
        self.assertEqual(stranger.members, set())
        self.assertEqual(founder.members, {str(second.identity.peer_id)})
        self.assertEqual(second.members, {str(founder.identity.peer_id)})

    async def test_another_cluster_with_the_same_secret(self) -> None:
        first = self.node(Wishes(secret=SECRET, found=True))
        second = self.node(Wishes(secret=SECRET, found=True), first.address)
        await self.until(lambda: first.admission.counters["wrong_cluster"] >= 1)
        self.assertEqual((first.members, second.members), (set(), set()))
        self.assertNotEqual(first.cluster.cluster_id, second.cluster.cluster_id)

    async def test_silent_socket_while_others_join(self) -> None:
        founder = self.node(Wishes())
        endpoint = founder.host.listen_addresses()[0].tcp_endpoint()
        assert endpoint is not None
        silent = [socket.create_connection(endpoint) for _ in range(20)]
        self.addCleanup(lambda: [one.close() for one in silent])
        second = self.node(Wishes(join=founder.token))
        await self.together(founder, second)

    async def test_members_find_each_other_by_mdns(self) -> None:
        if not hasattr(self.reactor, "_asyncioEventloop") or not usable():
            self.skipTest("needs the asyncio reactor and multicast on the loopback interface")
        founder = self.node(Wishes(), mdns=True)
        second = self.node(Wishes(join=attrs.evolve(founder.token, addresses=())), mdns=True)
        await self.together(founder, second)
        self.assertGreater(founder.discovery.counters["heard_mdns"] + second.discovery.counters["heard_mdns"], 0)
