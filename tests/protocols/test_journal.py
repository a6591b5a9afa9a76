"""The replicated journal's core: Raft's rules by their numbers."""

from __future__ import annotations

from chorus.protocols.replication.outbox import Committed
from tests.protocols.replication.support import A, B, C, Group, replica
from tests.support import PureTestCase


class Leadership(PureTestCase):
    def test_one_voter_commits_by_itself(self) -> None:
        alone = replica(A, voters=(A,))
        self.assertEqual(alone.core.lead(1, 0.0), 1)
        alone.drain()
        self.assertEqual(alone.core.commit, 0)
        alone.write()
        self.assertEqual(alone.core.commit, 1)
        self.assertEqual(alone.core.propose([b"a", b"b"], 0.0), range(2, 4))
        alone.write()
        self.assertEqual([each.data for each in alone.committed()], [b"", b"a", b"b"])

    def test_three_replicas_agree(self) -> None:
        group = Group(*(replica(me) for me in (A, B, C)))
        leader = group.members[A.peer].core
        leader.lead(1, 0.0)
        leader.propose([b"x"] * 1000, 0.0)
        group.advance(1.0)
        self.assertEqual([member.core.commit for member in group.members.values()], [1001] * 3)
        for member in group.members.values():
            self.assertEqual(len(member.committed()), 1001)
            self.assertTrue(all(isinstance(event, Committed) for event in member.events))
