"""Measures of a simulation of gossip: deliveries, sends, meshes and scores, of honest nodes."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from chorus.simulation.gossip.nodes import HONEST, TOPIC
from chorus.simulation.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from chorus.protocols.gossipsub.events import Delivery
    from chorus.simulation.gossip.nodes import RouterNode
    from chorus.simulation.trace import Trace

STAYS: Final = 10 * SECOND
"""A node is owed a message when it was there `SETTLES` before and this long after it was published."""

SETTLES: Final = 3 * SECOND
MAX_HOPS: Final = 255
"""More are counted as so many."""


class _Published:
    __slots__ = ("delivered", "hops", "node", "ns")

    def __init__(self, node: int, ns: int, nodes: int) -> None:
        self.node = node
        self.ns = ns
        self.hops = bytearray(nodes)
        """By node: hops to its first copy, 0 for the publisher and who has none."""
        self.delivered = 0


@attrs.frozen
class Spread:
    """Of many values: the least, the tenth percentile, the median, the ninetieth, the greatest, and the mean."""

    low: float
    p10: float
    p50: float
    p90: float
    high: float
    mean: float


@attrs.frozen
class Sample:
    """How it is at one instant."""

    seconds: float
    degrees: Spread
    scores: Mapping[str, Spread]
    """By kind of peer, as honest nodes see it."""
    below: Mapping[str, float]
    """By kind: share of the connections over which it is scored below 0."""
    places: Mapping[str, float]
    """By kind: honest nodes' meshes in which one node of it has a place, on average."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below or at which `share` of them lie; `ordered` is sorted, and 0 for nothing."""
    if not ordered:
        return 0.0
    return float(ordered[min(len(ordered) - 1, max(0, int(share * len(ordered) + 0.5) - 1))])


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    if not ordered:
        return Spread(0, 0, 0, 0, 0, 0)
    return Spread(
        ordered[0],
        percentile(ordered, 0.1),
        percentile(ordered, 0.5),
        percentile(ordered, 0.9),
        ordered[-1],
        statistics.fmean(ordered),
    )


class Measures:
    """`nodes` is how many honest nodes there are; their numbers begin at 0."""

    def __init__(self, nodes: int, trace: Trace) -> None:
        self.trace = trace
        self.latencies = array("q")
        """Nanoseconds from publication to each delivery."""
        self.hops = [0] * (MAX_HOPS + 1)
        """Deliveries by hops."""
        self.hop_ns = [0] * (MAX_HOPS + 1)
        """Sum of the latencies of those."""
        self.sends = 0
        """Copies of messages sent by honest nodes while messages were measured."""
        self.twice = 0
        """Deliveries of a message to a node that had it: must be 0."""
        self.unasked = 0
        """Deliveries of what attackers published."""
        self.measuring = False
        self.samples: list[Sample] = []
        self._nodes = nodes
        self._published: dict[bytes, _Published] = {}
        self._ends: list[list[tuple[int, int]]] = [[] for _ in range(nodes)]
        """By node: the intervals in which it was there and that are over."""

    # Events

    def published(self, message_id: bytes, node: int, now_ns: int) -> None:
        if self.measuring and node < self._nodes:
            self.trace.record(now_ns, node, "publish", message_id)
            self._published[message_id] = _Published(node, now_ns, self._nodes)

    def delivered(self, node: RouterNode, delivery: Delivery, now_ns: int) -> None:
        number = node.number
        if number >= self._nodes:
            return
        self.trace.record(now_ns, number, "deliver", delivery.message_id)
        message = self._published.get(delivery.message_id)
        if message is None:
            self.unasked += 1
            return
        if message.hops[number] or number == message.node:
            # A node that was started anew has forgotten what it had; that is no fault.
            self.twice += node.starts == 1
            return
        source = int.from_bytes(delivery.source[-4:], "big")
        hops = min(MAX_HOPS, 1 + (message.hops[source] if source < self._nodes else 0))
        message.hops[number] = hops
        if node.joined_ns <= message.ns:
            self.latencies.append(now_ns - message.ns)
            self.hops[hops] += 1
            self.hop_ns[hops] += now_ns - message.ns

    def sent(self, node: RouterNode, messages: int) -> None:
        if self.measuring and node.kind is HONEST:
            self.sends += messages

    def gone(self, node: RouterNode, now_ns: int) -> None:
        self.trace.record(now_ns, node.number, "leave")
        self._ends[node.number].append((node.joined_ns, now_ns))

    # Views

    def sample(
        self, seconds: float, nodes: Sequence[RouterNode], kinds: Mapping[bytes, str], counts: Mapping[str, int]
    ) -> None:
        """`kinds` by peer id, `counts` by kind; `nodes` are those looked at."""
        degrees: list[int] = []
        scores: dict[str, list[float]] = {kind: [] for kind in counts}
        held = dict.fromkeys(counts, 0)
        for node in nodes:
            router = node.router
            mesh = router.mesh(TOPIC)
            degrees.append(len(mesh))
            for peer in mesh:
                held[kinds[peer]] += 1
            for peer in node.lines:
                scores[kinds[peer]].append(router.score(peer))
        seen = max(1, len(nodes)) / counts[HONEST]
        self.samples.append(
            Sample(
                seconds,
                spread(degrees),
                {kind: spread(values) for kind, values in scores.items() if values},
                {kind: sum(value < 0 for value in values) / max(1, len(values)) for kind, values in scores.items()},
                {kind: places / counts[kind] / seen for kind, places in held.items()},
            )
        )

    def owed(self, nodes: Sequence[RouterNode]) -> tuple[int, int]:
        """(deliveries that were owed, those of them that came), over all messages."""
        forever = 1 << 63
        intervals = [
            [*self._ends[node.number], *([(node.joined_ns, forever)] if node.online else [])] for node in nodes
        ]
        owed = came = 0
        for message in self._published.values():
            for number, there in enumerate(intervals):
                if number == message.node:
                    continue
                if any(
                    (begin == 0 or begin + SETTLES <= message.ns) and message.ns + STAYS <= end for begin, end in there
                ):
                    owed += 1
                    came += message.hops[number] > 0
        return owed, came

    @property
    def messages(self) -> int:
        return len(self._published)

    def latency_ms(self) -> list[float]:
        """Sorted."""
        return sorted(ns / MILLISECOND for ns in self.latencies)
