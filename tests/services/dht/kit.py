"""DHT nodes joined in memory on one fake clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.dialing import DialError
from chorus.protocols.kad.namespaces import Namespace
from chorus.protocols.stream import Connection
from chorus.services.dht.namespaces import Unvalidated
from chorus.services.dht.service import DhtService
from chorus.services.dht.settings import DhtSettings
from chorus.store.inline import InlineDatabase
from tests.services.memory_host import MemoryHost, connect
from tests.support import PureTestCase

KEY = b"/test/a"
WALL = 1_700_000_000.0


class DialHost(MemoryHost):
    """A host that reaches every other one of its network that is up."""

    def __init__(self, net: dict[PeerId, DialHost], number: int, clock: Clock) -> None:
        super().__init__(Identity.from_seed(number.to_bytes(32, "big")).peer_id, clock)
        self.net = net
        self.up = True
        self.address = Multiaddr.tcp(f"10.0.{number // 256}.{number % 256}", 4001)
        net[self.peer_id] = self

    def listen_addresses(self) -> list[Multiaddr]:
        return [self.address]

    def addresses_of(self, peer: PeerId) -> list[Multiaddr]:
        return [self.net[peer].address]

    def dial(self, peer: PeerId | None, addresses: Sequence[Multiaddr]) -> Deferred[Connection]:
        assert peer is not None
        known = self.connection(peer)
        if known is not None:
            return succeed(known)
        other = self.net.get(peer)
        if other is None or not other.up:
            return fail(DialError(peer, []))
        return succeed(connect(self, other)[0])


class Numbers:
    """Values are decimal numbers: the larger one is better."""

    lifetime_s: float | None = None
    variants = 1

    def validate(self, key: bytes, value: bytes, now: float) -> None:
        from chorus.protocols.kad.namespaces import BadRecordValue

        if not value.isdigit():
            raise BadRecordValue("no number")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return max(range(len(values)), key=lambda index: int(values[index]))

    def replaces(self, key: bytes, held: bytes, new: bytes) -> bool:
        return int(new) > int(held)

    def author(self, key: bytes, value: bytes) -> str | None:
        return None


class DhtTestCase(PureTestCase):
    """`self.nodes(n)` are connected in a ring of chords, and know each other after a few seconds."""

    namespaces: Mapping[str, Namespace] = {"test": Unvalidated(), "number": Numbers()}

    def setUp(self) -> None:
        self.time = Clock()
        self.net: dict[PeerId, DialHost] = {}
        self.wall = WALL
        self.stores: dict[PeerId, InlineDatabase] = {}

    def node(self, number: int, **settings: Any) -> DhtService:
        host = DialHost(self.net, number, self.time)
        path = Path(self.mktemp())  # type: ignore[no-untyped-call]
        return self.start(host, InlineDatabase(path), **settings)

    def start(self, host: DialHost, store: InlineDatabase, **settings: Any) -> DhtService:
        dht = DhtService(
            host,
            store,
            self.time,
            namespaces=self.namespaces,
            wall=lambda: self.wall + self.time.seconds(),
            rng=random.Random(host.peer_id.raw),
            settings=DhtSettings(**settings),
        )
        self.stores[host.peer_id] = store
        self.successResultOf(dht.startService())
        self.addCleanup(store.close)
        self.addCleanup(self.stop, dht)
        return dht

    def stop(self, dht: DhtService) -> None:
        if dht.running:
            stopped = dht.stopService()
            self.run_for(0.1)
            self.successResultOf(stopped)

    def nodes(self, count: int, **settings: Any) -> list[DhtService]:
        nodes = [self.node(number + 1, **settings) for number in range(count)]
        for index, node in enumerate(nodes):
            for step in (1, 2, 5):
                other = nodes[(index + step) % count]
                if other is not node and self.host(node).connection(self.host(other).peer_id) is None:
                    connect(self.host(node), self.host(other))
        self.run_for(5)
        return nodes

    def host(self, dht: DhtService) -> DialHost:
        host = dht._host
        assert isinstance(host, DialHost)
        return host

    def kill(self, dht: DhtService) -> None:
        """The machine is gone."""
        host = self.host(dht)
        host.up = False
        self.stop(dht)
        for connection in host.connections():
            connection.close()

    def run_for(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def result(self, waiting: Deferred[Any], seconds: float = 20.0) -> Any:
        """What it fires with, as long as the clock is advanced."""
        self.run_until(lambda: waiting.called, seconds)
        return self.successResultOf(waiting)

    def failure(self, waiting: Deferred[Any], kind: type[Exception], seconds: float = 20.0) -> None:
        self.run_until(lambda: waiting.called, seconds)
        self.failureResultOf(waiting, kind)

    def run_until(self, done: Callable[[], bool], seconds: float) -> None:
        """From one delayed call to the next."""
        end = self.time.seconds() + seconds
        while not done():
            calls = self.time.getDelayedCalls()
            due = min((call.getTime() for call in calls), default=None)
            if due is None or due > end:
                break
            self.time.advance(max(1e-6, due - self.time.seconds()))
        if not done():
            self.time.advance(max(0.0, end - self.time.seconds()))
