"""Nodes with replicated blobs on one fake clock, and a DHT that is a dictionary."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed

from chorus.identity import PeerId
from chorus.security import age
from chorus.services.blobs import serving
from chorus.services.blobs.plaintexts import Plaintexts
from chorus.services.blobs.replicas import ReplicaContext, ReplicaService
from chorus.services.blobs.sealing import Sealer
from chorus.services.blobs.serving import BlobLimits
from chorus.services.dht.ports import Dht, DhtUnavailable, Provider, Stored
from chorus.services.keys.ports import Keyring
from tests.services.blobs.test_service import BlobCase, Node, offload
from tests.services.memory_host import connect


class FakeTable:
    """Announced holders of all nodes, by key."""

    def __init__(self) -> None:
        self.providers: dict[bytes, list[PeerId]] = defaultdict(list)
        self.down = False


class FakeDht:
    def __init__(self, table: FakeTable, own: PeerId) -> None:
        self.table = table
        self.own = own

    def provide(self, key: bytes) -> Deferred[Stored]:
        if self.table.down:
            return fail(DhtUnavailable("nobody"))
        if self.own not in self.table.providers[key]:
            self.table.providers[key].append(self.own)
        return succeed(Stored((self.own,), 1))

    def withdraw(self, key: bytes) -> Deferred[None]:
        self.table.providers[key].remove(self.own)
        return succeed(None)

    def providers(self, key: bytes, most: int = 20) -> Deferred[tuple[Provider, ...]]:
        if self.table.down:
            return fail(DhtUnavailable("nobody"))
        return succeed(tuple(map(Provider, self.table.providers[key])))


class FakeKeyring:
    """Roles that a test takes away."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = ("one", "two")
        self.watchers: list[Callable[[], Deferred[None] | None]] = []

    def identities(self) -> tuple[str, ...]:
        return self.keys

    def watch(self, changed: Callable[[], Deferred[None] | None]) -> None:
        self.watchers.append(changed)

    def become(self, *keys: str) -> None:
        self.keys = keys
        for changed in self.watchers:
            changed()


class ReplicaNode(Node):
    """`wanted` machines for each blob."""

    def __init__(self, case: ReplicaCase, number: int, limits: BlobLimits | None = None, root: Any = None) -> None:
        super().__init__(case, number, limits, root)
        self.number = number
        self.sealer = Sealer(self.blobs, offload)
        self.keyring = FakeKeyring()
        self.replicas = ReplicaService(
            ReplicaContext(
                blobs=self.blobs,
                sealer=self.sealer,
                plaintexts=Plaintexts(self.blobs, self.sealer, offload, case.fake, cast("Keyring", self.keyring)),
                host=self.host,
                dht=cast("Dht", FakeDht(case.table, self.host.peer_id)),
                clock=case.fake,
                rng=random.Random(number),
                wanted=3,
            )
        )
        self.replicas.startService()
        self.stopped = False
        case.addCleanup(self.stop)

    @property
    def peer(self) -> PeerId:
        return self.host.peer_id

    def leave(self) -> None:
        """Lose every connection."""
        for connection in list(self.host.connections()):
            cast("Any", connection).close()

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.case.successResultOf(self.replicas.stopService())
            self.leave()
            super().stop()


class ReplicaCase(BlobCase):
    def setUp(self) -> None:
        super().setUp()
        self.table = FakeTable()

    def mesh(self, count: int, limits: Callable[[int], BlobLimits | None] = lambda _: None) -> list[ReplicaNode]:
        """Nodes that are all connected to each other."""
        nodes = [ReplicaNode(self, number, limits(number)) for number in range(1, count + 1)]
        for place, node in enumerate(nodes):
            for other in nodes[:place]:
                connect(node.host, other.host)
        return nodes

    def sealed(self, node: ReplicaNode, data: bytes) -> str:
        """A record's ciphertext at a node; its id."""
        text = age.encrypt(data, [age.recipient_of(age.new_identity())])
        return self.successResultOf(node.replicas.keep_sealed(text))

    def replicate(self, node: ReplicaNode, stored: str) -> Stored:
        return self.successResultOf(self.until(node.replicas.replicate(stored, "decision")))

    def having(self, nodes: list[ReplicaNode], stored: str) -> list[ReplicaNode]:
        return [node for node in nodes if not node.stopped and node.blobs.size_of(stored) is not None]

    def after_chunks(self, count: int, event: Callable[[], object]) -> None:
        """Let `event` happen once so many chunks were read to be sent."""
        left = count

        def pread(descriptor: int, size: int, offset: int) -> bytes:
            nonlocal left
            left -= 1
            if not left:
                self.fake.callLater(0, event)
            return os.pread(descriptor, size, offset)

        self.patch(serving, "os", SimpleNamespace(pread=pread, fstat=os.fstat))
