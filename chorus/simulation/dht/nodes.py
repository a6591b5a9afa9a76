"""A simulated server: table, records, and drivers of the pure machines of protocols/kad."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from chorus.identity import PeerId
from chorus.protocols.kad.keys import SPACE, point_of
from chorus.protocols.kad.lookup import Ask, Lookup, LookupGoal, LookupOutcome, ValueRules
from chorus.protocols.kad.messages import Contact, KadMessage, KadRecord, RequestKind
from chorus.protocols.kad.namespaces import Namespaces
from chorus.protocols.kad.replication import SWEEP_S, Copies, received, replicated
from chorus.protocols.kad.serving import KadServer
from chorus.protocols.kad.table import RoutingTable
from chorus.simulation.world import nanoseconds

if TYPE_CHECKING:
    from chorus.simulation.dht.scenario import DhtScenario
    from chorus.simulation.world import World

NEWEST: Final = ValueRules(check=lambda value: None, select=lambda values: values.index(max(values)))
BEHIND: Final = 10
"""Servers behind the closest ones that may leave before a record is looked at again."""
NO_NAMESPACES: Final = Namespaces({})

Found = Callable[[LookupOutcome], object]


Replicate = Callable[[RoutingTable, bytes, int, Copies, int, float], list[Contact]]


class ServerNet(Protocol):
    """The network as its servers use it."""

    scenario: DhtScenario
    world: World
    replication: Replicate
    replicate_s: float

    def fill(self, server: SimServer) -> None:
        """Give it its table if it is needed for the first time."""

    def request(
        self,
        node: SimServer,
        contact: Contact,
        message: KadMessage,
        answered: Callable[[KadMessage], object],
        failed: Callable[[], object],
    ) -> None:
        """Ask, after a dial where there is no connection."""


@attrs.define(eq=False)
class SimRecord:
    """A record at a holder."""

    value: bytes
    copies: Copies
    farthest: int
    """Distance of one behind the closest servers when they were looked at: nobody farther changes them."""
    unsent: bool = False
    """A copy that was due went to nobody."""


class SimServer:
    """One machine. It is connected with peers of its table."""

    def __init__(self, net: ServerNet, number: int, now: float) -> None:
        rng = net.world.rng("id", number)
        self.net = net
        self.number = number
        self.contact = Contact(PeerId(b"\x12\x20" + rng.randbytes(32)))
        self.peer = self.contact.peer
        self.true_point = int.from_bytes(sha256(self.peer.raw).digest(), "big")
        """By which the closest servers are judged, whatever the core takes for its point."""
        self.alive = True
        self.rng: random.Random = rng
        self.records: dict[bytes, SimRecord] = {}
        self.linked: dict[PeerId, None] = {}
        """Peers that it is connected with."""
        self.table = RoutingTable(self.peer, net.scenario.params, now)
        self.server = KadServer(self.contact, self.table, NO_NAMESPACES)
        self.changed: set[int] = set()
        """Points of peers that came into the table, or went, since the records were looked at."""
        self.filled = False

    @property
    def now(self) -> float:
        return self.net.world.now

    # Serving

    def serve(self, request: KadMessage, sender: SimServer) -> KadMessage | None:
        """The reply. Who asks, and would have a place in the table, is probed."""
        self.net.fill(self)
        kind = request.kind
        if self.net.scenario.hours:
            self.meet(sender.contact)
        held: KadRecord | None = None
        if kind is RequestKind.PUT_VALUE:
            assert request.record is not None
            self.keep(request.key, request.record.value)
        elif kind is RequestKind.GET_VALUE and (record := self.records.get(request.key)) is not None:
            held = KadRecord(request.key, record.value)
        return self.server.reply(request, sender.peer, held=held)

    def keep(self, key: bytes, value: bytes) -> None:
        point = point_of(key)
        k = self.net.scenario.params.k
        known = self.records.get(key)
        if known is not None and known.value > value:
            return
        self.records[key] = SimRecord(value, received(self.table, point, k, self.now), self._farthest(point))

    def _farthest(self, point: int) -> int:
        count = self.net.scenario.params.k + BEHIND
        near = self.table.nearest(point, count)
        return near[-1].point ^ point if len(near) == count else SPACE

    # The table

    def meet(self, contact: Contact) -> None:
        """A server was met: probe it if it would have a place."""
        if not self.table.wants(contact):
            return
        probe = KadMessage(RequestKind.FIND_NODE, self.peer.raw)
        self.net.request(self, contact, probe, lambda reply: self.entered(contact), lambda: None)

    def entered(self, contact: Contact) -> None:
        """It answered a query of ours."""
        known = contact.peer in self.table
        if self.table.answered(contact, self.now) and not known:
            self.changed.add(contact.point)
            self.linked[contact.peer] = None

    def lost(self, contact: Contact) -> None:
        """A query to it failed, or its connection ended."""
        if contact.peer in self.table:
            self.changed.add(contact.point)
            self.table.failed(contact.peer)
        self.linked.pop(contact.peer, None)

    def noticed(self, contact: Contact) -> None:
        """The connection with it broke."""
        if self.alive:
            self.lost(contact)

    # Lookups

    def lookup(self, kind: RequestKind, key: bytes, found: Found, enough: int | None = None) -> None:
        self.net.fill(self)
        rules = NEWEST if kind is RequestKind.GET_VALUE else None
        goal = LookupGoal(
            kind, key, self.peer, rules, enough, network=self.table.size_estimate(), connected=self.linked.__contains__
        )
        seeds = self.table.nearest(point_of(key), self.net.scenario.params.k)
        SimLookup(self, Lookup(goal, seeds, self.net.scenario.params, self.now, self.rng), found).pump()

    def get(self, key: bytes, found: Found, enough: int | None) -> None:
        """A lookup of the value; then those that had none or an older one get the best."""

        def correct(outcome: LookupOutcome) -> None:
            found(outcome)
            if outcome.best is not None:
                request = KadMessage(RequestKind.PUT_VALUE, key, KadRecord(key, outcome.best))
                for contact in outcome.stale(outcome.best):
                    self.net.request(self, contact, request, lambda _: None, lambda: None)

        self.lookup(RequestKind.GET_VALUE, key, correct, enough)

    def put(self, key: bytes, value: bytes, done: Callable[[int], object]) -> None:
        """A lookup, then a PUT_VALUE to each of the closest; `done` with how many confirmed it."""

        def send(outcome: LookupOutcome) -> None:
            request = KadMessage(RequestKind.PUT_VALUE, key, KadRecord(key, value))
            left = len(outcome.closest)
            confirmed = 0

            def count(ok: bool) -> None:
                nonlocal left, confirmed
                left -= 1
                confirmed += ok
                if not left:
                    done(confirmed)

            for contact in outcome.closest:
                self.net.request(self, contact, request, lambda _: count(True), lambda: count(False))
            if not left:
                done(0)

        self.lookup(RequestKind.FIND_NODE, key, send)

    # Upkeep

    def begin_upkeep(self) -> None:
        """Refresh and sweep from now on, each at a phase of its own."""
        for interval, body in ((self.net.scenario.refresh_s, self.refresh), (SWEEP_S, self.sweep)):
            self._again(self.rng.uniform(0, interval), interval, body)

    def _again(self, first: float, interval: float, body: Callable[[], None]) -> None:
        def turn() -> None:
            if self.alive:
                body()
                self.net.world.after(nanoseconds(interval), turn)

        self.net.world.after(nanoseconds(first), turn)

    def refresh(self) -> None:
        """Look up our own id and a key of each bucket that is due, and probe who failed or has no connection, which the
        host's keep-alive watches."""
        self.lookup(RequestKind.FIND_NODE, self.peer.raw, lambda outcome: None)
        for bucket in self.table.due(self.now):
            key = self.table.refresh_key(bucket, self.rng)
            self.table.looked_up(point_of(key), self.now)
            self.lookup(RequestKind.FIND_NODE, key, lambda outcome: None)
        for contact in self.table.stale(self.now):
            if contact.peer not in self.linked:
                self.probe(contact)

    def probe(self, contact: Contact) -> None:
        request = KadMessage(RequestKind.FIND_NODE, self.peer.raw)
        self.net.request(self, contact, request, lambda _: self.entered(contact), lambda: self.lost(contact))

    def sweep(self) -> None:
        """Send copies where they are due. Records whose closest servers are the same as before are passed over, as
        `replication` would."""
        changed, self.changed = self.changed, set()
        for key, record in self.records.items():
            point = point_of(key)
            near = record.unsent or any(one ^ point <= record.farthest for one in changed)
            if near or self.now - record.copies.put_at >= self.net.replicate_s:
                self._replicate(key, point, record)

    def _replicate(self, key: bytes, point: int, record: SimRecord) -> None:
        k = self.net.scenario.params.k
        sent = self.net.replication(self.table, key, point, record.copies, k, self.now)
        if not sent:
            return
        record.farthest = self._farthest(point)
        request = KadMessage(RequestKind.PUT_VALUE, key, KadRecord(key, record.value))
        confirmed: set[PeerId] = set()
        left = len(sent)

        def count(contact: Contact, ok: bool, _: object = None) -> None:
            nonlocal left
            left -= 1
            if ok:
                confirmed.add(contact.peer)
            else:
                self.lost(contact)
            if not left:
                copies = replicated(self.table, point, record.copies, sent, frozenset(confirmed), k, self.now)
                record.copies, record.unsent = copies, len(confirmed) < len(sent)

        for contact in sent:
            self.net.request(self, contact, request, partial(count, contact, True), partial(count, contact, False))


class SimLookup:
    """Drives one lookup: sends what it asks for, and wakes it."""

    def __init__(self, node: SimServer, machine: Lookup, found: Found) -> None:
        self._node = node
        self._machine = machine
        self._found = found
        self._wake_at = 0.0

    def pump(self) -> None:
        machine, node = self._machine, self._node
        if machine.done or not node.alive:
            return
        for ask in machine.step(node.now):
            node.net.request(node, ask.contact, ask.request, partial(self._answered, ask), partial(self._failed, ask))
        if machine.done:
            self._found(machine.outcome())
            return
        wake_at = machine.wake_at
        if wake_at is not None and not node.now < self._wake_at <= wake_at:
            self._wake_at = wake_at
            node.net.world.at(nanoseconds(wake_at) + 1, self.pump)

    def _answered(self, ask: Ask, reply: KadMessage) -> None:
        self._machine.answered(ask, reply)
        if self._node.net.scenario.hours:
            self._node.entered(ask.contact)
        self.pump()

    def _failed(self, ask: Ask) -> None:
        self._machine.failed(ask)
        if self._node.net.scenario.hours:
            self._node.lost(ask.contact)
        self.pump()
