"""A network of Kademlia servers in memory: tables of honest peers, and a driver of lookups without time."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterable

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.keys import BITS, SPACE, point_of
from chorus.protocols.kad.lookup import Ask, Lookup, LookupGoal, LookupOutcome, ValueRules
from chorus.protocols.kad.messages import Contact, KadMessage, KadRecord, RequestKind
from chorus.protocols.kad.namespaces import BadRecordValue, Namespaces
from chorus.protocols.kad.params import KadParams
from chorus.protocols.kad.serving import KadServer
from chorus.protocols.kad.table import RoutingTable

PARAMS = KadParams()
LOCAL = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
Responder = Callable[[KadMessage, PeerId], KadMessage | None]


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + random.Random(number).randbytes(32))


def peers(count: int, seed: int = 0) -> list[PeerId]:
    rng = random.Random(seed)
    return [PeerId(b"\x12\x20" + rng.randbytes(32)) for _ in range(count)]


def peers_near(point: int, count: int, closer_than: int, seed: int = 0) -> list[PeerId]:
    """Ids whose points are nearer to `point` than SPACE / `closer_than`: what an attacker grinds."""
    rng = random.Random(seed)
    found: list[PeerId] = []
    while len(found) < count:
        one = PeerId(b"\x12\x20" + rng.randbytes(32))
        if (point_of.__wrapped__(one.raw) ^ point) * closer_than < SPACE:
            found.append(one)
    return found


def check(value: bytes) -> None:
    if value.startswith(b"bad"):
        raise BadRecordValue("it is bad")


def select(values: Iterable[bytes]) -> int:
    listed = list(values)
    return listed.index(max(listed))


RULES = ValueRules(check, select)


def prefix_range(points: list[int], point: int, bits: int) -> tuple[int, int]:
    """Where those stand in sorted points that share so many bits with `point`."""
    low = point >> (BITS - bits) << (BITS - bits)
    return bisect_left(points, low), bisect_left(points, low + (1 << (BITS - bits)))


class StaticNetwork:
    """`members` know each other as after many lookups: buckets filled in random order. `answers` replaces what a peer
    replies; None is a failure."""

    def __init__(self, members: list[PeerId], seed: int = 1, params: KadParams = PARAMS) -> None:
        self.rng = random.Random(seed)
        self.params = params
        self.members = members
        self.held: dict[PeerId, dict[bytes, bytes]] = {one: {} for one in members}
        self.answers: dict[PeerId, Responder] = {}
        self.requests = 0
        contacts = sorted((Contact(one, (LOCAL,)) for one in members), key=lambda contact: contact.point)
        points = [contact.point for contact in contacts]
        self.servers: dict[PeerId, KadServer] = {}
        for one in members:
            table = RoutingTable(one, params, 0.0)
            for bits in range(BITS):
                near = contacts[slice(*prefix_range(points, table.point ^ (1 << (BITS - 1 - bits)), bits + 1))]
                for contact in self.rng.sample(near, min(params.k, len(near))):
                    table.answered(contact, 0.0)
                if bits > 20:
                    break
            self.servers[one] = KadServer(Contact(one, (LOCAL,)), table, Namespaces({}))

    def truth(self, key: bytes, count: int = 20, without: PeerId | None = None) -> list[PeerId]:
        """The closest members."""
        point = point_of(key)
        return sorted((m for m in self.members if m != without), key=lambda m: point_of(m.raw) ^ point)[:count]

    def store(self, key: bytes, value: bytes, holders: Iterable[PeerId]) -> None:
        for one in holders:
            self.held[one][key] = value

    def reply(self, one: PeerId, request: KadMessage, sender: PeerId) -> KadMessage | None:
        self.requests += 1
        answer = self.answers.get(one)
        if answer is not None:
            return answer(request, sender)
        if one not in self.servers:
            return None
        value = self.held[one].get(request.key)
        held = None if value is None else KadRecord(request.key, value)
        return self.servers[one].reply(request, sender, held=held)

    def lookup(self, goal: LookupGoal) -> Lookup:
        table = self.servers[goal.own].table
        return Lookup(goal, table.nearest(point_of(goal.key), self.params.k), self.params, 0.0, self.rng)

    def run(self, goal: LookupGoal) -> LookupOutcome:
        return self.drive(self.lookup(goal), goal.own)

    def drive(self, lookup: Lookup, own: PeerId) -> LookupOutcome:
        asks = lookup.step(0.0)
        while not lookup.done:
            assert asks, "a lookup that waits for nothing"
            for ask in asks:
                self.answer(lookup, ask, own)
            asks = lookup.step(0.0)
        return lookup.outcome()

    def answer(self, lookup: Lookup, ask: Ask, own: PeerId) -> None:
        reply = self.reply(ask.contact.peer, ask.request, own)
        if reply is None:
            lookup.failed(ask)
        else:
            lookup.answered(ask, reply, LOCAL)

    def find(self, key: bytes, own: PeerId, paths: int = 1) -> LookupOutcome:
        return self.run(self.goal(RequestKind.FIND_NODE, key, own, paths=paths))

    def get(self, key: bytes, own: PeerId, enough: int | None = 3, paths: int = 1) -> LookupOutcome:
        return self.run(self.goal(RequestKind.GET_VALUE, key, own, enough=enough, paths=paths))

    def goal(
        self, kind: RequestKind, key: bytes, own: PeerId, *, enough: int | None = None, paths: int = 1
    ) -> LookupGoal:
        rules = RULES if kind is RequestKind.GET_VALUE else None
        return LookupGoal(kind, key, own, rules, enough, paths, self.servers[own].table.size_estimate())
