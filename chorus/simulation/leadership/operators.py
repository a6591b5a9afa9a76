"""Operators that change the voters of a simulated cluster: learners are caught up and added, others removed."""

from __future__ import annotations

import random
from typing import Final

import attrs

from chorus.protocols.ballot.roster import SIZES, Voter
from chorus.protocols.replica import Replica
from chorus.simulation.leadership.cluster import LeadershipCluster
from chorus.simulation.leadership.member import SimReplica
from chorus.simulation.world import nanoseconds

LOOK_S: Final = 0.25
"""Seconds between two looks at the roster."""
BEHIND: Final = 3
"""Entries that a learner may be behind when it is added."""


class RosterOperator:
    """Replaces voters without a store at once; with `restless`, it also adds and removes at will, about once in so many
    seconds. An even number of voters never stays."""

    def __init__(self, cluster: LeadershipCluster, restless: float | None) -> None:
        self.done = False
        self._cluster = cluster
        self.restless = restless
        self._rng: random.Random = cluster.world.rng("operators")
        self._adding: SimReplica | None = None
        self._look()

    def _look(self) -> None:
        admin = self._cluster.admin()
        if admin is not None and not admin.paused and not self.done:
            self._act(admin)
        self._cluster.world.after(nanoseconds(LOOK_S), self._look)

    def _act(self, admin: SimReplica) -> None:
        replica = admin.replica
        assert replica is not None
        if replica.roster != replica.committed_roster:
            return
        voters = replica.roster.voters
        current = {each.voter: each for each in self._cluster.members}
        lost = [voter for voter in voters if voter not in current]
        if lost:
            self._propose(admin, [voter for voter in voters if voter != lost[0]])
        elif len(voters) not in SIZES:
            self._settle(admin, voters)
        elif self.restless is not None and self._rng.random() < LOOK_S / self.restless:
            if self._rng.random() < 0.5:
                self._remove(admin, voters)
            else:
                self._add(admin, voters)
        elif len(voters) == 1:
            self._add(admin, voters)

    def _settle(self, admin: SimReplica, voters: tuple[Voter, ...]) -> None:
        """From an even number to an odd one."""
        if self._adding is None and len(voters) > 2 and self._rng.random() < 0.3:
            self._remove(admin, voters)
        else:
            self._add(admin, voters)

    def _remove(self, admin: SimReplica, voters: tuple[Voter, ...]) -> None:
        if len(voters) > 1:
            leaving = self._rng.choice(voters)
            self._propose(admin, [voter for voter in voters if voter != leaving])

    def _add(self, admin: SimReplica, voters: tuple[Voter, ...]) -> None:
        outside = [each for each in self._cluster.members if each.voter not in voters and each.up]
        if not outside or len(voters) >= 7:
            return
        if self._adding not in outside:
            self._adding = self._rng.choice(outside)
        added = self._adding
        assert added is not None
        replica = admin.replica
        assert replica is not None
        match = replica.match(added.peer)
        if match is None:
            admin.ask(lambda core, now: core.track(added.peer, now))
        elif match >= replica.commit - BEHIND:
            self._propose(admin, [*voters, added.voter])
            self._adding = None

    def _propose(self, admin: SimReplica, voters: list[Voter]) -> None:
        assert admin.replica is not None
        if not self._cluster.able(attrs.evolve(admin.replica.roster, voters=tuple(sorted(voters)))):
            return

        def change(core: Replica, now: float) -> None:
            core.propose_roster(tuple(sorted(voters)), now)

        if admin.ask(change):
            self._cluster.watch.counters["roster changes"] += 1
