#!/usr/bin/env python3
"""Compares the benchmark node with other implementations of libp2p, in one run.

    compare.py --driver PATH/driver.py [--rounds 5] [--only conn,bulk] [--against js,py]

`driver.py` starts nodes as processes, gives them the same work and prints a JSON line. Every round runs each benchmark
once with each implementation, one right after the other and in changing order, so that whatever else the machine does
meets all of them; what counts is the median over the rounds of the ratios within a round. Prints JSON on stdout, and a
Markdown table on stderr (or into `--markdown`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = "chorus"


class Benchmark:
    """`metric` is the driver's name of the figure; `wanted` says what its ratios should reach. With `loss`, a run that
    lost a message is an error."""

    def __init__(
        self,
        title: str,
        metric: str,
        unit: str,
        options: list[str],
        wanted: str,
        *,
        less: bool = False,
        loss: bool = False,
    ) -> None:
        self.title = title
        self.metric = metric
        self.unit = unit
        self.options = options
        self.wanted = wanted
        self.less = less
        self.loss = loss


BENCHMARKS = {
    "conn": Benchmark("connections with identify", "setup_per_s", "/s", ["--n", "200"], "≥ 2.5 of js"),
    "ping": Benchmark("ping round trips, one stream", "rt_per_s", "/s", ["--n", "5000"], "≥ 1.5 of js"),
    "stream": Benchmark("new stream + 32 bytes + close", "streams_per_s", "/s", ["--n", "1000"], "≥ 2 of js"),
    "bulk": Benchmark("one stream, one direction", "MB_per_s", "MB/s", ["--bytes", "500000000"], "≥ 1 of js"),
    "gossip2": Benchmark(
        "signed 1 KiB messages, one to one",
        "delivered_per_s",
        "/s",
        ["--count", "10000"],
        "≥ 1.25 of js, ≥ 10 of py",
        loss=True,
    ),
    "gossipn": Benchmark(
        "8 nodes, 50 messages/s: p99 of delivery", "lat_p99_ms", "ms", ["--count", "500"], "≤ 1 of js", less=True
    ),
    "rss": Benchmark("resident memory, 8 idle peers", "rss_kb", "kB", ["--settle", "5"], "≤ 80 MB", less=True),
}
DEFAULT = "conn,ping,stream,bulk,gossip2,gossipn,rss"
PY_OPTIONS = {"conn": ["--node-flags=--max-per-peer 1"]}
"""py-libp2p waits 250 ms on every dial with its defaults."""


def command_line(implementation: str, ours: str) -> str:
    return ours if implementation == OURS else implementation


def measure(driver: str, name: str, implementation: str, ours: str) -> float:
    """One run; raises `RuntimeError` with what the driver said."""
    benchmark = BENCHMARKS[name]
    command = [sys.executable, driver, name, "--runs", "1", "--peer", command_line(implementation, ours)]
    command += benchmark.options
    if implementation == "py":
        command += PY_OPTIONS.get(name, [])
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} with {implementation}: {done.stderr.strip()[-2000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    if benchmark.loss and implementation == OURS and figures["loss"]["max"]:
        raise RuntimeError(f"{name}: messages were lost ({figures['loss']['max']:.2%})")
    return float(figures[benchmark.metric]["median"])


def run(driver: str, names: list[str], others: list[str], rounds: int, ours: str) -> dict[str, Any]:
    figures: dict[str, dict[str, list[float]]] = {name: {one: [] for one in [OURS, *others]} for name in names}
    for number in range(rounds):
        for name in names:
            order = [OURS, *others]
            order = order[number % len(order) :] + order[: number % len(order)]
            for implementation in order:
                figure = measure(driver, name, implementation, ours)
                figures[name][implementation].append(figure)
                print(f"round {number + 1} {name} {implementation}: {figure:,.1f}", file=sys.stderr, flush=True)
    return {name: summarise(name, figures[name], others) for name in names}


def summarise(name: str, figures: dict[str, list[float]], others: list[str]) -> dict[str, Any]:
    benchmark = BENCHMARKS[name]
    return {
        "title": benchmark.title,
        "unit": benchmark.unit,
        "less_is_better": benchmark.less,
        "wanted": benchmark.wanted,
        "figures": figures,
        "median": {one: statistics.median(values) for one, values in figures.items()},
        "ratio": {
            one: statistics.median(ours / theirs for ours, theirs in zip(figures[OURS], figures[one], strict=True))
            for one in others
        },
    }


def markdown(result: dict[str, Any], others: list[str]) -> str:
    lines = [
        f"| work | {' | '.join([OURS, *others])} | {' | '.join(f'{OURS} / {one}' for one in others)} | wanted |",
        "| --- " * (2 * len(others) + 3) + "|",
    ]
    for summary in result.values():
        unit = summary["unit"]
        places = 1 if unit == "ms" else 0
        medians = [f"{summary['median'][one]:,.{places}f} {unit}" for one in [OURS, *others]]
        ratios = [f"{summary['ratio'][one]:.2f}" for one in others]
        lines.append(f"| {' | '.join([summary['title'], *medians, *ratios, summary['wanted']])} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--driver", default=os.environ.get("CHORUS_PEERS_DRIVER"), help="driver.py (or CHORUS_PEERS_DRIVER)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=DEFAULT, help=f"of {','.join(BENCHMARKS)}; default {DEFAULT}")
    parser.add_argument("--against", default="js,py")
    parser.add_argument("--node", default=f"{shlex.quote(sys.executable)} {HERE / 'node.py'}", help="our command line")
    parser.add_argument("--markdown", help="file for the table")
    flags = parser.parse_args()
    if not flags.driver:
        parser.error("--driver or CHORUS_PEERS_DRIVER must name driver.py")
    names, others = flags.only.split(","), flags.against.split(",")
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    result = run(flags.driver, names, others, flags.rounds, flags.node)
    table = markdown(result, others)
    if flags.markdown:
        Path(flags.markdown).write_text(table + "\n", "utf-8")
    print(table, file=sys.stderr)
    print(json.dumps({"machine": machine(), "rounds": flags.rounds, "results": result}, indent=1))


if __name__ == "__main__":
    main()
