"""A network of servers on links with a round trip each; machines that crash say nothing.

Everything is drawn from streams of chance that are named for what they decide, so that one seed gives one run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Final

from chorus.identity import PeerId
from chorus.protocols.kad.keys import BITS
from chorus.protocols.kad.messages import Contact, KadMessage, RequestKind
from chorus.protocols.kad.replication import REPLICATE_S, replication
from chorus.simulation.dht.nodes import Replicate, SimServer
from chorus.simulation.dht.scenario import DIAL_TRIPS, DhtScenario
from chorus.simulation.world import MILLISECOND, World, nanoseconds

NOTICED_S: Final = (30.0, 50.0)
"""Seconds until the other end of a connection notices that a machine has crashed: silence, then a ping in vain."""


class DhtNet:
    """Servers whose tables are as many lookups leave them: each bucket is full of those that belong there, at random.

    A server is connected with the peers of its table."""

    def __init__(self, scenario: DhtScenario, seed: int) -> None:
        self.scenario = scenario
        self.world = World(seed)
        self.replication: Replicate = replication
        self.replicate_s = REPLICATE_S
        self.servers = [SimServer(self, number, 0.0) for number in range(scenario.nodes)]
        self.by_peer: dict[PeerId, SimServer] = {one.peer: one for one in self.servers}
        self.requests = 0
        self._by_point = sorted((one.contact for one in self.servers), key=lambda contact: contact.point)
        self._points = [contact.point for contact in self._by_point]
        self._rtt = scenario.rtt_ms * MILLISECOND
        self._fills = self.world.rng("tables")

    @property
    def live(self) -> list[SimServer]:
        return [one for one in self.servers if one.alive]

    def fill(self, server: SimServer) -> None:
        """Give a server of the beginning its table, when it is first needed."""
        if server.filled:
            return
        server.filled = True
        params = self.scenario.params
        own = server.table.point
        for shift in range(BITS - 1, -1, -1):
            low = (own ^ (1 << shift)) >> shift << shift
            first, last = self._places(low, shift)
            most = max(params.k, params.far >> (BITS - 1 - shift))
            for place in self._fills.sample(range(first, last), min(most, last - first)):
                server.table.answered(self._by_point[place], 0.0)
            first, last = self._places(own >> shift << shift, shift)
            if last - first <= 1:
                break
        if self.scenario.warm:
            peers = [entry.contact.peer for entry in server.table]
            limit = self.scenario.connections
            if limit is not None and limit < len(peers):
                peers = self._fills.sample(peers, limit)
            server.linked.update(dict.fromkeys(peers))

    def _places(self, low: int, shift: int) -> tuple[int, int]:
        """Where the points from `low` on stand that share all but `shift` bits with it."""
        return bisect_left(self._points, low), bisect_left(self._points, low + (1 << shift))

    # Requests

    def rtt(self, one: SimServer, other: SimServer) -> float:
        """Nanoseconds, the same for a pair in both directions."""
        return self._rtt * (0.9 + 0.2 * ((one.contact.point ^ other.contact.point) & 0xFFFF) / 0xFFFF)

    def request(
        self,
        node: SimServer,
        contact: Contact,
        message: KadMessage,
        answered: Callable[[KadMessage], object],
        failed: Callable[[], object],
    ) -> None:
        """Dial if there is no connection, ask, and call back; a crashed machine is a time-out."""
        self.requests += 1
        other = self.by_peer[contact.peer]
        params = self.scenario.params
        linked = other.peer in node.linked
        if not other.alive:
            self.world.after(nanoseconds(params.rpc_s if linked else params.dial_s), failed)
            return
        rtt = self.rtt(node, other)

        def arrived() -> None:
            if not other.alive:
                self.world.after(nanoseconds(params.rpc_s), failed)
                return
            reply = other.serve(message, node)
            assert reply is not None
            self.world.after(round(rtt / 2), lambda: answered(reply) if node.alive else None)

        self.world.after(round((0 if linked else DIAL_TRIPS * rtt) + rtt / 2), arrived)

    # Machines that come and go

    def crash(self, server: SimServer) -> None:
        """Its neighbours notice by and by."""
        server.alive = False
        server.records.clear()
        rng = self.world.rng("noticed", server.number)
        for one in self.servers:
            if one.alive and (server.peer in one.linked or one.peer in server.linked):
                delay = nanoseconds(rng.uniform(*NOTICED_S))
                self.world.after(delay, partial(one.noticed, server.contact))

    def replace(self, server: SimServer) -> SimServer:
        """A new machine takes the place of a crashed one, and joins through somebody."""
        self.crash(server)
        number = len(self.by_peer)
        new = SimServer(self, number, self.world.now)
        new.filled = True
        self.by_peer[new.peer] = new
        self.servers[self.servers.index(server)] = new
        rng = self.world.rng("join", number)
        through = rng.choice([one for one in self.servers if one.alive and one is not new])

        def introduced(reply: KadMessage) -> None:
            new.entered(through.contact)
            new.lookup(RequestKind.FIND_NODE, new.peer.raw, lambda outcome: new.refresh())

        self.request(new, through.contact, KadMessage(RequestKind.FIND_NODE, new.peer.raw), introduced, lambda: None)
        new.begin_upkeep()
        return new

    def closest(self, key: bytes, without: PeerId | None = None) -> list[PeerId]:
        """The k closest live servers, by looking at all."""
        point = int.from_bytes(sha256(key).digest(), "big")
        near = sorted((one.true_point ^ point, one) for one in self.servers if one.alive and one.peer != without)
        return [one.peer for _, one in near[: self.scenario.params.k]]
