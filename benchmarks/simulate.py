"""Every scenario of the gossip simulation in full, as the table of docs/benchmarks.md: one command, eight minutes.

    python benchmarks/simulate.py [--seed 1] [--pictures docs/pictures] [SCENARIO…]

Each runs in a process of its own, so that memory is its own. Exits with 1 when a wanted figure is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from chorus.simulation.gossip import plots as gossip_plots
from chorus.simulation.gossip import report as gossip_report
from chorus.simulation.gossip import run as gossip_run
from chorus.simulation.gossip.scenarios import SCENARIOS

PICTURES = {
    "calibration": ("latency", "propagation"),
    "sybils": ("degree",),
    "misbehaviour": ("scores",),
}
"""What docs/benchmarks.md shows."""


def run_here(name: str, seed: int, pictures: Path | None) -> None:
    """Print one scenario's figures as JSON."""
    result = gossip_run.simulate(SCENARIOS[name], seed)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for plot in PICTURES.get(name, ()):
            image = gossip_plots.picture(gossip_plots.PLOTS[plot](result), "png")
            (pictures / f"simulate-{name}-{plot}.png").write_bytes(image)
    document = result.document()
    print(json.dumps({key: document[key] for key in ("figures", "wanted", "missed", "trace")}))


def run_apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "--here", "--seed", str(options.seed), name]
    if options.pictures is not None:
        words += ["--pictures", str(options.pictures)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"some of {', '.join(SCENARIOS)} (all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="write the pictures of docs/benchmarks.md into this directory")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.scenarios or list(SCENARIOS)
    if unknown := [name for name in names if name not in SCENARIOS]:
        parser.error(f"no such scenario: {', '.join(unknown)}")
    if options.here:
        run_here(names[0], options.seed, options.pictures)
        return 0
    print(gossip_report.markdown_head(), flush=True)
    missed = False
    for name in names:
        document = run_apart(name, options)
        missed = missed or bool(document["missed"])
        row = gossip_report.markdown_row(name, document["figures"], document["wanted"], document["missed"])
        print(row, flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
