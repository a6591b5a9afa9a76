"""`chorus simulate`: a network of GossipSub nodes in this process, and a report of how it did (docs/simulate.md).

It needs no node. Nothing of `chorus.simulation` is imported before the command runs.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from chorus.client import quantities, show
from chorus.client.errors import EXIT_INTERRUPTED, EXIT_TASK_FAILED, EXIT_TERMINATED, EXIT_USAGE

if TYPE_CHECKING:
    from chorus.client.api import Api
    from chorus.simulation.gossip.run import GossipResult
    from chorus.simulation.gossip.scenario import Attack, Scenario, ScenarioError

MAX_SEED: Final = 2**63 - 1
SHOWN: Final = (
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "max_ms",
    "delivered_percent",
    "sends_per_delivery",
    "mean_hops",
    "mesh_degree",
    "events_per_second",
    "cpu_s",
    "memory_mb",
)

QUANTITIES: Final = (
    "nodes",
    "degree",
    "links",
    "loss",
    "uplink",
    "churn",
    "publishers",
    "rate",
    "size",
    "seconds",
)
"""Options with a quantity, as they stand in a line that repeats a run."""

Options = argparse.Namespace
T = TypeVar("T")


def add_options(command: argparse.ArgumentParser) -> None:
    """What it takes; values are read when it runs, so that every mistake is said at once."""
    option = command.add_argument
    option("scenario", metavar="SCENARIO", nargs="?", help="where to begin (calibration)")
    option("--list", action="store_true", help="show the scenarios and the kinds of attackers, and nothing else")
    option("--nodes", metavar="N", help="honest nodes, 4 to 20000; attackers and publishers keep their proportion")
    option("--degree", metavar="N", help="connections of a node, 2 to 200, fewer than nodes")
    option("--links", metavar="MS", help="delay of a link one way, 0 to 10000: 10-150, or 25 for 10 %% around it")
    option("--loss", metavar="SHARE", help="of TCP segments, each sent again: 5%% or 0.05, at most 50%%")
    option("--uplink", metavar="MBIT", help="what a node can send in all, 0.01 to 100000 Mbit/s (no bound)")
    option(
        "--churn", metavar="SHARE", help="nodes that leave in a minute, to come back 10 s later: 20%%, at most 200%%"
    )
    option("--attackers", metavar="KIND:NxK", action="append", help="N attackers with K connections each (repeatable)")
    option("--publishers", metavar="N", help="nodes that publish, 1 to all")
    option("--rate", metavar="N", help="messages a second, over all publishers, 0.001 to 10000")
    option("--size", metavar="BYTES", help="of a message, 0 to 60000")
    option("--flood-publish", action=argparse.BooleanOptionalAction, default=None, help="publish to all peers")
    option("--seconds", metavar="T", help="how long messages are published, 1 to 86400; at most 100000 messages in all")
    option("--seed", metavar="S", default="1", help="the same seed gives the same run (1)")
    option("--output", "-o", metavar="FILE", help="the report (simulate-SCENARIO-SEED.html)")
    option("--no-report", action="store_true", help="figures alone, without pictures")
    command.set_defaults(run=run)


def joined(words: Sequence[str]) -> list[str]:
    """The words of a command line, with `--loss -1%` as `--loss=-1%`: argparse would take the value for an option, and
    answer with its usage instead of the line that says what is wrong with it."""
    given = list(words)
    if "simulate" not in given:
        return given
    names = {f"--{name}" for name in (*QUANTITIES, "seed")}
    made = given[: (begin := given.index("simulate") + 1)]
    for word in given[begin:]:
        if made[-1] in names and re.match(r"-[0-9.]", word):
            made[-1] += f"={word}"
        else:
            made.append(word)
    return made


class _Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises `_Terminated` meanwhile, so that what is open is closed and removed."""

    def end(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(options: Options, api: Api) -> int:
    """0 when the scenario's figures are reached, 1 when one is not, 2 for what cannot be run or written, 130 when
    interrupted, 143 when ended by SIGTERM."""
    try:
        with _terminable():
            return _run(options)
    except KeyboardInterrupt:
        return _stopped("interrupted", EXIT_INTERRUPTED)
    except _Terminated:
        return _stopped("ended by SIGTERM", EXIT_TERMINATED)


def _stopped(how: str, status: int) -> int:
    if show.lively(sys.stderr):
        # The line of the progress has no end.
        print(file=sys.stderr)
    show.note(f"{how}: no report was written")
    return status


def _run(options: Options) -> int:
    from chorus.simulation.gossip.scenario import ScenarioError

    if options.list:
        if beside := _beside_list(options):
            show.note(f"--list comes alone, without {beside}")
            return EXIT_USAGE
        _list(bool(getattr(options, "json", False)))
        return 0
    if options.scenario is None:
        options.scenario = "calibration"
    try:
        scenario, seed = read(options)
    except ScenarioError as error:
        for mistake in error.mistakes:
            show.note(mistake)
        return EXIT_USAGE
    return _simulate(scenario, seed, options)


def _beside_list(options: Options) -> str:
    """What was given that `--list` would not heed."""
    names = (*QUANTITIES, "attackers", "output")
    given = [f"--{name}" for name in names if getattr(options, name) is not None]
    return ", ".join([options.scenario] * (options.scenario is not None) + given)


def _list(as_json: bool) -> None:
    from chorus.simulation.gossip.scenario import ATTACKS
    from chorus.simulation.gossip.scenarios import SCENARIOS

    if as_json:
        show.document({"scenarios": {name: each.summary for name, each in SCENARIOS.items()}, "attackers": ATTACKS})
        return
    show.table(("scenario", "what"), [(name, each.summary) for name, each in SCENARIOS.items()], "", folds=True)
    print()
    show.table(("attackers", "what they do"), list(ATTACKS.items()), "", folds=True)


# What was asked for


def read(options: Options) -> tuple[Scenario, int]:
    """The scenario with what was said otherwise, and the seed. Raises `ScenarioError` with all mistakes."""
    from chorus.simulation.gossip.parameters import changed
    from chorus.simulation.gossip.scenario import ScenarioError
    from chorus.simulation.gossip.scenarios import SCENARIOS

    reader = _Reader(options)
    base = SCENARIOS.get(options.scenario)
    if base is None:
        reader.mistakes.append(f"no such scenario: {options.scenario}; there are {', '.join(SCENARIOS)}")
    seed = reader("seed", quantities.whole)
    if seed is not None and not 0 <= seed <= MAX_SEED:
        reader.mistakes.append(f"--seed must be between 0 and {MAX_SEED}, not {seed}")
    if options.no_report and options.output is not None:
        reader.mistakes.append("--output and --no-report exclude each other")
    if options.output == "-":
        reader.mistakes.append("--output names a file; for one with the name - say ./-")
    scenario = _changed(base or SCENARIOS["calibration"], reader)
    if reader.mistakes or scenario is None or base is None or seed is None:
        raise ScenarioError(*reader.mistakes)
    return changed(base, scenario), seed


def _changed(base: Scenario, reader: _Reader) -> Scenario | None:
    """`base` with what the options say; None, and the mistakes are the reader's, where that cannot be."""
    import attrs

    from chorus.simulation.gossip.scenario import MAX_NODES, MIN_NODES, ScenarioError

    nodes = reader("nodes", quantities.whole)
    changes: dict[str, Any] = {
        "degree": reader("degree", quantities.whole),
        "churn": reader("churn", quantities.share),
        "attacks": reader.attacks(),
        "publishers": reader("publishers", quantities.whole),
        "rate": reader("rate", quantities.decimal),
        "size": reader("size", quantities.whole),
        "seconds": reader("seconds", quantities.decimal),
    }
    links: dict[str, Any] = {
        "delay_ms": reader("links", quantities.delays),
        "loss": reader("loss", quantities.share),
        "rate_mbit": reader("uplink", quantities.decimal),
    }
    if nodes is not None and not MIN_NODES <= nodes <= MAX_NODES:
        reader.wrong("nodes", f"must be between {MIN_NODES} and {MAX_NODES}, not {nodes}")
    changes = {name: value for name, value in changes.items() if value is not None}
    links = {name: value for name, value in links.items() if value is not None}
    if "attacks" in changes or "attackers" in reader.faulty:
        base = attrs.evolve(base, attacks=())
    try:
        if "nodes" in reader.faulty:
            # The other quantities are looked at as well, for any number of nodes.
            scenario = attrs.evolve(base, nodes=MAX_NODES)
        else:
            scenario = base if nodes in (None, base.nodes) else base.resized(nodes or base.nodes)
    except ScenarioError as error:
        reader.mistakes += [f"--nodes {nodes}: {mistake}" for mistake in error.mistakes]
        return None
    if links:
        changes["links"] = attrs.evolve(scenario.links, **links)
    flood_publish = reader.options.flood_publish
    if flood_publish is not None:
        changes["params"] = attrs.evolve(scenario.params, flood_publish=flood_publish)
    try:
        return attrs.evolve(scenario, **changes)
    except ScenarioError as error:
        reader.refused(error)
        return None


class _Reader:
    """Reads options by their names; what cannot be read is a mistake, to be said with the others."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.mistakes: list[str] = []
        self.faulty: set[str] = set()
        """Options that have a mistake: what follows from it is none."""

    def __call__(self, name: str, parse: Callable[[Any], T]) -> T | None:
        given = getattr(self.options, name)
        if given is None:
            return None
        try:
            return parse(given)
        except ValueError as error:
            self.wrong(name, str(error))
            return None

    def attacks(self) -> tuple[Attack, ...] | None:
        from chorus.simulation.gossip.scenario import ScenarioError

        attacks = []
        for text in self.options.attackers or ():
            try:
                attacks.append(quantities.attack(text))
            except ValueError as error:
                self.wrong("attackers", str(error))
            except ScenarioError as error:
                for mistake in error.mistakes:
                    self.wrong("attackers", f"{text}: {mistake}")
        return tuple(attacks) if self.options.attackers else None

    def wrong(self, name: str, text: str) -> None:
        self.mistakes.append(f"--{name} {text}")
        self.faulty.add(name)

    def refused(self, error: ScenarioError) -> None:
        for each in error.bounds:
            if not self.faulty & {each.quantity, *each.of}:
                self.mistakes.append(f"--{each}" if each.quantity in QUANTITIES else str(each))


# The run


def _simulate(scenario: Scenario, seed: int, options: Options) -> int:
    from chorus.client.page_file import PageFile
    from chorus.simulation.gossip import plots as gossip_plots
    from chorus.simulation.gossip import run as gossip_run

    as_json = bool(getattr(options, "json", False))
    replay = replay_line(options, seed)
    with ExitStack() as stack:
        output: PageFile | None = None
        if options.output is not None or not (options.no_report or as_json):
            # Before the run: it may take minutes.
            gossip_plots.require()
            name = options.output if options.output is not None else f"simulate-{scenario.name}-{seed}.html"
            output = stack.enter_context(PageFile(Path(name)))
        result = gossip_run.simulate(scenario, seed, _progress())
        unheard: OSError | None = None
        try:
            # Before the page, which may find the disk full.
            if as_json:
                show.document({**result.document(), "again": replay, "version": _version()})
            else:
                _show(result, replay)
            sys.stdout.flush()
        except OSError as error:
            unheard = error
        if output is not None:
            output.write(_page(result, replay))
        if unheard is not None:
            raise unheard
        if output is not None and not as_json:
            print(f"report: {output.path}")
    return EXIT_TASK_FAILED if result.missed() else 0


def replay_line(options: Options, seed: int) -> str:
    """The command for the same run."""
    words = ["chorus", "simulate", options.scenario]
    for name in QUANTITIES:
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name}", value]
    for attack in options.attackers or ():
        words += ["--attackers", attack]
    if options.flood_publish is not None:
        words.append("--flood-publish" if options.flood_publish else "--no-flood-publish")
    return shlex.join([*words, "--seed", str(seed)])


def _progress() -> Callable[[float, float], None]:
    lively = show.lively(sys.stderr)

    def progress(done: float, total: float) -> None:
        if lively:
            end = "\n" if done >= total else ""
            print(f"\r{done:.0f} of {total:.0f} simulated seconds", end=end, file=sys.stderr, flush=True)

    return progress


def _version() -> str:
    from chorus.version import version_line

    return version_line({}).replace("CHORUS-agent", "chorus", 1)


def _page(result: GossipResult, replay: str) -> bytes:
    from chorus.simulation.gossip.report import page

    return page(result, replay, _version()).encode()


def _show(result: GossipResult, replay: str) -> None:
    from chorus.simulation.gossip.numbers import number
    from chorus.simulation.gossip.report import label

    scenario, figures = result.scenario, result.figures
    print(f"{scenario.name}: {scenario.summary}")
    of_attackers = [name for attack in scenario.attacks for name in (f"{attack.kind}_score", f"{attack.kind}_places")]
    show.facts([(label(name), number(figures[name])) for name in dict.fromkeys((*SHOWN, *of_attackers))])
    if scenario.wanted:
        print()
        rows = [
            (
                label(wanted.figure),
                wanted.bounds,
                number(figures[wanted.figure]),
                "met" if wanted.holds(figures) else "missed",
            )
            for wanted in scenario.wanted
        ]
        show.table(("figure", "wanted", "is", ""), rows, "")
        print()
        for wanted in scenario.wanted:
            if not wanted.holds(figures):
                show.note(f"missed: {label(wanted.figure)} {wanted.bounds}, but it is {figures[wanted.figure]:.4g}")
    print(f"again: {replay}")
    print(f"trace: {result.trace}, made with {_version()}")
