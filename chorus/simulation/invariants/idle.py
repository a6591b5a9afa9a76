"""`gossip.idle`: a mesh member that forwards nothing, while others forward the same messages, loses its place.

Counted from the wire, apart from the router's own P3, and less than it counts: only small messages (large ones are
announced, and nobody can be expected to send them), only those that three honest peers brought, two of them members of
the mesh, in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from chorus.protocols.gossipsub.score import WITNESSES
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chorus.protocols.proto import rpc_pb2 as pb
    from chorus.simulation.node import SimNode

IN_MESH: Final = 35
"""Seconds in a mesh before anything is asked: P3's 30 and a few heartbeats."""

ENOUGH: Final = 20.0
"""Messages that several brought since it came, aged as P3 ages them. With 14 of them P3 outweighs the most that time
in the mesh brings (3 points): deficit 0.2 · 14 - 1 = 1.8, squared more than 3."""

PATIENCE: Final = 10
"""Looks, one a second, at which it may still be there: a heartbeat is a second, and a busy node is late."""

AGEING: Final = 0.995
"""A second."""

WINDOW: Final = 1.5
"""Seconds after the first copy in which a second one counts; P3's window is 2 s, from a little later on."""


@attrs.define
class _Place:
    """An idler's in one mesh."""

    since: int
    base: float
    """Of the mesh's redundant messages, those from before; aged."""
    looks: int = 0


class IdleWatch:
    """`idlers` are attackers that join meshes and say nothing."""

    def __init__(self, judge: Judge, nodes: Sequence[SimNode], idlers: Sequence[SimNode]) -> None:
        self._judge = judge
        self._nodes = nodes
        self._idlers = idlers
        self._first: dict[tuple[int, int, bytes, bytes], tuple[int, tuple[bytes, ...]]] = {}
        """(node, its start, publisher, number) → when it came first, and from whom; oldest first."""
        self._redundant: dict[tuple[int, int, str], float] = {}
        self._places: dict[tuple[int, int, int, str], _Place] = {}
        self.lost = 0
        """Places that idlers had and lost."""

    def heard(self, node: SimNode, speaker: SimNode, message: pb.Message) -> None:
        """A copy of an honest speaker reaches a node."""
        origin, now = getattr(message, "from"), node.world.now_ns
        large = len(message.data) >= node.options.gossip.idontwant_threshold
        if not self._idlers or large or origin == node.peer_id.raw:
            return
        key = (node.number, node.starts, origin, message.seqno)
        first = self._first.get(key)
        if first is None:
            self._first[key] = (now, (speaker.peer_id.raw,))
            self._forget(now)
            return
        at, by = first
        another = speaker.peer_id.raw not in (*by, origin)
        if another and now - at <= WINDOW * SECOND and speaker.peer_id.raw in node.pubsub.router.mesh(message.topic):
            self._first[key] = (at, (*by, speaker.peer_id.raw))
            if len(by) + 1 < WITNESSES:
                return
            del self._first[key]
            mesh = (node.number, node.starts, message.topic)
            self._redundant[mesh] = self._redundant.get(mesh, 0.0) + 1.0

    def _forget(self, now: int) -> None:
        while now - self._first[oldest := next(iter(self._first))][0] > 60 * SECOND:
            del self._first[oldest]

    def look(self, topics: Sequence[str]) -> None:
        """Once a second."""
        for mesh in self._redundant:
            self._redundant[mesh] *= AGEING
        for node in self._nodes if self._idlers else ():
            if node.running and node.reactor.paused_until < node.world.now_ns:
                for topic in topics:
                    for idler in self._idlers:
                        self._look(node, topic, idler)

    def _look(self, node: SimNode, topic: str, idler: SimNode) -> None:
        key = (node.number, node.starts, idler.number, topic)
        if idler.peer_id.raw not in node.pubsub.router.mesh(topic):
            self.lost += self._places.pop(key, None) is not None
            return
        now, redundant = node.world.now_ns, self._redundant.get((node.number, node.starts, topic), 0.0)
        place = self._places.setdefault(key, _Place(now, redundant))
        place.base *= AGEING
        asked = now - place.since >= IN_MESH * SECOND and redundant - place.base >= ENOUGH
        place.looks = place.looks + 1 if asked else 0
        self._judge.require(
            place.looks <= PATIENCE,
            "gossip.idle",
            lambda: f"{node} keeps {idler} in the mesh of {topic!r}, where it has brought nothing",
        )
