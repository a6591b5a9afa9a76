"""Who sends copies to whom, and when."""

from __future__ import annotations

from chorus.identity import PeerId
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.messages import Contact
from chorus.protocols.kad.replication import (
    REPLICATE_S,
    SENDERS,
    SPREAD_S,
    Copies,
    received,
    replicated,
    replication,
    restored,
)
from chorus.protocols.kad.table import RoutingTable
from tests.protocols.kad.support import PARAMS, peers
from tests.support import PureTestCase

KEY = b"/v/key"
POINT = point_of(KEY)
K = PARAMS.k


def table_of(own: PeerId, members: list[PeerId]) -> RoutingTable:
    table = RoutingTable(own, PARAMS, 0.0)
    for one in members:
        table.answered(Contact(one), 0.0)
    return table


class Rules(PureTestCase):
    def setUp(self) -> None:
        self.members = sorted(peers(60, 2), key=lambda one: point_of(one.raw) ^ POINT)
        self.newcomer, self.others = self.members[4], [*self.members[:4], *self.members[5:]]

    def test_nothing_is_sent_while_nothing_changes(self) -> None:
        table = table_of(self.others[0], self.others)
        copies = received(table, POINT, K, 10.0)
        self.assertEqual(replication(table, KEY, POINT, copies, K, REPLICATE_S), [])

    def test_the_nearest_holders_send_to_a_new_one_at_once(self) -> None:
        senders = []
        for own in self.others[:20]:
            table = table_of(own, self.others)
            copies = received(table, POINT, K, 0.0)
            table.answered(Contact(self.newcomer), 1.0)
            sent = replication(table, KEY, POINT, copies, K, 2.0)
            if sent:
                senders.append(own)
                self.assertEqual(sent, [Contact(self.newcomer)])
                after = replicated(table, POINT, copies, sent, frozenset({self.newcomer}), K, 2.0)
                self.assertEqual(replication(table, KEY, POINT, after, K, 3.0), [])
                failed = replicated(table, POINT, copies, sent, frozenset(), K, 2.0)
                self.assertEqual(replication(table, KEY, POINT, failed, K, 3.0), sent)
        self.assertEqual(senders, self.others[:SENDERS])

    def test_when_a_holder_leaves_the_next_one_gets_a_copy(self) -> None:
        own = self.members[0]
        table = table_of(own, self.members)
        copies = received(table, POINT, K, 0.0)
        before = table.nearest(POINT, K)
        table.remove(before[7].peer)
        (sent,) = replication(table, KEY, POINT, copies, K, 1.0)
        self.assertNotIn(sent, before)
        self.assertEqual(sent, table.nearest(POINT, K)[-1])

    def test_who_comes_back_gets_a_copy_again(self) -> None:
        table = table_of(self.members[0], self.members)
        copies = received(table, POINT, K, 0.0)
        left = table.nearest(POINT, K)[3]
        table.remove(left.peer)
        sent = replication(table, KEY, POINT, copies, K, 1.0)
        copies = replicated(table, POINT, copies, sent, frozenset({sent[0].peer}), K, 1.0)
        table.answered(left, 2.0)
        self.assertIn(left, replication(table, KEY, POINT, copies, K, 3.0))

    def test_each_hour_one_of_them_sends_to_all(self) -> None:
        due = []
        for own in self.members[:20]:
            table = table_of(own, self.members)
            copies = received(table, POINT, K, 0.0)
            times = [t for t in range(3500, 4300, 10) if replication(table, KEY, POINT, copies, K, float(t))]
            self.assertEqual(replication(table, KEY, POINT, copies, K, float(times[0])), table.nearest(POINT, K))
            due.append(times[0])
            sent = table.nearest(POINT, K)
            copies = replicated(table, POINT, copies, sent, frozenset(c.peer for c in sent), K, float(times[0]))
            self.assertEqual(replication(table, KEY, POINT, copies, K, times[0] + REPLICATE_S - 1), [])
        self.assertGreaterEqual(min(due), REPLICATE_S)
        self.assertLessEqual(max(due), REPLICATE_S + SPREAD_S + 10)
        self.assertGreater(len(set(due)), 10)

    def test_after_a_restart_all_are_asked_within_the_hour(self) -> None:
        for own in self.members[:20]:
            copies = restored(own, KEY, 5000.0)
            self.assertTrue(5000.0 - REPLICATE_S <= copies.put_at <= 5000.0)
            table = table_of(own, self.members)
            self.assertTrue(replication(table, KEY, POINT, copies, K, 5000.0 + REPLICATE_S + SPREAD_S))

    def test_alone_there_is_nobody_to_send_to(self) -> None:
        table = table_of(self.members[0], [])
        self.assertEqual(replication(table, KEY, POINT, Copies(0.0, frozenset()), K, 1e6), [])
