"""Small networks of the simulation without bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from chorus.simulation.gossip.network import GossipNet
from chorus.simulation.gossip.scenario import Scenario


def small(**changes: Any) -> Scenario:
    """60 nodes, a minute's settling less than the full ones have."""
    given: dict[str, Any] = {
        "name": "small",
        "nodes": 60,
        "degree": 16,
        "publishers": 20,
        "rate": 2.0,
        "warm_up": 16.0,
        "seconds": 10.0,
    }
    return Scenario(**{**given, **changes})


@lru_cache(maxsize=3)
def shared(seed: int = 1) -> GossipNet:
    """A run for several tests, none of which changes it."""
    return ran(seed)


def ran(seed: int = 1, **changes: Any) -> GossipNet:
    net = GossipNet(small(**changes), seed)
    net.run()
    return net
