"""`gossip.score`: once faults have ended, scores of honest nodes by each other recover.

But for one thing: who was in a mesh for P3's 30 s behind a link that carried nothing is for its peers no other than one
that brings nothing. The cost of that (P3b) fades slower than the reward (P2): in minutes, and not while all are
quiet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.simulation.invariants.observers import Judge

if TYPE_CHECKING:
    from chorus.simulation.node import SimNode


class ScoreWatch:
    def __init__(self, judge: Judge, nodes: Sequence[SimNode]) -> None:
        self._judge = judge
        self._nodes = nodes
        self._excused: dict[tuple[int, int], float] = {}

    def excuse(self) -> None:
        """Blame the faults for what nodes have lost in meshes up to now."""
        for node in self._nodes:
            for other in self._nodes:
                self._excused[node.number, other.number] = _lost(node, other)

    def check(self) -> None:
        for node in self._nodes:
            for other in self._nodes:
                score = node.pubsub.router.score(other.peer_id.raw)
                excused = max(_lost(node, other), self._excused.get((node.number, other.number), 0.0))
                if score - excused < 0:
                    detail = f"{node} gives {other} a score of {score:.2f}, of which {excused:.2f} is from the faults"
                    self._judge.accuse("gossip.score", detail)


def _lost(node: SimNode, other: SimNode) -> float:
    """P3b of all topics: 0 or less."""
    view = node.pubsub.router.score_view(other.peer_id.raw)
    params = node.pubsub.router.scores.params
    return sum(
        params.of(topic).weight * params.of(topic).mesh_failure_weight * entry.mesh_failure
        for topic, entry in (view.topics if view is not None else {}).items()
    )
