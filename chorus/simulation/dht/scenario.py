"""Scenarios of a simulation of the hash table: values with named bounds, and the figures wanted of them."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.protocols.kad.params import KadParams
from chorus.simulation.gossip.scenario import NamedScenario, ScenarioError

MIN_NODES: Final = 30
"""More than the 20 holders of a record, so that walks are needed."""
MAX_NODES: Final = 20_000
"""Each takes about 60 kB."""
DIAL_TRIPS: Final = 5
"""Round trips of a connection before its first request: TCP, protocol, Noise, multiplexer, admission."""
MAX_CONNECTIONS: Final = 192
"""Of a node by default."""


@attrs.frozen(kw_only=True)
class DhtScenario(NamedScenario):
    """Raises `ScenarioError` where a quantity is out of its bounds."""

    nodes: int = 1000
    rtt_ms: float = 50.0
    """Of a request, drawn for each pair within a tenth."""
    warm: bool = True
    """Peers of a table, ours or theirs, have a connection; else each needs a dial first."""
    connections: int | None = None
    """Of the peers of a table, how many have one at most; None: all."""
    dead: float = 0.0
    """Share of the nodes that crashed unannounced while all tables, and the places of records, still name them."""
    gets: int = 500
    killed: int = 0
    """Of the 20 holders of each value, those that die after its put."""
    sizes: tuple[int, ...] = ()
    """Networks to compare hops in, besides that of `nodes`."""
    values: int = 200
    hours: float = 0.0
    """With churn; else the network stands still."""
    churn: float = 0.0
    """Share of the nodes that crash unannounced in an hour, each replaced by a new one at once."""
    refresh_s: float = 600.0
    params: KadParams = attrs.field(factory=KadParams)

    def __attrs_post_init__(self) -> None:
        mistakes = [
            f"{name} must be between {low:g} and {high:g}, not {value:g}"
            for name, value, low, high in (
                ("nodes", self.nodes, MIN_NODES, MAX_NODES),
                ("rtt", self.rtt_ms, 0.1, 10_000),
                ("dead", self.dead, 0, 0.9),
                ("gets", self.gets, 1, 1_000_000),
                ("values", self.values, 1, 1_000_000),
                ("killed", self.killed, 0, self.params.k),
                ("churn", self.churn, 0, 1),
                ("hours", self.hours, 0, 240),
            )
            if not low <= value <= high
        ]
        if mistakes:
            raise ScenarioError(*mistakes)

    def resized(self, nodes: int) -> DhtScenario:
        """The same with another number of nodes, of which nothing is wanted; a network with churn keeps its values in
        proportion."""
        values = max(1, round(self.values * nodes / self.nodes)) if self.hours else self.values
        return attrs.evolve(self, nodes=nodes, values=values, sizes=(), wanted=())
