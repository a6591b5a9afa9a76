"""Configuration of one run: drawn from its seed (every seed has its own mix of faults), or given in full."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.simulation import byzantine, nemesis
from chorus.simulation.world import World

MAX_NODES: Final = 5_000
"""Each takes about 0.7 MB, and the run a time that grows with their number."""

MAX_SECONDS: Final = 86_400
"""A day."""

MAX_SEED: Final = 2**63 - 1


class BadConfiguration(ValueError):
    """A run that cannot be."""


@attrs.frozen(kw_only=True)
class Configuration:
    """`tier` A: bytes cut at random, real cryptography; B: large segments; C: no cryptography, nothing tapped."""

    tier: str = "A"
    seed: int = 1
    nodes: int = 5
    """Honest ones; each kind in `byzantine` is one more."""
    seconds: float = 60.0
    """Of chaos, simulated."""
    faults: tuple[str, ...] = ()
    byzantine: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Raises `BadConfiguration`."""
        if self.tier not in TIERS:
            raise BadConfiguration(no_tier(self.tier))
        for name, known in (("faults", nemesis.KINDS), ("byzantine", byzantine.KINDS)):
            for kind in getattr(self, name):
                if kind not in known:
                    raise BadConfiguration(f"unknown among {name}: {kind!r}; there are {', '.join(known)}")
        for name, low, high in (("nodes", 2, MAX_NODES), ("seed", 0, MAX_SEED)):
            if not low <= (value := getattr(self, name)) <= high:
                raise BadConfiguration(f"{name} must be between {low} and {high}, not {value}")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise BadConfiguration(f"seconds must be above 0 and at most {MAX_SECONDS}, not {self.seconds:g}")
        if self.tier == "C" and "corrupt" in self.faults:
            raise BadConfiguration("tier C has no cipher that could notice corrupt bytes")

    def arguments(self) -> str:
        """The command line that makes exactly this run."""
        lists = "".join(
            f" --{name} {','.join(values)}"
            for name, values in (("faults", self.faults or ("none",)), ("byzantine", self.byzantine or ("none",)))
        )
        return f"--tier {self.tier} --nodes {self.nodes} --seconds {self.seconds:g}{lists} --seed {self.seed}"


@attrs.frozen
class _Tier:
    nodes: tuple[int, int]
    seconds: float
    attackers: int
    """At most so many of them."""


TIERS: Final = {
    "A": _Tier((3, 8), 60.0, 2),
    "B": _Tier((30, 50), 120.0, 4),
    "C": _Tier((300, 400), 30.0, 0),
}


def no_tier(tier: str) -> str:
    """The refusal of a tier that is not among `TIERS`."""
    if tier == "D":
        return "tier D (thousands of nodes, without bytes) is run by `chorus simulate` (docs/simulate.md)"
    return f"there is no tier {tier!r} here: {', '.join(TIERS)}"


def draw(seed: int, tier: str = "A") -> Configuration:
    """Swarm testing: each kind of fault is in a run or not, so that rare ones are not always masked by common ones."""
    if tier not in TIERS:
        raise BadConfiguration(no_tier(tier))
    rng, known = World(seed).rng("configuration"), TIERS[tier]
    kinds = [kind for kind in nemesis.KINDS if tier != "C" or kind != "corrupt"]
    return Configuration(
        tier=tier,
        seed=seed,
        nodes=rng.randint(*known.nodes),
        seconds=known.seconds,
        faults=tuple(kind for kind in kinds if rng.random() < 0.4),
        byzantine=tuple(rng.sample(list(byzantine.KINDS), rng.randint(0, known.attackers))),
    )
