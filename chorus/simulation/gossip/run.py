"""One run of a scenario from a seed, and what came of it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from chorus.simulation.gossip.measures import MAX_HOPS, Sample, percentile
from chorus.simulation.gossip.network import GossipNet, Progress
from chorus.simulation.gossip.nodes import HONEST
from chorus.simulation.gossip.parameters import parameters
from chorus.simulation.gossip.scenario import NamedScenario, Scenario
from chorus.simulation.world import MILLISECOND

QUANTILES: Final = 1000
"""Points kept of the distribution of latencies: enough for a smooth curve, whatever the run's length."""


@attrs.frozen(kw_only=True)
class SimulationResult:
    """Of a run of any kind."""

    scenario: NamedScenario
    seed: int
    figures: Mapping[str, float]
    """Times in the unit that the name ends with."""
    trace: str
    """Hash of all that happened: equal for equal runs."""

    def missed(self) -> list[str]:
        """Figures of the scenario that are not reached."""
        return [
            f"{wanted}, but it is {self.figures[wanted.figure]:.4g}"
            for wanted in self.scenario.wanted
            if not wanted.holds(self.figures)
        ]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "scenario": attrs.asdict(self.scenario, filter=lambda attribute, _: attribute.name != "wanted"),
            "seed": self.seed,
            "trace": self.trace,
            "figures": dict(self.figures),
            "wanted": [str(wanted) for wanted in self.scenario.wanted],
            "missed": self.missed(),
        }


@attrs.frozen(kw_only=True)
class GossipResult(SimulationResult):
    """Figures `…_score` and `…_places` are by kind of node, as honest ones see them."""

    scenario: Scenario
    latencies_ms: tuple[float, ...]
    """Quantiles of it, `QUANTILES` of them, equally spaced."""
    hops: tuple[tuple[int, int, float], ...]
    """(hops, deliveries, their mean latency in ms)."""
    duplicates: tuple[float, ...]
    """By honest node: copies too many for each message."""
    samples: tuple[Sample, ...]
    """One a second."""

    def document(self) -> dict[str, Any]:
        return {
            **super().document(),
            "parameters": {each.key: each.value for each in parameters(self.scenario)},
            "latencies_ms": list(self.latencies_ms),
            "hops": [list(each) for each in self.hops],
            "samples": [attrs.asdict(sample) for sample in self.samples],
        }


@contextmanager
def _without_collector() -> Iterator[None]:
    """Objects of a run live to its end: a search for cycles costs a fifth of the time and finds nothing."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def memory_mb() -> float:
    """Resident memory of this process, where the system tells (Linux), else 0."""
    try:
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def simulate(
    scenario: Scenario,
    seed: int,
    progress: Progress = lambda done, total: None,
    cpu: Callable[[], float] = time.process_time,
) -> GossipResult:
    begin = cpu()
    with _without_collector():
        net = GossipNet(scenario, seed)
        net.run(progress)
    return result(net, seed, cpu() - begin)


def result(net: GossipNet, seed: int, cpu_s: float) -> GossipResult:
    """The result of a net that has run for `cpu_s` seconds of processor time."""
    measures = net.measures
    latencies = measures.latency_ms()
    hops = tuple(
        (number, count, measures.hop_ns[number] / count / MILLISECOND)
        for number, count in enumerate(measures.hops[: MAX_HOPS + 1])
        if count
    )
    messages = max(1, measures.messages)
    return GossipResult(
        scenario=net.scenario,
        seed=seed,
        figures={**_deliveries(net, latencies, hops), **_meshes(net), **_effort(net, cpu_s)},
        trace=measures.trace.hexdigest(),
        latencies_ms=tuple(percentile(latencies, number / QUANTILES) for number in range(1, QUANTILES + 1)),
        hops=hops,
        duplicates=tuple((node.duplicates - node.duplicates_before) / messages for node in net.honest),
        samples=tuple(measures.samples),
    )


def _deliveries(net: GossipNet, latencies: list[float], hops: tuple[tuple[int, int, float], ...]) -> dict[str, float]:
    measures = net.measures
    owed, came = measures.owed(net.honest)
    count = max(1, len(latencies))
    return {
        "p50_ms": percentile(latencies, 0.5),
        "p95_ms": percentile(latencies, 0.95),
        "p99_ms": percentile(latencies, 0.99),
        "max_ms": latencies[-1] if latencies else 0.0,
        "messages": measures.messages,
        "deliveries": len(latencies),
        "delivered_percent": 100 * came / owed if owed else 0.0,
        "delivered_twice": measures.twice,
        "sends_per_delivery": measures.sends / count,
        "duplicates_per_delivery": net.duplicates / count,
        "mean_hops": sum(number * deliveries for number, deliveries, _ in hops) / count,
        "max_hops": max((number for number, _, _ in hops), default=0),
    }


def _meshes(net: GossipNet) -> dict[str, float]:
    """Of the time in which messages were measured; `_low` is the least at any second of it, the rest is of its end."""
    measured = [sample for sample in net.measures.samples if sample.seconds >= net.scenario.warm_up]
    last = measured[-1]
    figures = {
        "mesh_degree": last.degrees.mean,
        "mesh_degree_low": min(sample.degrees.low for sample in measured),
        "mesh_degree_high": max(sample.degrees.high for sample in measured),
        "honest_score_low": min(sample.scores[HONEST].low for sample in measured if HONEST in sample.scores),
        "honest_below_0_percent": last.below[HONEST] * 100,
    }
    for kind in net.counts:
        figures[f"{kind}_score"] = last.scores[kind].p50 if kind in last.scores else 0.0
        figures[f"{kind}_places"] = last.places[kind]
    return figures


def _effort(net: GossipNet, cpu_s: float) -> dict[str, float]:
    simulated = net.world.now
    return {
        "simulated_s": simulated,
        "cpu_s": cpu_s,
        "events": net.world.events,
        "events_per_second": net.world.events / cpu_s if cpu_s else 0.0,
        "times_real_time": cpu_s / simulated,
        "memory_mb": memory_mb(),
    }
