"""The time from the crash of an admin to the next lease, over many trials (spec/election.md 5)."""

from __future__ import annotations

import random
from typing import Final

import attrs

from chorus.protocols.ballot.profiles import PROFILES, REJOIN_S, ElectionProfile
from chorus.simulation.gossip.measures import percentile
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.leadership.cluster import LeadershipCluster
from chorus.simulation.leadership.mix import LeadershipMix, ProfileName
from chorus.simulation.leadership.traffic import IdleLearner
from chorus.simulation.world import World

WITHIN: Final = 0.15
"""Of the specification's figures."""
LONGEST_S: Final = 60.0
STEP_S: Final = 0.004
"""Grain of the measurement."""
MISJUDGES: Final = 0.2
"""Share of members whose view of the ranks is off by one."""
MAX_VOTERS: Final = 7
"""Larger clusters have learners beside them."""


@attrs.frozen
class FailOverRow:
    """One row of the table: its conditions, and p50, p95 and p99 in seconds."""

    name: str
    profile: ProfileName
    members: int
    expected: tuple[float, float, float] | None
    """None: the specification's row kills three of fifteen voters beside the admin, too many of seven."""
    loss: float = 0.0
    drift: float = 0.001
    dead: int = 0
    """Of the members with the next best scores, down as well."""
    slot_s: float | None = None
    jitter_s: float | None = None
    lease_s: float | None = None
    heartbeat_s: float | None = None

    def times(self) -> ElectionProfile:
        profile = PROFILES[self.profile]
        given = {name: getattr(self, name) for name in ("slot_s", "jitter_s", "heartbeat_s")}
        changed = {name: value for name, value in given.items() if value is not None}
        if self.lease_s is not None:
            changed["lease_ms"] = round(self.lease_s * 1000)
        return attrs.evolve(profile, **changed)


ROWS: Final = (
    FailOverRow("LAN, n = 5", "lan", 5, (0.91, 1.03, 1.05)),
    FailOverRow("LAN, n = 50", "lan", 50, (0.91, 1.03, 1.05)),
    FailOverRow("WAN, n = 5", "wan", 5, (3.06, 3.48, 4.06)),
    FailOverRow("WAN, n = 15", "wan", 15, (3.04, 3.40, 3.51)),
    FailOverRow("WAN, n = 50", "wan", 50, (3.05, 3.40, 3.50)),
    FailOverRow("WAN, n = 15, two next-best dead too", "wan", 15, None, dead=2),
    FailOverRow("WAN, n = 15, 5 % loss", "wan", 15, (3.09, 3.46, 3.68), loss=0.05),
    FailOverRow("WAN, n = 15, 20 % loss", "wan", 15, (3.31, 3.81, 4.77), loss=0.2),
    FailOverRow("WAN, n = 15, no ranking, jitter 300 ms", "wan", 15, (3.09, 4.00, 4.64), slot_s=0.0001, jitter_s=0.3),
    FailOverRow("WAN, n = 15, no ranking, jitter 20 ms", "wan", 15, (3.67, 6.23, 8.68), slot_s=0.0001, jitter_s=0.02),
    FailOverRow("WAN, n = 15, clocks ±10 %", "wan", 15, (3.14, 3.61, 3.89), drift=0.1),
    FailOverRow("WAN, n = 15, L = 2 s", "wan", 15, (2.16, 2.44, 2.63), lease_s=2.0, heartbeat_s=0.5),
    FailOverRow("WAN, n = 15, L = 5 s", "wan", 15, (4.91, 5.40, 5.52), lease_s=5.0, heartbeat_s=1.0),
)


@attrs.frozen
class FailOverFigures:
    row: FailOverRow
    trials: int
    seconds: tuple[float, float, float]
    """p50, p95, p99."""
    greatest: float
    best_won: float
    """Share of trials in which the best score of those alive won."""

    @property
    def off(self) -> tuple[float, ...]:
        """Relative differences from the specification."""
        if self.row.expected is None:
            return ()
        return tuple(got / expected - 1 for got, expected in zip(self.seconds, self.row.expected, strict=True))

    @property
    def within(self) -> bool:
        return all(abs(each) <= WITHIN for each in self.off)

    def __str__(self) -> str:
        got = " / ".join(f"{each:.2f}" for each in self.seconds)
        expected = " / ".join(f"{each:.2f}" for each in self.row.expected or ()) or "nothing"
        off = " ".join(f"{100 * each:+.0f} %" for each in self.off)
        return (
            f"{self.row.name}: p50/p95/p99 {got} s, max {self.greatest:.2f} s; specified {expected} ({off}); "
            f"best score won {100 * self.best_won:.0f} % of {self.trials}"
        )


def measure(row: FailOverRow, trials: int) -> FailOverFigures:
    outcomes = [_trial(row, number) for number in range(trials)]
    times = sorted(seconds for seconds, _ in outcomes)
    quantiles = percentile(times, 0.5), percentile(times, 0.95), percentile(times, 0.99)
    best = sum(best for _, best in outcomes) / trials
    return FailOverFigures(row, trials, quantiles, times[-1], best)


def _trial(row: FailOverRow, number: int) -> tuple[float, bool]:
    """Seconds of true time without a lease, and whether the best one has it now."""
    count = min(row.members, MAX_VOTERS)
    mix = LeadershipMix(
        seed=number, voters=count, learners=row.members - count, profile=row.profile, drift=row.drift, loss=row.loss
    )
    world = World(number)
    cluster = LeadershipCluster(mix, world, Judge(world), IdleLearner, profile=row.times())
    rng = world.rng("trial")
    cluster.start()
    _observe(cluster, rng)
    world.run_for(REJOIN_S + row.times().lease_s * (2 + rng.random()))
    _observe(cluster, rng)
    while (admin := cluster.admin()) is None:
        world.run_for(0.1)
    alive = _best_first(cluster, but=admin.peer)
    for peer in alive[: row.dead]:
        cluster.members[cluster.site.number(peer)].crash()
    admin.crash()
    begin = world.now
    voters = [member for member in cluster.members if member.peer in cluster.genesis.roster.by_peer]
    while world.now < begin + LONGEST_S:
        world.run_for(STEP_S)
        for member in voters:
            if member.leases():
                return world.now - begin, member.peer == alive[row.dead]
    return LONGEST_S, False


def _best_first(cluster: LeadershipCluster, but: str = "") -> list[str]:
    voters = [voter.peer for voter in cluster.genesis.roster.voters if voter.peer != but]
    scores = _scores(cluster)
    return sorted(voters, key=lambda peer: (-scores[peer], peer))


def _scores(cluster: LeadershipCluster) -> dict[str, int]:
    """Every voter has its own; learners have none that matter."""
    names = cluster.site.names
    order = cluster.world.rng("scores").sample(names, len(names))
    return {peer: max(0, 1000 - 50 * place) for place, peer in enumerate(order)}


def _observe(cluster: LeadershipCluster, rng: random.Random) -> None:
    for member in cluster.members:
        scores = _scores(cluster)
        if rng.random() < MISJUDGES:
            scores[member.peer] += rng.choice((-75, 75))
        member.ask(lambda replica, now, scores=scores: replica.observe(scores, now))  # type: ignore[misc]
