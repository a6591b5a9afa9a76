"""Times of a lease: its renewals, when its holder must have stopped, and when its giver may give the task away.

The holder counts from the moment it *sent* the renewal that was acknowledged, the giver from the moment it *took it
in*; sending comes first, so the holder's end always comes first, whatever the network did. What is left is clocks that
run at different speeds, which the margins here bound. Times are seconds of each side's own boot clock and are never
compared with each other (spec/tasks.md, "Lease").
"""

from __future__ import annotations

LEASE_S = 30.0
"""Seconds of a lease unless the settings name others (spec/tasks.md)."""
RENEWALS_A_LEASE = 3
"""Two renewals may be lost before the third must come through."""
MAX_DRIFT = 0.01
"""By how much two members' clocks may differ in speed: quartz is off by 0.0001 at worst, and a clock that is being
slewed by 0.0005."""
KILL_S = 2.0
"""Seconds that killing a sandbox's process tree may take, engine included."""
MAX_LEASE_S = 3600.0
MIN_LEASE_S = 3.0
"""Shorter ones would leave no time between the last renewal and the kill."""


def renewal_interval(lease_s: float) -> float:
    """Seconds between the sendings of two renewals, answered or not."""
    return lease_s / RENEWALS_A_LEASE


def kill_margin(lease_s: float) -> float:
    """How long before the lease's end the holder begins to kill: the kill itself and the drift, at most a third."""
    return min(lease_s / RENEWALS_A_LEASE, KILL_S + lease_s * MAX_DRIFT)


def kill_at(sent_at: float, lease_s: float) -> float:
    """When the holder begins to kill its sandbox, on its own clock: `sent_at` is when it sent the last renewal that
    was acknowledged (or its acceptance of the assignment)."""
    return sent_at + lease_s - kill_margin(lease_s)


def expires_after(lease_s: float) -> float:
    """Seconds from taking in a renewal (or from committing the assignment) after which the giver may give the task
    away; the drift is the giver's to wait for. A scheduler that starts anew begins each live lease again in full."""
    return lease_s * (1.0 + MAX_DRIFT)


def is_lease(lease_s: float) -> bool:
    """True if a lease that a scheduler names is one that an agent can keep."""
    return MIN_LEASE_S <= lease_s <= MAX_LEASE_S
