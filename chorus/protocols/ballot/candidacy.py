"""One candidacy: its pre-votes, then its votes. Pure."""

from __future__ import annotations

from typing import Final

from chorus.protocols.ballot.messages import OfficeCertificate, TransferNow
from chorus.protocols.ballot.roster import Roster

NOT_YET: Final = -1


class OwnCandidacy:
    """Of this node for `term`, under the roster that was in force when it began."""

    def __init__(self, term: int, roster: Roster, transfer: TransferNow | None, deadline: float) -> None:
        self.term = term
        self.roster = roster
        self.transfer = transfer
        self.deadline = deadline
        self.supporters: set[str] = set()
        """By pre-votes."""
        self.own_vote: int = NOT_YET
        """The ticket after which this node's own vote is durable; `NOT_YET` while pre-votes are asked for."""
        self.votes: dict[str, bytes] = {}
        """Verified signatures by voter."""

    @property
    def voting(self) -> bool:
        return self.own_vote != NOT_YET

    @property
    def supported(self) -> bool:
        return len(self.supporters) >= self.roster.quorum

    @property
    def won(self) -> bool:
        return len(self.votes) >= self.roster.quorum

    def certificate(self, me: str) -> OfficeCertificate:
        """Proof of the office that `me` has won."""
        votes = tuple(sorted(self.votes.items()))
        return OfficeCertificate(self.roster.epoch, self.term, me, self.roster.sha256, votes)
