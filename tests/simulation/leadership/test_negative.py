"""Negative controls of spec/election.md 6: each core is broken on purpose, and the simulator must say so within the
stated number of seeds: a checker that cannot fail is none."""

from __future__ import annotations

import random
from typing import Any

import attrs

from chorus.protocols.ballot import tenure as tenures
from chorus.protocols.ballot.roster import Roster
from chorus.protocols.ballot.tenure import Tenure
from chorus.protocols.election import Election
from chorus.protocols.journal import JournalCore
from chorus.protocols.replica import StoredReplica
from chorus.protocols.replication.leading import Leading
from chorus.protocols.replication.outbox import LogWrite
from chorus.simulation.clock import NodeClock
from chorus.simulation.leadership.doors import FencedDoor
from chorus.simulation.leadership.member import ReplicaSite, SimReplica
from chorus.simulation.leadership.mix import LeadershipMix
from chorus.simulation.leadership.run import LeadershipFailed, LeadershipRun
from chorus.simulation.leadership.storage import ReplicaDisk
from chorus.simulation.world import SECOND
from chorus.tasks.journal import Fence
from tests.support import PureTestCase


class NegativeControls(PureTestCase):
    def assert_caught(
        self,
        invariants: set[str],
        within: int,
        faults: str,
        *,
        member_type: type[SimReplica] = SimReplica,
        door_type: type[FencedDoor] = FencedDoor,
        **given: Any,
    ) -> None:
        """Within so many seeds, from 1 on, of 40 simulated seconds each."""
        for seed in range(1, within + 1):
            values: dict[str, Any] = {"voters": 5, "learners": 0, "seconds": 40.0, "pace": 1.0} | given
            mix = LeadershipMix(seed=seed, faults=tuple(faults.split()), **values)
            try:
                LeadershipRun(mix, member_type, door_type).run()
            except LeadershipFailed as failed:
                self.assertIn(failed.invariant, invariants, str(failed))
                return
        self.fail(f"not caught within {within} seeds")

    def test_a_promise_is_forgotten_on_restart(self) -> None:
        class Forgetful(SimReplica):
            def stored(self) -> StoredReplica:
                kept = super().stored()
                return attrs.evolve(kept, hard=attrs.evolve(kept.hard, longest_lease_ms=0))

        self.assert_caught({"election.lease"}, 10, "storm alone pause-admin", member_type=Forgetful, voters=3)

    def test_the_lease_counts_from_the_receipt_of_grants(self) -> None:
        settle = Tenure.settle

        def from_receipt(tenure: Tenure, now: float) -> float | None:
            for number, each in list(tenure._rounds.items()):
                if len(each.granted) + 1 == each.roster.quorum:
                    tenure._rounds[number] = attrs.evolve(each, sent_at=now)
            return settle(tenure, now)

        self.patch(Tenure, "settle", from_receipt)
        self.assert_caught({"election.lease", "election.majority", "election.cut"}, 10, "alone spikes", spike=0.3)

    def test_the_lease_is_as_long_as_its_promise(self) -> None:
        self.patch(tenures, "lease_of", lambda lease_s: lease_s)
        self.assert_caught({"election.lease", "election.majority", "election.cut"}, 10, "alone clock", voters=3)

    def test_a_vote_is_not_durable(self) -> None:
        class Hasty(SimReplica):
            def _write(self, ticket: int, write: Any) -> None:
                super()._write(ticket, write)
                if isinstance(write, LogWrite) and write.hard_state is not None:
                    self.later(0.0, lambda: self._persisted(ticket))

        self.assert_caught({"election.durable"}, 2, "crash", member_type=Hasty)

    def test_entries_are_acknowledged_before_they_are_durable(self) -> None:
        class Hasty(SimReplica):
            def _write(self, ticket: int, write: Any) -> None:
                super()._write(ticket, write)
                if isinstance(write, LogWrite) and write.entries:
                    self.later(0.0, lambda: self._persisted(ticket))

        self.assert_caught({"election.durable", "ledger.durable"}, 2, "crash", member_type=Hasty)

    def test_a_transfer_leaves_before_the_lease_ends(self) -> None:
        lose = Election._lose

        def keep(election: Election, reason: str, now: float) -> None:
            if reason != "handed over":
                lose(election, reason, now)

        self.patch(Election, "_lose", keep)
        self.assert_caught({"election.lease"}, 2, "transfer")

    def test_a_majority_is_one_of_those_that_are_seen(self) -> None:
        self.patch(Roster, "quorum", property(lambda roster: len(roster.voters) // 2))
        self.assert_caught({"election.lease", "election.winner", "election.cut"}, 2, "partition crash", voters=3)

    def test_time_is_that_of_a_wall_clock(self) -> None:
        class WallClock(NodeClock):
            """Jumps whenever its rate is changed."""

            def set_drift(self, drift: int) -> None:
                super().set_drift(drift)
                self._base_node += random.Random(self._base_node).randint(-3, 3) * SECOND

        class OnWallTime(SimReplica):
            def __init__(self, site: ReplicaSite, number: int, disk: ReplicaDisk, clock: NodeClock) -> None:
                super().__init__(site, number, disk, WallClock(site.world, offset_ns=clock.node_ns))

        self.assert_caught(
            {"election.lease", "election.majority", "election.cut"}, 5, "clock alone", member_type=OnWallTime
        )

    def test_an_entry_of_an_older_term_is_committed_by_counting(self) -> None:
        def count(leading: Leading, now: float) -> None:
            local, roster = leading._local, leading._local.rosters.in_force
            matches = sorted((leading._match(voter) for voter in roster.voters), reverse=True)
            local.commit_to(max(local.commit, matches[roster.quorum - 1]))

        self.patch(Leading, "advance", count)
        self.assert_caught({"ledger.term", "ledger.prefix"}, 5, "crash-admin slow-disk loss", loss=0.1)

    def test_a_roster_governs_only_once_it_is_committed(self) -> None:
        self.patch(JournalCore, "roster", property(lambda journal: journal.committed_roster))
        # The admin would refuse most of the changes that go wrong, for want of voters that are up.
        self.patch(Election, "would_have_leases", lambda *_: True)
        self.assert_caught(
            {"election.lease", "election.winner", "ledger.prefix", "ledger.durable", "election.majority"},
            30,
            "roster alone crash-admin",
            learners=2,
        )

    def test_a_door_that_ignores_fences(self) -> None:
        class Open(FencedDoor):
            def refuses(self, token: Fence) -> bool:
                return False

        self.assert_caught({"election.fence"}, 5, "pause-admin crash-admin", door_type=Open)
