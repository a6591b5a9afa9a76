"""One run of tier D: chaos with checks of safety, then everything is healed, and liveness must hold."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

import attrs

from chorus.simulation.invariants.observers import Judge, Violated
from chorus.simulation.leadership.cluster import LeadershipCluster
from chorus.simulation.leadership.customers import ClusterClients
from chorus.simulation.leadership.doors import DOORS, AdminActs, FencedDoor
from chorus.simulation.leadership.faults import LeadershipNemesis
from chorus.simulation.leadership.member import SimReplica
from chorus.simulation.leadership.mix import LeadershipMix
from chorus.simulation.leadership.operators import RosterOperator
from chorus.simulation.leadership.wires import WireQuality
from chorus.simulation.world import World, nanoseconds

STEADY_S: Final = 8.0
"""Seconds, and as many leases at least, in which nothing may happen: no term, no office lost."""
STEADY_LOSS: Final = 0.03
"""With three voters, one seed in a million or so loses three rounds of heartbeats in a row all the same; with 0.05, one
in thirty thousand."""
CATCH_UP_S: Final = 6.0
"""Seconds until everybody has applied everything, once there is an admin."""
MARGIN: Final = 1.12
"""Of times by clocks that run 10 % slow."""
CHECK_EVERY: Final = 32
"""Events between two looks at the judge."""


class LeadershipFailed(Exception):
    """An invariant does not hold; `str` ends with the line that replays the run."""

    def __init__(self, mix: LeadershipMix, violated: Violated) -> None:
        super().__init__(f"{violated}; replay: python -m chorus.simulation.leadership {mix.arguments()}")
        self.mix = mix
        self.invariant = violated.violation.invariant


@attrs.frozen
class LeadershipReport:
    mix: LeadershipMix
    counts: Counter[str]
    simulated_s: float
    events: int
    trace: str
    cpu_s: float

    def __str__(self) -> str:
        counts = " ".join(f"{name}={count}" for name, count in sorted(self.counts.items()))
        head = f"seed {self.mix.seed}: {self.simulated_s:.0f} s, {self.events} events, {self.cpu_s:.2f} s"
        return f"{head}, {counts}, trace {self.trace}"


class LeadershipRun:
    """`member_type` and `door_type` are for mutants."""

    def __init__(
        self,
        mix: LeadershipMix,
        member_type: type[SimReplica] = SimReplica,
        door_type: type[FencedDoor] = FencedDoor,
    ) -> None:
        self.mix = mix
        self.world = World(mix.seed)
        self.judge = Judge(self.world)
        self.cluster = LeadershipCluster(mix, self.world, self.judge, member_type)
        watch, members = self.cluster.watch, self.cluster.members
        self.nemesis = LeadershipNemesis(self.cluster, mix)
        self.cluster.start()
        self.clients = ClusterClients(self.judge, self.world, members, mix.between)
        doors = [door_type(watch) for _ in range(DOORS)]
        hesitate = "pause" in mix.faults or "pause-admin" in mix.faults
        self.acts = AdminActs(self.world, members, doors, hesitate=hesitate)
        self.operator = RosterOperator(self.cluster, mix.pace if "roster" in mix.faults else None)
        self.nemesis.start()
        self.world.watch(self._look, CHECK_EVERY)

    def _look(self) -> None:
        self.judge.check()

    def run(self) -> LeadershipReport:
        """Raises `LeadershipFailed`."""
        begin = time.process_time()
        try:
            self.world.run_until(nanoseconds(self.mix.seconds))
            if self.mix.tame:
                self._heal()
                # One lost round is the end of a lease where the rest of the voters is a bare majority.
                if "other-lease" not in self.mix.faults:
                    self._steady()
            self.clients.quiet = True
            self.world.run_for(CATCH_UP_S)
            self._finish()
        except Violated as violated:
            raise LeadershipFailed(self.mix, violated) from None
        return self._report(time.process_time() - begin)

    # Liveness

    def _accuse(self, name: str, detail: str) -> None:
        self.judge.accuse(name, detail)
        self.judge.check()

    def _heal(self) -> None:
        cluster, mix = self.cluster, self.mix
        self.nemesis.heal()
        self.operator.restless = None
        self.acts.hesitate = False
        for member in cluster.members:
            if member.paused or not member.up:
                member.crash()
                member.start()
            member.disk.latency = (0.001, 0.005)
        cluster.wires.quality = WireQuality(delay=mix.quality().delay)
        profile = cluster.site.settings.profile
        bound = MARGIN * (profile.lease_s + 10 * profile.slot_s) + 10 * 2 * cluster.wires.longest()
        begin = self.world.now
        while self.world.now < begin + bound:
            self.world.run_for(0.01)
            if any(member.leases() for member in cluster.members):
                break
        else:
            self._accuse("election.liveness", f"no lease {bound:.2f} s after everything was healed")
        cluster.watch.counters["healed ms"] += round(1000 * (self.world.now - begin))
        # An admin that is found has yet to be heard by all, and to commit its no-op.
        self.world.run_for(2 * profile.lease_s)
        if cluster.admin() is None:
            self._accuse("election.liveness", "no admin two leases after there was one")

    def _steady(self) -> None:
        """Nothing changes while a few messages in a hundred are lost, nor when a member comes back that was alone."""
        cluster = self.cluster
        lease = cluster.site.settings.profile.lease_s
        self.operator.done = True
        self.world.run_for(1.0)
        cluster.wires.quality = attrs.evolve(cluster.wires.quality, loss=STEADY_LOSS)
        before = self._office()
        self.world.run_for(max(STEADY_S, 2 * lease))
        self._unchanged(before, "election.steady")
        cluster.wires.quality = attrs.evolve(cluster.wires.quality, loss=0.0)
        self.world.run_for(1.0)
        admin = cluster.admin()
        others = [member for member in cluster.members if member is not admin]
        if not others:
            return
        alone = self.world.rng("alone").choice(others).number
        rest = [number for number in range(len(cluster.members)) if number != alone]
        if admin is not None and admin.replica is not None and len(admin.replica.roster.voters) > 2:
            mend = cluster.wires.cut([pair for each in rest for pair in ((alone, each), (each, alone))])
            self.world.run_for(3 * lease)
            mend()
            self.world.run_for(2 * lease)
            self._unchanged(before, "election.pre_vote")

    def _office(self) -> tuple[str | None, int]:
        admin = self.cluster.admin()
        return (admin.peer, admin.replica.term) if admin is not None and admin.replica is not None else (None, 0)

    def _unchanged(self, before: tuple[str | None, int], invariant: str) -> None:
        after = self._office()
        if after != before:
            self._accuse(invariant, f"the office went from {before} to {after} without a fault")

    # The end

    def _finish(self) -> None:
        cluster = self.cluster
        if self.mix.tame:
            cluster.watch.ledger.check_complete(cluster.members)
        self.clients.check_all(cluster.admin())
        self.judge.check()

    def _report(self, cpu_s: float) -> LeadershipReport:
        cluster = self.cluster
        counts = Counter(cluster.watch.counters)
        for name, count in self.nemesis.counters.items():
            counts[f"fault.{name}"] = count
        for name, count in cluster.wires.counters.items():
            counts[f"wire.{name}"] = count
        counts["client operations"] = self.clients.operations
        counts["clients answered"] = self.clients.answered
        counts["clients undecided"] = self.clients.undecided
        for member in cluster.members:
            for name, count in member.disk.counters.items():
                counts[f"disk.{name}"] += count
            if member.replica is not None:
                for name, count in member.replica.refused.items():
                    counts[f"refused.{name}"] += count
        cluster.trace.record(self.world.now_ns, 0, "end", repr(sorted(counts.items())).encode())
        return LeadershipReport(self.mix, counts, self.world.now, self.world.events, cluster.trace.hexdigest(), cpu_s)


def run_seed(mix: LeadershipMix) -> LeadershipReport:
    """Raises `LeadershipFailed`."""
    return LeadershipRun(mix).run()
