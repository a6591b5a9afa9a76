from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.discovery.bootstrap import (
    FORGOTTEN,
    HEARD_TTL,
    LONG_GONE,
    MAX_ADDRESSES,
    MAX_DIALS,
    MAX_HEARD,
    MAX_MEMBERS,
    RECONNECT_SPREAD,
    RETRY_MAX,
    RETRY_MAX_HEARD,
    RETRY_MAX_LONG_GONE,
    SETTLE,
    PeerSource,
    PeerTargets,
    join_stagger,
    reconnect_delay,
    retry_delay,
)
from tests.support import PureTestCase

OWN = Identity.from_seed(b"\1" * 32).peer_id
PEER = Identity.from_seed(b"\2" * 32).peer_id
FIRST, SECOND, THIRD = (Multiaddr.tcp("10.0.0.1", port) for port in (1, 2, 3))


def stranger(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def targets() -> PeerTargets:
    return PeerTargets(OWN, random.Random(1))


class FormulaTests(PureTestCase):
    def test_retry(self) -> None:
        for source, maximum in (
            (PeerSource.CONTACT, RETRY_MAX),
            (PeerSource.MEMBER, RETRY_MAX),
            (PeerSource.HEARD, RETRY_MAX_HEARD),
        ):
            self.assertEqual(retry_delay(0, source, random.Random(1)), 0.0)
            for failures in (1, 2, 3, 10, LONG_GONE):
                ceiling = min(maximum, 2.0 ** min(failures - 1, 30))
                waits = [retry_delay(failures, source, random.Random(seed)) for seed in range(50)]
                self.assertTrue(all(ceiling / 2 <= wait <= ceiling for wait in waits), (source, failures))
                self.assertGreater(len(set(waits)), 40)

    def test_retry_of_the_long_gone(self) -> None:
        waits = [retry_delay(LONG_GONE + 1, PeerSource.MEMBER, random.Random(seed)) for seed in range(50)]
        self.assertTrue(all(RETRY_MAX_LONG_GONE / 2 <= wait <= RETRY_MAX_LONG_GONE for wait in waits))
        self.assertLessEqual(retry_delay(10**6, PeerSource.CONTACT, random.Random(1)), RETRY_MAX)

    def test_the_larger_peer_id_waits_longer(self) -> None:
        small, large = sorted((OWN, PEER))
        for seed in range(50):
            self.assertLess(reconnect_delay(small, large, random.Random(seed)), RECONNECT_SPREAD)
            self.assertGreaterEqual(reconnect_delay(large, small, random.Random(seed)), RECONNECT_SPREAD)

    def test_stagger(self) -> None:
        waits = [join_stagger(4000, random.Random(seed)) for seed in range(200)]
        self.assertTrue(all(0 <= wait < 4 for wait in waits))
        self.assertGreater(max(waits) - min(waits), 3)
        self.assertEqual(join_stagger(0, random.Random(1)), 0.0)


class TargetsTests(PureTestCase):
    def test_due_at_once_or_after_the_stagger(self) -> None:
        known = targets()
        known.add(PEER, [FIRST.with_peer(PEER)], PeerSource.CONTACT, 10.0, delay=2.0)
        self.assertEqual(known.next_due(), 12.0)
        self.assertEqual(known.take_due(11.9, 9), [])
        (target,) = known.take_due(12.0, 9)
        self.assertEqual((target.peer, target.addresses), (PEER, (FIRST,)))
        self.assertIsNone(known.next_due())
        self.assertEqual(known.take_due(13.0, 9), [])

    def test_not_oneself_and_not_nowhere(self) -> None:
        known = targets()
        self.assertFalse(known.add(OWN, [FIRST], PeerSource.CONTACT, 0.0))
        self.assertFalse(known.add(PEER, [], PeerSource.CONTACT, 0.0))
        self.assertFalse(known.add(PEER, [Multiaddr.parse(f"/p2p/{PEER}")], PeerSource.CONTACT, 0.0))
        self.assertEqual(len(known), 0)

    def test_failure_backs_off_and_success_forgets(self) -> None:
        known = targets()
        known.add(PEER, [FIRST], PeerSource.CONTACT, 0.0)
        now, waits = 0.0, []
        for _ in range(12):
            known.take_due(now, 9)
            known.failed(PEER, now, "refused")
            waits.append(known.next_due() - now)
            now = known.next_due()
        self.assertTrue(all(wait <= RETRY_MAX for wait in waits))
        self.assertGreater(waits[-1], RETRY_MAX / 2 - 0.01)
        known.admitted(PEER, FIRST)
        known.lost(PEER, now)
        self.assertLess(known.next_due() - now, 2 * RECONNECT_SPREAD)
        self.assertEqual(known.get(PEER).failures, 0)

    def test_members_gone_for_days_are_forgotten_and_contacts_are_not(self) -> None:
        known = targets()
        known.add(PEER, [FIRST], PeerSource.CONTACT, 0.0)
        known.add(stranger(1), [FIRST], PeerSource.MEMBER, 0.0)
        now = 0.0
        for _ in range(FORGOTTEN):
            now += RETRY_MAX_LONG_GONE
            for target in known.take_due(now, 9):
                known.failed(target.peer, now, "refused")
        self.assertIn(PEER, known)
        self.assertNotIn(stranger(1), known)
        self.assertGreater(now, 2 * 86400)

    def test_contacts_first(self) -> None:
        known = targets()
        known.add(stranger(1), [FIRST], PeerSource.HEARD, 0.0)
        known.add(stranger(2), [FIRST], PeerSource.MEMBER, 0.0)
        known.add(stranger(3), [FIRST], PeerSource.CONTACT, 0.0)
        self.assertEqual([target.peer for target in known.take_due(0.0, 2)], [stranger(3), stranger(2)])

    def test_limit_max_dials(self) -> None:
        known = targets()
        for number in range(3 * MAX_DIALS):
            known.add(stranger(number), [FIRST], PeerSource.HEARD, 0.0)
        self.assertEqual(len(known.take_due(0.0, 1000)), MAX_DIALS)
        self.assertEqual(known.take_due(0.0, 1000), [])
        self.assertEqual(known.dialling, MAX_DIALS)

    def test_limit_max_heard(self) -> None:
        """CVE-2023-40583: peers heard of without end keep no memory."""
        known = targets()
        known.admitted(PEER, FIRST)
        for number in range(10 * MAX_HEARD):
            known.add(stranger(number), [FIRST], PeerSource.HEARD, float(number))
        self.assertEqual(len(known), MAX_HEARD + 1)
        self.assertIn(PEER, known)

    def test_flood_pushes_out_what_failed_first(self) -> None:
        known = targets()
        known.add(stranger(0), [FIRST], PeerSource.HEARD, 0.0)
        for number in range(1, MAX_HEARD):
            known.add(stranger(number), [FIRST], PeerSource.HEARD, 0.0)
        known.failed(stranger(5), 0.0, "refused")
        known.add(stranger(9999), [FIRST], PeerSource.HEARD, 0.0)
        self.assertNotIn(stranger(5), known)
        self.assertIn(stranger(0), known)

    def test_limit_max_members(self) -> None:
        known = targets()
        for number in range(2 * MAX_MEMBERS):
            known.admitted(stranger(number), FIRST)
            known.lost(stranger(number), 0.0)
        self.assertEqual(len(known), MAX_MEMBERS)
        self.assertIn(stranger(2 * MAX_MEMBERS - 1), known)
        self.assertNotIn(stranger(0), known)

    def test_limit_max_addresses(self) -> None:
        known = targets()
        known.add(PEER, [Multiaddr.tcp("10.0.0.1", port) for port in range(1, 100)], PeerSource.HEARD, 0.0)
        self.assertEqual(len(known.get(PEER).addresses), MAX_ADDRESSES)

    def test_hearsay_is_forgotten_and_members_are_not(self) -> None:
        known = targets()
        known.add(PEER, [FIRST], PeerSource.HEARD, 0.0)
        known.add(stranger(1), [FIRST], PeerSource.MEMBER, 0.0)
        self.assertEqual(len(known.take_due(HEARD_TTL, 9)), 1)
        self.assertNotIn(PEER, known)

    def test_hearsay_displaces_nothing(self) -> None:
        known = targets()
        known.add(PEER, [FIRST], PeerSource.CONTACT, 0.0)
        known.admitted(PEER, SECOND)
        known.record(PEER, 5, (THIRD,), b"record")
        for port in range(100, 200):
            known.add(PEER, [Multiaddr.tcp("10.0.0.9", port)], PeerSource.HEARD, 0.0)
        self.assertEqual(known.get(PEER).addresses[:3], (SECOND, FIRST, THIRD))
        self.assertEqual(len(known.get(PEER).addresses), 4)
        self.assertIs(known.get(PEER).source, PeerSource.CONTACT)

    def test_the_last_error_is_that_of_the_peer_wanted_most(self) -> None:
        known = targets()
        known.add(stranger(1), [FIRST], PeerSource.HEARD, 0.0)
        known.add(PEER, [FIRST], PeerSource.CONTACT, 0.0)
        self.assertIsNone(known.last_error())
        known.failed(PEER, 0.0, "wrong secret")
        known.failed(stranger(1), 1.0, "refused")
        self.assertEqual(known.last_error(), "wrong secret")
        known.admitted(PEER, FIRST)
        self.assertEqual(known.last_error(), "refused")

    def test_new_address_is_worth_a_dial_at_once(self) -> None:
        known = targets()
        known.add(PEER, [FIRST], PeerSource.MEMBER, 0.0)
        for _ in range(5):
            known.take_due(1e9, 9)
            known.failed(PEER, 100.0, "refused")
        known.add(PEER, [FIRST], PeerSource.HEARD, 100.0)
        self.assertGreater(known.next_due(), 105.0)
        known.add(PEER, [SECOND], PeerSource.HEARD, 100.0)
        self.assertEqual(known.next_due(), 100.0)

    def test_records(self) -> None:
        known = targets()
        self.assertFalse(known.record(PEER, 5, (FIRST,), b"a"))
        known.admitted(PEER, None)
        self.assertTrue(known.record(PEER, 5, (FIRST,), b"a"))
        self.assertFalse(known.record(PEER, 5, (SECOND,), b"b"))
        self.assertFalse(known.record(PEER, 4, (SECOND,), b"b"))
        self.assertTrue(known.record(PEER, 6, (), b"c"))
        self.assertEqual((known.get(PEER).record, known.get(PEER).addresses), (b"c", ()))

    def test_dialled_and_never_admitted(self) -> None:
        known = targets()
        known.add(PEER, [FIRST], PeerSource.CONTACT, 0.0)
        known.take_due(0.0, 9)
        known.settle(PEER, 1.0)
        self.assertEqual(known.next_due(), 1.0 + SETTLE)

    def test_events_of_unknown_peers(self) -> None:
        known = targets()
        known.lost(PEER, 0.0)
        known.failed(PEER, 0.0, "refused")
        known.settle(PEER, 0.0)
        self.assertEqual(len(known), 0)

    def test_contacts_that_never_answered_are_not_members(self) -> None:
        known = targets()
        known.add(PEER, [FIRST], PeerSource.CONTACT, 0.0)
        known.add(stranger(1), [FIRST], PeerSource.HEARD, 0.0)
        self.assertEqual(known.members(), [])
        known.admitted(PEER, FIRST)
        self.assertEqual([target.peer for target in known.members()], [PEER])
        known.lost(PEER, 0.0)
        self.assertEqual([target.peer for target in known.members()], [PEER])


class TargetsMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: bounded, never two dials of one peer, never a peer stuck for ever."""

    peers = st.integers(0, 12).map(stranger)

    def __init__(self) -> None:
        super().__init__()
        self.known = PeerTargets(OWN, random.Random(7))
        self.now = 0.0
        self.dialling: set[PeerId] = set()

    @rule(peer=peers, source=st.sampled_from(list(PeerSource)), port=st.integers(1, 5))
    def add(self, peer: PeerId, source: PeerSource, port: int) -> None:
        self.known.add(peer, [Multiaddr.tcp("10.0.0.1", port)], source, self.now)

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(room=st.integers(0, 20))
    def take(self, room: int) -> None:
        for target in self.known.take_due(self.now, room):
            assert target.peer not in self.dialling and not target.connected
            self.dialling.add(target.peer)

    @rule(peer=peers)
    def fail(self, peer: PeerId) -> None:
        if peer in self.dialling:
            self.dialling.discard(peer)
            self.known.failed(peer, self.now, "refused")

    @rule(peer=peers)
    def admit(self, peer: PeerId) -> None:
        self.dialling.discard(peer)
        self.known.admitted(peer, None)

    @rule(peer=peers)
    def lose(self, peer: PeerId) -> None:
        self.known.lost(peer, self.now)

    @invariant()
    def bounded(self) -> None:
        assert self.known.dialling <= MAX_DIALS
        assert self.known.dialling == len(self.dialling)

    @invariant()
    def nobody_is_stuck(self) -> None:
        for number in range(13):
            target = self.known.get(stranger(number))
            if target is not None and target.addresses and not target.connected and not target.dialling:
                assert target.due <= self.now + RETRY_MAX_LONG_GONE


class TargetsMachineTests(PureTestCase):
    def test_any_order(self) -> None:
        from hypothesis.stateful import run_state_machine_as_test

        run_state_machine_as_test(
            TargetsMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
        )


class AnyTimeTests(PureTestCase):
    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 2**70), st.sampled_from(list(PeerSource)), st.integers(0, 100))
    def test_retry_is_always_a_sane_time(self, failures: int, source: PeerSource, seed: int) -> None:
        self.assertTrue(0 <= retry_delay(failures, source, random.Random(seed)) <= RETRY_MAX_LONG_GONE)
