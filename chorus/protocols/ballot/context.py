"""Surroundings of one replica's election: who it is, its log, the rosters that it knows, and where its effects go."""

from __future__ import annotations

import random
from typing import Final, Protocol

import attrs

from chorus.bounded import Bounded
from chorus.errors import PeerError
from chorus.protocols.ballot.certificates import Signing
from chorus.protocols.ballot.effects import BallotOutbox, DoubleVote
from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.ballot.profiles import ElectionProfile
from chorus.protocols.ballot.roster import BadRoster, Roster, RosterSigning, Voter, read_roster

MAX_KNOWN_ROSTERS: Final = 16
"""Rosters that are remembered beside those of the log: whoever lags behind is shown the newest ones anew."""
MAX_EVIDENCE: Final = 64
"""Voters whose last vote is remembered: nine rosters without a voter in common."""


class OutOfTurn(PeerError):
    """A message of a peer that has no business here, or is forged; `reason` is counted."""

    code = "out_of_turn"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BallotLog(Protocol):
    """The log as an election sees it."""

    @property
    def last(self) -> LogPosition: ...

    @property
    def roster(self) -> Roster:
        """In force: the last one in the log, committed or not."""

    @property
    def committed_roster(self) -> Roster: ...

    def match(self, peer: str) -> int | None:
        """At the admin: the highest index that `peer` holds durably."""


class KnownRosters:
    """Rosters by their hash: those of the log, and those that peers showed with the authority's signature."""

    def __init__(self, log: BallotLog, authority: RosterSigning) -> None:
        self._log = log
        self._authority = authority
        self._shown: Bounded[bytes, Roster] = Bounded(MAX_KNOWN_ROSTERS)

    def note(self) -> None:
        """Remember the roster in force: certificates name it after another one has followed."""
        roster = self._log.roster
        if roster.sha256 not in self._shown:
            self._shown.put(roster.sha256, roster)

    def find(self, sha256: bytes) -> Roster | None:
        for each in (self._log.roster, self._log.committed_roster):
            if each.sha256 == sha256:
                return each
        return self._shown.get(sha256)

    def read(self, encoded: bytes) -> Roster:
        """A roster that a peer shows. Raises `OutOfTurn` for one of another cluster, or without a valid signature."""
        try:
            roster = read_roster(encoded)
        except BadRoster:
            raise OutOfTurn("bad_roster") from None
        if roster.cluster != self._log.roster.cluster:
            raise OutOfTurn("other_cluster")
        if self.find(roster.sha256) is None:
            if not self._authority.verify(roster):
                raise OutOfTurn("forged_roster")
            self._shown.put(roster.sha256, roster)
        return roster


class Evidence:
    """Finds voters that vote twice in one term."""

    def __init__(self, outbox: BallotOutbox) -> None:
        self._outbox = outbox
        self._votes: Bounded[str, tuple[int, str, bytes]] = Bounded(MAX_EVIDENCE)

    def note(self, voter: str, term: int, candidate: str, signature: bytes) -> None:
        """Remember a vote whose signature is verified."""
        known = self._votes.get(voter)
        if known is None or known[0] < term:
            self._votes.put(voter, (term, candidate, signature))
        elif known[0] == term and known[1] != candidate:
            self._outbox.report(DoubleVote(voter, term, (known[1], candidate), (known[2], signature)))


@attrs.frozen
class BallotContext:
    me: Voter
    profile: ElectionProfile
    log: BallotLog
    rosters: KnownRosters
    signing: Signing
    outbox: BallotOutbox
    rng: random.Random

    def lease_agrees(self, roster: Roster) -> bool:
        """False where this node is configured for another L: then it neither votes, grants nor stands."""
        return roster.lease_ms == self.profile.lease_ms

    def others(self, roster: Roster) -> list[str]:
        return [each.peer for each in roster.voters if each.peer != self.me.peer]
