"""Decisions in a real table, one member of which signs the content hashes of others as its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from chorus.identity import Identity
from chorus.services.dht.service import DhtService
from chorus.services.ucxl.service import UcxlService
from chorus.ucxl.address import Address
from chorus.ucxl.namespaces import ucxl_namespaces
from tests.services.dht.kit import DhtTestCase
from tests.services.memory_kit import FakeMesh, FakeRoles, memory_ports, memory_service
from tests.services.ucxl.test_service import PlainFiles
from tests.ucxl.samples import theft_of

AUTHOR, READER, THIEF = (Identity.from_seed(number.to_bytes(32, "big")) for number in (1, 2, 3))


class SquattingTest(DhtTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.mesh = FakeMesh()
        for each in (AUTHOR, READER, THIEF):
            self.mesh.join(each.peer_id)
        namespaces: Any = ucxl_namespaces(FakeRoles(self.mesh, AUTHOR.peer_id))
        self.namespaces = namespaces

    def member(self, identity: Identity, dht: DhtService) -> UcxlService:
        folder = Path(self.mktemp())  # type: ignore[no-untyped-call]
        folder.mkdir(parents=True)
        ports = memory_ports(
            self.mesh,
            identity,
            store=self.stores[identity.peer_id],
            blobs=PlainFiles(folder),
            clock=self.time,
            wall=lambda: 1.8e9 + self.time.seconds(),
        )
        service = memory_service(attrs.evolve(ports, dht=dht))
        self.successResultOf(service.startService())
        self.addCleanup(service.stopService)
        return service

    def do(self, work: Any) -> Any:
        return self.result(Deferred.fromCoroutine(work))

    def test_a_version_that_was_signed_by_another_first(self) -> None:
        nodes = self.nodes(3, mode="server")
        author, reader = self.member(AUTHOR, nodes[0]), self.member(READER, nodes[1])
        address = Address.parse(f"ucxl://{AUTHOR.peer_id}:developer@none:t")
        written = self.do(author._parts.author.write(address, {"kind": "note", "summary": "The plan."}))
        decision = written.decision
        theft = theft_of(decision, THIEF)
        for node in nodes[1:]:
            self.do(node.held.put(theft.key, theft.encode(), THIEF.peer_id))
        self.do(author.publisher.publish(written))
        self.run_for(30)
        self.assertEqual((author.publisher.waiting, author.publisher.published), (0, 1))
        for node in nodes:
            [held] = self.do(node.held.get(written.publication.version.key))
            self.assertEqual(held.value, written.publication.signed_version)
        self.kill(nodes[0])
        reader.cache.clear()
        self.assertEqual(self.result(reader.resolve(address)).content, decision.content_hash)
