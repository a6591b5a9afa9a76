"""`python -m chorus.simulation`: replay one run, or try a swarm of seeds. Exit status 1 when one fails."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs

from chorus.simulation import byzantine, nemesis
from chorus.simulation.commands import MANY, OneLineParser
from chorus.simulation.configuration import TIERS, BadConfiguration, Configuration, draw
from chorus.simulation.runs import RunFailed, SimRun
from chorus.simulation.shrink import shrink
from chorus.simulation.trace import LAST

MAX_SEEDS: Final = 1_000_000
"""Weeks, at a second each."""


def parser() -> argparse.ArgumentParser:
    made = OneLineParser(prog="python -m chorus.simulation", description=__doc__, epilog="Tier D: chorus simulate.")
    made.add_argument("--tier", metavar="|".join(TIERS), default="A", help="docs/simulation.md (A)")
    made.add_argument("--seed", type=int, default=1, help="the first seed")
    made.add_argument("--seeds", type=int, default=1, metavar="N", help="how many, one after the other")
    made.add_argument("--nodes", type=int, help="honest nodes; else drawn from the seed")
    made.add_argument("--seconds", type=float, help="simulated seconds of chaos")
    made.add_argument("--faults", help=f"comma-separated, or none; else drawn: {', '.join(nemesis.KINDS)}")
    made.add_argument("--byzantine", help=f"comma-separated, or none; else drawn: {', '.join(byzantine.KINDS)}")
    made.add_argument("--shrink", action="store_true", help="make a failing run smaller")
    made.add_argument("--last", type=int, default=0, metavar="N", help="print the last N entries of a failing trace")
    return made


def configuration(arguments: argparse.Namespace, seed: int) -> Configuration:
    """Raises `BadConfiguration`."""
    given = {name: getattr(arguments, name) for name in ("nodes", "seconds") if getattr(arguments, name) is not None}
    for name in ("faults", "byzantine"):
        text = getattr(arguments, name)
        if text is not None:
            given[name] = () if text == "none" else tuple(filter(None, text.split(",")))
    return attrs.evolve(draw(seed, arguments.tier), **given)


def _out_of_bounds(arguments: argparse.Namespace) -> str | None:
    """The mistake in an option that is not part of `Configuration`."""
    for name, low, high in (("seeds", 1, MAX_SEEDS), ("last", 0, LAST)):
        if not low <= (value := getattr(arguments, name)) <= high:
            return f"--{name} must be between {low} and {high}, not {value}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if mistake := _out_of_bounds(arguments):
        parser().error(mistake)
    total: Counter[str] = Counter()
    failures = 0
    unused: list[str] = []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        try:
            this = SimRun(configuration(arguments, seed))
        except BadConfiguration as error:
            text = str(error)
            parser().error(f"--{text}" if text.partition(" ")[0] in ("nodes", "seed", "seconds") else text)
        try:
            report = this.run()
        except RunFailed as failed:
            failures += 1
            _print_failure(this, failed, arguments)
        else:
            total.update(report.counts)
            print(report, flush=True)
    if arguments.seeds > 1:
        unused += [
            kind
            for kind in nemesis.KINDS
            if not total[f"fault.{kind}"] and (arguments.tier != "C" or kind != "corrupt")
        ]
        print(f"{arguments.seeds} runs, {failures} failed; faults that never happened: {', '.join(unused) or 'none'}")
    return 1 if failures or (unused and arguments.seeds >= MANY and arguments.faults is None) else 0


def _print_failure(this: SimRun, failed: RunFailed, arguments: argparse.Namespace) -> None:
    for entry in list(this.trace.last)[-arguments.last :] if arguments.last else ():
        print(entry)
    print(f"FAILED {failed}", flush=True)
    if arguments.shrink:
        smallest = shrink(failed.configuration, failed.invariant)
        print(f"smallest: python -m chorus.simulation {smallest.arguments()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
