"""Pictures of a run, with matplotlib (the extra `simulate`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from chorus.simulation.gossip.plots import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chorus.simulation.dht.run import DhtResult


def get_latency(result: DhtResult) -> Figure:
    """Share of gets that were done by each time."""
    figure, axes = new_figure("Gets", "ms", "done by then (%)")
    values = result.latencies_ms
    axes.plot(values, [100 * (at + 1) / len(values) for at in range(len(values))], color=COLOURS[0], linewidth=1.8)
    for name, height, style in (("p50", 50, ":"), ("p95", 95, "--")):
        at = result.figures[f"get_{name}_ms"]
        axes.plot([at, at], [0, height], color="#333333", linewidth=1.1, linestyle=style, label=f"{name}: {at:.0f} ms")
    axes.set_ylim(0, 104)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    return figure


def hops(result: DhtResult) -> Figure:
    """Mean hops of lookups against log2 of the number of servers."""
    figure, axes = new_figure("Hops of lookups", "servers", "requests in a row to the nearest")
    sizes = [each.nodes for each in result.hops]
    axes.plot(sizes, [math.log2(size) for size in sizes], color="#333333", linestyle="--", label="log2 n")
    axes.plot(sizes, [each.greatest for each in result.hops], color=COLOURS[1], marker="o", label="greatest")
    axes.plot(sizes, [each.mean for each in result.hops], color=COLOURS[0], marker="o", label="mean")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def copies(result: DhtResult) -> Figure:
    """Copies of each value over time."""
    figure, axes = new_figure("Copies of a value", "hours", "live holders")
    hours = [each.hours for each in result.samples]
    axes.plot(hours, [each.mean for each in result.samples], color=COLOURS[0], linewidth=1.8, label="mean")
    axes.plot(
        hours, [each.least for each in result.samples], color=COLOURS[1], linewidth=1.2, label="least of any value"
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


DHT_ALTERNATIVES: Final = {
    "get_latency": "The share of gets that were done by each time",
    "hops": "Hops of lookups, mean and greatest, against log2 of the number of servers",
    "copies": "Over time: live holders of a value, mean and least",
}
"""Descriptions of the pictures, for readers who do not see them."""

DHT_PLOTS: Final[dict[str, Callable[[Any], Any]]] = {"get_latency": get_latency, "hops": hops, "copies": copies}


def drawn(result: DhtResult) -> list[str]:
    """Pictures that the run has something for."""
    found = [name for name, rows in (("get_latency", result.latencies_ms), ("copies", result.samples)) if rows]
    return found + ["hops"] * (len(result.hops) > 1)
