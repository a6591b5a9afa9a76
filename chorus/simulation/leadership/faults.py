"""Faults of tier D at drawn times: which kinds, the mix says; when, where and how long, the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from chorus.simulation.clock import BILLION
from chorus.simulation.leadership.cluster import LeadershipCluster
from chorus.simulation.leadership.member import SimReplica
from chorus.simulation.leadership.mix import LeadershipMix
from chorus.simulation.undoing import Undoing
from chorus.simulation.world import nanoseconds

RESTART_S: Final = (0.01, 2.0)
"""Seconds until a crashed member starts again; now and then much later."""
LONG_DOWN_S: Final = 10.0
STORM: Final = (2, 6)
"""Crashes of one member in a restart storm."""


class LeadershipNemesis:
    """Strikes with every kind of the mix, each on average once in `pace` seconds."""

    def __init__(self, cluster: LeadershipCluster, mix: LeadershipMix) -> None:
        self.counters: Counter[str] = Counter()
        self.healed = False
        self._cluster = cluster
        self._mix = mix
        self._world = cluster.world
        self._undoing = Undoing(cluster.world)

    def start(self) -> None:
        for kind in self._mix.faults:
            if kind in STRIKES:
                self._plan(kind, self._world.rng("fault", kind))

    def _plan(self, kind: str, rng: random.Random) -> None:
        self._world.after(nanoseconds(rng.expovariate(1 / self._mix.pace)), lambda: self._strike(kind, rng))

    def _strike(self, kind: str, rng: random.Random) -> None:
        if not self.healed:
            if STRIKES[kind](self, rng) is not False:
                self.counters[kind] += 1
            self._plan(kind, rng)

    def _lasting(self, rng: random.Random) -> float:
        """Seconds: some faults end before a lease does, some last for several."""
        lease = self._cluster.site.settings.profile.lease_s
        return lease * min(8.0, rng.expovariate(1 / 1.5))

    def _for(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undoing.later(nanoseconds(seconds), undo)

    def heal(self) -> None:
        """Links are whole, every member is up; clocks keep their rates."""
        self.healed = True
        self._undoing.all()

    # Links

    def _cut_off(self, rng: random.Random, side: list[SimReplica]) -> None:
        inside = {member.number for member in side}
        outside = [number for number in range(len(self._cluster.members)) if number not in inside]
        numbers = sorted(inside)
        mend = self._cluster.wires.cut([pair for a in numbers for b in outside for pair in ((a, b), (b, a))])
        over = self._cluster.watch.cut_off([member.peer for member in side])

        def undo() -> None:
            mend()
            over()

        self._for(self._lasting(rng), undo)

    def partition(self, rng: random.Random) -> None:
        members = self._cluster.members
        self._cut_off(rng, rng.sample(members, rng.randint(1, max(1, len(members) // 2))))

    def alone(self, rng: random.Random) -> bool:
        """The admin is cut off from everybody."""
        admin = self._cluster.admin()
        if admin is None:
            return False
        self._cut_off(rng, [admin])
        return True

    def one_way(self, rng: random.Random) -> None:
        """One member is not heard by some others, and hears them; or the other way round."""
        count = len(self._cluster.members)
        mute = rng.randrange(count)
        others = [number for number in range(count) if number != mute]
        chosen = rng.sample(others, rng.randint(1, len(others)))
        turned = rng.random() < 0.5
        pairs = [(other, mute) if turned else (mute, other) for other in chosen]
        self._for(self._lasting(rng), self._cluster.wires.cut(pairs))

    def reconnect(self, rng: random.Random) -> None:
        count = len(self._cluster.members)
        for _ in range(rng.randint(1, 4)):
            self._cluster.wires.reconnect(*rng.sample(range(count), 2))

    # Members

    def _down(self, rng: random.Random, member: SimReplica, seconds: float) -> None:
        member.crash()
        self._for(seconds, partial(self._up, member))

    def _up(self, member: SimReplica) -> None:
        if not member.up:
            member.start()

    def _some(self, rng: random.Random) -> SimReplica:
        return rng.choice(self._cluster.members)

    def crash(self, rng: random.Random) -> bool:
        return self._crash(rng, self._some(rng))

    def _crash(self, rng: random.Random, member: SimReplica | None) -> bool:
        if member is None or not member.up:
            return False
        self._down(rng, member, LONG_DOWN_S * rng.random() if rng.random() < 0.1 else rng.uniform(*RESTART_S))
        return True

    def crash_admin(self, rng: random.Random) -> bool:
        return self._crash(rng, self._cluster.admin())

    def storm(self, rng: random.Random) -> None:
        """Some members crash and start again, several times in a row."""
        members = self._cluster.members
        for member in rng.sample(members, rng.randint(1, len(members))):
            at = 0.0
            for _ in range(rng.randint(*STORM)):
                at += rng.uniform(0.01, 0.4)
                self._world.after(nanoseconds(at), partial(self._bounce, rng, member))

    def _bounce(self, rng: random.Random, member: SimReplica) -> None:
        if not self.healed and member.up:
            self.counters["bounces"] += 1
            self._down(rng, member, rng.uniform(0.01, 0.2))

    def pause(self, rng: random.Random) -> bool:
        return self._pause(rng, self._some(rng))

    def _pause(self, rng: random.Random, member: SimReplica | None) -> bool:
        if member is None or not member.up:
            return False
        member.pause(self._lasting(rng))
        return True

    def pause_admin(self, rng: random.Random) -> bool:
        return self._pause(rng, self._cluster.admin())

    def clock(self, rng: random.Random) -> None:
        """One clock runs faster or slower from now on: at its bound, as often as not."""
        bound = self._mix.drift
        drift = rng.choice((-bound, bound, rng.uniform(-bound, bound)))
        member = self._some(rng)
        member.clock.set_drift(round(drift * BILLION))
        member.clock_changed()

    def slow_disk(self, rng: random.Random) -> None:
        disk = self._some(rng).disk
        disk.slow += 1

        def undo() -> None:
            disk.slow -= 1

        self._for(self._lasting(rng), undo)

    def wipe(self, rng: random.Random) -> bool:
        """A store is lost for good; its member comes back with an empty one, as a learner."""
        member = self._some(rng)
        if not member.up or not self._cluster.may_lose(member):
            return False
        member.crash()
        self._cluster.wipe(member)
        self._for(rng.uniform(*RESTART_S), partial(self._up, member))
        return True

    # Operators and scores

    def transfer(self, rng: random.Random) -> bool:
        admin = self._cluster.admin()
        if admin is None or admin.replica is None:
            return False
        others = [peer for peer in admin.replica.roster.by_peer if peer != admin.peer]
        if not others:
            return False
        target = rng.choice(others)
        return admin.ask(lambda replica, now: replica.transfer(target, now))

    def step_down(self, rng: random.Random) -> bool:
        admin = self._cluster.admin()
        return admin is not None and admin.ask(lambda replica, now: replica.step_down(now))

    def scores(self, rng: random.Random) -> None:
        """Members know of each other's scores, and not the same."""
        names = self._cluster.site.names
        scores = {peer: rng.randrange(8, 21) * 50 for peer in names}
        for member in self._cluster.members:
            view = {peer: score for peer, score in scores.items() if rng.random() < 0.9}
            member.ask(lambda replica, now, view=view: replica.observe(view, now))  # type: ignore[misc]


STRIKES: Final[dict[str, Callable[[LeadershipNemesis, random.Random], object]]] = {
    "partition": LeadershipNemesis.partition,
    "one-way": LeadershipNemesis.one_way,
    "alone": LeadershipNemesis.alone,
    "reconnect": LeadershipNemesis.reconnect,
    "crash": LeadershipNemesis.crash,
    "crash-admin": LeadershipNemesis.crash_admin,
    "storm": LeadershipNemesis.storm,
    "pause": LeadershipNemesis.pause,
    "pause-admin": LeadershipNemesis.pause_admin,
    "clock": LeadershipNemesis.clock,
    "wild-clock": LeadershipNemesis.clock,
    "slow-disk": LeadershipNemesis.slow_disk,
    "wipe": LeadershipNemesis.wipe,
    "transfer": LeadershipNemesis.transfer,
    "step-down": LeadershipNemesis.step_down,
    "scores": LeadershipNemesis.scores,
}
"""The other kinds are properties of the run: of its links, its disks and its rosters."""
