"""Makes a failing run smaller: fewer attackers, fewer kinds of faults, fewer nodes, less time; same invariant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from chorus.simulation.configuration import Configuration
from chorus.simulation.runs import RunFailed, run

MAX_RUNS = 60
"""Runs that one shrinking may cost."""


def failure(configuration: Configuration, go: Callable[[Configuration], object] = run) -> str | None:
    """The invariant that this run violates."""
    try:
        go(configuration)
    except RunFailed as failed:
        return failed.invariant
    return None


def shrink(
    configuration: Configuration,
    invariant: str,
    go: Callable[[Configuration], object] = run,
    *,
    max_runs: int = MAX_RUNS,
) -> Configuration:
    """The smallest run found that violates the same invariant; `configuration` itself if none does."""
    runs = 0
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(configuration):
            if runs >= max_runs:
                return configuration
            runs += 1
            if failure(candidate, go) == invariant:
                configuration, smaller = candidate, True
                break
    return configuration


def _smaller(configuration: Configuration) -> Iterator[Configuration]:
    """The boldest steps first."""
    for faults in _fewer(configuration.faults):
        yield attrs.evolve(configuration, faults=faults)
    for attackers in _fewer(configuration.byzantine):
        yield attrs.evolve(configuration, byzantine=attackers)
    nodes = configuration.nodes
    for fewer in dict.fromkeys((max(2, nodes // 2), nodes - 1)):
        if 2 <= fewer < nodes:
            yield attrs.evolve(configuration, nodes=fewer)
    if configuration.seconds >= 2:
        yield attrs.evolve(configuration, seconds=round(configuration.seconds / 2, 3))
        yield attrs.evolve(configuration, seconds=round(configuration.seconds * 0.8, 3))


def _fewer(kinds: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if len(kinds) > 1:
        half = len(kinds) // 2
        yield kinds[:half]
        yield kinds[half:]
    for kind in kinds:
        yield tuple(each for each in kinds if each != kind)
