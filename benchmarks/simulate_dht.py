"""Scenarios of the hash table in full, as the table of docs/benchmarks.md.

    python benchmarks/simulate_dht.py [--seed 1] [--pictures docs/pictures] [SCENARIO…]

All but the long churn by default: a day of 1,000 servers with 10,000 values takes an hour or more of processor time,
and is named (`dht-churn`). Exits with 1 when a wanted figure is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chorus.simulation.dht.plots import DHT_PLOTS
from chorus.simulation.dht.run import simulate_dht
from chorus.simulation.dht.scenarios import DHT_SCENARIOS
from chorus.simulation.gossip.numbers import number
from chorus.simulation.gossip.plots import picture

LONG = "dht-churn"
PICTURES = {"dht-warm": "get_latency", "dht-hops": "hops", "dht-churn": "copies"}
"""What docs/benchmarks.md shows."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"some of {', '.join(DHT_SCENARIOS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="write the pictures of docs/benchmarks.md into this directory")
    options = parser.parse_args()
    names = options.scenarios or [name for name in DHT_SCENARIOS if name != LONG]
    if unknown := [name for name in names if name not in DHT_SCENARIOS]:
        parser.error(f"no such scenario: {', '.join(unknown)}")
    missed = False
    for name in names:
        result = simulate_dht(DHT_SCENARIOS[name], options.seed)
        figures = ", ".join(f"{figure} {number(value)}" for figure, value in result.figures.items())
        sizes = "".join(f"; {each.nodes:,} servers: {each.mean:.2f} hops" for each in result.hops)
        wrong = result.missed()
        missed |= bool(wrong)
        print(f"{name}, seed {options.seed}: {figures}{sizes}; missed: {', '.join(wrong) or 'nothing'}", flush=True)
        if options.pictures is not None and name in PICTURES:
            image = picture(DHT_PLOTS[PICTURES[name]](result), "png")
            (options.pictures / f"simulate-{name}.png").write_bytes(image)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
