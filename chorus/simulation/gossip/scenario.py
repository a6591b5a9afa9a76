"""Scenarios of a simulation of gossip, and the figures wanted of them: values with named bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from chorus.errors import UserError
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.gossipsub.score_params import ScoreParams
from chorus.simulation.gossip.links import LinkParams
from chorus.simulation.gossip.numbers import exact

MAX_NODES: Final = 20_000
"""Honest nodes; each takes about 80 kB."""

MAX_ATTACKERS: Final = 5_000
MAX_CONNECTIONS: Final = 1_000
"""Of one attacker; a router takes `MAX_PEERS` at most."""

MIN_NODES: Final = 4
MAX_DEGREE: Final = 200
MAX_DELAY_MS: Final = 10_000.0
MAX_LOSS: Final = 0.5
MAX_CHURN: Final = 2.0
"""Of the nodes a minute: each twice."""

PARAMS: Final = GossipParams(flood_publish=False, growing_seqno=True)
"""As nodes of a closed mesh have them, without flood publish, which the published simulations leave out."""

MAX_SECONDS: Final = 86_400.0
MAX_MESSAGES: Final = 100_000
"""Published in one run."""

MAX_SIZE: Final = 60_000
"""Bytes of a message; with its envelope it must fit the smallest deployed RPC, 64 KiB."""

ATTACKS: Final = {
    "silent": "joins meshes, forwards nothing, says nothing",
    "withholding": "a whole router that forwards nobody else's messages",
    "flooding": "publishes 1,000 valid messages a second",
    "replaying": "sends what it heard again and again",
    "equivocating": "signs two messages with one sequence number, for two halves of its peers",
    "forging": "sends messages in other nodes' names",
    "advertising": "advertises messages with IHAVE that it never sends",
    "grafting": "grafts again as soon as it is pruned",
}


@attrs.frozen
class OutOfBounds:
    """`quantity` is its option's name where it has one."""

    quantity: str
    value: float
    low: float
    high: float
    unit: str = ""
    """As it stands behind the bounds; `%` for shares, which are said in percent."""
    of: frozenset[str] = frozenset()
    """Other quantities that the bounds or the value come from."""

    def __str__(self) -> str:
        low, high, value = (
            f"{exact(round(each * 100, 9))}%" if self.unit == "%" else exact(each)
            for each in (self.low, self.high, self.value)
        )
        unit = f" {self.unit}" if self.unit not in ("", "%") else ""
        return f"{self.quantity} must be between {low} and {high}{unit}, not {value}"


class ScenarioError(UserError):
    """A scenario that cannot be run; a line for each mistake, with its bounds."""

    code = "bad_scenario"

    def __init__(self, *mistakes: str | OutOfBounds) -> None:
        self.mistakes = tuple(map(str, mistakes))
        super().__init__("\n".join(self.mistakes))
        self.bounds = tuple(each for each in mistakes if isinstance(each, OutOfBounds))


class _Bounds:
    """Collects what is out of bounds, but for what follows from that."""

    def __init__(self) -> None:
        self._mistakes: list[OutOfBounds] = []

    def __call__(
        self, name: str, value: float, low: float, high: float, unit: str = "", of: Iterable[str] = ()
    ) -> None:
        if not low <= value <= high and not {each.quantity for each in self._mistakes} & {name, *of}:
            self._mistakes.append(OutOfBounds(name, value, low, high, unit, frozenset(of)))

    def check(self) -> None:
        if self._mistakes:
            raise ScenarioError(*self._mistakes)


@attrs.frozen
class Attack:
    """`count` attackers of one kind; each dials `connections` honest nodes."""

    kind: str
    count: int
    connections: int

    def __attrs_post_init__(self) -> None:
        if self.kind not in ATTACKS:
            raise ScenarioError(f"no such attack: {self.kind}; there are {', '.join(ATTACKS)}")
        within = _Bounds()
        within("attackers", self.count, 1, MAX_ATTACKERS)
        within("connections of an attacker", self.connections, 1, MAX_CONNECTIONS)
        within.check()

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}x{self.connections}"


@attrs.frozen
class WantedFigure:
    """A bound on one figure of a run."""

    figure: str
    """A key of `SimulationResult.figures`."""
    low: float | None = None
    high: float | None = None

    def holds(self, figures: Mapping[str, float]) -> bool:
        value = figures[self.figure]
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is None or self.high is None or self.low == self.high:
            return f"{self.figure} {self.bounds}"
        return f"{self.low:g} ≤ {self.figure} ≤ {self.high:g}"

    @property
    def bounds(self) -> str:
        """Without the figure's name: `≤ 325`, `184.5 to 225.5`."""
        if self.low is None:
            return f"≤ {self.high:g}"
        if self.high is None:
            return f"≥ {self.low:g}"
        return f"= {self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"


@attrs.frozen(kw_only=True)
class NamedScenario:
    """One run of any kind but for its seed."""

    name: str
    summary: str = ""
    wanted: tuple[WantedFigure, ...] = ()


@attrs.frozen(kw_only=True)
class Scenario(NamedScenario):
    """Raises `ScenarioError` where a quantity is out of its bounds."""

    nodes: int = 1000
    degree: int = 20
    """Connections of a node on average; it dials half of them."""
    links: LinkParams = attrs.field(factory=LinkParams)
    churn: float = 0.0
    """Share of the nodes that leave in a minute, each to come back as a new router after `DOWN`."""
    attacks: tuple[Attack, ...] = ()
    params: GossipParams = PARAMS
    score_params: ScoreParams = attrs.field(factory=ScoreParams)
    publishers: int = 100
    rate: float = 1.0
    """Messages a second, over all publishers."""
    size: int = 512
    warm_up: float = 20.0
    """Seconds before the first message: meshes settle."""
    seconds: float = 60.0
    """In which messages are published and measured."""

    def __attrs_post_init__(self) -> None:
        within = _Bounds()
        within("nodes", self.nodes, MIN_NODES, MAX_NODES)
        nodes = self.nodes if MIN_NODES <= self.nodes <= MAX_NODES else MAX_NODES
        within("degree", self.degree, 2, min(MAX_DEGREE, nodes - 1))
        low, high = self.links.delay_ms
        within("links", low, 0, MAX_DELAY_MS, "ms")
        within("links", high, low, MAX_DELAY_MS, "ms")
        within("loss", self.links.loss, 0, MAX_LOSS, "%")
        if self.links.rate_mbit is not None:
            within("uplink", self.links.rate_mbit, 0.01, 100_000, "Mbit/s")
        within("churn", self.churn, 0, MAX_CHURN, "%")
        within("publishers", self.publishers, 1, nodes)
        within("size", self.size, 0, MAX_SIZE, "bytes")
        within("the warm-up", self.warm_up, 0, MAX_SECONDS, "seconds")
        within("seconds", self.seconds, 1, MAX_SECONDS)
        within("rate", self.rate, 0.001, 10_000, "messages a second")
        within("messages in all", self.rate * self.seconds, 1, MAX_MESSAGES, of=["rate", "seconds"])
        within("attackers in all", sum(attack.count for attack in self.attacks), 0, MAX_ATTACKERS, of=["attackers"])
        for attack in self.attacks:
            name = f"connections of a {attack.kind} attacker"
            within(name, attack.connections, 1, nodes, of=["attackers"])
        within.check()

    def resized(self, nodes: int) -> Scenario:
        """The same with another number of nodes; publishers, attackers and their connections keep their proportions."""
        share = nodes / self.nodes

        def scaled(count: int) -> int:
            return max(1, round(count * share))

        attacks = (
            attrs.evolve(each, count=scaled(each.count), connections=scaled(each.connections)) for each in self.attacks
        )
        return attrs.evolve(
            self,
            nodes=nodes,
            degree=min(self.degree, max(2, nodes - 1)),
            publishers=scaled(self.publishers),
            attacks=tuple(attacks),
        )
