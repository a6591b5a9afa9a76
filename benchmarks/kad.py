"""DHT commands of the benchmark node: `kad_add`, `kad_size`, `kad_refresh`, `put`, `get`, `bench_put`, `bench_get`."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater

from chorus.errors import ChorusError
from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.dht.namespaces import Unvalidated
from chorus.services.dht.service import DhtService
from chorus.services.dht.settings import DhtSettings
from chorus.store.database import Database

if TYPE_CHECKING:
    from chorus.services.p2p.host import P2PService

now = time.monotonic_ns


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kad", action="store_true", help="take part in a DHT")
    parser.add_argument("--kad-prefix", default="/ipfs")
    parser.add_argument("--ns", default="bench", help="the namespace of values, which are not validated")
    parser.add_argument("--quorum", type=int, default=3, help="answers that a get waits for")
    parser.add_argument("--holders", type=int, help="servers that a put is sent to, instead of the 20 closest")


class KadCommands:
    """Records are kept in a database of their own, synced to disk as in any node, and removed at the end."""

    def __init__(self, reactor: Any, host: P2PService, flags: argparse.Namespace) -> None:
        self._reactor = reactor
        self._host = host
        self._directory = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
        self._database = Database(self._directory / "chorus.db", reactor)
        self.dht = DhtService(
            host,
            self._database,
            reactor,
            namespaces={flags.ns: Unvalidated()},
            wall=time.time,
            rng=random.Random(),
            settings=DhtSettings(
                mode="server",
                prefix=flags.kad_prefix,
                quorum=flags.quorum,
                holders=flags.holders,
                ask_others=True,
            ),
        )

    async def start(self) -> None:
        await self._database.open()
        await self.dht.startService()

    async def stop(self) -> None:
        await self.dht.stopService()
        await self._database.close()
        shutil.rmtree(self._directory)

    async def kad_add(self, command: dict[str, Any]) -> dict[str, Any]:
        address = Multiaddr.parse(command["addr"])
        peer = address.peer_id()
        assert peer is not None
        await self._host.dial(peer, [address])
        for _ in range(100):
            self.dht.known.look()
            if peer in self.dht.known.table:
                break
            await deferLater(self._reactor, 0.05)
        return {"added": peer in self.dht.known.table, "table": len(self.dht.known)}

    async def kad_size(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"table": len(self.dht.known)}

    async def kad_refresh(self, command: dict[str, Any]) -> dict[str, Any]:
        await self.dht.refresh()
        return {"table": len(self.dht.known)}

    async def put(self, command: dict[str, Any]) -> dict[str, Any]:
        began = now()
        stored = await self.dht.put(command["key"].encode(), bytes.fromhex(command["value"]))
        return {"ns": now() - began, "holders": len(stored.holders)}

    async def get(self, command: dict[str, Any]) -> dict[str, Any]:
        began = now()
        value = await self.dht.get(command["key"].encode())
        return {"ns": now() - began, "value": value.hex()}

    async def bench_put(self, command: dict[str, Any]) -> dict[str, Any]:
        times, errors, stored, last = [], 0, 0, None
        value = os.urandom(command.get("size", 100))
        began = now()
        for key in command["keys"]:
            started = now()
            try:
                stored += len((await self.dht.put(key.encode(), value)).holders)
                times.append(now() - started)
            except ChorusError as error:
                errors, last = errors + 1, str(error)
        return {"lat_ns": times, "errors": errors, "last_error": last, "stored": stored, "wall_ns": now() - began}

    async def bench_get(self, command: dict[str, Any]) -> dict[str, Any]:
        times, miss = [], 0
        began = now()
        for key in command["keys"]:
            started = now()
            try:
                await self.dht.get(key.encode())
            except ChorusError:
                miss += 1
            times.append(now() - started)
        return {"lat_ns": times, "miss": miss, "wall_ns": now() - began}
