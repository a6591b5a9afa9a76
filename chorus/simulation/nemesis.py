"""Faults at drawn times: which kinds, the run's configuration says; when, where and how long, the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from chorus.simulation.undoing import Undoing
from chorus.simulation.world import SECOND, World, nanoseconds

if TYPE_CHECKING:
    import random

    from chorus.simulation.net.links import SimLink
    from chorus.simulation.net.network import SimNet
    from chorus.simulation.node import SimNode

MEAN_BETWEEN: Final = 4.0
"""Seconds between two faults of one kind, on average: about fifteen of each in a minute."""

LONGEST: Final = 20.0
"""Seconds that a fault lasts at most."""

WALL_JUMP: Final = 3600
"""Seconds that a wall clock jumps at most, either way."""


class Nemesis:
    """`nodes` are those that it may harm; one in `spare` is never killed, so that something goes on."""

    def __init__(
        self,
        world: World,
        net: SimNet,
        nodes: list[SimNode],
        kinds: tuple[str, ...],
        *,
        died: Callable[[SimNode], None] = lambda node: None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._world = world
        self._net = net
        self._nodes = nodes
        self._kinds = kinds
        self._died = died
        self._healed = False
        self._undoing = Undoing(world)

    def start(self) -> None:
        for kind in self._kinds:
            # Each kind has its own stream: leaving one out does not move the others.
            self._plan(kind, self._world.rng("fault", kind))

    def _plan(self, kind: str, rng: random.Random) -> None:
        self._world.after(nanoseconds(rng.expovariate(1 / MEAN_BETWEEN)), lambda: self._strike(kind, rng))

    def _strike(self, kind: str, rng: random.Random) -> None:
        if self._healed:
            return
        self.counters[kind] += 1
        duration = nanoseconds(min(LONGEST, rng.expovariate(1 / 5.0)))
        KINDS[kind](self, rng, duration)
        self._plan(kind, rng)

    def heal(self) -> None:
        """The network is whole and fast again, every node is up, and nothing more happens."""
        self._healed = True
        self._undoing.all()
        self._net.record(0, "heal")

    # The kinds

    def _cut(self, pairs: list[tuple[int, int]], duration: int) -> None:
        links = [self._net.link(*pair) for pair in pairs]
        for link in links:
            link.cuts += 1

        def undo() -> None:
            for link in links:
                link.cuts -= 1

        self._undoing.later(duration, undo)

    def _lanes(self) -> list[int]:
        return [host.lane for host in self._net.hosts()]

    def _some_link(self, rng: random.Random) -> SimLink | None:
        lanes = self._lanes()
        return self._net.link(*rng.sample(lanes, 2)) if len(lanes) > 1 else None

    def partition(self, rng: random.Random, duration: int) -> None:
        """Two groups that do not hear each other."""
        lanes = self._lanes()
        side = set(rng.sample(lanes, rng.randint(1, max(1, len(lanes) - 1))))
        self._cut([(a, b) for a in lanes for b in lanes if (a in side) != (b in side)], duration)

    def one_way(self, rng: random.Random, duration: int) -> None:
        """One node is not heard by some others, and hears them."""
        lanes = self._lanes()
        mute = rng.choice(lanes)
        others = [lane for lane in lanes if lane != mute]
        self._cut([(mute, lane) for lane in rng.sample(others, rng.randint(1, len(others)))], duration)

    def clog(self, rng: random.Random, duration: int) -> None:
        """All links of some nodes stop, and start again one after the other in another order."""
        lanes = self._lanes()
        for lane in rng.sample(lanes, rng.randint(1, len(lanes))):
            pairs = [pair for other in lanes if other != lane for pair in ((lane, other), (other, lane))]
            self._cut(pairs, rng.randrange(1, max(2, duration // 4)))

    def slow(self, rng: random.Random, duration: int) -> None:
        """One link takes ten to a hundred times as long."""
        link = self._some_link(rng)
        if link is None:
            return
        factor = 10 ** (1 + rng.random())
        link.slow *= factor

        def undo() -> None:
            link.slow /= factor

        self._undoing.later(duration, undo)

    def kill(self, rng: random.Random, duration: int) -> None:
        self._take_down(rng, duration, power=False)

    def power(self, rng: random.Random, duration: int) -> None:
        self._take_down(rng, duration, power=True)

    def _take_down(self, rng: random.Random, duration: int, *, power: bool) -> None:
        node = rng.choice(self._nodes)
        if not node.running:
            return
        node.kill(power=power)
        self._died(node)

        def undo() -> None:
            if not node.running:
                node.start()

        self._undoing.later(duration, undo)

    def pause(self, rng: random.Random, duration: int) -> None:
        """A machine stands still, for longer than its leases and keepalives now and then."""
        rng.choice(self._nodes).pause(duration / SECOND)

    def clock(self, rng: random.Random, duration: int) -> None:
        """A wall clock jumps, and the node's time runs a little faster or slower from now on."""
        node = rng.choice(self._nodes)
        limit = node.options.drift
        node.clock.jump_wall(rng.randint(-WALL_JUMP, WALL_JUMP) * SECOND)
        node.clock.set_drift(rng.randint(-limit, limit))

    def disk(self, rng: random.Random, duration: int) -> None:
        """One disk refuses now and then: syncs fail and lose what they should have written, reads fail, it is full."""
        node = rng.choice(self._nodes)
        before = node.disk.faults
        room = node.disk.used() if rng.random() < 0.3 else before.capacity
        node.disk.faults = attrs.evolve(before, sync_error=0.2, read_error=0.2, capacity=room)

        self._undoing.later(duration, partial(setattr, node.disk, "faults", node.options.disk))

    def reset(self, rng: random.Random, duration: int) -> None:
        """A box in the middle ends some connections, in the middle of whatever they carry."""
        node = rng.choice(self._nodes)
        for transport in list(node.host.transports):
            if rng.random() < 0.5:
                transport.reset_both()

    def corrupt(self, rng: random.Random, duration: int) -> None:
        """One link turns bits over; the connection's cipher must notice."""
        link = self._some_link(rng)
        if link is None:
            return

        def tamper(data: bytes) -> bytes:
            at = rng.randrange(len(data))
            return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]

        link.tamper = tamper

        self._undoing.later(duration // 10 + 1, partial(setattr, link, "tamper", None))


KINDS: Final[dict[str, Callable[[Nemesis, random.Random, int], None]]] = {
    "partition": Nemesis.partition,
    "one-way": Nemesis.one_way,
    "clog": Nemesis.clog,
    "slow": Nemesis.slow,
    "kill": Nemesis.kill,
    "power": Nemesis.power,
    "pause": Nemesis.pause,
    "clock": Nemesis.clock,
    "disk": Nemesis.disk,
    "reset": Nemesis.reset,
    "corrupt": Nemesis.corrupt,
}
