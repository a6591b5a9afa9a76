"""What an agent with eight idle peers costs (issue: at most 130 MB), and that it does next to nothing."""

from __future__ import annotations

import random
import time
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from chorus.identity import Identity
from chorus.messages import COORDINATION, TASKS
from chorus.security.membership import Wishes
from chorus.services.cluster import ClusterService, load_token
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.host import P2PService
from chorus.services.pubsub.service import PubSubService
from tests.integration.nodes import NodeCase
from tests.support import processor_time, yardstick

PEERS = 8
MEMORY_MB = 130
"""Resident, 10^6 bytes."""
IDLE_YARDSTICKS = 10
"""Of processor time a second: five times what eight peers cost, or more."""
OBSERVED_S = 8.0


class LightMember:
    """A member as the wire sees it: admitted, identified, in the mesh of the two common topics."""

    def __init__(self, reactor, directory: Path, token) -> None:
        directory.mkdir(mode=0o700)
        identity = Identity.generate()
        cluster = ClusterService.open(directory, identity, Wishes(join=token))
        self.host = P2PService(reactor, identity, admission=AdmissionService(identity.peer_id, cluster, reactor))
        self.pubsub = PubSubService(self.host, identity, reactor, rng=random.Random(identity.peer_id.raw))
        self.token = token

    async def start(self) -> None:
        self.host.startService()
        self.pubsub.startService()
        for topic in (COORDINATION, TASKS):
            self.pubsub.subscribe(topic, lambda message: None)
        await self.host.dial(self.token.peer_id, self.token.addresses)

    async def stop(self) -> None:
        self.pubsub.stopService()
        await self.host.stopService()


class IdleTest(NodeCase):
    async def test_memory_and_processor_with_eight_idle_peers(self) -> None:
        from twisted.internet import reactor

        agent = await deferToThread(lambda: self.node("agent").start())
        token = load_token(agent.data)
        for number in range(PEERS):
            peer = LightMember(reactor, self.folder / f"peer{number}", token)
            self.addCleanup(lambda peer=peer: Deferred.fromCoroutine(peer.stop()))
            await peer.start()
        while len(await deferToThread(agent.members)) < PEERS:
            await deferLater(reactor, 0.05)

        # The arrival of the last peer is answered by broadcasts a second or two later; they belong to the idle state.
        used, begun, most = agent.cpu_s(), time.monotonic(), 0.0
        while time.monotonic() - begun < OBSERVED_S:
            most = max(most, agent.memory_mb())
            await deferLater(reactor, 0.25)
        share = (agent.cpu_s() - used) / processor_time(yardstick) / (time.monotonic() - begun)
        print(f"agent with {PEERS} idle peers: {most:.1f} MB resident, {share:.2f} yardsticks a second")
        self.assertLess(most, MEMORY_MB)
        self.assertLess(share, IDLE_YARDSTICKS)
        self.assertEqual(len(await deferToThread(agent.members)), PEERS)
