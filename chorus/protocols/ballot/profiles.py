"""Times of an election: the lease of the admin, its margins, and how candidates keep out of each other's way
(spec/election.md 4 and 5). Pure.

All times are seconds of the boot clock, unless a name says milliseconds.
"""

from __future__ import annotations

from typing import Final

import attrs

from chorus.errors import UserError
from chorus.protocols.ballot.roster import MAX_LEASE_MS, MIN_LEASE_MS

RHO: Final = 0.1
"""Largest error of the rate of any clock: chrony may slew by 8.3 %."""
EPSILON: Final = 0.05
"""From the check of a lease to the effect behind it, and the grain of timers. Short leases do not shrink it."""
ROUNDS_A_LEASE: Final = 3
"""Heartbeats in L, so that two may be lost."""
MAX_RANK: Final = 6
"""Slots that a candidate waits at most: members that are better but dead do not stop the election."""
REJOIN_RANKS: Final = 3
"""Slots that a member waits longer in its first `REJOIN_S`: its score says little yet."""
REJOIN_S: Final = 30.0
WAIT_SLOTS: Final = 3
"""Slots after its promise for which a voter may say `wait` for a better member."""
BETTER_BY: Final = 100
"""Points by which a member must be better to be waited for: two steps of the score, above its noise."""


class BadProfile(UserError):
    """Times that do not go together."""

    code = "bad_election_profile"


def lease_of(lease_s: float) -> float:
    """X: how long after sending a round the admin may act on its grants of `lease_s` seconds (L)."""
    return lease_s * (1 - RHO) / (1 + RHO) - EPSILON


@attrs.frozen
class ElectionProfile:
    """`lease_ms` (L) is the cluster's and stands in its roster; the other times are each node's own."""

    name: str
    lease_ms: int
    heartbeat_s: float
    """Between two rounds of grants."""
    slot_s: float
    """Per rank; 1.5 round trips between distant voters or more."""
    jitter_s: float
    """About three quarters of a slot."""
    vote_hold_s: float
    """V: how long a vote keeps its voter from helping another candidate; two round trips and an fsync."""
    round_s: tuple[float, float]
    """A candidacy fails after a time drawn from this range, and twice the largest delay seen."""

    def __attrs_post_init__(self) -> None:
        if not MIN_LEASE_MS <= self.lease_ms <= MAX_LEASE_MS:
            raise BadProfile(f"the lease of an admin is {MIN_LEASE_MS} to {MAX_LEASE_MS} ms, not {self.lease_ms}")
        if not 0 < self.heartbeat_s <= self.lease_s / ROUNDS_A_LEASE:
            raise BadProfile(
                f"a heartbeat every {self.heartbeat_s:g} s is too slow for a lease of {self.lease_s:g} s: "
                f"at most {self.lease_s / ROUNDS_A_LEASE:g} s, so that two may be lost"
            )
        low, high = self.round_s
        if self.jitter_s < 0 or min(self.slot_s, self.vote_hold_s, low) <= 0 or high < low:
            raise BadProfile("times of an election are above zero")

    @property
    def lease_s(self) -> float:
        return self.lease_ms / 1000


LAN: Final = ElectionProfile("lan", 1_000, 0.25, 0.05, 0.05, 0.1, (0.05, 0.1))
WAN: Final = ElectionProfile("wan", 3_000, 0.75, 0.2, 0.15, 0.5, (0.2, 0.4))
RELAXED: Final = ElectionProfile("relaxed", 15_000, 5.0, 0.2, 0.15, 0.5, (0.2, 0.4))
"""The heartbeat of 5 s and the time-out of 15 s that CHORUS had first."""
PROFILES: Final = {each.name: each for each in (LAN, WAN, RELAXED)}
