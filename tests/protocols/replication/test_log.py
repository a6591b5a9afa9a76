"""The log in memory."""

from __future__ import annotations

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.replication.log import ReplicatedLog
from tests.protocols.replication.support import entries, entry
from tests.support import PureTestCase


def log(*terms: int, base: LogPosition = LogPosition()) -> ReplicatedLog:  # noqa: B008
    return ReplicatedLog(base, entries(*terms, first=base.index + 1))


class Logs(PureTestCase):
    def test_an_empty_log_ends_where_its_snapshot_does(self) -> None:
        empty = log(base=LogPosition(3, 7))
        self.assertEqual((empty.last, empty.term_at(7), empty.size), (LogPosition(3, 7), 3, 0))
        self.assertEqual((empty.term_at(6), empty.term_at(8), empty.entry(7)), (None, None, None))
        self.assertRaises(IndexError, empty.position, 6)

    def test_terms_and_sizes(self) -> None:
        some = log(1, 1, 2, base=LogPosition(1, 10))
        self.assertEqual([some.term_at(index) for index in range(9, 15)], [None, 1, 1, 1, 2, None])
        self.assertEqual(some.size, sum(len(each.data) for each in some.between(10, 13)))
        self.assertTrue(some.holds(LogPosition(2, 13)))
        self.assertFalse(some.holds(LogPosition(1, 13)))

    def test_a_gap_is_refused(self) -> None:
        self.assertRaises(ValueError, ReplicatedLog, LogPosition(), [entry(2, 1)])
        self.assertRaises(ValueError, ReplicatedLog, LogPosition(), [entry(1, 1), entry(3, 1)])

    def test_cut_and_compaction(self) -> None:
        some = log(1, 1, 2, 2, 3)
        some.cut(4)
        some.compact(2)
        self.assertEqual((some.base, some.last), (LogPosition(1, 2), LogPosition(2, 4)))
        self.assertEqual(some.size, len(b"2.3") * 2)
        some.cut(0)
        self.assertEqual((some.last, some.size), (LogPosition(1, 2), 0))

    def test_batches(self) -> None:
        some = ReplicatedLog(LogPosition(), [entry(index, 1, bytes(10)) for index in range(1, 8)])
        self.assertEqual([each.index for each in some.batch(2, 7, 100, 30)], [3, 4, 5])
        self.assertEqual([each.index for each in some.batch(2, 7, 2, 1000)], [3, 4])
        self.assertEqual([each.index for each in some.batch(2, 7, 9, 1)], [3])
        self.assertEqual([each.index for each in some.batch(2, 4, 9, 999)], [3, 4])
        self.assertEqual(some.batch(7, 7, 9, 999), ())

    def test_the_tail_that_stays(self) -> None:
        some = ReplicatedLog(LogPosition(), [entry(index, 1, bytes(10)) for index in range(1, 101)])
        for most, most_bytes, base in ((10, 10_000, 80), (100, 50, 85), (100, 10_000, 0), (10, 5, 90), (0, 0, 90)):
            self.assertEqual(some.tail(90, most, most_bytes), base)

    def test_where_another_log_may_agree(self) -> None:
        """(own log, index and term that the other has) → the highest index worth trying."""
        for terms, index, term, at in (
            ((1, 1), 5, 2, 2),  # it is longer
            ((1, 1, 3, 3), 4, 2, 2),  # entries of a later term are not its
            ((1, 1, 2, 2), 4, 3, 2),  # a whole term at once
            ((1, 1, 1), 2, 2, 0),
            ((), 4, 1, 0),
            ((2, 2), 2, 1, 0),
        ):
            self.assertEqual(log(*terms).back_up(index, term), at)
        self.assertEqual(log(4, 4, base=LogPosition(3, 7)).back_up(9, 3), 7)
        self.assertEqual(log(4, base=LogPosition(3, 7)).back_up(2, 3), 7)
