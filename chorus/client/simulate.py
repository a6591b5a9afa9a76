"""`chorus simulate`: a network of GossipSub nodes, or of servers of the hash table, in this process, and a report of
how it did (docs/simulate.md).

It needs no node. Nothing of `chorus.simulation` is imported before the command runs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import attrs

from chorus.client import show
from chorus.client.errors import EXIT_INTERRUPTED, EXIT_TASK_FAILED, EXIT_TERMINATED, EXIT_USAGE
from chorus.client.simulate_options import DHT_PREFIX, QUANTITIES, read, replay_line
from chorus.client.task_options import Options

if TYPE_CHECKING:
    from chorus.client.api import NodeApi
    from chorus.simulation.gossip.run import GossipResult, SimulationResult
    from chorus.simulation.gossip.scenario import NamedScenario, Scenario

R = TypeVar("R", bound="SimulationResult")

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


def run(options: Options, api: NodeApi) -> int:
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
        _list(options.json)
        return 0
    if options.scenario is None:
        options.scenario = "calibration"
    try:
        if options.scenario.startswith(DHT_PREFIX):
            return _run_dht(options)
        scenario, seed = read(options)
    except ScenarioError as error:
        for mistake in error.mistakes:
            show.note(mistake)
        return EXIT_USAGE
    return _simulate(_of_gossip(scenario, seed), seed, replay_line(options, seed), options)


def _run_dht(options: Options) -> int:
    from chorus.client.simulate_options import read_dht
    from chorus.simulation.dht.report import DHT_LABELS, dht_page
    from chorus.simulation.dht.run import simulate_dht

    scenario, seed = read_dht(options)
    kind = SimulationKind(
        scenario,
        lambda progress: simulate_dht(scenario, seed, progress),
        dht_page,
        lambda result: list(result.figures),
        DHT_LABELS.__getitem__,
        "simulated seconds" if scenario.hours else "gets",
    )
    return _simulate(kind, seed, replay_line(options, seed), options)


def _beside_list(options: Options) -> str:
    """Options that `--list` would ignore."""
    names = (*QUANTITIES, "attackers", "output")
    given = [f"--{name}" for name in names if getattr(options, name) is not None]
    return ", ".join([options.scenario] * (options.scenario is not None) + given)


def _list(as_json: bool) -> None:
    from chorus.simulation.dht.scenarios import DHT_SCENARIOS
    from chorus.simulation.gossip.scenario import ATTACKS
    from chorus.simulation.gossip.scenarios import SCENARIOS

    summaries = {name: each.summary for name, each in SCENARIOS.items()}
    summaries |= {name: each.summary for name, each in DHT_SCENARIOS.items()}
    if as_json:
        show.document({"scenarios": summaries, "attackers": ATTACKS})
        return
    show.table(("scenario", "what"), list(summaries.items()), "", folds=True)
    print()
    show.table(("attackers", "what they do"), list(ATTACKS.items()), "", folds=True)


@attrs.frozen
class SimulationKind(Generic[R]):
    """How scenarios of one kind are run and shown."""

    scenario: NamedScenario
    simulate: Callable[[Callable[[float, float], object]], R]
    page: Callable[[R, str, str], str]
    shown: Callable[[R], list[str]]
    """Figures for the terminal."""
    label: Callable[[str], str]
    unit: str = "simulated seconds"
    """Of the progress."""


def _of_gossip(scenario: Scenario, seed: int) -> SimulationKind[GossipResult]:
    from chorus.simulation.gossip import run as gossip_run
    from chorus.simulation.gossip.report import label, page

    def shown(result: GossipResult) -> list[str]:
        return [*SHOWN, *(f"{each.kind}_{what}" for each in scenario.attacks for what in ("score", "places"))]

    return SimulationKind(
        scenario,
        lambda progress: gossip_run.simulate(scenario, seed, progress),
        page,
        shown,
        label,
    )


def _simulate(kind: SimulationKind[R], seed: int, replay: str, options: Options) -> int:
    from chorus.client.page_file import PageFile
    from chorus.simulation.gossip import plots as gossip_plots

    as_json = options.json
    with ExitStack() as stack:
        output: PageFile | None = None
        if options.output is not None or not (options.no_report or as_json):
            # Before the run: it may take minutes.
            gossip_plots.require()
            name = options.output if options.output is not None else f"simulate-{kind.scenario.name}-{seed}.html"
            output = stack.enter_context(PageFile(Path(name)))
        result = kind.simulate(_progress(kind.unit))
        unheard: OSError | None = None
        try:
            # Before the page, which may find the disk full.
            if as_json:
                show.document({**result.document(), "again": replay, "version": _version()})
            else:
                _show(kind, result, replay)
            sys.stdout.flush()
        except OSError as error:
            unheard = error
        if output is not None:
            output.write(kind.page(result, replay, _version()).encode())
        if unheard is not None:
            raise unheard
        if output is not None and not as_json:
            print(f"report: {output.path}")
    return EXIT_TASK_FAILED if result.missed() else 0


def _progress(unit: str) -> Callable[[float, float], None]:
    lively = show.lively(sys.stderr)

    def progress(done: float, total: float) -> None:
        if lively:
            end = "\n" if done >= total else ""
            print(f"\r{done:.0f} of {total:.0f} {unit}", end=end, file=sys.stderr, flush=True)

    return progress


def _version() -> str:
    from chorus.version import version_line

    return version_line({}).replace("CHORUS-agent", "chorus", 1)


def _show(kind: SimulationKind[R], result: R, replay: str) -> None:
    from chorus.simulation.gossip.numbers import number

    figures, label, wanted_figures = result.figures, kind.label, kind.scenario.wanted
    print(f"{kind.scenario.name}: {kind.scenario.summary}")
    show.facts([(label(name), number(figures[name])) for name in dict.fromkeys(kind.shown(result))])
    if wanted_figures:
        print()
        rows = [
            (
                label(wanted.figure),
                wanted.bounds,
                number(figures[wanted.figure]),
                "met" if wanted.holds(figures) else "missed",
            )
            for wanted in wanted_figures
        ]
        show.table(("figure", "wanted", "is", ""), rows, "")
        print()
        for wanted in wanted_figures:
            if not wanted.holds(figures):
                show.note(f"missed: {label(wanted.figure)} {wanted.bounds}, but it is {figures[wanted.figure]:.4g}")
    print(f"again: {replay}")
    print(f"trace: {result.trace}, made with {_version()}")
