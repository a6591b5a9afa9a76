#!/usr/bin/env python3
"""A CHORUS node for benchmarks: open mode, loopback, driven by JSON lines on stdin (one command, one answer).

It prints `{"event": "ready", "impl", "pid", "peer_id", "addr"}` and then answers `{"ok": true, …}` or
`{"ok": false, "error"}`. Times are integer nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
`compare.py` runs it beside other implementations that speak the same.
"""

# ruff: noqa: E402 (the reactor is chosen before anything imports one)

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chorus.reactor import install

install()

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver

from benchmarks import kad
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import perf, ping
from chorus.protocols.limits import HostLimits
from chorus.protocols.stream import Connection
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings

if TYPE_CHECKING:
    from chorus.services.pubsub.service import PubSubService
    from chorus.services.pubsub.topics import Received

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]
HEADER = struct.Struct(">QQ")
"""Of a published message: when it was sent, and its number."""
WARM_UP_PINGS = 50
now = time.monotonic_ns


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--gossip", action="store_true")
    parser.add_argument("--heartbeat", type=float, default=1.0, help="seconds between gossip heartbeats")
    kad.add_flags(parser)
    return parser.parse_args()


def resident_kb() -> int:
    status = Path("/proc/self/status").read_text("utf-8", "replace")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


class Node:
    """The commands, by name: `connect` is `connect()`, `bench_conn` is `bench_conn()`, …"""

    def __init__(self, reactor: Any, flags: argparse.Namespace) -> None:
        self.reactor = reactor
        self.identity = Identity.generate()
        self.host = P2PService(
            reactor,
            self.identity,
            admission=OpenAdmission(),
            settings=HostSettings(
                open_mode=True,
                listen=[Multiaddr.tcp("127.0.0.1", flags.port)],
                # One process plays every peer of a benchmark, whichever its number.
                limits=HostLimits(max_inbound_connections=4096, max_outbound_connections=4096),
            ),
        )
        self.pubsub: PubSubService | None = None
        self.received: list[tuple[int, int, int]] = []
        self.total = 0
        self._identified: dict[PeerId, Deferred[None]] = {}
        self._gone: dict[Connection, Deferred[None]] = {}
        self.host.watch_peers(self._joined, self._left)
        if flags.gossip:
            self._start_gossip(flags.heartbeat)
        self.kad = kad.KadCommands(reactor, self.host, flags) if flags.kad else None

    async def start(self) -> dict[str, Any]:
        self.host.startService()
        if self.kad is not None:
            await self.kad.start()
        if self.pubsub is not None:
            self.pubsub.startService()
        address = self.host.bound_addresses()[0].with_peer(self.host.peer_id)
        return {
            "event": "ready",
            "impl": "chorus",
            "pid": os.getpid(),
            "peer_id": str(self.host.peer_id),
            "addr": str(address),
        }

    def _joined(self, connection: Connection) -> None:
        waiter = self._identified.pop(connection.peer_id, None)
        if waiter is not None:
            waiter.callback(None)

    def _left(self, connection: Connection) -> None:
        waiter = self._gone.pop(connection, None)
        if waiter is not None:
            waiter.callback(None)

    # Connections

    async def _dial(self, command: dict[str, Any]) -> Connection:
        address = Multiaddr.parse(command["addr"])
        return await self.host.dial(address.peer_id(), [address])

    async def connect(self, command: dict[str, Any]) -> None:
        await self._dial(command)

    async def bench_conn(self, command: dict[str, Any]) -> dict[str, Any]:
        up, full = [], []
        peer = Multiaddr.parse(command["addr"]).peer_id()
        assert peer is not None
        began = now()
        for _ in range(command["n"]):
            identified = self._identified[peer] = Deferred()
            started = now()
            connection = await self._dial(command)
            up.append(now() - started)
            await identified
            full.append(now() - started)
            gone = self._gone[connection] = Deferred()
            connection.close()
            await gone
        return {"up_ns": up, "full_ns": full, "wall_ns": now() - began}

    # Streams

    async def bench_ping(self, command: dict[str, Any]) -> dict[str, Any]:
        connection = await self._dial(command)
        stream = StreamIO(await connection.open_stream([ping.PROTOCOL]), self.reactor)
        sent = os.urandom(ping.SIZE)
        for _ in range(WARM_UP_PINGS):
            await stream.write(sent)
            await stream.read_exactly(ping.SIZE)
        times = []
        began = now()
        for _ in range(command["n"]):
            started = now()
            await stream.write(sent)
            echoed = await stream.read_exactly(ping.SIZE)
            times.append(now() - started)
        wall = now() - began
        assert echoed == sent
        stream.close()
        return {"rtt_ns": times, "wall_ns": wall}

    async def bench_stream(self, command: dict[str, Any]) -> dict[str, Any]:
        connection = await self._dial(command)
        await deferLater(self.reactor, 0.5)  # identify is over
        sent = os.urandom(ping.SIZE)
        times = []
        began = now()
        for _ in range(command["n"]):
            started = now()
            stream = StreamIO(await connection.open_stream([ping.PROTOCOL]), self.reactor)
            await stream.write(sent)
            echoed = await stream.read_exactly(ping.SIZE)
            stream.close()
            times.append(now() - started)
        wall = now() - began
        assert echoed == sent
        return {"lat_ns": times, "wall_ns": wall}

    async def bench_bulk(self, command: dict[str, Any]) -> dict[str, Any]:
        connection = await self._dial(command)
        stream = StreamIO(await connection.open_stream([perf.PROTOCOL]), self.reactor)
        chunk = os.urandom(command.get("chunk", perf.CHUNK))
        began = now()
        await perf.upload(stream, command["bytes"], chunk)
        wall = now() - began
        stream.close()
        return {"bytes": command["bytes"], "wall_ns": wall}

    # Gossip

    def _start_gossip(self, heartbeat: float) -> None:
        import random

        from chorus.protocols.gossipsub.params import GossipParams
        from chorus.services.pubsub.service import PubSubService
        from chorus.services.pubsub.settings import PubSubSettings

        self.pubsub = PubSubService(
            self.host,
            self.identity,
            self.reactor,
            rng=random.Random(),
            settings=PubSubSettings(GossipParams(heartbeat=heartbeat)),
        )

    def _gossip(self) -> PubSubService:
        if self.pubsub is None:
            raise ValueError("started without --gossip")
        return self.pubsub

    def _message(self, message: Received) -> None:
        arrived = now()
        self.total += 1
        if len(message.data) >= HEADER.size:
            sent, number = HEADER.unpack_from(message.data)
            self.received.append((number, sent, arrived))

    async def subscribe(self, command: dict[str, Any]) -> None:
        self._gossip().subscribe(command["topic"], self._message)

    async def mesh(self, command: dict[str, Any]) -> dict[str, Any]:
        pubsub = self._gossip()
        return {
            "mesh": len(pubsub.mesh_of(command["topic"])),
            "subscribers": len(pubsub.router.subscribers(command["topic"])),
            "peers": len(pubsub.peers()),
        }

    async def publish(self, command: dict[str, Any]) -> dict[str, Any]:
        pubsub = self._gossip()
        padding = os.urandom(command["size"] - HEADER.size)
        rate = command.get("rate") or 0
        began = now()
        for number in range(command["count"]):
            if rate:
                wait = (began + number * 1e9 / rate - now()) / 1e9
                if wait > 0:
                    await deferLater(self.reactor, wait)
            pubsub.publish(command["topic"], HEADER.pack(now(), number) + padding)
            if not rate:
                await pubsub.ready()
                if number % 16 == 15:
                    await deferLater(self.reactor, 0)
        return {"wall_ns": now() - began}

    async def recv(self, command: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {"received": len(self.received), "total": self.total}
        if command.get("full"):
            answer["lat_ns"] = [arrived - sent for _, sent, arrived in self.received]
            answer["first_ns"] = min((arrived for _, _, arrived in self.received), default=0)
            answer["last_ns"] = max((arrived for _, _, arrived in self.received), default=0)
            answer["first_sent_ns"] = min((sent for _, sent, _ in self.received), default=0)
            answer["unique"] = len({number for number, _, _ in self.received})
        if command.get("reset"):
            self.received = []
            self.total = 0
        return answer

    # The process

    async def rss(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"rss_kb": resident_kb(), "peers": len(self.host.connections())}

    async def protocols(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"handlers": self.host.protocols()}

    async def counters(self, command: dict[str, Any]) -> dict[str, Any]:
        import attrs

        counters = attrs.asdict(self.host.counters)
        return {"p2p": counters, "pubsub": self.pubsub.counters() if self.pubsub is not None else None}


COMMANDS = frozenset(name for name in vars(Node) if not name.startswith("_") and name != "start")
KAD_COMMANDS = frozenset(name for name in vars(kad.KadCommands) if not name.startswith("_")) - {"start", "stop"}


class Commands(LineOnlyReceiver):
    """One JSON object a line; commands run one after another."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 24

    def __init__(self, node: Node, reactor: Any) -> None:
        self._node = node
        self._reactor = reactor
        self._last: Deferred[None] = Deferred()
        self._last.callback(None)

    def connectionMade(self) -> None:
        self._last.addCallback(lambda _: Deferred.fromCoroutine(self._start()))

    async def _start(self) -> None:
        self._say(await self._node.start())

    def lineReceived(self, line: bytes) -> None:
        if line.strip():
            self._last.addCallback(lambda _: Deferred.fromCoroutine(self._run(json.loads(line))))

    async def _run(self, command: dict[str, Any]) -> None:
        name = command.get("cmd")
        if name == "quit":
            self._quit()
            return
        try:
            if name in COMMANDS:
                answer = await getattr(self._node, name)(command)
            elif name in KAD_COMMANDS and self._node.kad is not None:
                answer = await getattr(self._node.kad, name)(command)
            else:
                raise ValueError(f"this node has no command {name!r}")
            self._say({"ok": True, **(answer or {})})
        except Exception as error:
            import traceback

            trace = traceback.format_exc()[-1500:]
            self._say({"ok": False, "error": f"{type(error).__name__}: {error}", "trace": trace})

    def _say(self, answer: dict[str, Any]) -> None:
        self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: object = None) -> None:
        self._quit()

    def _quit(self) -> None:
        if self._node.kad is not None:
            node, self._node.kad = self._node.kad, None
            Deferred.fromCoroutine(node.stop()).addBoth(lambda _: self._reactor.stop())
        elif self._reactor.running:
            self._reactor.stop()


def main() -> None:
    flags = parse_flags()
    from twisted.internet import reactor

    node = Node(reactor, flags)
    StandardIO(Commands(node, reactor))  # type: ignore[no-untyped-call]
    reactor.run()


if __name__ == "__main__":
    main()
