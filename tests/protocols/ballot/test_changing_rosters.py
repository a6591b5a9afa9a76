"""Who may lead under which roster: after a start in which nobody knows what is committed, and around a removal."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import attrs

from chorus.identity import Identity
from chorus.protocols.ballot.effects import HardState
from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.profiles import LAN
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.replica import Replica, ReplicaSettings, StoredReplica
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import EntryKind, LogEntry
from chorus.protocols.replication.refusals import RosterRefused
from tests.support import PureTestCase

CLUSTER = "ab" * 32
TERM = 3
VOTERS = sorted(Voter(str(Identity.generate().peer_id), f"{number:032x}") for number in range(4))


class PlainSigner:
    """Signatures that prove nothing to anybody outside a test."""

    def __init__(self, me: str) -> None:
        self._me = me

    def sign(self, statement: bytes) -> bytes:
        return self._of(self._me, statement)

    def verify(self, peer: str, statement: bytes, signature: bytes) -> bool:
        return signature == self._of(peer, statement)

    @staticmethod
    def _of(peer: str, statement: bytes) -> bytes:
        return hashlib.sha512(peer.encode() + statement).digest()


class PlainAuthority:
    def verify(self, roster: Roster) -> bool:
        return roster.signature == hashlib.sha512(roster.signed_part()).digest()

    def sign(self, roster: Roster) -> Roster | None:
        return attrs.evolve(roster, signature=hashlib.sha512(roster.signed_part()).digest())


def roster(epoch: int, voters: Sequence[Voter]) -> Roster:
    signed = PlainAuthority().sign(Roster(1, CLUSTER, epoch, LAN.lease_ms, tuple(voters)))
    assert signed is not None
    return signed


class Together:
    """Replicas whose writes are durable and whose messages arrive at once; `away` gets and says nothing."""

    def __init__(self, stored: StoredLog, voters: Sequence[Voter]) -> None:
        self.now = 100.0
        self.away: set[str] = set()
        self.cut: set[tuple[str, str]] = set()
        self.replicas = {
            voter.peer: Replica(
                voter,
                ReplicaSettings(LAN),
                StoredReplica(HardState(TERM, None, LAN.lease_ms), stored),
                PlainSigner(voter.peer),
                PlainAuthority(),
                random.Random(number),
                self.now,
            )
            for number, voter in enumerate(voters)
        }

    def run(self, seconds: float, step: float = 0.005) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for peer, replica in self.replicas.items():
                if peer not in self.away:
                    replica.tick(self.now)
            while any(self._step(peer) for peer in self.replicas):
                pass

    def _step(self, peer: str) -> bool:
        if peer in self.away:
            return False
        replica = self.replicas[peer]
        output = replica.drain()
        if output.write is not None:
            replica.persisted(output.write.ticket, self.now)
        for other, message in output.messages:
            if other in self.replicas and other not in self.away and (peer, other) not in self.cut:
                self.replicas[other].receive(peer, message, self.now)
        return bool(output.write or output.messages or output.events)

    def admins(self) -> list[str]:
        return [peer for peer, each in self.replicas.items() if peer not in self.away and each.holds(self.now)]


class GrownClusterTest(PureTestCase):
    """One founder, and two that joined it later: their rosters stand in the log, above the snapshot."""

    def stored(self, *steps: Sequence[Voter]) -> StoredLog:
        entries = [
            LogEntry(2 + at, TERM, EntryKind.ROSTER, roster(2 + at, voters).encode()) for at, voters in enumerate(steps)
        ]
        return StoredLog(LogPosition(TERM, 1), roster(1, VOTERS[:1]), tuple(entries))

    def test_one_that_the_snapshot_does_not_name_stays_admin(self) -> None:
        together = Together(self.stored(VOTERS[:2], VOTERS[:3]), VOTERS[:3])
        together.away = {VOTERS[0].peer}
        together.run(5)
        (admin,) = together.admins()
        term = together.replicas[admin].term
        together.run(5)
        self.assertEqual(together.admins(), [admin])
        self.assertEqual(together.replicas[admin].term, term)
        self.assertGreater(together.replicas[admin].commit, 3)

    def test_an_admin_keeps_its_own_vote(self) -> None:
        together = Together(self.stored(VOTERS[:2], VOTERS[:3]), VOTERS[:3])
        together.run(5)
        (admin,) = together.admins()
        left = [voter for voter in VOTERS[:3] if voter.peer != admin]
        error = self.assertRaises(RosterRefused, together.replicas[admin].propose_roster, left, together.now)
        self.assertIn("chorus admin transfer", str(error))


class RemovalTest(PureTestCase):
    def test_no_admin_dies_with_a_removal_that_only_the_removed_one_has(self) -> None:
        """It would not stand any more, and with its longer log it would vote for nobody."""
        together = Together(StoredLog(LogPosition(TERM, 1), roster(1, VOTERS)), VOTERS)
        together.run(5)
        (admin,) = together.admins()
        removed, *others = [voter for voter in VOTERS if voter.peer != admin]
        together.cut = {(admin, other.peer) for other in others}
        left = [voter for voter in VOTERS if voter != removed]
        together.replicas[admin].propose_roster(left, together.now)
        together.run(0.2)
        together.away, together.cut = {admin}, set()
        together.run(10)
        self.assertEqual(len(together.admins()), 1)

    def test_the_removed_one_hears_of_it_once_it_is_committed(self) -> None:
        together = Together(StoredLog(LogPosition(TERM, 1), roster(1, VOTERS)), VOTERS)
        together.run(5)
        (admin,) = together.admins()
        removed = next(voter for voter in VOTERS if voter.peer != admin)
        together.replicas[admin].propose_roster([voter for voter in VOTERS if voter != removed], together.now)
        together.run(5)
        self.assertEqual(together.replicas[removed.peer].role, "learner")
        self.assertEqual(together.admins(), [admin])
