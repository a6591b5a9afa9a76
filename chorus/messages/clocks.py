"""Members whose messages are dropped because their clock and ours differ too much (`rates.MAX_AGE`). Pure.

Only what a member says itself counts: an old message that another one brings says nothing of its author's clock.
"""

from __future__ import annotations

from typing import Final

import attrs

from chorus.bounded import Bounded

MAX_CLOCKS: Final = 64
"""Members noted at once; the one that was heard longest ago goes first. Where there are more, it is our own clock."""
NOTED_S: Final = 600.0
"""Seconds after its last message for which a member is named: it says every 30 s whether it takes tasks."""
NAMED: Final = 3
"""Members named in the line; the others are counted."""


@attrs.define
class _Clock:
    ahead: float
    """Seconds, of ours; negative where it is behind."""
    ignored: int
    last: float


class Clocks:
    """`now` is this node's boot clock, in seconds."""

    def __init__(self) -> None:
        self._clocks: Bounded[str, _Clock] = Bounded(MAX_CLOCKS)

    def ignored(self, peer: str, ahead: float, now: float) -> None:
        """Count a message that was dropped for its time."""
        found = self._clocks.get(peer)
        self._clocks.put(peer, _Clock(ahead, 1 if found is None else found.ignored + 1, now))

    def heard(self, peer: str) -> None:
        """A message was received: the clocks agree again."""
        self._clocks.pop(peer, None)

    def line(self, now: float) -> str | None:
        """One line on whose messages were ignored and how many; None while no clock is wrong."""
        for peer in [peer for peer, clock in self._clocks.items() if now - clock.last > NOTED_S]:
            del self._clocks[peer]
        if not self._clocks:
            return None
        latest = [f"{peer} {_apart(clock.ahead)}" for peer, clock in reversed(self._clocks.items())]
        more = f", and {len(latest) - NAMED} more" if len(latest) > NAMED else ""
        count = sum(clock.ignored for clock in self._clocks.values())
        return (
            f"{count} message{'s were' if count > 1 else ' was'} ignored, since clocks differ from this node's: "
            f"{', '.join(latest[:NAMED])}{more}; set the clock that is wrong"
        )


def _apart(ahead: float) -> str:
    minutes = round(abs(ahead) / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    words = [f"{value} {unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if value]
    return f"{' '.join(words[:2])} {'ahead' if ahead > 0 else 'behind'}"
