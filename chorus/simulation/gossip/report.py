"""A run as one HTML page with its pictures inside, and as a row of Markdown."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Final

import attrs

from chorus.simulation.gossip.numbers import number
from chorus.simulation.gossip.parameters import parameters
from chorus.simulation.gossip.plots import ALTERNATIVES, PLOTS, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chorus.simulation.gossip.run import GossipResult, SimulationResult

LABELS: Final = {
    "p50_ms": "latency, median (ms)",
    "p95_ms": "latency, 95th percentile (ms)",
    "p99_ms": "latency, 99th percentile (ms)",
    "max_ms": "latency, greatest (ms)",
    "messages": "messages published",
    "deliveries": "deliveries",
    "delivered_percent": "delivered of what was owed (%)",
    "delivered_twice": "delivered twice",
    "sends_per_delivery": "sends for each delivery",
    "duplicates_per_delivery": "duplicates for each delivery",
    "mean_hops": "hops, mean",
    "max_hops": "hops, greatest",
    "mesh_degree": "mesh degree, mean at the end",
    "mesh_degree_low": "mesh degree, least",
    "mesh_degree_high": "mesh degree, greatest",
    "honest_score_low": "least score of an honest node",
    "honest_below_0_percent": "views of honest nodes below 0 at the end (%)",
    "simulated_s": "simulated seconds",
    "cpu_s": "processor seconds",
    "events": "events",
    "events_per_second": "events a processor second",
    "times_real_time": "processor time over simulated time",
    "memory_mb": "resident memory (MB)",
}
"""Of figures; those of a kind of node are named by `label`."""

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; }
img { width: 100%; max-width: 45rem; display: block; margin: 1rem 0; }
.missed { color: #a32020; font-weight: 600; }
"""

NOTES: Final = """\
<p>Latencies count from publication to delivery, over all honest nodes that were there. A node is owed a message when it
has been there for 3 seconds and stays for 10. Times are simulated; processor time and memory are this machine's.</p>
<p>"Places in honest meshes, each" is in how many honest nodes' meshes one node of the kind is at the end, on average.
"Views of honest nodes below 0" is the share of connections between two honest nodes over which one of them gives the
other a score below 0. docs/simulate.md says what scenarios, attackers and figures are.</p>"""


def label(figure: str) -> str:
    if figure in LABELS:
        return LABELS[figure]
    kind, _, what = figure.rpartition("_")
    return f"{kind} nodes: " + ("score, median at the end" if what == "score" else "places in honest meshes, each")


@attrs.frozen
class PageParts:
    """Parts of the page that differ between kinds of runs."""

    summary: str
    label: Callable[[str], str]
    """Of a figure."""
    pictures: Iterable[tuple[str, Figure]]
    """Each after its description."""
    notes: str
    """HTML."""
    before: str = ""
    """HTML before the figures."""


def page(result: GossipResult, replay: str, version: str) -> str:
    """`replay` is the command that gives the same run, `version` of what it was made with."""
    scenario = result.scenario
    given = [f"<tr><td>{escape(each.label)}</td><td>{escape(each.text)}</td></tr>" for each in parameters(scenario)]
    table = f"<table>\n<tr><th>parameter</th><th>value</th></tr>\n{''.join(given)}\n</table>\n"
    pictures = ((ALTERNATIVES[name], draw(result)) for name, draw in PLOTS.items())
    return simulation_page(result, PageParts(scenario.summary, label, pictures, NOTES, table), replay, version)


def simulation_page(result: SimulationResult, parts: PageParts, replay: str, version: str) -> str:
    """`replay` and `version` as for `page`."""
    scenario = result.scenario
    wanted = {each.figure: each for each in scenario.wanted}
    rows = []
    for figure, value in result.figures.items():
        bound = wanted.get(figure)
        state = "" if bound is None or bound.holds(result.figures) else " class=missed"
        said = "" if bound is None else escape(bound.bounds)
        name = escape(parts.label(figure))
        rows.append(f"<tr{state}><td>{name}</td><td class=number>{number(value)}</td><td>{said}</td></tr>")
    pictures = []
    for alternative, drawn in parts.pictures:
        image = base64.b64encode(picture(drawn)).decode()
        pictures.append(f'<img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{image}">')
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Simulation {escape(scenario.name)}, seed {result.seed}</title>
<style>{STYLE}</style>
<h1>Simulation: {escape(scenario.name)}</h1>
<p>{escape(parts.summary)}</p>
<p>Seed {result.seed}, trace <code>{result.trace}</code>, made with {escape(version)}. The same run again:</p>
<p><code>{escape(replay)}</code></p>
{parts.before}<table>
<tr><th>figure</th><th>value</th><th>wanted</th></tr>
{"".join(rows)}
</table>
{"".join(pictures)}
{parts.notes}
</html>
"""


COLUMNS: Final = (
    ("p50_ms", "p50 ms"),
    ("p95_ms", "p95 ms"),
    ("p99_ms", "p99 ms"),
    ("delivered_percent", "delivered %"),
    ("sends_per_delivery", "sends / delivery"),
    ("mesh_degree", "mesh degree"),
    ("honest_score_low", "least honest score"),
    ("honest_below_0_percent", "honest below 0 %"),
    ("events", "events"),
    ("events_per_second", "events / s"),
    ("cpu_s", "CPU s"),
    ("memory_mb", "memory MB"),
)


def markdown_head() -> str:
    names = ["scenario", *(name for _, name in COLUMNS), "wanted"]
    return f"| {' | '.join(names)} |\n|{' --- |' * len(names)}"


def markdown_row(name: str, figures: dict[str, float], wanted: list[str], missed: list[str]) -> str:
    cells = [f"`{name}`", *(number(figures[figure]) for figure, _ in COLUMNS)]
    cells.append(", ".join(wanted) + (f"; **missed: {', '.join(missed)}**" if missed else ""))
    return f"| {' | '.join(cells)} |"
