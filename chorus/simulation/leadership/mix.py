"""The faults of one run of tier D: drawn from its seed, so that every seed has its own mix (swarm testing)."""

from __future__ import annotations

from typing import Final, Literal

import attrs

from chorus.simulation.leadership.wires import WireQuality
from chorus.simulation.world import World

ProfileName = Literal["lan", "wan", "relaxed"]

KINDS: Final = (
    "partition",
    "one-way",
    "alone",
    "loss",
    "spikes",
    "reconnect",
    "crash",
    "crash-admin",
    "storm",
    "pause",
    "pause-admin",
    "clock",
    "slow-disk",
    "wipe",
    "roster",
    "transfer",
    "step-down",
    "scores",
    "snapshots",
    "other-lease",
    "wild-clock",
)
"""Faults, and what operators do. `wild-clock` leaves the bound of clocks: then leases may overlap, fences must hold."""

RARE: Final = {"other-lease": 0.05, "wild-clock": 0.04, "wipe": 0.2}
"""Chances of kinds that hide others; the rest are in a run with 0.35."""
USUAL: Final = 0.35

VOTERS: Final = (3, 3, 5, 5, 5, 7)
PROFILES: Final[tuple[ProfileName, ...]] = ("lan",) * 16 + ("wan",) * 3 + ("relaxed",)
SECONDS: Final[dict[str, float]] = {"lan": 60.0, "wan": 90.0, "relaxed": 180.0}
"""Of chaos."""
DELAYS: Final[dict[str, tuple[float, float]]] = {
    "lan": (0.0002, 0.001),
    "wan": (0.010, 0.075),
    "relaxed": (0.010, 0.075),
}
"""Seconds one way (spec/election.md 5)."""
FSYNC_S: Final = (0.001, 0.010)
TAME_DRIFT: Final = 0.1
"""What leases rely on (spec/election.md 4)."""
WILD_DRIFT: Final = 0.3


@attrs.frozen(kw_only=True)
class LeadershipMix:
    """One run. What is not given on the command line is drawn from the seed."""

    seed: int
    voters: int = 5
    learners: int = 1
    profile: ProfileName = "lan"
    seconds: float = 60.0
    faults: tuple[str, ...] = ()
    pace: float = 4.0
    """Seconds between two faults of one kind, on average."""
    drift: float = TAME_DRIFT
    """Of clocks, either way, at most."""
    loss: float = 0.0
    spike: float = 0.0
    in_order: bool = True
    fsync: tuple[float, float] = FSYNC_S
    snapshot_every: int = 100
    """Entries between two snapshots of a replica."""
    between: float = 0.3
    """Seconds between two operations of clients, on average."""

    @property
    def tame(self) -> bool:
        """True if all clocks keep to the bound that leases rely on."""
        return "wild-clock" not in self.faults

    def quality(self) -> WireQuality:
        return WireQuality(
            delay=DELAYS[self.profile], loss=self.loss, spike=self.spike, spike_s=0.9, in_order=self.in_order
        )

    def arguments(self) -> str:
        """The command line that makes this run."""
        faults = ",".join(self.faults) or "none"
        return (
            f"--seed {self.seed} --voters {self.voters} --learners {self.learners} --profile {self.profile} "
            f"--seconds {self.seconds:g} --faults {faults}"
        )


def draw_mix(seed: int) -> LeadershipMix:
    rng = World(seed).rng("mix")
    profile = rng.choice(PROFILES)
    chosen = {kind: rng.random() < RARE.get(kind, USUAL) for kind in KINDS}
    faults = tuple(kind for kind in KINDS if chosen[kind])
    voters = rng.choice(VOTERS)
    learners = rng.choice((0, 1, 1, 2))
    if "roster" in faults or "wipe" in faults:
        learners = max(1, learners)
    return LeadershipMix(
        seed=seed,
        voters=voters,
        learners=learners,
        profile=profile,
        seconds=SECONDS[profile],
        faults=faults,
        pace=rng.choice((1.5, 3.0, 6.0, 12.0)),
        drift=WILD_DRIFT if "wild-clock" in faults else rng.choice((0.0, 0.001, TAME_DRIFT, TAME_DRIFT)),
        loss=rng.choice((0.01, 0.05, 0.2)) if "loss" in faults else 0.0,
        spike=rng.choice((0.002, 0.02, 0.1)) if "spikes" in faults else 0.0,
        in_order=rng.random() < 0.7,
        fsync=rng.choice((FSYNC_S, FSYNC_S, (0.0001, 0.001), (0.005, 0.1))),
        snapshot_every=rng.choice((8, 25)) if "snapshots" in faults else 400,
        between=rng.choice((0.1, 0.2, 0.2, 0.5)),
    )
