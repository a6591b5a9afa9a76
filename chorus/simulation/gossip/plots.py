"""Pictures of a run, with matplotlib (the extra `simulate`). Each function draws one and returns the figure."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from chorus.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from chorus.simulation.gossip.measures import Spread
    from chorus.simulation.gossip.run import GossipResult

SIZE: Final = (7.2, 4.0)
"""Inches."""

LINEAR: Final = 10
"""Scores to here on both sides of 0 are drawn in proportion; beyond, each power of ten takes as much room."""

LEGEND_COLUMNS: Final = 2
LEGEND_ROW: Final = 0.18
"""Inches."""

COLOURS: Final = ("#1f5fa8", "#c8501e", "#2f8a4c", "#7a4fa3", "#a8861f", "#4f7f8a", "#a33f5f", "#5f5f5f", "#8a6a4f")
"""Honest nodes first, then the kinds of attackers; told apart by lightness too."""


class NoPlots(UserError):
    code = "no_plots"

    def __init__(self) -> None:
        super().__init__(
            "pictures need matplotlib: pip install 'matplotlib>=3.8' (or say --no-report for the figures alone)"
        )


def require() -> None:
    """Raises `NoPlots` where matplotlib is missing; to be called before a long run, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise NoPlots from None


def new_figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def latency(result: GossipResult) -> Figure:
    """Distribution of the time from publication to delivery, and its sum."""
    figure, axes = new_figure("Delivery latency", "ms after publication", "share of deliveries (bars, %)")
    values = result.latencies_ms
    # Without the last stragglers, who would press all the rest to the left.
    end = max(1.0, values[int(0.995 * len(values)) - 1] * 1.08)
    axes.hist(
        values,
        bins=40,
        range=(0, end),
        weights=[100 / len(values)] * len(values),
        color=COLOURS[0],
        alpha=0.45,
        label="share that took so long",
    )
    summed = axes.twinx()
    shares = [100 * (at + 1) / len(values) for at in range(len(values))]
    summed.plot(values, shares, color=COLOURS[0], linewidth=1.8, label="delivered up to then")
    summed.set_ylim(0, 104)
    summed.set_xlim(0, end)
    summed.set_ylabel("delivered up to then (line, %)")
    summed.spines["top"].set_visible(False)
    for name, what, height, style in (("p50", "half", 50, ":"), ("p99", "99 of 100", 99, "--")):
        at = result.figures[f"{name}_ms"]
        label = f"{name}: {what} within {at:.0f} ms"
        summed.plot([at, at], [0, height], color="#333333", linewidth=1.1, linestyle=style, label=label)
    _legend_below(figure)
    return figure


def propagation(result: GossipResult) -> Figure:
    """How far messages have come, and how long they took."""
    figure, axes = new_figure("Propagation", "hops from the publisher", "share of deliveries (bars, %)")
    hops = [each for each in result.hops if each[1] >= result.figures["deliveries"] / 10_000]
    total = sum(count for _, count, _ in hops) or 1
    numbers = [number for number, _, _ in hops]
    shares = [100 * count / total for _, count, _ in hops]
    axes.bar(numbers, shares, color=COLOURS[0], alpha=0.45, width=0.8, label="share that came so far")
    axes.set_xticks(numbers)
    times = axes.twinx()
    means = [mean for _, _, mean in hops]
    times.plot(numbers, means, color=COLOURS[1], marker="o", markersize=4, label="mean latency of these")
    times.set_ylim(bottom=0)
    times.set_ylabel("mean latency (line, ms)")
    times.spines["top"].set_visible(False)
    _legend_below(figure)
    return figure


def duplicates(result: GossipResult) -> Figure:
    figure, axes = new_figure("Copies too many", "duplicates of each message, by node", "nodes")
    axes.hist(result.duplicates, bins=40, color=COLOURS[0], alpha=0.6)
    _count(axes)
    return figure


def _count(axes: Axes) -> None:
    """The vertical axis counts whole things."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _explain_bands(axes: Axes, colour: str) -> None:
    axes.fill([], [], color=colour, alpha=0.2, linewidth=0, label="band: 10th to 90th percentile")


def _band(axes: Axes, seconds: list[float], spreads: list[Spread], colour: str, label: str) -> None:
    axes.fill_between(
        seconds, [each.p10 for each in spreads], [each.p90 for each in spreads], color=colour, alpha=0.2, linewidth=0
    )
    axes.plot(seconds, [each.p50 for each in spreads], color=colour, linewidth=1.8, label=label)


def _mark_begin(axes: Axes, result: GossipResult) -> None:
    axes.axvline(
        result.scenario.warm_up, color="#333333", linewidth=0.9, linestyle=":", label="first message is published"
    )


def _legend_below(figure: Figure) -> None:
    """Under the axes, which keep their size: with many kinds of attackers there is no room for it among the curves."""
    labels = sum(len(axes.get_legend_handles_labels()[1]) for axes in figure.axes)
    rows = -(-labels // LEGEND_COLUMNS)
    figure.set_figheight(SIZE[1] + rows * LEGEND_ROW)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=LEGEND_COLUMNS)


def degree(result: GossipResult) -> Figure:
    """Sizes of the honest nodes' meshes over time, and who has places in them."""
    figure, axes = new_figure("Mesh degree", "seconds", "peers in a node's mesh")
    seconds = [sample.seconds for sample in result.samples]
    spreads = [sample.degrees for sample in result.samples]
    axes.plot(seconds, [each.low for each in spreads], color=COLOURS[0], linewidth=0.7, linestyle="--")
    axes.plot(
        seconds,
        [each.high for each in spreads],
        color=COLOURS[0],
        linewidth=0.7,
        linestyle="--",
        label="least and greatest mesh of an honest node",
    )
    _band(axes, seconds, spreads, COLOURS[0], "median of the honest nodes' meshes")
    _explain_bands(axes, COLOURS[0])
    for index, kind in enumerate(kind for kind in result.samples[-1].places if kind != "honest"):
        held = [sample.places[kind] for sample in result.samples]
        axes.plot(
            seconds,
            held,
            color=COLOURS[1 + index % (len(COLOURS) - 1)],
            linewidth=1.5,
            label=f"meshes that hold one {kind} attacker",
        )
    params = result.scenario.params
    bounds = f"bounds of a mesh: {params.d_lo} (D_lo) and {params.d_hi} (D_hi)"
    for bound, label in ((params.d_lo, bounds), (params.d_hi, None)):
        axes.axhline(bound, color="#333333", linewidth=0.8, alpha=0.6, label=label)
    axes.set_ylim(bottom=0)
    _count(axes)
    _mark_begin(axes, result)
    _legend_below(figure)
    return figure


def scores(result: GossipResult) -> Figure:
    """Scores of each kind of node, as honest nodes see them."""
    figure, axes = new_figure("Score as honest nodes see it", "seconds", "score")
    for index, kind in enumerate(result.samples[-1].scores):
        rows = [(sample.seconds, sample.scores[kind]) for sample in result.samples if kind in sample.scores]
        _band(
            axes,
            [second for second, _ in rows],
            [spread for _, spread in rows],
            COLOURS[index % len(COLOURS)],
            f"{kind}: median",
        )
    _explain_bands(axes, "#333333")
    if max(abs(axes.dataLim.y0), abs(axes.dataLim.y1)) > LINEAR:
        axes.set_yscale("symlog", linthresh=LINEAR)
        axes.set_ylabel(f"score (linear from -{LINEAR} to {LINEAR})")
    axes.yaxis.set_major_formatter(lambda value, _: f"{round(value, 3):,g}" if abs(value) < 1000 else f"{value:,.0f}")
    axes.axhline(0, color="#333333", linewidth=0.6)
    _mark_begin(axes, result)
    _legend_below(figure)
    return figure


ALTERNATIVES: Final = {
    "latency": "How long deliveries took after publication: their distribution, and the share delivered by each time",
    "propagation": "Hops from the publisher: the share of deliveries at each number of them, and their mean latency",
    "duplicates": "How many nodes got how many duplicates of each message",
    "degree": "Over time: sizes of honest nodes' meshes, and how many of them hold an attacker of each kind",
    "scores": "Over time: the score that honest nodes give each kind of node",
}
"""Descriptions of the pictures of `PLOTS`, for readers who do not see them."""

PLOTS: Final[dict[str, Callable[[Any], Any]]] = {
    "latency": latency,
    "propagation": propagation,
    "duplicates": duplicates,
    "degree": degree,
    "scores": scores,
}


def picture(figure: Figure, kind: str = "svg") -> bytes:
    """`svg` or `png`; the same bytes for the same run."""
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "chorus"}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=110, metadata=metadata)
    return out.getvalue()
