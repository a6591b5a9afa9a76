"""A node's two clocks: the boot clock that runs a little fast or slow, and the wall clock that can also jump.

Node time is counted in nanoseconds and integers like true time; only `seconds` gives a float, to the node itself.
"""

from __future__ import annotations

from typing import Final

from chorus.simulation.world import SECOND, World

BILLION: Final = 1_000_000_000

EPOCH_NS: Final = 1_767_225_600 * SECOND
"""Wall time at the beginning of every run: 2026-01-01, so that records of runs look alike."""


class NodeClock:
    """`offset_ns` is the boot clock's lead over true time, `drift` parts in a billion by which it runs faster."""

    def __init__(self, world: World, *, offset_ns: int = 0, drift: int = 0, wall_offset_ns: int = 0) -> None:
        self._world = world
        self._base_true = 0
        self._base_node = offset_ns
        self._drift = drift
        self._wall_offset = wall_offset_ns

    @property
    def node_ns(self) -> int:
        """The boot clock: never goes back."""
        passed = self._world.now_ns - self._base_true
        return self._base_node + passed + passed * self._drift // BILLION

    def seconds(self) -> float:
        return self.node_ns / SECOND

    def wall_ns(self) -> int:
        """Unix time as this node believes it to be."""
        return EPOCH_NS + self.node_ns + self._wall_offset

    def true_ns(self, node_ns: int) -> int:
        """The first true time at which the boot clock shows `node_ns`, as it runs now."""
        ahead = node_ns - self._base_node
        if not self._drift:
            return self._base_true + ahead
        return self._base_true - (-ahead * BILLION // (BILLION + self._drift))

    def set_drift(self, drift: int) -> None:
        """From now on the clock runs that many parts in a billion faster."""
        node = self.node_ns
        self._base_true, self._base_node, self._drift = self._world.now_ns, node, drift

    def jump_wall(self, ns: int) -> None:
        """Somebody sets the wall clock; the boot clock goes on as it was."""
        self._wall_offset += ns
