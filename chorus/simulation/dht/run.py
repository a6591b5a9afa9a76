"""One run of a scenario from a seed, and what came of it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any, Final

import attrs

from chorus.protocols.kad.lookup import LookupOutcome
from chorus.protocols.kad.messages import RequestKind
from chorus.protocols.kad.replication import Copies
from chorus.simulation.dht.network import DhtNet
from chorus.simulation.dht.nodes import SimRecord, SimServer
from chorus.simulation.dht.scenario import DhtScenario
from chorus.simulation.gossip.measures import percentile
from chorus.simulation.gossip.run import QUANTILES, SimulationResult, memory_mb
from chorus.simulation.trace import Trace
from chorus.simulation.world import nanoseconds

QUORUM: Final = 3
VALUE: Final = b"value"
LAST_GETS: Final = 1000
"""Values read at the end of a network with churn, at most."""

DhtProgress = Callable[[float, float], object]


@attrs.frozen
class SizeHops:
    """Lookups in a network of one size."""

    nodes: int
    mean: float
    greatest: int
    asked: float


@attrs.frozen
class HourSample:
    """Copies of the values at one time of a network with churn."""

    hours: float
    least: int
    mean: float
    lost: int


@attrs.frozen(kw_only=True)
class DhtResult(SimulationResult):
    scenario: DhtScenario
    latencies_ms: tuple[float, ...] = ()
    """Quantiles of the gets, equally spaced."""
    hops: tuple[SizeHops, ...] = ()
    samples: tuple[HourSample, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            **super().document(),
            "latencies_ms": list(self.latencies_ms),
            "hops": [attrs.asdict(each) for each in self.hops],
            "samples": [attrs.asdict(each) for each in self.samples],
        }


def simulate_dht(
    scenario: DhtScenario,
    seed: int,
    progress: DhtProgress = lambda done, total: None,
    cpu: Callable[[], float] = time.process_time,
) -> DhtResult:
    begin = cpu()
    run = ChurnRun(scenario, seed) if scenario.hours else StandingRun(scenario, seed)
    run.run(progress)
    return run.result(cpu() - begin)


@attrs.frozen
class _Got:
    """One lookup as it went."""

    outcome: LookupOutcome
    ms: float


class StandingRun:
    """Gets and lookups one after the other, in a network that stands still."""

    def __init__(self, scenario: DhtScenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.net = DhtNet(scenario, seed)
        self.trace = Trace(keep=None)
        self.gets: list[_Got] = []
        self.finds: list[_Got] = []
        self.found = 0
        self.exact = 0
        self.sizes: list[SizeHops] = []
        self._rng = self.net.world.rng("gets")

    def run(self, progress: DhtProgress) -> None:
        scenario, net = self.scenario, self.net
        keys = [b"/v/%d" % number for number in range(scenario.values)]
        for key in keys:
            self._place(key)
        for server in self._rng.sample(net.servers, round(scenario.dead * len(net.servers))):
            server.alive = False
        for number in range(scenario.gets):
            key = self._rng.choice(keys)
            self._one_get(key)
            self._one_find(b"/find/%d" % number)
            progress(number + 1, scenario.gets)
        for size in scenario.sizes:
            self.sizes.append(self._hops_of(size))

    def _place(self, key: bytes) -> None:
        """As a put to the closest servers leaves it."""
        for peer in self.net.closest(key):
            self.net.by_peer[peer].records[key] = SimRecord(VALUE, Copies(0.0, frozenset()), 0)

    def _one_get(self, key: bytes) -> None:
        holders = [one for one in self.net.servers if key in one.records]
        dead = [one for one in self._rng.sample(holders, self.scenario.killed) if one.alive]
        for one in dead:
            one.alive = False
        reader = self._rng.choice([one for one in self.net.live if key not in one.records])
        got = self._lookup(reader, RequestKind.GET_VALUE, key, QUORUM)
        self.gets.append(got)
        self.found += got.outcome.best == VALUE
        for one in dead:
            one.alive = True

    def _one_find(self, key: bytes) -> None:
        reader = self._rng.choice(self.net.live)
        got = self._lookup(reader, RequestKind.FIND_NODE, key, None)
        self.finds.append(got)
        self.exact += [one.peer for one in got.outcome.closest] == self.net.closest(key, without=reader.peer)

    def _lookup(self, reader: SimServer, kind: RequestKind, key: bytes, enough: int | None) -> _Got:
        world = self.net.world
        begin = world.now_ns
        done: list[_Got] = []

        def found(outcome: LookupOutcome) -> None:
            done.append(_Got(outcome, (world.now_ns - begin) / 1e6))

        if kind is RequestKind.GET_VALUE:
            reader.get(key, found, enough)
        else:
            reader.lookup(kind, key, found, enough)
        # Until everything is quiet: nobody has a timer but a lookup.
        world.run_for(60.0)
        (got,) = done
        self.trace.record(world.now_ns, reader.number, kind.name, b"%d %d" % (round(got.ms * 1e6), got.outcome.asked))
        return got

    def _hops_of(self, size: int) -> SizeHops:
        one = StandingRun(
            attrs.evolve(self.scenario, nodes=size, sizes=(), gets=min(self.scenario.gets, 200)), self.seed
        )
        for number in range(one.scenario.gets):
            one._one_find(b"/find/%d" % number)
        return _size_hops(size, one.finds)

    def result(self, cpu_s: float) -> DhtResult:
        gets, finds = sorted(got.ms for got in self.gets), sorted(got.ms for got in self.finds)
        count = len(self.gets)
        own = _size_hops(self.scenario.nodes, self.finds)
        sizes = sorted((own, *self.sizes), key=lambda size: size.nodes)
        figures = {
            "get_p50_ms": percentile(gets, 0.5),
            "get_p95_ms": percentile(gets, 0.95),
            "get_p99_ms": percentile(gets, 0.99),
            "get_max_ms": gets[-1],
            "found_percent": 100 * self.found / count,
            "find_p50_ms": percentile(finds, 0.5),
            "find_p95_ms": percentile(finds, 0.95),
            "exact_percent": 100 * self.exact / count,
            "asked_per_get": sum(got.outcome.asked for got in self.gets) / count,
            "asked_per_find": own.asked,
            "mean_hops": own.mean,
            "hops_over_log2_n": max(size.mean / math.log2(size.nodes) for size in sizes),
            **_effort(self.net, cpu_s),
        }
        return DhtResult(
            scenario=self.scenario,
            seed=self.seed,
            figures=figures,
            trace=self.trace.hexdigest(),
            latencies_ms=tuple(percentile(gets, number / QUANTILES) for number in range(1, QUANTILES + 1)),
            hops=tuple(sizes),
        )


def _size_hops(nodes: int, finds: list[_Got]) -> SizeHops:
    hops = [got.outcome.hops for got in finds]
    return SizeHops(nodes, sum(hops) / len(hops), max(hops), sum(got.outcome.asked for got in finds) / len(finds))


def _effort(net: DhtNet, cpu_s: float) -> dict[str, float]:
    return {"requests": net.requests, "events": net.world.events, "cpu_s": cpu_s, "memory_mb": memory_mb()}


class ChurnRun:
    """A network whose machines crash unannounced and are replaced, while holders keep the copies up."""

    def __init__(self, scenario: DhtScenario, seed: int, net_type: type[DhtNet] = DhtNet) -> None:
        self.scenario = scenario
        self.seed = seed
        self.net = net_type(scenario, seed)
        self.samples: list[HourSample] = []
        self.trace = Trace(keep=None)
        self.readable = 0
        self.read = 0
        self.crashes = 0
        self._keys = [b"/v/%d" % number for number in range(scenario.values)]
        self._rng: random.Random = self.net.world.rng("churn")

    def run(self, progress: DhtProgress) -> None:
        net, scenario = self.net, self.scenario
        for server in net.servers:
            net.fill(server)
            server.begin_upkeep()
        for key in self._keys:
            for peer in net.closest(key):
                net.by_peer[peer].keep(key, VALUE)
        if scenario.churn:
            self._next_crash()
        quarters = max(1, round(scenario.hours * 4))
        for quarter in range(quarters):
            net.world.run_until(nanoseconds((quarter + 1) * scenario.hours * 3600 / quarters))
            self._sample()
            progress(net.world.now, scenario.hours * 3600)
        self._read_all()

    def _next_crash(self) -> None:
        mean = 3600 / (self.scenario.churn * self.scenario.nodes)

        def crash() -> None:
            self.crashes += 1
            self.net.replace(self._rng.choice(self.net.servers))
            self._next_crash()

        self.net.world.after(nanoseconds(mean * self._rng.uniform(0.5, 1.5)), crash)

    def _sample(self) -> None:
        copies = dict.fromkeys(self._keys, 0)
        for one in self.net.servers:
            for key in one.records:
                copies[key] += 1
        counts = list(copies.values())
        sample = HourSample(self.net.world.now / 3600, min(counts), sum(counts) / len(counts), counts.count(0))
        self.samples.append(sample)
        self.trace.record(self.net.world.now_ns, 0, "copies", repr(sorted(copies.items())).encode())

    def _read_all(self) -> None:
        """Read values from anywhere, some at a time, while upkeep and churn go on."""
        keys = self._rng.sample(self._keys, min(LAST_GETS, len(self._keys)))
        self.read = len(keys)

        def found(outcome: LookupOutcome) -> None:
            self.readable += outcome.best == VALUE

        for key in keys:
            self._rng.choice(self.net.servers).get(key, found, QUORUM)
            self.net.world.run_for(0.05)
        self.net.world.run_for(30.0)

    def result(self, cpu_s: float) -> DhtResult:
        last = self.samples[-1]
        figures = {
            "lost": last.lost,
            "least_copies": min(sample.least for sample in self.samples),
            "mean_copies": last.mean,
            "readable_percent": 100 * self.readable / self.read,
            "crashes": self.crashes,
            "simulated_hours": self.net.world.now / 3600,
            **_effort(self.net, cpu_s),
        }
        return DhtResult(
            scenario=self.scenario,
            seed=self.seed,
            figures=figures,
            trace=self.trace.hexdigest(),
            samples=tuple(self.samples),
        )
