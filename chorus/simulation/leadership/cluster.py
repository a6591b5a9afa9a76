"""A cluster of tier D: its members with their clocks, disks and links, all from one seed."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.profiles import PROFILES, ElectionProfile
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.replica import ReplicaSettings
from chorus.simulation.clock import BILLION, NodeClock
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.leadership.member import ReplicaSite, SimReplica
from chorus.simulation.leadership.mix import LeadershipMix
from chorus.simulation.leadership.signer import SimAuthority
from chorus.simulation.leadership.storage import ReplicaDisk, ReplicaSnapshot
from chorus.simulation.leadership.watch import LeadershipWatch
from chorus.simulation.leadership.wires import Deliver, Wires
from chorus.simulation.trace import Trace
from chorus.simulation.world import SECOND, World

CLUSTER: Final = "c1" * 32
DIGITS: Final = "123456789"
OTHER_LEASE: Final = 1.5
"""Of a voter that is configured with another L: times the cluster's."""


def member_name(number: int) -> str:
    """A peer id, short; base58 has no zero."""
    text = ""
    while number or not text:
        number, digit = divmod(number, len(DIGITS))
        text = DIGITS[digit] + text
    return f"node{text.rjust(3, '1')}"


class LeadershipCluster:
    """`member_type` is for mutants, `profile` for other times than those of the mix."""

    def __init__(
        self,
        mix: LeadershipMix,
        world: World,
        judge: Judge,
        member_type: type[SimReplica] = SimReplica,
        *,
        profile: ElectionProfile | None = None,
    ) -> None:
        self.world = world
        self.mix = mix
        self.trace = Trace(keep=None)
        self.heard: Deliver = lambda source, target, message: None
        """Told of every message that arrives."""
        self._rng = world.rng("cluster")
        count = mix.voters + mix.learners
        names = tuple(sorted(member_name(number) for number in range(count)))
        profile = profile or PROFILES[mix.profile]
        authority = SimAuthority()
        voters = tuple(Voter(names[number], store_id(number, 0)) for number in range(mix.voters))
        roster = authority.sign(Roster(1, CLUSTER, 1, profile.lease_ms, tuple(sorted(voters))))
        assert roster is not None
        self.genesis = ReplicaSnapshot(LogPosition(0, 1), roster)
        self.wires = Wires(world, count, mix.quality(), self._deliver)
        self.watch = LeadershipWatch(world, judge, roster, tame=mix.tame)
        settings = ReplicaSettings(profile=profile, noop=b"1")
        self.site = ReplicaSite(world, self.wires, self.watch, names, settings, authority, mix.snapshot_every)
        self.members = [self._member(number, member_type) for number in range(count)]
        self.watch.members.extend(self.members)
        if "other-lease" in mix.faults:
            odd = self._rng.choice(self.members)
            other = attrs.evolve(profile, lease_ms=round(profile.lease_ms * OTHER_LEASE))
            odd.settings = attrs.evolve(settings, profile=other)

    def _member(self, number: int, member_type: type[SimReplica]) -> SimReplica:
        bound = self.mix.drift
        drift = self._rng.choice((-bound, bound, self._rng.uniform(-bound, bound)))
        offset = self._rng.randrange(1000 * SECOND)
        clock = NodeClock(self.world, offset_ns=offset, drift=round(drift * BILLION))
        return member_type(self.site, number, self._disk(number, 0), clock)

    def _disk(self, number: int, store: int) -> ReplicaDisk:
        return ReplicaDisk(self.world, number * 1000 + store, self.genesis, self.mix.fsync)

    def start(self) -> None:
        for member in self.members:
            member.start()

    def _deliver(self, source: int, target: int, message: object) -> None:
        self.trace.record(self.world.now_ns, target, type(message).__name__, b"%d" % source)
        self.heard(source, target, message)
        self.members[target].deliver(source, message)

    def admin(self) -> SimReplica | None:
        """The member that holds the office, by its own clock."""
        return next((member for member in self.members if member.holds()), None)

    # Stores that are lost for good

    def may_lose(self, member: SimReplica) -> bool:
        """True if a majority of every roster in use can vote and grant without this one."""
        for each in self.members:
            if each.replica is None:
                return False
            for roster in (each.replica.roster, each.replica.committed_roster):
                if not self.able(roster, member):
                    return False
        return True

    def able(self, roster: Roster, without: SimReplica | None = None) -> bool:
        """True if a majority of its voters has its store, and the roster's L; not counting `without`."""
        usable = [
            each
            for each in self.members
            if each is not without and roster.has(each.voter) and each.profile.lease_ms == roster.lease_ms
        ]
        return len(usable) >= roster.quorum

    def wipe(self, member: SimReplica) -> None:
        member.stores += 1
        member.disk = self._disk(member.number, member.stores)


def store_id(number: int, stores: int) -> str:
    return f"{number:016x}{stores:016x}"
