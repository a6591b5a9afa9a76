"""Messages of election, journal and learners in an idle cluster of 100 members (LAN profile, 7 voters)."""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs

from chorus.simulation.invariants.observers import Judge
from chorus.simulation.leadership.cluster import LeadershipCluster
from chorus.simulation.leadership.member import SimReplica
from chorus.simulation.leadership.mix import LeadershipMix
from chorus.simulation.world import World

MEMBERS: Final = 100
VOTERS: Final = 7
MEASURED_S: Final = 60.0
MOST: Final = 20.0
"""Messages a second that a node sends and receives."""
MOST_AT_ADMIN: Final = 60.0
PULL_S: Final = (10.0, 10.0)
"""An idle learner's pull is answered after that long."""


@attrs.frozen
class TrafficFigures:
    """Messages a second, sent and received."""

    admin: float
    voter: float
    learner: float
    kinds: dict[str, float]
    """At the admin."""

    @property
    def within(self) -> bool:
        return self.admin <= MOST_AT_ADMIN and max(self.voter, self.learner) <= MOST

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count:.1f}" for name, count in self.kinds.items())
        return (
            f"{MEMBERS} members, {VOTERS} voters, messages/s: admin {self.admin:.1f} (at most {MOST_AT_ADMIN:.0f}; "
            f"{kinds}), busiest other voter {self.voter:.1f}, busiest learner {self.learner:.1f} (at most {MOST:.0f})"
        )


class IdleLearner(SimReplica):
    """Asks rarely, as one whose pulls wait at the voter."""

    pull_s = PULL_S


def measure_traffic(seed: int = 1, seconds: float = MEASURED_S) -> TrafficFigures:
    world = World(seed)
    mix = LeadershipMix(seed=seed, voters=VOTERS, learners=MEMBERS - VOTERS, drift=0.001)
    cluster = LeadershipCluster(mix, world, Judge(world), IdleLearner)
    sent: Counter[tuple[int, str]] = Counter()
    cluster.heard = lambda source, target, message: sent.update(
        ((source, type(message).__name__), (target, type(message).__name__))
    )
    cluster.start()
    world.run_for(15.0)
    sent.clear()
    admin = cluster.admin()
    assert admin is not None
    world.run_for(seconds)
    assert cluster.admin() is admin
    total: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    for (number, name), count in sent.items():
        total[number] += count
        if number == admin.number:
            kinds[name] += count
    voters = [each.number for each in cluster.members if each.peer in cluster.genesis.roster.by_peer]
    return TrafficFigures(
        total[admin.number] / seconds,
        max(total[number] for number in voters if number != admin.number) / seconds,
        max(total[each.number] for each in cluster.members if each.number not in voters) / seconds,
        {name: count / seconds for name, count in sorted(kinds.items())},
    )
