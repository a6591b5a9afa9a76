"""Invariants of the election while true time is known (spec/election.md 6). Looks and changes nothing.

`election.winner`, `election.vote` (1), `election.lease` (2), `election.majority` (3), `election.cut` (4),
`election.falls` (5), `election.fence` (6, in `doors`), `election.durable` (durable before reply).
Those of the journal are in `ledger`. Liveness (7 to 9) is checked by the run, after it has healed everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from chorus.protocols.ballot.certificates import BadOffice, verify_office
from chorus.protocols.ballot.effects import AdminKnown, DoubleVote, OfficeLost, OfficeWon
from chorus.protocols.ballot.messages import Grant, OfficeCertificate, PreVoteReply, TransferNow, Vote
from chorus.protocols.ballot.profiles import RHO, lease_of
from chorus.protocols.ballot.roster import Roster, Voter
from chorus.protocols.replication.messages import AppendReply
from chorus.protocols.replication.outbox import RosterChanged
from chorus.simulation.invariants.observers import Judge
from chorus.simulation.leadership.face import MemberFace
from chorus.simulation.leadership.ledger import ReplicaLedger
from chorus.simulation.leadership.signer import SimSigning
from chorus.simulation.world import SECOND, World

if TYPE_CHECKING:
    from chorus.protocols.replication.messages import LogEntry
    from chorus.simulation.leadership.storage import ReplicaSnapshot
    from chorus.tasks.applied import Applied
    from chorus.tasks.journal import Fence

BEGINNING: Final = -(10**18)


class LeadershipWatch:
    """`tame`: clocks keep their bound, so leases must not overlap."""

    def __init__(self, world: World, judge: Judge, genesis: Roster, *, tame: bool) -> None:
        self.counters: Counter[str] = Counter()
        self.judge = judge
        self.members: list[MemberFace] = []
        self.ledger = ReplicaLedger(judge, self.counters, self.members)
        self.rosters: dict[bytes, Roster] = {genesis.sha256: genesis}
        self.winners: dict[int, str] = {}
        """By term."""
        self.tokens: list[Fence] = []
        """Of offices that began, in order."""
        self._world = world
        self._tame = tame
        self._votes: dict[tuple[Voter, int], str] = {}
        self._grants: dict[tuple[str, str], int] = {}
        """When a voter last sent a grant to an admin, true time; by names."""
        self._shown: dict[Voter, int] = {}
        """The highest term that a store has shown to others."""
        self._terms: dict[str, int] = {}
        """Of this start."""
        self._reach: dict[str, tuple[int, Roster]] = {}
        """Members behind a cut without a majority: since when, and the roster that they knew."""
        self._sent: dict[type, Callable[[MemberFace, str, Any], None]] = {
            Vote: self._voted,
            Grant: self._granted,
            PreVoteReply: self._pre_voted,
            AppendReply: self._appended,
            TransferNow: self._transfer,
        }

    # From the members

    def started(self, member: MemberFace) -> None:
        replica = member.replica
        assert replica is not None
        self.counters["starts"] += 1
        shown = self._shown.get(member.voter, 0)
        if replica.term < shown:
            self.judge.accuse("election.falls", f"{member} began at term {replica.term} after it had shown {shown}")
        self._terms[member.peer] = replica.term
        self.ledger.started(member)

    def sent(self, member: MemberFace, peer: str, message: object) -> None:
        check = self._sent.get(type(message))
        if check is not None:
            check(member, peer, message)

    def event(self, member: MemberFace, event: object) -> None:
        if isinstance(event, OfficeWon):
            self._won(member, event.certificate)
        elif isinstance(event, OfficeLost):
            self.counters["offices lost"] += 1
            self.counters[f"lost: {event.reason}"] += 1
        elif isinstance(event, RosterChanged):
            self.rosters[event.roster.sha256] = event.roster
            self.counters["rosters committed" if event.committed else "rosters appended"] += 1
        elif isinstance(event, DoubleVote):
            self.judge.accuse("election.vote", f"{member} has evidence: {event}")
        elif isinstance(event, AdminKnown):
            self.counters["admins known"] += event.peer is not None
        elif type(event).__name__ == "LogContradiction":
            self.judge.accuse("ledger.prefix", f"{member} was sent a contradiction: {event}")

    def after(self, member: MemberFace) -> None:
        """Called after everything that happens to a member."""
        replica = member.replica
        if replica is None:
            return
        before, self._terms[member.peer] = self._terms.get(member.peer, 0), replica.term
        if replica.term < before:
            self.judge.accuse("election.falls", f"{member} fell from term {before} to {replica.term}")
        if member.leases():
            self._leased(member)

    def applied(self, member: MemberFace, entry: LogEntry, applied: Applied | None) -> None:
        self.ledger.applied(member, entry, applied)

    def acknowledged(self, member: MemberFace, entry: LogEntry) -> None:
        self.ledger.acknowledged(member, entry)

    def snapshot(self, member: MemberFace, snapshot: ReplicaSnapshot) -> None:
        self.counters["snapshots"] += 1
        self.ledger.snapshot(member, snapshot)

    def began(self, member: MemberFace, token: Fence) -> None:
        """The own no-op is applied: leader-only parts begin with this token."""
        self.counters["offices begun"] += 1
        if self.tokens and token <= self.tokens[-1] and member.holds():
            self.judge.accuse("election.falls", f"{member} begins with {token} after {self.tokens[-1]}")
        if member.holds():
            self.tokens.append(token)

    # Messages

    def _show(self, member: MemberFace, term: int) -> None:
        if term > self._shown.get(member.voter, 0):
            self._shown[member.voter] = term

    def _voted(self, member: MemberFace, peer: str, message: Vote) -> None:
        self._show(member, message.own_term)
        if not message.granted:
            self.counters["votes refused"] += 1
            return
        self.counters["votes"] += 1
        before = self._votes.setdefault((member.voter, message.term), peer)
        if before != peer:
            self.judge.accuse("election.vote", f"{member} voted for {before} and {peer} in term {message.term}")
        kept = member.disk.image.hard_state
        if kept.term < message.term or (kept.term == message.term and kept.voted_for != peer):
            self.judge.accuse("election.durable", f"{member} voted for {peer} in {message.term}; durable is {kept}")

    def _granted(self, member: MemberFace, peer: str, message: Grant) -> None:
        self._show(member, message.own_term)
        if not message.granted:
            self.counters["grants refused"] += 1
            return
        self._grants[member.peer, peer] = self._world.now_ns
        kept = member.disk.image.hard_state.longest_lease_ms
        if kept < member.profile.lease_ms:
            self.judge.accuse("election.durable", f"{member} granted a lease that it may forget: {kept} ms are durable")

    def _pre_voted(self, member: MemberFace, peer: str, message: PreVoteReply) -> None:
        self.counters[f"pre-vote: {message.answer}"] += 1

    def _appended(self, member: MemberFace, peer: str, message: AppendReply) -> None:
        self._show(member, message.term)
        if message.ok and member.disk.image.last.index < message.match:
            last = member.disk.image.last.index
            self.judge.accuse("election.durable", f"{member} says {message.match} and has {last} on its disk")

    def _transfer(self, member: MemberFace, peer: str, message: TransferNow) -> None:
        self.counters["transfers sent"] += 1
        if member.leases():
            self.judge.accuse("election.lease", f"{member} handed over while its lease ran")

    # Offices and leases

    def _won(self, member: MemberFace, certificate: OfficeCertificate) -> None:
        self.counters["leases"] += 1
        before = self.winners.setdefault(certificate.term, certificate.admin)
        if before != certificate.admin or certificate.admin != member.peer:
            self.judge.accuse("election.winner", f"{before} and {member} won term {certificate.term}")
        roster = self.rosters.get(certificate.roster_sha256)
        if roster is None:
            self.judge.accuse("election.winner", f"{member} won under a roster that nobody appended")
            return
        try:
            verify_office(certificate, roster, SimSigning(member.peer))
        except BadOffice as error:
            self.judge.accuse("election.winner", f"{member} won term {certificate.term}: {error}")

    def _leased(self, member: MemberFace) -> None:
        if not self._tame:
            return
        for other in self.members:
            if other is not member and other.leases():
                terms = [one.replica.term for one in (member, other) if one.replica is not None]
                self.judge.accuse("election.lease", f"{member} and {other} have leases at once, in terms {terms}")
        replica = member.replica
        assert replica is not None
        roster = replica.roster
        lease = roster.lease_s
        since = self._world.now_ns - round(lease * SECOND)
        names = [each.peer for each in roster.voters]
        granted = sum(
            name == member.peer or self._grants.get((name, member.peer), BEGINNING) >= since for name in names
        )
        # One voter may have been added since the round.
        if granted < roster.quorum - (1 if len(names) % 2 == 0 else 0):
            detail = f"{member} has a lease with {granted} grants of {len(names)} voters"
            self.judge.accuse("election.majority", detail)
        cut = self._reach.get(member.peer)
        if cut is not None and self._world.now_ns > cut[0] + round(lease_of(lease) / (1 - RHO) * SECOND):
            self.judge.accuse("election.cut", f"{member} has a lease without a majority since {cut[0] / SECOND:.3f} s")

    # Cuts

    def cut_off(self, peers: list[str]) -> Callable[[], None]:
        """These members reach nobody else from now on; returns what ends that."""
        now = self._world.now_ns
        named = set(peers)
        gone: list[str] = []
        for member in self.members:
            if member.peer in named and member.replica is not None and member.peer not in self._reach:
                roster = member.replica.roster
                # One voter may yet be removed or added behind the cut, but nothing is committed there.
                inside = sum(each.peer in named for each in roster.voters)
                if len(roster.voters) > 2 and (inside < roster.quorum - 1 or len(named) == 1):
                    self._reach[member.peer] = (now, roster)
                    gone.append(member.peer)

        def over() -> None:
            for peer in gone:
                self._reach.pop(peer, None)

        return over
