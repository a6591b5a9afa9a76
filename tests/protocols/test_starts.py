from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from chorus.identity import Identity
from chorus.protocols import starts
from chorus.protocols.envelope import EnvelopeError, PeerRecord, seal
from chorus.protocols.proto.starts_pb2 import StartRecord as Wire
from chorus.protocols.starts import (
    DOMAIN,
    LIVE_S,
    MAX_COUNT,
    PAYLOAD_TYPE,
    KnownStarts,
    Start,
    StartRecord,
    Verdict,
    decide,
)
from tests.support import PureTestCase

ALICE, BOB = Identity.from_seed(bytes([1] * 32)), Identity.from_seed(bytes([2] * 32))
LOW, HIGH = bytes(16), b"\xff" * 16
NOW = 1_000_000.0
NOTHING, RAISE, STOP, ANSWER = Verdict.NOTHING, Verdict.RAISE, Verdict.STOP, Verdict.ANSWER


def record(count: int, instance: bytes = HIGH, at: float = NOW, identity: Identity = ALICE) -> StartRecord:
    return StartRecord(identity.peer_id, Start(count, instance), at)


class Deciding(PureTestCase):
    def test_table(self) -> None:
        """Own start: count 5, began a minute ago."""
        began = NOW - 60
        for what, count, instance, at, verdict in (
            ("a twin with a higher count", 6, LOW, NOW, STOP),
            ("with a lower one: it stops itself", 4, HIGH, NOW, ANSWER),
            ("with ours, and a higher instance", 5, HIGH, NOW, STOP),
            ("with ours, and a lower instance", 5, LOW, NOW, ANSWER),
            ("just after our start", 6, HIGH, began + 0.001, STOP),
            ("at our start: perhaps the start before", 6, HIGH, began, RAISE),
            ("an earlier run of ours, remembered", 4, HIGH, NOW - 3600, NOTHING),
            ("one that ended before a restore", 9, HIGH, NOW - 3600, RAISE),
            ("and had our count", 5, LOW, NOW - 3600, RAISE),
            ("by a clock that is far ahead", 9, HIGH, NOW + LIVE_S + 1, RAISE),
            ("by one that is a little ahead", 9, HIGH, NOW + LIVE_S, STOP),
            ("no count is left above", MAX_COUNT, HIGH, NOW - 3600, NOTHING),
        ):
            own = Start(5, b"\x80" * 16)
            self.assertIs(decide(own, began, record(count, instance, at), NOW), verdict, what)

    def test_what_was_said_long_after_our_start_is_a_memory_later(self) -> None:
        own, began = Start(5, LOW), NOW - 10_000
        self.assertIs(decide(own, began, record(6, at=NOW - LIVE_S), NOW), STOP)
        self.assertIs(decide(own, began, record(6, at=NOW - LIVE_S - 1), NOW), RAISE)

    def test_our_own_words_mean_nothing(self) -> None:
        for count in (1, 5, 9):
            for at in (NOW - 3600, NOW):
                self.assertIs(decide(Start(5, HIGH), NOW - 60, record(count, HIGH, at), NOW), NOTHING)

    @given(st.tuples(st.integers(1, 5), st.binary(min_size=1, max_size=1)), st.tuples(st.integers(1, 5), st.binary(
        min_size=1, max_size=1)))  # fmt: skip
    def test_of_two_that_hear_each_other_one_stops(self, one: tuple[int, bytes], two: tuple[int, bytes]) -> None:
        first, second = (Start(count, byte * 16) for count, byte in (one, two))
        verdicts = [
            decide(mine, NOW - 60, record(theirs.count, theirs.instance), NOW)
            for mine, theirs in ((first, second), (second, first))
        ]
        expected = [NOTHING, NOTHING] if first.instance == second.instance else [ANSWER, STOP]
        self.assertEqual(sorted(verdicts, key=lambda each: each.value), expected)


class Records(PureTestCase):
    def test_round_trip(self) -> None:
        said = record(7, at=1234.567)
        sealed = said.seal(ALICE)
        self.assertEqual(StartRecord.open(sealed), said)
        self.assertLess(len(sealed), 200)

    def test_refused(self) -> None:
        good = record(7).seal(ALICE)

        def sealed(**fields: object) -> bytes:
            wire = Wire(**{"count": 7, "instance": HIGH, "at_ms": 1, **fields})  # type: ignore[arg-type]
            return seal(ALICE, DOMAIN, PAYLOAD_TYPE, wire.SerializeToString())

        StartRecord.open(sealed())
        for bad in (
            *(b"", b"x", good[:-1], good[:-1] + bytes([good[-1] ^ 1]), good + bytes(300)),
            *(sealed(count=0), sealed(count=MAX_COUNT + 1), sealed(instance=HIGH + b"x"), sealed(instance=b"")),
            *(seal(ALICE, DOMAIN, PAYLOAD_TYPE, b"\xff"), seal(ALICE, DOMAIN, b"/other", b"")),
            PeerRecord(ALICE.peer_id, 1, ()).seal(ALICE),
        ):
            self.assertRaises(EnvelopeError, StartRecord.open, bad)

    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        self.assertRaises(EnvelopeError, StartRecord.open, data)

    def test_the_signer_is_the_peer(self) -> None:
        self.assertEqual(StartRecord.open(record(7).seal(BOB)).peer, BOB.peer_id)


class Known(PureTestCase):
    def test_a_second_instance_is_told(self) -> None:
        known = KnownStarts()
        self.assertIsNone(known.note(record(1, LOW), b"1"))
        self.assertIsNone(known.note(record(1, LOW, NOW + 1), b"1, later"))
        self.assertEqual(known.note(record(2, HIGH, NOW + 2), b"2"), record(1, LOW, NOW + 1))
        self.assertEqual(known.note(record(1, LOW, NOW + 3), b"1, at last"), record(2, HIGH, NOW + 2))
        self.assertEqual(known.other_than(ALICE.peer_id, LOW), b"2")
        self.assertEqual(known.other_than(ALICE.peer_id, HIGH), b"1, at last")
        self.assertEqual(known.other_than(ALICE.peer_id, None), b"1, at last")
        self.assertIsNone(known.other_than(BOB.peer_id, None))

    def test_an_older_record_replaces_no_newer_one(self) -> None:
        known = KnownStarts()
        known.note(record(1, LOW, NOW), b"new")
        known.note(record(1, LOW, NOW - 5), b"replayed")
        self.assertEqual(known.other_than(ALICE.peer_id, HIGH), b"new")

    def test_two_instances_of_each_peer_and_so_many_peers(self) -> None:
        self.patch(starts, "MAX_PEERS", 2)
        known = KnownStarts()
        for number in range(5):
            known.note(record(1, bytes([number] * 16), NOW + number), b"%d" % number)
        self.assertEqual(len(known._peers[ALICE.peer_id]), 2)
        for seed in (3, 4, 5):
            known.note(record(1, identity=Identity.from_seed(bytes([seed] * 32))), b"x")
        self.assertEqual(len(known._peers), 2)
        self.assertIsNone(known.other_than(ALICE.peer_id, None))

    def test_starts_are_ordered_by_count_then_instance(self) -> None:
        ordered = [Start(1, HIGH), Start(2, LOW), Start(2, HIGH), Start(10, LOW)]
        self.assertEqual(sorted(reversed(ordered)), ordered)
        self.assertTrue(attrs.has(Start))
