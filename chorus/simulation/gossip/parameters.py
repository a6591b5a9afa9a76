"""The parameters of a scenario, quantity by quantity, and the differences of a changed one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from chorus.simulation.gossip.numbers import exact

if TYPE_CHECKING:
    from chorus.simulation.gossip.scenario import Scenario

JSONValue = float | bool | str | list[float] | list[str] | None


@attrs.frozen
class Parameter:
    """`value` is what `--json` gives under `key`, `text` the same for people, with its unit."""

    key: str
    label: str
    value: JSONValue
    text: str


def parameters(scenario: Scenario) -> tuple[Parameter, ...]:
    """All that decides a run, besides its seed."""
    return (*_network(scenario), *_traffic(scenario))


def _network(scenario: Scenario) -> Iterator[Parameter]:
    links = scenario.links
    low, high = links.delay_ms
    attacks = [str(attack) for attack in scenario.attacks]
    rate = links.rate_mbit
    yield Parameter("nodes", "nodes", scenario.nodes, f"{scenario.nodes:,}")
    yield Parameter("degree", "connections of a node", scenario.degree, f"{scenario.degree}")
    yield Parameter("links_ms", "links", [low, high], f"{_plain(low)}-{_plain(high)} ms")
    yield Parameter("loss", "loss", links.loss, _percent(links.loss))
    yield Parameter("uplink_mbit", "uplink", rate, "no bound" if rate is None else f"{exact(rate)} Mbit/s")
    yield Parameter("churn", "churn", scenario.churn, f"{_percent(scenario.churn)} a minute")
    yield Parameter("attackers", "attackers", attacks, ", ".join(attacks) or "none")


def _traffic(scenario: Scenario) -> Iterator[Parameter]:
    params = scenario.params
    mesh: list[float] = [params.d_lo, params.d, params.d_hi]
    flood = params.flood_publish
    yield Parameter("publishers", "publishers", scenario.publishers, f"{scenario.publishers:,}")
    yield Parameter("rate", "rate", scenario.rate, f"{_plain(scenario.rate)} messages/s")
    yield Parameter("size", "size", scenario.size, f"{scenario.size:,} bytes")
    yield Parameter("flood_publish", "flood publish", flood, "yes" if flood else "no")
    yield Parameter("mesh", "mesh", mesh, f"{params.d}, within {params.d_lo}-{params.d_hi}")
    yield Parameter("warm_up_s", "warm-up", scenario.warm_up, f"{_plain(scenario.warm_up)} s")
    yield Parameter("seconds", "publishing", scenario.seconds, f"{_plain(scenario.seconds)} s")


def changed(base: Scenario, scenario: Scenario) -> Scenario:
    """`scenario`, made from `base`, which says in what it differs; `base` itself where it does not.

    What was wanted of `base` is wanted of it as it stands, and not of what was changed.
    """
    differences = [
        f"{new.label} {new.text} instead of {old.text}"
        for old, new in zip(parameters(base), parameters(scenario), strict=True)
        if old.value != new.value
    ]
    if not differences:
        return base
    return attrs.evolve(scenario, summary=f"changed from {base.name}: {', '.join(differences)}", wanted=())


def _plain(value: float) -> str:
    return exact(round(value, 6))


def _percent(share: float) -> str:
    return f"{_plain(share * 100)} %"
