"""Times of the profiles, and the lease that the admin counts on."""

from __future__ import annotations

import attrs

from chorus.protocols.ballot.profiles import (
    EPSILON,
    LAN,
    PROFILES,
    RELAXED,
    RHO,
    WAN,
    BadProfile,
    ElectionProfile,
    lease_of,
)
from chorus.protocols.ballot.roster import MIN_LEASE_MS
from tests.support import PureTestCase


class Leases(PureTestCase):
    def test_numbers_of_the_specification(self) -> None:
        self.assertAlmostEqual(lease_of(3.0), 2.4045, 4)
        self.assertAlmostEqual(lease_of(1.0), 0.7682, 4)

    def test_the_lease_is_over_before_a_promise_can_be(self) -> None:
        """On the slowest clock the lease ends no later than the promise does on the fastest."""
        for each in PROFILES.values():
            self.assertLessEqual(lease_of(each.lease_s) / (1 - RHO), each.lease_s / (1 + RHO) - EPSILON)

    def test_the_shortest_lease_leaves_time(self) -> None:
        self.assertGreater(lease_of(MIN_LEASE_MS / 1000), EPSILON)


class Profiles(PureTestCase):
    def test_values(self) -> None:
        rows = {
            "lan": (1_000, 0.25, 0.05, 0.05, 0.1, (0.05, 0.1)),
            "wan": (3_000, 0.75, 0.2, 0.15, 0.5, (0.2, 0.4)),
            "relaxed": (15_000, 5.0, 0.2, 0.15, 0.5, (0.2, 0.4)),
        }
        self.assertEqual({name: attrs.astuple(each)[1:] for name, each in PROFILES.items()}, rows)

    def test_lan_and_wan_keep_the_rule_of_thumb(self) -> None:
        for each in (LAN, WAN):
            self.assertLessEqual(each.heartbeat_s, lease_of(each.lease_s) / 3)
        self.assertLess(2 * RELAXED.heartbeat_s, lease_of(RELAXED.lease_s))

    def refused(self, **changes: object) -> str:
        error = self.assertRaises(BadProfile, attrs.evolve, LAN, **changes)
        return str(error)

    def test_refusals_say_what_to_do(self) -> None:
        self.assertIn("at most 0.333333 s", self.refused(heartbeat_s=0.34))
        self.assertIn("200 to 60000 ms", self.refused(lease_ms=199))
        self.assertIn("200 to 60000 ms", self.refused(lease_ms=60_001))
        for changes in (
            {"slot_s": 0.0},
            {"jitter_s": -0.1},
            {"vote_hold_s": 0.0},
            {"round_s": (0.1, 0.05)},
            {"round_s": (0.0, 0.1)},
            {"heartbeat_s": 0.0},
        ):
            self.refused(**changes)

    def test_edges_are_legal(self) -> None:
        self.assertEqual(attrs.evolve(LAN, heartbeat_s=1 / 3, jitter_s=0.0).jitter_s, 0)
        self.assertIsInstance(attrs.evolve(LAN, lease_ms=200, heartbeat_s=0.05), ElectionProfile)
