"""The replicated journal's core: Raft's rules by their numbers."""

from __future__ import annotations

import attrs

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.roster import BadRoster
from chorus.protocols.replication.limits import MAX_BATCH, MAX_BATCH_ENTRIES, MAX_ENTRY, JournalLimits
from chorus.protocols.replication.messages import Append, AppendReply, EntryKind, LogEntry, Pulled
from chorus.protocols.replication.outbox import Committed, LogContradiction, RosterChanged, SnapshotWanted
from chorus.protocols.replication.refusals import (
    BadAppend,
    BadAppendReply,
    BadPulled,
    ContradictsCommitted,
    EntryTooLarge,
    RosterRefused,
    StaleAppend,
)
from chorus.tasks.journal import NotLeader
from tests.protocols.replication.support import (
    VOTERS,
    A,
    B,
    C,
    D,
    E,
    Group,
    Replica,
    entries,
    entry,
    replica,
    roster,
    roster_entry,
)
from tests.support import PureTestCase


def terms(member: Replica) -> list[int]:
    core = member.core
    return [core.term_at(index) or 0 for index in range(1, core.last.index + 1)]


def three(*logs: tuple[LogEntry, ...]) -> Group:
    return Group(*(replica(me, log) for me, log in zip((A, B, C), logs or ((), (), ()), strict=True)))


class Leadership(PureTestCase):
    def test_one_voter_commits_by_itself(self) -> None:
        alone = replica(A, voters=(A,))
        self.assertEqual(alone.core.lead(1, 0.0, b"noop"), 1)
        alone.drain()
        self.assertEqual(alone.core.commit, 0)
        alone.write()
        self.assertEqual(alone.core.commit, 1)
        self.assertEqual(alone.core.propose([b"a", b"b"], 0.0), range(2, 4))
        alone.write()
        self.assertEqual([each.data for each in alone.committed()], [b"noop", b"a", b"b"])
        self.assertEqual([each.kind for each in alone.committed()][:2], [EntryKind.NOOP, EntryKind.ENTRY])

    def test_three_replicas_agree(self) -> None:
        group = three()
        leader = group.members[A.peer].core
        leader.lead(1, 0.0)
        leader.propose([b"x"] * 1000, 0.0)
        group.advance(1.0)
        self.assertEqual([member.core.commit for member in group.members.values()], [1001] * 3)
        for member in group.members.values():
            self.assertEqual(len(member.committed()), 1001)
            self.assertTrue(all(isinstance(event, Committed) for event in member.events))

    def test_only_the_leader_appends(self) -> None:
        follower = replica()
        for act in (
            lambda: follower.core.propose([b""], 0.0),
            lambda: follower.core.propose_roster((A,), 0.0),
            lambda: follower.core.track(D.peer, 0.0),
        ):
            self.assertRaises(NotLeader, act)
        follower.core.lead(1, 0.0)
        follower.core.follow()
        self.assertRaises(NotLeader, follower.core.propose, [b""], 0.0)
        self.assertEqual(follower.core.last.index, 1, "its no-op stays")

    def test_a_term_is_led_once(self) -> None:
        leader = replica(log=entries(1, 3))
        self.assertRaises(ValueError, leader.core.lead, 3, 0.0)

    def test_a_large_entry(self) -> None:
        leader = replica(voters=(A,))
        leader.core.lead(1, 0.0)
        leader.core.propose([bytes(MAX_ENTRY)], 0.0)
        self.assertRaises(EntryTooLarge, leader.core.propose, [b"", bytes(MAX_ENTRY + 1)], 0.0)
        self.assertEqual(leader.core.last.index, 2)


class Durability(PureTestCase):
    def test_the_leader_counts_itself_once_durable(self) -> None:
        group = three()
        leader = group.members[A.peer]
        leader.core.lead(1, 0.0)
        leader.drain()
        (to_b,) = [message for peer, message in leader.messages if peer == B.peer]
        self.assertIsInstance(to_b, Append, "sent beside the own write")
        leader.core.receive_reply(B.peer, AppendReply(1, True, 1), 0.0)
        self.assertEqual(leader.core.commit, 0)
        leader.write()
        self.assertEqual(leader.core.commit, 1)

    def test_a_majority_of_others_commits_and_the_own_write_delivers(self) -> None:
        leader = replica()
        leader.core.lead(1, 0.0)
        for peer in (B.peer, C.peer):
            leader.core.receive_reply(peer, AppendReply(1, True, 1), 0.0)
        leader.drain()
        self.assertEqual((leader.core.commit, leader.committed()), (1, []))
        leader.write()
        self.assertEqual([each.index for each in leader.committed()], [1])

    def test_a_follower_answers_after_its_write(self) -> None:
        follower = replica(B)
        follower.core.receive_append(A.peer, Append(1, LogPosition(), 0, entries(1, 1)))
        self.assertEqual(follower.taken(), [])
        follower.core.receive_append(A.peer, Append(1, LogPosition(), 0, entries(1, 1)))
        self.assertEqual(follower.taken(), [], "sent again, and still not durable")
        follower.write()
        self.assertEqual(follower.taken(), [(A.peer, AppendReply(1, True, 2))] * 2)

    def test_a_cut_ends_what_was_durable(self) -> None:
        follower = replica(B)
        follower.core.receive_append(A.peer, Append(1, LogPosition(), 0, entries(1, 1, 1)))
        follower.drain()
        ticket = follower.outbox.ticket
        follower.core.receive_append(C.peer, Append(2, LogPosition(1, 1), 2, entries(2, first=2)))
        follower.drain()
        self.assertEqual(follower.core.commit, 2)
        follower.core.persisted(ticket, 0.0)
        self.assertEqual(follower.core.durable, 1, "the second and third are of another log")
        follower.core.persisted(ticket + 1, 0.0)
        follower.drain()
        self.assertEqual([each.term for each in follower.committed()], [1, 2])

    def test_a_crash_loses_what_was_not_written(self) -> None:
        group = three()
        leader = group.members[A.peer].core
        leader.lead(1, 0.0)
        group.settle()
        leader.propose([b"x"], 0.0)
        group.members[A.peer].drain()
        group.members[A.peer].start()
        self.assertEqual(group.members[A.peer].core.last, LogPosition(1, 1))


class Figure7(PureTestCase):
    """Followers of the Raft paper's figure 7: entries that are missing, that are too many, and both."""

    LEADER = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    FOLLOWERS = (
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    )

    def test_all_become_the_leaders(self) -> None:
        logs = (self.LEADER, *self.FOLLOWERS)
        members = [replica(me, entries(*log), voters=VOTERS) for me, log in zip(VOTERS, logs, strict=True)]
        group = Group(*members)
        members[0].core.lead(8, 0.0)
        messages = group.settle()
        group.advance(1.0)
        for member in members:
            self.assertEqual(terms(member), [*self.LEADER, 8])
            self.assertEqual([each.term for each in member.rows], [*self.LEADER, 8], "in the store too")
            self.assertEqual(member.core.commit, 11)
        self.assertLess(messages, 40, "a term is passed over at once")


class Figure8(PureTestCase):
    """An entry of a former term that a majority holds may still be overwritten (figure 8)."""

    def group(self) -> Group:
        voters = (A, B, C, D, E)
        logs = ((1, 2), (1, 2), (1,), (1,), (1, 3))
        return Group(*(replica(me, entries(*log), voters=voters) for me, log in zip(voters, logs, strict=True)))

    def test_it_is_not_committed_by_counting(self) -> None:
        group = self.group()
        leader = group.members[A.peer]
        leader.core.lead(4, 0.0)
        leader.write()
        for peer in (B.peer, C.peer):
            leader.core.receive_reply(peer, AppendReply(4, True, 2), 0.0)
        self.assertEqual(leader.core.commit, 0, "three of five hold entry 2")
        # (d): the fifth wins term 5, and the entry is gone.
        leader.core.follow()
        leader.taken()
        group.members[E.peer].core.lead(5, 0.0)
        group.advance(1.0)
        self.assertEqual({tuple(terms(member)) for member in group.members.values()}, {(1, 3, 5)})

    def test_an_entry_of_the_own_term_commits_it(self) -> None:
        group = self.group()
        leader = group.members[A.peer]
        leader.core.lead(4, 0.0)
        leader.write()
        for peer in (B.peer, C.peer):
            leader.core.receive_reply(peer, AppendReply(4, True, 3), 0.0)
        self.assertEqual(leader.core.commit, 3)
        self.assertEqual([each.term for each in leader.core.pulled(LogPosition()).entries], [1, 2, 4])


class Refusals(PureTestCase):
    def follower(self) -> Replica:
        """Entries 5 to 8, of which 6 are committed; the snapshot ends at 4."""
        member = replica(B, entries(2, 2, 3, 3, first=5), snapshot=LogPosition(1, 4))
        member.core.receive_append(A.peer, Append(4, LogPosition(3, 8), 6))
        member.write()
        member.taken()
        return member

    def refused(self, error: type[Exception], message: Append) -> Replica:
        member = self.follower()
        self.assertRaises(error, member.core.receive_append, A.peer, message)
        self.assertEqual((terms(member)[4:], member.taken(), member.unwritten), ([2, 2, 3, 3], [], []))
        return member

    def test_entries_that_do_not_follow_on_each_other(self) -> None:
        prev = LogPosition(3, 8)
        for found in (
            (entry(10, 4),),
            (entry(9, 4), entry(11, 4)),
            (entry(9, 4), entry(9, 4)),
            (entry(10, 4), entry(9, 4)),
            (entry(8, 3),),
            (entry(9, 2),),
            (entry(9, 4), entry(10, 3)),
            (entry(9, 5),),
        ):
            self.refused(BadAppend, Append(4, prev, 6, found))
        self.refused(BadAppend, Append(4, LogPosition(5, 9), 6))

    def test_another_entry_of_the_same_term(self) -> None:
        self.refused(BadAppend, Append(4, LogPosition(2, 6), 6, (entry(7, 3, b"other"),)))

    def test_what_is_committed_is_not_contradicted(self) -> None:
        for message, index in (
            (Append(4, LogPosition(2, 5), 6, (entry(6, 3),)), 6),
            (Append(4, LogPosition(2, 5), 6, (entry(6, 2, b"other"),)), 6),
            (Append(4, LogPosition(3, 6), 6), 6),
            (Append(4, LogPosition(2, 4), 6), 4),
            (Append(4, LogPosition(1, 3), 6, (entry(4, 2), entry(5, 2))), 4),
        ):
            member = self.refused(ContradictsCommitted, message)
            self.assertEqual(member.events[-1], LogContradiction(A.peer, 4, index))

    def test_a_former_admin_that_tracks_a_learner_which_has_pulled_since(self) -> None:
        for message in (
            Append(2, LogPosition(2, 6), 6),
            Append(2, LogPosition(2, 6), 6, (entry(7, 2),)),
            Append(2, LogPosition(2, 9), 6),
        ):
            member = self.refused(StaleAppend, message)
            self.assertEqual(member.events, [Committed(entries(2, 2, first=5))])

    def test_a_gap_is_answered_with_the_end_of_the_log(self) -> None:
        member = self.follower()
        member.core.receive_append(A.peer, Append(4, LogPosition(4, 20), 15, (entry(21, 4),)))
        self.assertEqual(member.taken(), [(A.peer, AppendReply(4, False, 8))])
        self.assertEqual(member.core.commit, 6)

    def test_a_disagreement_is_never_answered_below_what_is_committed(self) -> None:
        member = self.follower()
        member.core.receive_append(A.peer, Append(4, LogPosition(2, 8), 6))
        self.assertEqual(member.taken(), [(A.peer, AppendReply(4, False, 6))])

    def test_entries_under_the_snapshot_are_passed_over(self) -> None:
        member = self.follower()
        member.core.receive_append(A.peer, Append(4, LogPosition(1, 1), 6, entries(1, 1, 1, 2, first=2)))
        member.core.receive_append(A.peer, Append(4, LogPosition(), 2, entries(1, 1)))
        self.assertEqual(member.taken(), [(A.peer, AppendReply(4, True, 6))] * 2)
        self.assertEqual(terms(member)[4:], [2, 2, 3, 3])

    def test_a_commit_index_counts_as_far_as_the_logs_agree(self) -> None:
        member = self.follower()
        member.core.receive_append(A.peer, Append(4, LogPosition(2, 6), 8))
        self.assertEqual(member.core.commit, 6)
        member.core.receive_append(A.peer, Append(4, LogPosition(3, 7), 99))
        self.assertEqual(member.core.commit, 7)

    def test_two_admins_of_one_term(self) -> None:
        leader = replica()
        leader.core.lead(4, 0.0)
        for term in (3, 4):
            self.assertRaises(BadAppend, leader.core.receive_append, B.peer, Append(term, LogPosition(), 0))
        leader.core.receive_append(B.peer, Append(5, LogPosition(), 0))
        self.assertRaises(NotLeader, leader.core.propose, [b""], 0.0)

    def test_replies(self) -> None:
        leader = replica()
        leader.core.lead(4, 0.0)
        leader.core.receive_reply(D.peer, AppendReply(4, True, 1), 0.0)
        leader.core.receive_reply(B.peer, AppendReply(3, True, 1), 0.0)
        leader.write()
        self.assertEqual((leader.core.commit, leader.core.match(B.peer), leader.core.match(D.peer)), (0, 0, None))
        for ok in (True, False):
            self.assertRaises(BadAppendReply, leader.core.receive_reply, B.peer, AppendReply(4, ok, 2), 0.0)

    def test_a_corrupt_store(self) -> None:
        self.assertRaises(ValueError, replica, A, (entry(2, 1),))
        self.assertRaises(BadRoster, replica, A, (LogEntry(1, 1, EntryKind.ROSTER, b""),))


class Streaming(PureTestCase):
    def led(self, limits: JournalLimits | None = None) -> tuple[Group, Replica]:
        group = Group(*(replica(me, limits=limits) for me in (A, B, C)))
        leader = group.members[A.peer]
        leader.core.lead(1, 0.0)
        group.advance(1.0)
        return group, leader

    def appends(self, leader: Replica, peer: str = B.peer) -> list[Append]:
        return [message for to, message in leader.taken() if to == peer and isinstance(message, Append)]

    def test_proposals_between_drains_travel_together(self) -> None:
        group, leader = self.led()
        for _ in range(64):
            leader.core.propose([b"x"], group.now)
        self.assertEqual([len(message.entries) for message in self.appends(leader)], [64])

    def test_batches_have_limits(self) -> None:
        group, leader = self.led()
        leader.core.propose([bytes(2048)] * 100, group.now)
        sizes = [sum(len(each.data) for each in message.entries) for message in self.appends(leader)]
        self.assertEqual(sizes, [MAX_BATCH, 100 * 2048 - MAX_BATCH])
        group.advance(1.0)
        leader.core.propose([b""] * 1000, group.now)
        counts = [len(message.entries) for message in self.appends(leader)]
        self.assertEqual(counts, [MAX_BATCH_ENTRIES, 1000 - MAX_BATCH_ENTRIES])

    def test_the_window_is_bounded(self) -> None:
        group, leader = self.led(JournalLimits(window=4))
        sent = []
        for _ in range(10):
            leader.core.propose([b"x"], group.now)
            sent += self.appends(leader)
        self.assertEqual([len(message.entries) for message in sent], [1] * 4)
        leader.core.receive_reply(B.peer, AppendReply(1, True, sent[0].entries[-1].index), group.now)
        self.assertEqual([len(message.entries) for message in self.appends(leader)], [6])

    def test_the_commit_index_is_told_soon_and_with_entries_at_once(self) -> None:
        group, leader = self.led()
        leader.core.propose([b"x"], group.now)
        group.settle()
        follower = group.members[B.peer].core
        self.assertEqual((leader.core.commit, follower.commit), (2, 1))
        self.assertAlmostEqual((leader.core.due() or 0) - group.now, JournalLimits().tell_s)
        group.advance(JournalLimits().tell_s)
        self.assertEqual(follower.commit, 2)
        leader.core.propose([b"y"], group.now)
        group.settle()
        leader.core.propose([b"z"], group.now)
        self.assertEqual([(message.commit, len(message.entries)) for message in self.appends(leader)], [(3, 1)])

    def test_little_is_said_while_nothing_happens(self) -> None:
        group, leader = self.led()
        count = 0
        end = group.now + 20
        while (due := leader.core.due()) is not None and due < end:
            group.now = due
            leader.core.tick(due)
            count += group.settle()
        self.assertEqual(count, 2 * 2 * 20 / JournalLimits().idle_s, "a question and an answer, for two followers")

    def test_a_lost_message_is_sent_again(self) -> None:
        group, leader = self.led()
        leader.core.propose([b"x"], group.now)
        leader.taken()
        group.advance(1.0)
        self.assertEqual([member.core.commit for member in group.members.values()], [2, 2, 2])

    def test_a_member_that_is_away_costs_little(self) -> None:
        group, leader = self.led()
        leader.core.propose([bytes(1024)] * 10, group.now)
        sent: list[Append] = []
        end = group.now + 60.0
        while (due := leader.core.due()) is not None and due < end:
            leader.write(group.now)
            sent += self.appends(leader, C.peer)
            group.now = due
            leader.core.tick(due)
        self.assertLess(len(sent), 40)
        self.assertEqual(sum(len(message.entries) for message in sent), 20, "twice, and then it is only asked")

    def test_a_member_that_comes_back_has_all_soon(self) -> None:
        group, leader = self.led()
        group.settle(C.peer)
        for _ in range(50):
            leader.core.propose([bytes(2048)] * 20, group.now)
            group.advance(0.2, C.peer)
        group.members[C.peer].start()
        self.assertEqual(group.members[C.peer].core.commit, 0)
        group.advance(JournalLimits().resend.most + 0.1)
        self.assertEqual(group.members[C.peer].core.commit, 1001)

    def test_a_follower_that_forgot_the_commit_index_is_told(self) -> None:
        group, _ = self.led()
        group.members[C.peer].start()
        group.advance(JournalLimits().idle_s + 0.1)
        self.assertEqual(group.members[C.peer].core.commit, 1)

    def test_many_outstanding_entries_are_cheap(self) -> None:
        """Without any answer: neither a proposal nor a tick walks over what is outstanding."""

        def propose() -> None:
            leader = replica()
            leader.core.lead(1, 0.0)
            for at in range(10_000):
                leader.core.propose([b"x"], 0.0)
                leader.core.flush()
                leader.core.due()
                if at % 100 == 0:
                    leader.drain()

        self.assert_cheap(propose, 200)


class RosterChanges(PureTestCase):
    def test_in_force_when_appended_and_committed_by_its_own_majority(self) -> None:
        group = Group(replica(A, voters=(A,)), replica(B, voters=(A,)))
        leader = group.members[A.peer]
        leader.core.lead(1, 0.0)
        group.settle()
        index = leader.core.propose_roster((A, B), 0.0)
        leader.write()
        self.assertEqual((index, leader.core.roster.epoch, leader.core.commit), (2, 2, 1))
        self.assertEqual(leader.core.committed_roster.voters, (A,))
        group.advance(1.0)
        self.assertEqual(leader.core.commit, 2)
        for member in group.members.values():
            self.assertEqual(member.core.committed_roster.voters, (A, B))
            changes = [event.committed for event in member.events if isinstance(event, RosterChanged)]
            self.assertEqual(changes, [False, True])

    def test_one_at_a_time_and_not_before_an_own_entry_is_committed(self) -> None:
        group = three()
        leader = group.members[A.peer].core
        leader.lead(1, 0.0)
        self.assertRaises(RosterRefused, leader.propose_roster, (A, B), 0.0)
        group.settle()
        self.assertRaises(RosterRefused, leader.propose_roster, (A,), 0.0)
        leader.propose_roster((A, B), 0.0)
        self.assertRaises(RosterRefused, leader.propose_roster, (A,), 0.0)
        group.settle()
        leader.propose_roster((A,), 0.0)

    def test_an_entry_of_a_former_term_is_not_enough(self) -> None:
        group = three()
        leader = group.members[A.peer].core
        leader.lead(1, 0.0)
        group.settle()
        leader.follow()
        leader.lead(2, 0.0)
        self.assertRaises(RosterRefused, leader.propose_roster, (A, B), 0.0)

    def test_a_node_without_the_authoritys_key(self) -> None:
        alone = replica(voters=(A,))
        alone.authority.key = False
        alone.core.lead(1, 0.0)
        alone.write()
        self.assertRaises(RosterRefused, alone.core.propose_roster, (A, B), 0.0)
        self.assertEqual(alone.core.last.index, 1)

    def test_a_cut_brings_the_former_roster_back(self) -> None:
        member = replica(B)
        grown = roster(A, B, C, D, epoch=2)
        member.core.receive_append(A.peer, Append(1, LogPosition(), 1, (entry(1, 1), roster_entry(2, 1, grown))))
        self.assertEqual(member.core.roster, grown)
        self.assertEqual(member.core.committed_roster, roster(A, B, C))
        member.core.receive_append(C.peer, Append(2, LogPosition(1, 1), 1, (entry(2, 2),)))
        self.assertEqual(member.core.roster, roster(A, B, C))
        member.drain()
        changes = [event for event in member.events if isinstance(event, RosterChanged)]
        self.assertEqual(changes, [RosterChanged(grown, False), RosterChanged(roster(A, B, C), True)])

    def test_rosters_of_strangers_are_refused_whole(self) -> None:
        member = replica(B)
        bad = attrs.evolve(roster(A, B, C, D, epoch=3), signature=b"t" * 64)
        message = Append(1, LogPosition(), 0, (entry(1, 1), roster_entry(2, 1, bad)))
        self.assertRaises(BadAppend, member.core.receive_append, A.peer, message)
        self.assertEqual(member.core.last.index, 0)

    def test_two_rosters_in_one_message(self) -> None:
        member = replica(B)
        grown = (roster(A, B, C, D, epoch=1 + at) for at in (1, 2))
        found = tuple(roster_entry(at, 1, each) for at, each in enumerate(grown, 1))
        member.core.receive_append(A.peer, Append(1, LogPosition(), 0, found))
        self.assertEqual(member.core.roster.epoch, 3)
        self.assertRaises(
            BadAppend,
            member.core.receive_append,
            A.peer,
            Append(2, LogPosition(1, 1), 0, (roster_entry(2, 2, roster(A)),)),
        )

    def test_a_start_finds_the_roster_of_its_log(self) -> None:
        grown = roster(A, B, C, D, epoch=2)
        member = replica(B, (entry(1, 1), roster_entry(2, 1, grown)))
        self.assertEqual((member.core.roster, member.core.committed_roster), (grown, roster(A, B, C)))

    def test_a_removed_voter_hears_of_it_and_is_left(self) -> None:
        group = three()
        leader = group.members[A.peer]
        leader.core.lead(1, 0.0)
        group.settle()
        leader.core.propose_roster((A, B), 0.0)
        group.advance(5.0)
        removed = group.members[C.peer].core
        self.assertEqual((removed.commit, removed.committed_roster.voters), (2, (A, B)))
        self.assertEqual(leader.core.match(C.peer), None)

    def test_a_removed_voter_that_is_away_is_left_too(self) -> None:
        group = three()
        leader = group.members[A.peer]
        leader.core.lead(1, 0.0)
        group.settle()
        leader.core.propose_roster((A, B), 0.0)
        group.advance(20.0, C.peer)
        self.assertEqual((leader.core.commit, leader.core.match(C.peer)), (2, None))

    def test_the_leader_does_not_take_its_own_vote(self) -> None:
        group = three()
        leader = group.members[A.peer]
        leader.core.lead(1, 0.0)
        group.settle()
        self.assertRaises(RosterRefused, leader.core.propose_roster, (B, C), 0.0)

    def test_a_wiped_store_is_no_voter(self) -> None:
        wiped = replica(attrs.evolve(A, store="f" * 32), voters=(A,))
        wiped.core.lead(1, 0.0)
        wiped.write()
        self.assertEqual(wiped.core.commit, 0)


class Tracking(PureTestCase):
    def test_a_learner_catches_up_without_a_vote(self) -> None:
        group = Group(replica(A, voters=(A,)), replica(B, voters=(A,)))
        leader = group.members[A.peer]
        leader.core.lead(1, 0.0)
        leader.core.propose([b"x"] * 100, 0.0)
        group.settle()
        self.assertEqual(group.members[B.peer].core.last.index, 0)
        leader.core.track(B.peer, 0.0)
        group.advance(1.0)
        self.assertEqual((leader.core.match(B.peer), group.members[B.peer].core.commit), (101, 101))
        leader.core.propose_roster((A, B), group.now)
        leader.core.untrack(B.peer)
        group.advance(1.0)
        self.assertEqual(leader.core.match(B.peer), 102, "it is a voter now")

    def test_no_more(self) -> None:
        leader = replica(A, voters=(A,))
        leader.core.lead(1, 0.0)
        leader.core.track(B.peer, 0.0)
        leader.core.untrack(B.peer)
        leader.core.untrack(C.peer)
        self.assertEqual((leader.core.match(B.peer), leader.core.due()), (None, None))


class Learners(PureTestCase):
    def voter(self, commit: int = 6) -> Replica:
        member = replica(B, entries(1, 1, 2, 2, 3, 3, 3))
        member.core.receive_append(A.peer, Append(3, LogPosition(3, 7), commit))
        member.write()
        return member

    def learn(self, learner: Replica, voter: Replica) -> Pulled:
        pulled = voter.core.pulled(learner.core.pull_after)
        self.assertTrue(learner.core.learn(pulled))
        learner.write()
        return pulled

    def test_committed_entries_alone(self) -> None:
        learner, voter = replica(D), self.voter()
        self.learn(learner, voter)
        self.assertEqual((terms(learner), learner.core.commit), ([1, 1, 2, 2, 3, 3], 6))
        self.assertEqual(len(learner.committed()), 6)
        self.assertEqual(self.learn(learner, voter).entries, ())

    def test_after_a_start_it_goes_on_where_it_was(self) -> None:
        learner, voter = replica(D), self.voter()
        self.learn(learner, voter)
        learner.start()
        self.assertEqual(learner.core.commit, 0)
        self.assertEqual(self.learn(learner, voter).entries, ())
        self.assertEqual(len(learner.committed()), 6)

    def test_a_former_voters_entries_that_were_never_committed_go(self) -> None:
        for log in ((1, 1, 1, 1, 1), (1, 1, 2, 2, 2, 2, 2), (1, 1, 2, 2, 3, 4), (4, 4, 4), (1, 1, 2, 2, 3, 3, 3, 3, 3)):
            learner, voter = replica(D, entries(*log)), self.voter(7)
            for _ in range(3):
                self.learn(learner, voter)
            self.assertEqual(terms(learner)[:7], [1, 1, 2, 2, 3, 3, 3], log)
            self.assertEqual(learner.core.commit, 7)
            self.assertEqual([each.term for each in learner.rows][:7], terms(learner)[:7])

    def test_what_it_may_have_acknowledged_is_kept(self) -> None:
        """Entries beyond the voter's commit index stay: they may be committed by a majority that counted this node."""
        learner, voter = replica(D, entries(1, 1, 2, 2, 3, 3, 3)), self.voter(5)
        self.learn(learner, voter)
        self.assertEqual((learner.core.commit, learner.core.last.index), (5, 7))

    def test_compacted_entries_need_a_snapshot(self) -> None:
        voter = replica(B, entries(3, first=8), snapshot=LogPosition(2, 7))
        pulled = voter.core.pulled(LogPosition(1, 6))
        self.assertEqual(pulled, Pulled(7, snapshot=True))
        self.assertFalse(replica(D).core.learn(pulled))

    def test_nonsense(self) -> None:
        learner = replica(D, entries(1, 1))
        for pulled in (
            Pulled(1, entries(1, 1)),
            Pulled(9, (entry(4, 1),), prev=LogPosition(1, 2)),
            Pulled(9, (entry(3, 1), entry(4, 0)), prev=LogPosition(1, 2)),
            Pulled(9, (entry(2, 1, b"other"),), prev=LogPosition(1, 1)),
        ):
            self.assertRaises(BadPulled, learner.core.learn, pulled)
        self.learn(learner, self.voter())
        self.assertRaises(ContradictsCommitted, learner.core.learn, Pulled(9, entries(4)))
        learner.drain()
        self.assertEqual(learner.events[-1], LogContradiction(None, 4, 1))

    def test_the_admin_learns_nothing(self) -> None:
        leader = replica()
        leader.core.lead(1, 0.0)
        self.assertTrue(leader.core.learn(Pulled(9, snapshot=True)))
        self.assertTrue(leader.core.learn(Pulled(9, entries(2))))
        self.assertEqual(terms(leader), [1])


class Snapshots(PureTestCase):
    def test_compaction_keeps_a_tail(self) -> None:
        leader = replica(A, voters=(A,), limits=JournalLimits(kept=10))
        leader.core.lead(1, 0.0)
        leader.core.propose([b"x"] * 99, 0.0)
        leader.core.compacted(LogPosition(1, 50))
        self.assertEqual(leader.core.base.index, 0, "nothing is delivered yet")
        leader.write()
        leader.core.compacted(LogPosition(1, 50))
        self.assertEqual((leader.core.base, leader.core.last.index), (LogPosition(1, 40), 100))
        leader.core.compacted(LogPosition(1, 20))
        self.assertEqual(leader.core.base.index, 40)

    def test_a_follower_far_behind_needs_a_snapshot(self) -> None:
        group = Group(*(replica(me, limits=JournalLimits(kept=0)) for me in (A, B, C)))
        leader, behind = group.members[A.peer], group.members[C.peer]
        leader.core.lead(1, 0.0)
        leader.core.propose([b"x"] * 99, 0.0)
        group.settle(C.peer)
        leader.core.compacted(LogPosition(1, 90))
        group.advance(25.0)
        wanted = [event for event in leader.events if isinstance(event, SnapshotWanted)]
        self.assertEqual(wanted, [SnapshotWanted(C.peer)] * 3, "asked for again after 10 s")
        behind.core.installed(LogPosition(1, 90), leader.core.roster_at(90))
        behind.stored = attrs.evolve(behind.stored, snapshot=LogPosition(1, 90))
        group.advance(5.0)
        self.assertEqual((behind.core.commit, leader.core.match(C.peer)), (100, 100))
        self.assertEqual([each.index for each in behind.committed()], list(range(91, 101)))
        self.assertEqual([each.index for each in behind.rows], list(range(91, 101)))

    def test_entries_that_follow_on_a_snapshot_stay(self) -> None:
        member = replica(B, entries(1, 1, 2, 2))
        member.core.installed(LogPosition(1, 2), roster(A, B, C))
        self.assertEqual((member.core.commit, member.core.last.index, member.core.delivered), (2, 4, 2))
        member.write()
        self.assertEqual((len(member.rows), member.committed()), (4, []))

    def test_entries_that_contradict_a_snapshot_go(self) -> None:
        for log in ((1, 1, 1, 1), (1,), ()):
            member = replica(B, entries(*log))
            member.core.installed(LogPosition(2, 3), roster(A, B, epoch=2))
            member.write()
            self.assertEqual((member.core.last, member.core.base, member.rows), (LogPosition(2, 3),) * 2 + ([],))
            self.assertEqual((member.core.commit, member.core.durable), (3, 3))
            self.assertEqual(member.core.roster, roster(A, B, epoch=2))
            self.assertEqual(member.events, [RosterChanged(roster(A, B, epoch=2), True)])

    def test_an_old_snapshot_changes_nothing(self) -> None:
        member = replica(B, entries(2, first=8), snapshot=LogPosition(2, 7))
        member.core.installed(LogPosition(1, 5), roster(A))
        self.assertEqual((member.core.last, member.core.commit), (LogPosition(2, 8), 7))
        self.assertEqual(member.core.roster, roster(A, B, C))

    def test_writes_under_way_do_not_count_after_a_snapshot(self) -> None:
        member = replica(B)
        member.core.receive_append(A.peer, Append(1, LogPosition(), 0, entries(1, 1, 1)))
        member.drain()
        ticket = member.outbox.ticket
        member.core.installed(LogPosition(2, 9), roster(A, B, C))
        member.core.persisted(ticket, 0.0)
        self.assertEqual(member.core.durable, 9)

    def test_the_tail_serves_learners_and_followers(self) -> None:
        leader = replica(A, voters=(A,))
        leader.core.lead(1, 0.0)
        leader.core.propose([b"x"] * 99, 0.0)
        leader.write()
        leader.core.compacted(LogPosition(1, 100))
        self.assertEqual(len(leader.core.pulled(LogPosition(1, 50)).entries), 50)
