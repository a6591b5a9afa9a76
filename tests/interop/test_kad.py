"""Kad-DHT with py-libp2p and js-libp2p: values and providers both ways, on `/ipfs/kad/1.0.0`."""

from __future__ import annotations

import random
import time
from hashlib import sha256

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from chorus.services.dht.namespaces import Unvalidated
from chorus.services.dht.service import DhtService
from chorus.services.dht.settings import DhtSettings
from chorus.store.database import Database
from tests.interop.exchange import InteropCase, until
from tests.interop.foreign import js_command, py_command

MULTIHASH = b"\x12\x20" + sha256(b"a blob").digest()


class KadExchange:
    """The tests; mixed into an `InteropCase` for each foreign implementation."""

    name: str
    confirms = True
    """Whether it ends an announcement's stream in peace."""

    def command(self) -> list[str]:
        raise NotImplementedError

    async def setUp(self) -> None:
        command = self.command()
        self.node = self.start_node()
        database = Database(self.scratch(), reactor)
        await database.open()
        self.addCleanup(database.close)
        self.dht = DhtService(
            self.node.host,
            database,
            reactor,
            namespaces={"interop": Unvalidated()},
            wall=time.time,
            rng=random.Random(1),
            settings=DhtSettings(mode="server", prefix="/ipfs", ask_others=True),
        )
        await self.dht.startService()
        self.addCleanup(self.dht.stopService)
        self.foreign = await self.start_foreign(self.name, [*command, "--kad"])
        await self.foreign.ask("connect", addr=str(self.node.address))
        await self.foreign.ask("table", peer=str(self.node.peer_id))
        await until(lambda: self.foreign.peer_id in self.dht.known.table, "the foreign peer in our table")

    async def test_they_put_and_we_hold_and_get(self) -> None:
        await self.foreign.ask("put", key="/interop/a", value=b"theirs".hex())
        held = await self.dht.held.get(b"/interop/a")
        self.assertEqual([(each.value, each.sender) for each in held], [(b"theirs", str(self.foreign.peer_id))])
        self.assertEqual(await self.dht.get(b"/interop/a"), b"theirs")

    async def test_we_put_and_they_hold_it(self) -> None:
        stored = await self.dht.put(b"/interop/b", b"ours")
        self.assertEqual(set(stored.holders), {self.node.peer_id, self.foreign.peer_id})
        self.assertEqual((await self.dht.holders(b"/interop/b"))[self.foreign.peer_id], b"ours")

    async def test_they_get_what_only_we_hold(self) -> None:
        await Deferred.fromCoroutine(self.dht.held.put(b"/interop/c", b"ours alone"))
        answer = await self.foreign.ask("get", key="/interop/c")
        self.assertEqual(answer["value"], b"ours alone".hex())

    async def test_providers_both_ways(self) -> None:
        await self.foreign.ask("provide", key=MULTIHASH.hex())
        found = await self.dht.providers(MULTIHASH)
        self.assertEqual([each.peer for each in found], [self.foreign.peer_id])
        stored = await self.dht.provide(MULTIHASH)
        self.assertEqual(self.foreign.peer_id in stored.holders, self.confirms)
        answer = await self.foreign.ask("providers", key=MULTIHASH.hex())
        self.assertIn(str(self.node.peer_id), answer["peers"])
        self.assertEqual(self.node.host.counters.peer_errors, {})


class PyLibp2pKad(KadExchange, InteropCase):
    name = "py-libp2p"

    def command(self) -> list[str]:
        return py_command()


class JsLibp2pKad(KadExchange, InteropCase):
    name = "js-libp2p"
    confirms = False  # it takes the announcement, and then resets the stream at our end of it

    def command(self) -> list[str]:
        return js_command(self.scratch())
