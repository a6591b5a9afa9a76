"""The admin's view of one follower: what it has, what is on its way to it, and when to send again. Pure."""

from __future__ import annotations

from collections import deque
from enum import Enum

import attrs

from chorus.protocols.replication.limits import JournalLimits


class Mode(Enum):
    PROBING = "probing"
    """Where the logs agree is not known: one message at a time."""
    STREAMING = "streaming"
    """Messages are sent ahead of their answers, as far as the window goes."""
    SNAPSHOT = "snapshot"
    """It needs entries that are compacted."""


@attrs.define
class FollowerProgress:
    """Of one voter, or of one learner that is tracked."""

    limits: JournalLimits
    next: int
    """Index of the first entry that was not sent."""
    due: float
    """When to send again: after silence, or as a sign of life."""
    match: int = 0
    """It holds everything up to here, durably."""
    mode: Mode = Mode.PROBING
    silences: int = 0
    """In a row."""
    told: int = -1
    """The commit index of the newest message to it."""
    leaves_at: int | None = None
    """No voter any more: it is told up to this index, where its removal is, and then left."""
    wanted_at: float | None = None
    """When a snapshot for it was last asked for."""
    _flight: deque[tuple[int, int]] = attrs.Factory(deque)
    """Last index and bytes of each message without an answer."""
    _flight_bytes: int = 0

    @property
    def idle(self) -> bool:
        """Nothing is on its way."""
        return not self._flight

    @property
    def open(self) -> bool:
        """A further message with entries may be sent."""
        if self.mode is not Mode.STREAMING:
            return self.idle
        return len(self._flight) < self.limits.window and self._flight_bytes < self.limits.window_bytes

    def untold(self, commit: int) -> bool:
        """Nothing is on its way that would tell it `commit`."""
        return self.mode is Mode.STREAMING and self.idle and self.told < commit

    def sent(self, last: int, size: int, commit: int, now: float) -> None:
        """A message with everything up to `last`, of `size` bytes of data, was queued."""
        if self.idle:
            self._wait(size, now)
        self._flight.append((last, size))
        self._flight_bytes += size
        if self.mode is Mode.STREAMING:
            self.next = last + 1
        self.told = commit

    def _wait(self, size: int, now: float) -> None:
        self.due = now + self.limits.resend.ceiling(self.silences + 1) + size / self.limits.slowest

    def agreed(self, match: int, now: float) -> bool:
        """It holds everything up to `match`; true if that is news."""
        news = match > self.match
        self.match = max(self.match, match)
        self.silences = 0
        self.wanted_at = None
        if self.mode is not Mode.STREAMING:
            self.mode = Mode.STREAMING
            self.next = self.match + 1
            self._land()
        self.next = max(self.next, self.match + 1)
        while self._flight and self._flight[0][0] <= match:
            self._flight_bytes -= self._flight.popleft()[1]
        if self.idle:
            self.due = now + self.limits.idle_s
        else:
            self._wait(self._flight_bytes, now)
        return news

    def disagreed(self, hint: int, now: float) -> bool:
        """Its log ends before, or differs where the message began; `hint` is where both may agree. True if that changes
        what is sent next; answers to older messages change nothing."""
        if hint < self.match or (self.mode is not Mode.STREAMING and hint + 1 >= self.next):
            return False
        self.probe(min(hint + 1, self.next), now)
        self.silences = 0
        return True

    def probe(self, following: int, now: float) -> None:
        """Begin anew at `following`, with one message at a time."""
        self.mode = Mode.PROBING
        self.next = following
        self._land()
        self.due = now

    def wait_for_snapshot(self, now: float) -> None:
        """It has not got the snapshot yet: ask it again later."""
        self.mode = Mode.SNAPSHOT
        self._land()
        self.due = now + self.limits.idle_s

    def silent(self, now: float) -> None:
        """The answer did not come."""
        self.silences += 1
        if self.mode is Mode.STREAMING:
            self.probe(self.match + 1, now)
        else:
            self._land()

    def _land(self) -> None:
        self._flight.clear()
        self._flight_bytes = 0
        self.told = -1
