"""Options of `chorus simulate`, and the scenario that they make. Nothing of `chorus.simulation` is imported before."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from chorus.client import quantities

if TYPE_CHECKING:
    from chorus.simulation.dht.scenario import DhtScenario
    from chorus.simulation.gossip.scenario import Attack, Scenario, ScenarioError

DHT_PREFIX: Final = "dht-"
"""Before the names of scenarios of the hash table."""
MAX_SEED: Final = 2**63 - 1

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
    """Adds the options. Values are read when the command runs, so that it names every mistake at once."""
    option = command.add_argument
    option("scenario", metavar="SCENARIO", nargs="?", help="where to begin (calibration)")
    option("--list", action="store_true", help="show the scenarios and the kinds of attackers, and nothing else")
    option(
        "--nodes",
        metavar="N",
        help="honest nodes, 4 to 20000 (dht-: 30 to 20000); attackers and publishers keep their proportion",
    )
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


def read(options: Options) -> tuple[Scenario, int]:
    """The scenario with what was said otherwise, and the seed. Raises `ScenarioError` with all mistakes."""
    from chorus.simulation.gossip.parameters import changed
    from chorus.simulation.gossip.scenario import ScenarioError
    from chorus.simulation.gossip.scenarios import SCENARIOS

    reader = _Reader(options)
    base = SCENARIOS.get(options.scenario)
    if base is None:
        reader.unknown()
    seed = reader.seed()
    scenario = _changed(base or SCENARIOS["calibration"], reader)
    if reader.mistakes or scenario is None or base is None or seed is None:
        raise ScenarioError(*reader.mistakes)
    return changed(base, scenario), seed


def read_dht(options: Options) -> tuple[DhtScenario, int]:
    """As `read`, of the scenarios of the hash table: their own quantities are fixed but for the number of nodes."""
    from chorus.simulation.dht.scenarios import DHT_SCENARIOS
    from chorus.simulation.gossip.scenario import ScenarioError

    reader = _Reader(options)
    base = DHT_SCENARIOS.get(options.scenario)
    if base is None:
        reader.unknown()
    for name in (*QUANTITIES, "attackers", "flood_publish"):
        if name != "nodes" and getattr(options, name) is not None:
            reader.mistakes.append(f"--{name.replace('_', '-')} is for networks of gossip, not for {options.scenario}")
    seed = reader.seed()
    nodes = reader("nodes", quantities.whole)
    scenario = base
    if base is not None and nodes is not None and nodes != base.nodes:
        try:
            scenario = base.resized(nodes)
        except ScenarioError as error:
            reader.mistakes += [f"--{mistake}" for mistake in error.mistakes]
    if reader.mistakes or scenario is None or seed is None:
        raise ScenarioError(*reader.mistakes)
    return scenario, seed


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

    def seed(self) -> int | None:
        """The seed; says as well what is wrong with where the report goes."""
        options = self.options
        seed = self("seed", quantities.whole)
        if seed is not None and not 0 <= seed <= MAX_SEED:
            self.mistakes.append(f"--seed must be between 0 and {MAX_SEED}, not {seed}")
        if options.no_report and options.output is not None:
            self.mistakes.append("--output and --no-report exclude each other")
        if options.output == "-":
            self.mistakes.append("--output names a file; for one with the name - say ./-")
        return seed

    def unknown(self) -> None:
        from chorus.simulation.dht.scenarios import DHT_SCENARIOS
        from chorus.simulation.gossip.scenarios import SCENARIOS

        known = ", ".join((*SCENARIOS, *DHT_SCENARIOS))
        self.mistakes.append(f"no such scenario: {self.options.scenario}; there are {known}")

    def wrong(self, name: str, text: str) -> None:
        self.mistakes.append(f"--{name} {text}")
        self.faulty.add(name)

    def refused(self, error: ScenarioError) -> None:
        for each in error.bounds:
            if not self.faulty & {each.quantity, *each.of}:
                self.mistakes.append(f"--{each}" if each.quantity in QUANTITIES else str(each))


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
