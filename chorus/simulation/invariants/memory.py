"""`whole.memory`: every table of pub/sub keeps its named limit, and all of them together a node's budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from chorus.protocols.gossipsub import history
from chorus.protocols.gossipsub import params as gossip_params
from chorus.protocols.gossipsub import promises as gossip_promises
from chorus.protocols.gossipsub import queue as gossip_queue
from chorus.protocols.gossipsub import score as gossip_score
from chorus.protocols.gossipsub import score_stats as gossip_score_stats
from chorus.protocols.gossipsub.events import Held
from chorus.simulation.invariants.observers import Judge

if TYPE_CHECKING:
    from chorus.simulation.node import SimNode

BUDGET: Final = 2 << 20
"""Bytes of one node's tables: four times what the fullest node of a run of tier B holds. The limits allow far more, at
rates that no run has; what is never forgotten gets there."""

COSTS: Final = {
    "seen": 200,
    "records": 400,
    "scored": 700,
    "promises": 400,
    "backoffs": 200,
    "floors": 200,
}
"""Bytes of one entry with its share of the table, keys and values, in CPython 3.11 (`sys.getsizeof`, rounded up)."""


class MemoryWatch:
    def __init__(self, judge: Judge, nodes: Sequence[SimNode]) -> None:
        self._judge = judge
        self._nodes = nodes
        self.most = 0
        """Bytes that a node has held."""

    def look(self) -> None:
        for node in self._nodes:
            if node.running:
                held = node.pubsub.router.held()
                self._check_limits(node, held, _limits(node.options.gossip))
                self._check_queues(node)
                self._check_budget(node, held)

    def _check_limits(self, node: SimNode, held: Held, limits: dict[str, int]) -> None:
        over = {name: count for name, limit in limits.items() if (count := getattr(held, name)) > limit}
        self._judge.require(not over, "whole.memory", lambda: f"{node} holds more than it may of {over}")

    def _check_queues(self, node: SimNode) -> None:
        longest = max(node.pubsub.queued(), default=0)
        self._judge.require(
            longest <= gossip_queue.MAX_QUEUE, "whole.memory", lambda: f"{node} has queued {longest} bytes for one peer"
        )

    def _check_budget(self, node: SimNode, held: Held) -> None:
        total = sum(cost * getattr(held, name) for name, cost in COSTS.items())
        total += held.cache_bytes + sum(node.pubsub.queued())
        self.most = max(self.most, total)
        self._judge.require(
            total <= BUDGET, "whole.memory", lambda: f"{node} holds {total} bytes: {attrs.asdict(held)} and queues"
        )


def _limits(params: gossip_params.GossipParams) -> dict[str, int]:
    """Read when they are needed: `tests` change them."""
    return {
        "seen": params.seen_entries,
        "cache_bytes": params.mcache_bytes,
        "records": gossip_score_stats.MAX_RECORDS,
        "scored": gossip_params.MAX_PEERS + gossip_score.MAX_RETAINED,
        "promises": gossip_promises.MAX_PROMISES,
        "backoffs": gossip_params.MAX_BACKOFFS,
        "floors": history.MAX_PUBLISHERS,
    }
