"""A lookup: the k closest servers of a key, the value or the providers kept there. One machine without I/O.

The driver sends what `step` returns, reports each answer or failure, and calls `step` again: after every report and at
`wake_at`, until `done`. It ends whatever peers answer: by answers, by limits, or after `walk_s` (CVE-2026-44505).
`now` is in seconds of the boot clock.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import attrs

from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.messages import Contact, KadMessage, RequestKind, believed
from chorus.protocols.kad.params import LEAST_TELLERS, MAX_PROVIDERS, MAX_REGION, MAX_WALK, REGION_CELLS, KadParams
from chorus.protocols.kad.region import cell_keys, is_dense, region_bits, region_radius
from chorus.protocols.kad.walk import ANSWERED, FAILED, KadWalk, WalkCandidate


@attrs.frozen
class ValueRules:
    """A namespace's rules, as far as a lookup of a value needs them."""

    check: Callable[[bytes], object]
    """Raises a `ChorusError` for a value that does not count."""
    select: Callable[[Sequence[bytes]], int]
    """Index of the best."""


@attrs.frozen
class LookupGoal:
    """Kind and key that a lookup is for, and when it has enough."""

    kind: RequestKind
    """FIND_NODE, GET_VALUE or GET_PROVIDERS."""
    key: bytes
    own: PeerId
    """This node, which is never asked."""
    rules: ValueRules | None = None
    """Of GET_VALUE."""
    enough: int | None = None
    """Valid values of different peers, or different providers that at least `LEAST_TELLERS` named, after which it ends;
    None: all of the k closest. One peer names at most half of the providers."""
    paths: int = 1
    network: float | None = None
    """Estimated servers of the network (`RoutingTable.size_estimate`), for the density check; None: the network is so
    small that every server holds every record, so that no more are asked at a time than answers are missing."""
    connected: Callable[[PeerId], bool] | None = None
    """True for peers that need no dial: of the k nearest they are asked first."""


@attrs.frozen(eq=False)
class Ask:
    """A request to be sent. Reported back with its answer or failure."""

    contact: Contact
    request: KadMessage
    walk: KadWalk = attrs.field(repr=False)
    candidate: WalkCandidate = attrs.field(repr=False)


@attrs.frozen
class LookupOutcome:
    """Findings of a lookup, also of one that was cut short."""

    closest: tuple[Contact, ...]
    """Servers that answered, nearest first: k, or all in the region of a crowded key."""
    best: bytes | None
    """The best valid value."""
    values: dict[PeerId, bytes]
    """Valid values by holder."""
    owed: tuple[Contact, ...]
    """Of the closest, those that ought to hold the value: none behind the k nearest that were heard of, whatever they
    answered."""
    providers: tuple[Contact, ...]
    """Those named by most first."""
    refused: tuple[PeerId, ...]
    """Peers whose value did not count, or whose reply was no answer to the request."""
    asked: int
    hops: int
    """Requests in a row that led to the nearest."""
    complete: bool
    """False if limits or time ended it."""
    dense: bool
    """The key is crowded, and its region was searched."""

    def stale(self, best: bytes, holders: int | None = None) -> list[Contact]:
        """Of those that ought to hold it, or as many of them as `holders`, those with another valid value or none."""
        return [contact for contact in self.owed[:holders] if self.values.get(contact.peer) != best]


class Lookup:
    """See the module. `seeds` are the nearest that the driver knows, at most some k."""

    def __init__(
        self, goal: LookupGoal, seeds: Iterable[Contact], params: KadParams, now: float, rng: random.Random
    ) -> None:
        self.goal = goal
        self.target = point_of(goal.key)
        self._params = params
        self._rng = rng
        self._ends_at = now + params.walk_s
        request = KadMessage(goal.kind, goal.key)
        self._main = KadWalk(self.target, request, params, goal.paths)
        self._main.begin(seed for seed in seeds if seed.peer != goal.own)
        self._cells: list[KadWalk] = []
        self._dense = False
        self._complete = True
        self._done = False
        self._values: dict[PeerId, bytes] = {}
        self._providers: dict[PeerId, Contact] = {}
        self._named: Counter[PeerId] = Counter()
        """Answers that named a provider."""
        self._tellers = 0
        self._refused: dict[PeerId, None] = {}

    @property
    def done(self) -> bool:
        return self._done

    @property
    def wake_at(self) -> float | None:
        """When `step` must be called if nothing is reported before; None when done."""
        if self._done:
            return None
        times = [at for walk in (self._main, *self._cells) if (at := walk.wake_at()) is not None]
        return min(self._ends_at, *times) if times else self._ends_at

    def step(self, now: float) -> list[Ask]:
        """Requests to send now. Sets `done` once nothing is left to do; no report counts afterwards."""
        if self._done:
            return []
        if now >= self._ends_at:
            self._end(complete=False)
            return []
        asks: list[Ask] = []
        while not self._enough():
            for walk in (self._main, *self._cells):
                if walk.in_flight:
                    walk.pass_time(now)
                asks += [
                    Ask(one.contact, walk.request, walk, one)
                    for one in walk.next(now, self._room(), self.goal.connected)
                ]
            if asks or not self._main.ended or not all(cell.ended for cell in self._cells):
                return asks
            if not self._go_on():
                break
        self._end(complete=self._enough() or self._main.asked < MAX_WALK)
        return []

    def _room(self) -> int:
        """Requests that may be added now."""
        goal = self.goal
        if goal.network is not None or goal.enough is None:
            return self._params.alpha
        return max(1, self._missing(goal.enough)) - self._main.busy

    def _enough(self) -> bool:
        enough = self.goal.enough
        return enough is not None and self._missing(enough) <= 0

    def _missing(self, enough: int) -> int:
        if self.goal.kind is RequestKind.GET_PROVIDERS:
            return max(enough - len(self._providers), LEAST_TELLERS - self._tellers)
        return enough - len(self._values)

    def _end(self, *, complete: bool) -> None:
        self._complete = complete
        self._done = True

    # Crowded keys

    def _go_on(self) -> bool:
        """The walk has ended: search the region if the key is crowded; False if there is nothing more to do."""
        network, k = self.goal.network, self._params.k
        if network is None:
            return False
        if not self._dense:
            closest = [one.contact for one in self._main.answers()]
            if not is_dense(self.target, closest, k, network):
                return False
            self._dense = True
            params = attrs.evolve(self._params, alpha=-(-self._params.alpha // REGION_CELLS))
            for key in cell_keys(self.target, region_bits(k, network), self._rng):
                cell = KadWalk(point_of(key), KadMessage(RequestKind.FIND_NODE, key), params)
                cell.begin(one.contact for one in self._main.answers())
                self._cells.append(cell)
            return True
        if not self._cells:
            return False
        cells, self._cells = self._cells, []
        for cell in cells:
            for one in cell.answers():
                self._main.add(one.contact, 0, one.hops)
        self._main.widen(MAX_REGION, region_radius(k, network))
        return True

    # Reports

    def answered(self, ask: Ask, reply: KadMessage, source: Multiaddr | None = None) -> None:
        """A reply came. `source` is the address of its connection: private addresses that come over a public one are
        dropped. An exception of the rules that is no `ChorusError` goes through; report that as a failure."""
        if self._done or not ask.walk.settle(ask.candidate, ANSWERED):
            return
        peer = ask.contact.peer
        if reply.kind is not ask.request.kind:
            self._refused[peer] = None
            ask.candidate.state = FAILED
            return
        if ask.walk is self._main:
            self._take_value(peer, reply)
            self._take_providers(reply, source)
            if self._enough():
                return
        hops, path = ask.candidate.hops + 1, ask.candidate.path
        for contact in reply.closer:
            if contact.peer.raw != self.goal.own.raw:
                ask.walk.add(believed(contact, source), path, hops)

    def failed(self, ask: Ask) -> None:
        """The dial or the request failed, or took too long."""
        if not self._done:
            ask.walk.settle(ask.candidate, FAILED)

    def _take_value(self, peer: PeerId, reply: KadMessage) -> None:
        record, rules = reply.record, self.goal.rules
        if record is None or rules is None:
            return
        try:
            if record.key == self.goal.key:
                rules.check(record.value)
                self._values[peer] = record.value
                return
        except ChorusError:
            pass
        self._refused[peer] = None

    def _take_providers(self, reply: KadMessage, source: Multiaddr | None) -> None:
        if self.goal.kind is not RequestKind.GET_PROVIDERS or not reply.providers:
            return
        self._tellers += 1
        enough = self.goal.enough
        most = MAX_PROVIDERS if enough is None else len(self._providers) + -(-enough // 2)
        for contact in reply.providers:
            known = self._providers.get(contact.peer)
            if known is None and len(self._providers) >= min(most, MAX_PROVIDERS):
                continue
            self._named[contact.peer] += 1
            if known is None or not known.addresses:
                self._providers[contact.peer] = believed(contact, source)

    # The end

    def outcome(self) -> LookupOutcome:
        """All that is known now."""
        answers = self._main.answers()
        k, network = self._params.k, self.goal.network
        radius = region_radius(k, network) if self._dense and network is not None else 0
        closest = tuple(one.contact for at, one in enumerate(answers) if at < k or one.distance < radius)
        values = list(self._values.values())
        horizon = self._main.horizon()
        best = values[self.goal.rules.select(values)] if values and self.goal.rules is not None else None
        return LookupOutcome(
            closest=closest,
            best=best,
            values=dict(self._values),
            owed=tuple(one for one in closest if one.point ^ self.target <= horizon),
            providers=tuple(sorted(self._providers.values(), key=lambda one: -self._named[one.peer])),
            refused=tuple(self._refused),
            asked=self._main.asked + sum(cell.asked for cell in self._cells),
            hops=answers[0].hops if answers else 0,
            complete=self._done and self._complete,
            dense=self._dense,
        )
