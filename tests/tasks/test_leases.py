from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.config.settings import Settings
from chorus.services.scheduling.context import CoordinatorSettings
from chorus.tasks import leases
from tests.support import PureTestCase


class LeaseTests(PureTestCase):
    def test_table(self) -> None:
        # lease, renewal every, kill margin, given away after
        for lease, renewal, margin, after in (
            (30.0, 10.0, 2.3, 30.3),
            (3.0, 1.0, 1.0, 3.03),
            (3600.0, 1200.0, 38.0, 3636.0),
        ):
            self.assertAlmostEqual(leases.renewal_interval(lease), renewal)
            self.assertAlmostEqual(leases.kill_margin(lease), margin)
            self.assertAlmostEqual(leases.kill_at(100.0, lease), 100.0 + lease - margin)
            self.assertAlmostEqual(leases.expires_after(lease), after)

    def test_limits(self) -> None:
        for lease, good in ((leases.MIN_LEASE_S, True), (2.9, False), (leases.MAX_LEASE_S, True), (3601, False)):
            self.assertEqual(leases.is_lease(lease), good)
        self.assertFalse(leases.is_lease(float("nan")))

    def test_the_default_is_the_specifications_and_stands_once(self) -> None:
        self.assertEqual((leases.LEASE_S, leases.MIN_LEASE_S, leases.MAX_LEASE_S), (30.0, 3.0, 3600.0))
        self.assertEqual(Settings.model_fields["lease_s"].default, leases.LEASE_S)
        self.assertEqual(CoordinatorSettings().lease_s, leases.LEASE_S)

    def test_two_renewals_may_be_lost(self) -> None:
        for lease in (leases.MIN_LEASE_S, leases.LEASE_S, leases.MAX_LEASE_S):
            self.assertGreaterEqual(leases.kill_at(0.0, lease) + 1e-9, 2 * leases.renewal_interval(lease))

    @settings(deadline=None, max_examples=300)
    @given(
        st.floats(leases.MIN_LEASE_S, leases.MAX_LEASE_S),
        st.floats(0, 1e6),
        st.floats(0, 60),
        st.floats(1 / (1 + leases.MAX_DRIFT), 1),
        st.floats(-1e6, 1e6),
    )
    def test_the_holder_always_stops_first(
        self, lease: float, sent: float, delay: float, holder_speed: float, offset: float
    ) -> None:
        """In real time, with the holder's clock slow by all the drift and the message received at once or late."""
        kill_starts = sent + (leases.kill_at(offset, lease) - offset) / holder_speed
        given_away = sent + delay + leases.expires_after(lease)
        killed = kill_starts + min(leases.KILL_S, leases.kill_margin(lease) - lease * leases.MAX_DRIFT)
        self.assertLessEqual(killed, given_away + 1e-3)
