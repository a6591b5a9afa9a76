"""Blobs between real nodes: sockets, admission, threads, SQLite."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import TestCase

from chorus.identity import Identity
from chorus.protocols.blobs import CHUNK
from chorus.services.blobs.offload import ThreadOffload
from chorus.services.blobs.service import BlobService
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.host import P2PService
from chorus.services.store import StoreService


@attrs.frozen
class Cluster:
    """What admission asks of the cluster; the same at every node here."""

    cluster_id: bytes = bytes(range(32))
    secret: bytes = bytes(range(32, 64))

    def meet(self, theirs: bytes) -> None:
        assert theirs in (b"", self.cluster_id)


class Node:
    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        identity = Identity.generate()
        admission = AdmissionService(identity.peer_id, Cluster(), reactor)  # type: ignore[arg-type]
        self.host = P2PService(reactor, identity, admission=admission)
        self.store = StoreService(directory / "chorus.db", reactor)  # type: ignore[arg-type]
        self.offload = ThreadOffload(reactor)  # type: ignore[arg-type]
        self.blobs = BlobService(
            directory=directory / "blobs",
            store=self.store.database,
            host=self.host,
            clock=reactor,  # type: ignore[arg-type]
            offload=self.offload,
            wall=time.time,
        )

    async def start(self) -> None:
        await self.store.startService()
        self.offload.start()
        self.host.startService()
        await self.blobs.startService()

    async def stop(self) -> None:
        await self.blobs.stopService()
        await self.host.stopService()
        self.offload.stop()
        await self.store.stopService()


class BlobsOverSocketsTests(TestCase):
    timeout = 240

    async def nodes(self, count: int) -> list[Node]:
        nodes = [Node(Path(self.mktemp())) for _ in range(count)]
        for node in nodes:
            await node.start()
            self.addCleanup(lambda node=node: Deferred.fromCoroutine(node.stop()))
        for node in nodes[1:]:
            await nodes[0].host.dial(node.host.peer_id, node.host.listen_addresses())
        return nodes

    async def test_from_two_holders_while_others_go_on(self) -> None:
        here, *holders = await self.nodes(3)
        data = os.urandom(40 * CHUNK + 17)
        refs = await gatherResults([node.blobs.put_bytes(data) for node in holders])
        turns: list[int] = []
        ticking = LoopingCall(lambda: turns.append(here.blobs.counters.fetched_bytes))
        ticking.start(0)
        path = await here.blobs.fetch(refs[0].sha256, len(data), [node.host.peer_id for node in holders])
        ticking.stop()
        self.assertEqual(_read(path), data)
        steps = [after - before for before, after in itertools.pairwise(turns)]
        self.assertLess(max(steps), len(data) / 2, "others have their turns while it comes")
        served = [node.blobs.counters.served_bytes for node in holders]
        self.assertEqual(sum(served), len(data))
        self.assertTrue(all(served), served)

    async def test_the_connection_breaks_and_comes_back(self) -> None:
        here, holder = await self.nodes(2)
        data = os.urandom(150 * CHUNK)
        ref = await holder.blobs.put_bytes(data)
        fetching = here.blobs.fetch(ref.sha256, len(data), [holder.host.peer_id])
        while here.blobs.counters.fetched_bytes < 20 * CHUNK:
            await deferLater(reactor, 0.001)
        connection = here.host.connection(holder.host.peer_id)
        assert connection is not None
        connection.close(None)
        while here.host.connection(holder.host.peer_id) is not None:
            await deferLater(reactor, 0.001)
        self.assertFalse(fetching.called)
        await here.host.dial(holder.host.peer_id, holder.host.listen_addresses())
        path = await fetching
        self.assertEqual(_read(path), data)
        self.assertLess(here.blobs.counters.fetched_bytes, len(data) + 64 * CHUNK)

    async def test_through_open_as_the_api_does(self) -> None:
        here, holder = await self.nodes(2)
        writer = holder.blobs.writer(None)
        for _ in range(30):
            writer.write(b"x" * 100_000)
        document = await writer.finish()
        while not here.host.protocols_of(holder.host.peer_id):
            await deferLater(reactor, 0.01)
        file, size = await here.blobs.open(str(document["sha256"]))
        self.assertEqual((file.read(), size), (b"x" * 3_000_000, 3_000_000))
        file.close()


def _read(path: Path) -> bytes:
    return path.read_bytes()
