"""Three nodes of the DHT on real sockets and disks: what one puts is read when it is gone, and after restarts."""

from __future__ import annotations

import random
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.dht.namespaces import Unvalidated
from chorus.services.dht.service import DhtService
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings
from chorus.store.database import Database
from tests.interop.exchange import until


class Member:
    """A host, a database at `path`, and the DHT on them."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        settings = HostSettings(open_mode=True, listen=[Multiaddr.tcp("127.0.0.1", 0)])
        self.host = P2PService(reactor, identity, admission=OpenAdmission(), settings=settings)
        self.database = Database(path, reactor)
        self.dht = DhtService(
            self.host,
            self.database,
            reactor,
            namespaces={"test": Unvalidated()},
            wall=time.time,
            rng=random.Random(identity.peer_id.raw),
        )

    async def start(self, *others: Member) -> Member:
        await self.database.open()
        self.host.startService()
        await self.dht.startService()
        for other in others:
            await self.host.dial(other.host.peer_id, other.host.bound_addresses())
        return self

    async def stop(self) -> None:
        if self.dht.running:
            await self.dht.stopService()
            await self.host.stopService()
            await self.database.close()


class ThreeNodes(TestCase):
    timeout = 120

    async def member(self, path: Path, identity: Identity, *others: Member) -> Member:
        member = await Member(path, identity).start(*others)
        self.addCleanup(member.stop)
        return member

    async def test_a_record_outlives_its_author_and_restarts(self) -> None:
        paths = [Path(self.mktemp()) for _ in range(3)]
        keys = [Identity.generate() for _ in range(3)]
        first = await self.member(paths[0], keys[0])
        second = await self.member(paths[1], keys[1], first)
        third = await self.member(paths[2], keys[2], first, second)
        members = (first, second, third)
        await until(lambda: all(member.dht.servers == 3 for member in members), "all three in each table")

        stored = await first.dht.put(b"/test/a", b"value")
        self.assertEqual(set(stored.holders), {key.peer_id for key in keys})
        self.assertTrue(stored.safe)
        await first.stop()
        self.assertEqual(await second.dht.get(b"/test/a"), b"value")
        self.assertEqual(set(await third.dht.holders(b"/test/a")), {keys[1].peer_id, keys[2].peer_id})

        await second.stop()
        await third.stop()
        again = await self.member(paths[1], keys[1])
        self.assertEqual(await again.dht.get(b"/test/a"), b"value")
        self.assertEqual(again.dht.held.rows, 1)
