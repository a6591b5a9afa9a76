"""`python -m chorus.simulation.leadership`: tier D of election and journal; docs/simulation.md. Status 1 on failure."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from chorus.simulation.commands import MANY, OneLineParser
from chorus.simulation.leadership.campaign import BadState, SeedCampaign, load
from chorus.simulation.leadership.failover import ROWS, measure
from chorus.simulation.leadership.mix import KINDS, SECONDS, TAME_DRIFT, WILD_DRIFT, LeadershipMix, draw_mix
from chorus.simulation.leadership.run import LeadershipFailed, run_seed
from chorus.simulation.leadership.traffic import measure_traffic

MAX_SEED: Final = 2**63 - 1
MAX_TRIALS: Final = 100_000


def parser() -> argparse.ArgumentParser:
    made = OneLineParser(prog="python -m chorus.simulation.leadership", description=__doc__)
    made.add_argument("--seeds", metavar="A..B", help="run the seeds of this range that the state file has not got")
    made.add_argument("--state", type=Path, metavar="FILE", help="goes on where it was, and adds up")
    made.add_argument("--seed", type=int, help="one run")
    made.add_argument("--voters", type=int, choices=(1, 3, 5, 7))
    made.add_argument("--learners", type=int, choices=range(4))
    made.add_argument("--profile", choices=tuple(SECONDS))
    made.add_argument("--seconds", type=float, help="of chaos, simulated")
    made.add_argument("--faults", help=f"comma-separated, or none; else drawn: {', '.join(KINDS)}")
    made.add_argument("--fail-over", action="store_true", help="measure the table of spec/election.md 5")
    made.add_argument("--trials", type=int, default=2000, metavar="N", help="a row of that table (2000)")
    made.add_argument("--traffic", action="store_true", help="count the messages of 100 members")
    return made


def chosen(arguments: argparse.Namespace, seed: int) -> LeadershipMix:
    """The mix of a seed with what the command line says otherwise."""
    names = ("voters", "learners", "profile", "seconds")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.faults is not None:
        given["faults"] = () if arguments.faults == "none" else tuple(arguments.faults.split(","))
    mix = attrs.evolve(draw_mix(seed), **given)
    return attrs.evolve(mix, drift=min(mix.drift, TAME_DRIFT)) if mix.tame else attrs.evolve(mix, drift=WILD_DRIFT)


def _mistake(arguments: argparse.Namespace) -> str | None:
    faults = () if arguments.faults in (None, "none") else arguments.faults.split(",")
    unknown = [kind for kind in faults if kind not in KINDS]
    if unknown:
        return f"--faults: unknown: {', '.join(unknown)}; there are {', '.join(KINDS)}"
    if arguments.seeds is not None and not re.fullmatch(r"\d{1,18}\.\.\d{1,18}", arguments.seeds):
        return "--seeds is two numbers with .. between them, as 1..200"
    if arguments.seed is not None and not 0 <= arguments.seed <= MAX_SEED:
        return f"--seed must be between 0 and {MAX_SEED}"
    if arguments.seconds is not None and not 0 < arguments.seconds <= 86_400:
        return "--seconds must be above 0 and at most 86400"
    if not 1 <= arguments.trials <= MAX_TRIALS:
        return f"--trials must be between 1 and {MAX_TRIALS}"
    if not (arguments.seeds or arguments.seed is not None or arguments.fail_over or arguments.traffic):
        return "give --seeds A..B, --seed N, --fail-over or --traffic"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if mistake := _mistake(arguments):
        parser().error(mistake)
    if arguments.fail_over:
        return max(_fail_over(row, arguments.trials) for row in range(len(ROWS)))
    if arguments.traffic:
        traffic = measure_traffic()
        print(traffic)
        return 0 if traffic.within else 1
    if arguments.seeds:
        return _campaign(arguments)
    try:
        print(run_seed(chosen(arguments, arguments.seed)))
    except LeadershipFailed as failed:
        print(f"FAILED {failed}")
        return 1
    return 0


def _fail_over(row: int, trials: int) -> int:
    figures = measure(ROWS[row], trials)
    print(figures, flush=True)
    return 0 if figures.within else 1


def _campaign(arguments: argparse.Namespace) -> int:
    try:
        state = load(arguments.state)
    except BadState as error:
        parser().error(str(error))
    campaign = SeedCampaign(
        state, arguments.state, lambda line: print(line, flush=True), lambda seed: chosen(arguments, seed)
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *ignored: campaign.stop())
    first, last = map(int, arguments.seeds.split(".."))
    failed = campaign.go(first, last)
    for line in state.summary():
        print(line)
    # Named faults leave branches out on purpose.
    never = state.never() if len(state.done) >= MANY and arguments.faults is None else []
    if never:
        print(f"no seed went through: {', '.join(never)}")
    return 1 if failed or never else 0


if __name__ == "__main__":
    sys.exit(main())
