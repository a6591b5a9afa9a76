"""A run as one HTML page with its pictures inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chorus.simulation.dht.plots import DHT_ALTERNATIVES, DHT_PLOTS, drawn
from chorus.simulation.gossip.numbers import number
from chorus.simulation.gossip.report import PageParts, simulation_page

if TYPE_CHECKING:
    from chorus.simulation.dht.run import DhtResult

DHT_LABELS: Final = {
    "get_p50_ms": "get, median (ms)",
    "get_p95_ms": "get, 95th percentile (ms)",
    "get_p99_ms": "get, 99th percentile (ms)",
    "get_max_ms": "get, greatest (ms)",
    "found_percent": "gets that found the value (%)",
    "find_p50_ms": "lookup of the k closest, median (ms)",
    "find_p95_ms": "lookup of the k closest, 95th percentile (ms)",
    "exact_percent": "lookups that found exactly the k closest (%)",
    "asked_per_get": "peers asked by a get",
    "asked_per_find": "peers asked by a lookup",
    "mean_hops": "hops to the nearest, mean",
    "hops_over_log2_n": "hops over log2 n, greatest of the sizes",
    "lost": "values lost",
    "least_copies": "copies, least of any value at any time",
    "mean_copies": "copies, mean at the end",
    "readable_percent": "values read at the end (%)",
    "crashes": "machines that crashed",
    "simulated_hours": "simulated hours",
    "requests": "requests",
    "events": "events",
    "cpu_s": "processor seconds",
    "memory_mb": "resident memory (MB)",
}

NOTES: Final = """\
<p>A get waits for three valid answers. Times are simulated; processor time and memory are this machine's.
docs/simulate.md says what scenarios and figures are.</p>"""


def dht_page(result: DhtResult, replay: str, version: str) -> str:
    """`replay` is the command that gives the same run, `version` of what it was made with."""
    scenario = result.scenario
    summary = f"{scenario.summary} ({scenario.nodes:,} servers, {number(scenario.rtt_ms)} ms a round trip)."
    pictures = ((DHT_ALTERNATIVES[name], DHT_PLOTS[name](result)) for name in drawn(result))
    return simulation_page(result, PageParts(summary, DHT_LABELS.__getitem__, pictures, NOTES), replay, version)
