"""Whole replicas among each other: elections, entries, hand-overs and rosters, under faults and over restarts."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from chorus.protocols.ballot.effects import AdminKnown, HardState, OfficeLost, OfficeWon
from chorus.protocols.ballot.messages import Heartbeat, LogPosition, RequestVote, Vote
from chorus.protocols.ballot.profiles import LAN, RELAXED, WAN, ElectionProfile, lease_of
from chorus.protocols.ballot.roster import Voter
from chorus.protocols.replica import OfficeNotReady, Replica
from chorus.protocols.replication.messages import Append, EntryKind, LogEntry, Pull, Pulled
from chorus.protocols.replication.outbox import RosterChanged
from chorus.protocols.replication.refusals import RosterRefused
from chorus.tasks.journal import Fence, NotLeader
from tests.protocols.ballot.kit import heartbeat, office
from tests.protocols.ballot.net import Net, genesis
from tests.protocols.replication.support import VOTERS, A, B, C, D, E
from tests.support import PureTestCase

FIVE = (A, B, C, D, E)


class ReplicaCase(PureTestCase):
    def net(self, count: int = 3, seed: int = 1, rates: Sequence[float] = (), profile: ElectionProfile = LAN) -> Net:
        net = Net(VOTERS[:count], profile, seed, rates)
        self.addCleanup(lambda: self.assertEqual(net.violations, []))
        return net

    def propose(self, net: Net, data: bytes) -> int:
        admin = net.admin()
        assert admin is not None
        found: list[range] = []
        net.act(admin, lambda replica, now: found.append(replica.propose([data], now)))
        return found[0][0]

    def everywhere(self, net: Net, data: bytes) -> bool:
        """Run until all that are up have applied `data`."""
        up = [member for member in net.members.values() if member.replica is not None]
        return net.run(10, lambda: all(any(entry.data == data for entry in member.log) for member in up))

    def roles(self, net: Net) -> list[str]:
        return [member.replica.role if member.replica else "down" for member in net.members.values()]


class Electing(ReplicaCase):
    def test_one_three_and_five_elect_and_commit(self) -> None:
        for count in (1, 3, 5):
            net = self.net(count)
            admin = net.elect()
            self.assertEqual(sorted(self.roles(net)), ["admin", *["follower"] * (count - 1)])
            self.assertEqual(self.propose(net, b"first"), 2)
            self.assertTrue(self.everywhere(net, b"first"))
            kinds = [entry.kind for entry in net.members[admin].log]
            self.assertEqual(kinds, [EntryKind.NOOP, EntryKind.ENTRY])
            self.assertEqual({net.core(peer).admin for peer in net.members}, {admin})
            self.assertEqual(
                [member.replica.refused for member in net.members.values() if member.replica], [{}] * count
            )

    def test_one_voter_has_no_silence_even_after_a_restart(self) -> None:
        net = self.net(1)
        net.elect(0.1)
        net.crash(A.peer)
        net.restart(A.peer)
        net.elect(0.1)
        self.assertEqual(net.core(A.peer).term, 2)

    def test_the_best_score_wins(self) -> None:
        for seed in range(5):
            net = self.net(5, seed)
            for peer in net.members:
                scores = {each: 900 if each == D.peer else 500 for each in net.members}
                net.act(peer, lambda replica, now, scores=scores: replica.observe(scores, now))  # type: ignore[misc]
            self.assertEqual(net.elect(), D.peer)

    def test_a_dead_favourite_does_not_stop_it(self) -> None:
        net = self.net(3)
        net.crash(C.peer)
        scores = {A.peer: 0, B.peer: 0, C.peer: 1000}
        for peer in (A.peer, B.peer):
            net.act(peer, lambda replica, now: replica.observe(scores, now))
        net.elect(3)

    def test_wide_and_relaxed_profiles(self) -> None:
        for profile in (WAN, RELAXED):
            net = self.net(3, profile=profile)
            net.elect(60)
            net.run(3 * profile.lease_s)
            self.assertEqual(sum(role == "admin" for role in self.roles(net)), 1)
            self.assertEqual({net.core(peer).term for peer in net.members}, {1})

    def test_a_node_with_another_lease_takes_no_part(self) -> None:
        net = self.net(3)
        odd = net.members[C.peer]
        odd.profile = WAN
        net.crash(C.peer)
        net.restart(C.peer)
        net.elect()
        net.run(3)
        core = net.core(C.peer)
        self.assertFalse(core.lease_agrees)
        self.assertGreater(core.refused["lease_differs"], 0)
        self.assertEqual((core.role, odd.hard.voted_for), ("follower", None))
        self.propose(net, b"goes on")
        self.assertTrue(self.everywhere(net, b"goes on"))

    def test_no_admin_in_a_minority(self) -> None:
        net = self.net(3)
        net.crash(A.peer)
        net.crash(B.peer)
        net.run(20)
        self.assertEqual((net.core(C.peer).role in {"follower", "candidate"}, net.core(C.peer).term), (True, 0))


class Offices(ReplicaCase):
    def test_nothing_is_done_before_the_noop_is_applied(self) -> None:
        net = self.net(3)
        net.run(10, lambda: "admin" in self.roles(net))
        (admin,) = (peer for peer in net.members if net.core(peer).role == "admin")
        core, now = net.core(admin), net.local(admin)
        self.assertGreater(core.lease_left(now), 0)
        self.assertFalse(core.holds(now))
        self.assertRaises(OfficeNotReady, core.propose, [b"x"], now)
        net.elect()
        won = [event for event in net.members[admin].events if isinstance(event, OfficeWon)]
        self.assertEqual([event.noop_index for event in won], [1])
        self.assertEqual(core.fence(7), Fence(1, core.term, 7))

    def test_others_name_the_admin(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(1)
        other = next(peer for peer in net.members if peer != admin)
        error = self.assertRaises(NotLeader, net.core(other).propose, [b"x"], net.local(other))
        self.assertEqual(error.hint, admin)

    def test_a_lease_is_lost_in_a_minority_and_the_term_is_kept(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(1)
        term = net.core(admin).term
        net.faults.cut = {admin}
        cut_at = net.now
        self.assertTrue(net.run(5, lambda: net.core(admin).role != "admin"))
        self.assertLessEqual(net.now - cut_at, lease_of(LAN.lease_s))
        self.assertEqual(net.core(admin).term, term)
        self.assertIn(OfficeLost("the lease ran out"), net.members[admin].events)
        self.assertTrue(net.run(5, lambda: net.admin() is not None))
        self.assertGreater(net.core(str(net.admin())).term, term)

    def test_an_isolated_member_that_comes_back_changes_no_term(self) -> None:
        net = self.net(3)
        admin = net.elect()
        other = next(peer for peer in net.members if peer != admin)
        term = net.core(admin).term
        net.faults.cut = {other}
        net.run(30)
        net.faults.cut = set()
        net.run(10)
        self.assertEqual((net.admin(), {net.core(peer).term for peer in net.members}), (admin, {term}))

    def test_the_admin_is_unknown_once_promises_run_out(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(1)
        net.crash(admin)
        other = next(peer for peer in net.members if peer != admin)
        known = net.members[other].events
        self.assertTrue(net.run(5, lambda: AdminKnown(1, None) in known))
        self.assertEqual(known.index(AdminKnown(1, admin)), 0)

    def test_fail_over(self) -> None:
        for seed in range(10):
            net = self.net(5, seed)
            admin = net.elect()
            self.propose(net, b"kept")
            self.assertTrue(self.everywhere(net, b"kept"))
            net.run(40)
            began = net.now
            net.crash(admin)
            net.elect()
            self.assertLess(net.now - began, 1.2)
            self.propose(net, b"next")
            self.assertTrue(self.everywhere(net, b"next"))
            net.restart(admin)
            self.assertTrue(self.everywhere(net, b"kept"))

    def test_steady_under_loss(self) -> None:
        net = self.net(5)
        net.elect()
        net.faults.loss = 0.05
        net.run(60)
        self.assertEqual({net.core(peer).term for peer in net.members}, {1})


class Restarts(ReplicaCase):
    def test_a_voter_is_silent_for_its_longest_lease(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(1)
        voter = next(peer for peer in net.members if peer != admin)
        self.assertEqual(net.members[voter].hard.longest_lease_ms, 1000)
        net.crash(voter)
        net.restart(voter)
        before, since = len(net.sent), net.now
        net.run(1.0)
        said = [m for sender, _, m in net.sent[before:] if sender == voter and getattr(m, "granted", False)]
        self.assertEqual(said, [])
        self.assertEqual(net.core(voter).admin, admin)
        net.run(0.5)
        self.assertTrue([m for s, _, m in net.sent[before:] if s == voter and getattr(m, "granted", False)])
        self.assertGreater(net.now, since)

    def test_all_at_once(self) -> None:
        net = self.net(5)
        net.elect()
        self.propose(net, b"kept")
        self.assertTrue(self.everywhere(net, b"kept"))
        for peer in net.members:
            net.crash(peer)
            net.restart(peer)
        net.elect()
        self.assertTrue(self.everywhere(net, b"kept"))

    def test_a_vote_that_was_not_written_was_not_given(self) -> None:
        net = self.net(3)
        net.faults.fsync = (5.0, 5.0)
        ask = RequestVote(1, genesis((A, B, C)).encode(), LogPosition())
        net.act(A.peer, lambda replica, now: replica.receive(B.peer, ask, now))
        net.crash(A.peer)
        self.assertEqual([m for sender, _, m in net.sent if sender == A.peer and isinstance(m, Vote)], [])
        self.assertEqual(net.members[A.peer].hard, HardState())

    def test_storms(self) -> None:
        """Loss, reordering, slow disks, clocks at their worst, crashes that lose what was not written, hand-overs."""
        for seed in range(8):
            rates = (1.1, 0.9, 1.0, 1.1, 0.9)
            net = self.net(5 if seed % 2 else 3, seed, rates)
            net.faults.loss, net.faults.delay, net.faults.fsync = 0.05, (0.0, 0.3), (0.0, 0.1)
            proposed = 0
            for _ in range(40):
                net.run(net.rng.uniform(0.1, 1.0))
                victim = net.rng.choice(list(net.members))
                match net.rng.randrange(5):
                    case 0:
                        net.crash(victim)
                        net.run(net.rng.uniform(0.0, 1.0))
                        net.restart(victim)
                    case 1:
                        net.faults.cut = {victim} if net.rng.random() < 0.5 else set()
                    case 2 if net.admin() not in {None, victim}:
                        net.act(str(net.admin()), lambda replica, now, to=victim: replica.transfer(to, now))  # type: ignore[misc]
                    case _ if net.admin() is not None:
                        proposed += 1
                        self.propose(net, b"%d" % proposed)
            net.faults.cut, net.faults.loss, net.faults.delay = set(), 0.0, (0.0005, 0.001)
            net.elect(20)
            self.propose(net, b"the last")
            self.assertTrue(self.everywhere(net, b"the last"))
            self.assertGreater(proposed, 0)


class HandingOver(ReplicaCase):
    def test_within_a_few_round_trips(self) -> None:
        for seed in range(5):
            net = self.net(3, seed)
            admin = net.elect()
            net.run(1)
            target = next(peer for peer in net.members if peer != admin)
            began = net.now
            net.act(admin, lambda replica, now, to=target: replica.transfer(to, now))  # type: ignore[misc]
            self.assertTrue(net.run(1, lambda net=net, to=target: net.admin() == to))  # type: ignore[misc]
            self.assertLess(net.now - began, 0.1)
            self.propose(net, b"at the next")
            self.assertTrue(self.everywhere(net, b"at the next"))
            net.run(5)
            self.assertEqual(net.admin(), target)

    def test_a_dead_target_is_given_up(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(1)
        target = next(peer for peer in net.members if peer != admin)
        net.crash(target)
        self.propose(net, b"it lacks this")
        net.act(admin, lambda replica, now: replica.transfer(target, now))
        core = net.core(admin)
        self.assertRaises(OfficeNotReady, core.propose, [b"x"], net.local(admin))
        net.run(1.1)
        self.assertEqual((net.admin(), core.term), (admin, 1))
        self.propose(net, b"goes on")

    def test_stepping_down(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(35)
        net.act(admin, lambda replica, now: replica.step_down(now))
        self.assertNotEqual(net.elect(), admin)


class ChangingRosters(ReplicaCase):
    def grow(self, net: Net, voter: Voter) -> None:
        """Add a member that has caught up."""
        net.add(voter)
        admin = str(net.admin())
        net.act(admin, lambda replica, now: replica.track(voter.peer, now))
        core = net.core(admin)
        self.assertTrue(net.run(5, lambda: core.match(voter.peer) == core.last.index))
        voters = (*core.roster.voters, voter)

        def allowed() -> bool:
            try:
                net.act(admin, lambda replica, now: replica.propose_roster(voters, now))
            except RosterRefused:
                return False
            return True

        self.assertTrue(net.run(5, allowed))

    def test_one_becomes_three(self) -> None:
        net = self.net(1)
        net.elect()
        self.propose(net, b"alone")
        for voter in (B, C):
            self.grow(net, voter)
        self.assertTrue(net.run(5, lambda: all(net.core(peer).epoch == 4 for peer in net.members)))
        self.assertEqual(net.admin(), A.peer)
        self.assertEqual(self.roles(net), ["admin", "follower", "follower"])
        self.propose(net, b"together")
        self.assertTrue(self.everywhere(net, b"together"))
        self.assertIn(
            True, [event.committed for event in net.members[C.peer].events if isinstance(event, RosterChanged)]
        )
        net.crash(A.peer)
        net.elect()
        self.assertTrue(self.everywhere(net, b"alone"))

    def refused(self, net: Net, *voters: Voter) -> str:
        admin = str(net.admin())
        error = self.assertRaises(RosterRefused, net.core(admin).propose_roster, voters, net.local(admin))
        return str(error)

    def track(self, net: Net, *voters: Voter) -> None:
        for voter in voters:
            net.act(str(net.admin()), lambda replica, now, to=voter.peer: replica.track(to, now))  # type: ignore[misc]
        net.run(2)

    def test_the_next_change_waits_for_a_lease_under_this_one(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.add(D)
        net.add(E)
        self.track(net, D, E)
        net.act(admin, lambda replica, now: replica.propose_roster((A, B, C, D), now))
        self.assertIn("since the last change", self.refused(net, A, B, C, D, E))

    def test_nobody_is_added_that_does_not_grant(self) -> None:
        """It would end the office, and nobody could win another one."""
        net = self.net(1)
        net.elect()
        odd = net.add(B)
        self.assertIn("same profile", self.refused(net, A, B))
        net.crash(B.peer)
        odd.profile = WAN
        net.restart(B.peer)
        self.track(net, B)
        self.assertEqual(net.core(A.peer).match(B.peer), net.core(A.peer).last.index)
        self.assertIn("same profile", self.refused(net, A, B))
        self.assertGreater(net.core(B.peer).refused["lease_differs"], 0)
        odd.profile = LAN
        net.crash(B.peer)
        net.restart(B.peer)
        self.track(net, B)
        net.act(A.peer, lambda replica, now: replica.propose_roster((A, B), now))
        self.assertTrue(net.run(2, lambda: net.core(B.peer).epoch > 1))
        net.run(5)
        self.assertEqual((net.admin(), net.core(A.peer).term), (A.peer, 1))

    def test_nobody_is_removed_that_the_others_need(self) -> None:
        net = self.net(3)
        admin = net.elect()
        up, down = (voter for voter in (A, B, C) if voter.peer != admin)
        own = next(voter for voter in (A, B, C) if voter.peer == admin)
        net.crash(down.peer)
        net.run(2)
        self.assertIn("they are up", self.refused(net, own, down))
        net.act(admin, lambda replica, now: replica.propose_roster((own, up), now))
        self.assertTrue(net.run(2, lambda: net.core(up.peer).epoch > 1))

    def test_an_admin_is_not_stopped_by_a_voter_that_joins(self) -> None:
        net = self.net(1)
        admin = net.elect()
        self.grow(net, B)
        net.run(10)
        self.assertEqual((net.admin(), net.core(admin).term), (admin, 1))


class OutOfTurnMessages(ReplicaCase):
    """Everything of this is counted and dropped."""

    def receive(self, core: Replica, peer: str, message: object, now: float) -> None:
        before = core.term, core.last, core.commit, core.role
        core.receive(peer, message, now)  # type: ignore[arg-type]
        self.assertEqual((core.term, core.last, core.commit, core.role), before)

    def test_at_a_follower(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(1)
        other, third = (peer for peer in net.members if peer != admin)
        core, now = net.core(other), net.local(other)
        entry = LogEntry(core.last.index + 1, 9, EntryKind.ENTRY, b"forged")
        for sender in (third, D.peer):
            self.receive(core, sender, Append(9, core.last, 0, (entry,)), now)
            self.receive(core, sender, Append(core.term, core.last, 0, (entry,)), now)
        self.receive(core, admin, Append(9, core.last, 0, (entry,)), now)
        self.assertEqual(core.refused["not_the_admin"], 5)
        self.receive(core, admin, Pulled(99, (entry,)), now)
        self.assertEqual(core.refused["not_asked"], 1)
        self.receive(core, admin, Append(core.term, LogPosition(9, 1), 0, (entry,)), now)
        self.assertEqual(core.refused["bad_append"], 1)
        forged = attrs.evolve(office(D, 9, core.roster, A, B), votes=())
        self.receive(core, D.peer, heartbeat(forged, core.roster), now)
        self.assertEqual(core.refused["bad_office"], 1)

    def test_a_pull_is_answered(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.act(admin, lambda replica, now: replica.receive(D.peer, Pull(LogPosition()), now))
        ((_, _, pulled),) = (each for each in net.sent if each[1] == D.peer)
        assert isinstance(pulled, Pulled)
        self.assertEqual([entry.kind for entry in pulled.entries], [EntryKind.NOOP])

    def test_a_learner_takes_what_it_pulled(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.add(D)
        pulled = net.core(admin).pulled(LogPosition())
        net.act(D.peer, lambda replica, now: self.assertTrue(replica.learn(pulled, now)))
        net.run(0.1)
        core = net.core(D.peer)
        self.assertEqual((core.role, core.applied), ("learner", 1))
        bad = attrs.evolve(pulled, commit=0)
        net.act(D.peer, lambda replica, now: replica.learn(bad, now))
        self.assertEqual(core.refused["bad_pulled"], 1)

    def test_heartbeats_of_a_removed_admin_change_nothing(self) -> None:
        net = self.net(3)
        admin = net.elect()
        net.run(1)
        core, now = net.core(admin), net.local(admin)
        old = next(each for _, _, each in net.sent if isinstance(each, Heartbeat))
        self.receive(core, D.peer, attrs.evolve(old, term=0), now)
        self.assertEqual(net.admin(), admin)
