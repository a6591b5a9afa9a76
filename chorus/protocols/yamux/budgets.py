"""Memory that the streams of one yamux session hold together (spec/security.md 1.4): bytes received and not taken,
bytes written and not sent, windows grown beyond the initial one.

It only counts and refuses; a peer over a budget is reset or disconnected by the stream or the session.
"""

from __future__ import annotations

from collections.abc import Callable

from chorus.protocols.yamux.frames import INITIAL_WINDOW, YamuxLimits


class Budgets:
    """`read_again` is called once `starved` was set and receivers have taken enough."""

    def __init__(self, limits: YamuxLimits, read_again: Callable[[], None]) -> None:
        self.queued = 0
        """Bytes in the streams' send queues."""
        self.held = 0
        """Bytes received that receivers have not taken."""
        self.starved = False
        """The owner does not read until `read_again`."""
        self._limits = limits
        self._read_again = read_again
        self._growth = 0

    def hold(self, size: int) -> None:
        self.held += size

    def release(self, size: int) -> None:
        self.held -= size
        if self.starved and not self.overfull:
            self.starved = False
            self._read_again()

    @property
    def overfull(self) -> bool:
        """Paused receivers hold half of the budget: the owner stops reading, and sets `starved`."""
        return self.held > self._limits.receive_budget >> 1

    def grow_window(self, window: int) -> int:
        """How much a receive window of that size may grow now that half of it was used; counted as growth in use."""
        growth = self._limits.max_receive_window - window
        if growth <= 0 or self._growth + growth > self._limits.growth_budget:
            return 0
        self._growth += growth
        return growth

    def give_back_window(self, window: int) -> None:
        """The stream with a receive window of that size has ended."""
        self._growth -= window - INITIAL_WINDOW
