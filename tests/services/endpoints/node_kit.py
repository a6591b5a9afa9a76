"""A node made of stand-ins, for its checks, its status and its metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from chorus.observe.metrics import Histogram
from chorus.services.endpoints.node import NodeParts, TaskParts
from chorus.services.presence import Load


def stand_in(**members: Any) -> Any:
    return SimpleNamespace(**members)


def task_parts(**parts: Any) -> TaskParts:
    on = stand_in(running=True, active=0)
    sandbox = stand_in(usable=False, status=lambda: stand_in(detail="no engine", to_json=lambda: {"usable": False}))
    headroom = stand_in(disk=lambda: None)
    made = {"blobs": stand_in(running=True, active=0, counters=stand_in()), "sandbox": sandbox, "headroom": headroom}
    made |= {"executor": on, "coordinator": on, "readable": on}
    made["replicas"] = stand_in(pushing=stand_in(), looks=stand_in())
    made["ucxl"] = stand_in(cache=stand_in(), publisher=stand_in(durations=Histogram((1.0,))))
    return TaskParts(**{**made, **parts})


def node_parts(tasks: TaskParts | None = None, *, load: Load | None = None, **parts: Any) -> NodeParts:
    """A running node in good health. `load` is 0 of 1 tasks."""
    peer = "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXa"
    now = load or Load(0, 1)
    made = {
        "store": stand_in(running=True, database=stand_in(damage=None)),
        "cluster": None,
        "admission": stand_in(),
        "p2p": stand_in(running=True, peer_id=peer, connections=lambda: [], listen_addresses=lambda: []),
        "pubsub": stand_in(running=True, counters=dict),
        "messaging": stand_in(wrong_clocks=lambda: None, counters=stand_in()),
        "presence": stand_in(profile=stand_in(agent_id="a", role=None)),
        "keys": None,
        "dht": stand_in(running=True, trouble=lambda: None, condition=lambda: "alone", seconds=Histogram((1.0,))),
        "load": lambda: now,
        "alone": lambda: None,
        "state": lambda: "running",
    }
    return NodeParts(tasks=tasks, **{**made, **parts})
