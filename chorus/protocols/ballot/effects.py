"""Effects of an election: what a voter must keep, what has happened, and the outbox that takes both. Pure.

`replication/outbox.py` takes those of the journal as well, and keeps all of them in order.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from chorus.protocols.ballot.messages import ElectionMessage, OfficeCertificate


@attrs.frozen
class HardState:
    """State that a voter never forgets. `longest_lease_ms` is the longest L that it ever granted under."""

    term: int = 0
    voted_for: str | None = None
    longest_lease_ms: int = 0


@attrs.frozen
class OfficeWon:
    """This node is admin of `certificate`, with a first lease; leader-only parts begin once its no-op is applied."""

    certificate: OfficeCertificate
    noop_index: int


@attrs.frozen
class OfficeLost:
    reason: str


@attrs.frozen
class AdminKnown:
    """Another admin, or none (`peer` None: the promise has run out)."""

    term: int
    peer: str | None


@attrs.frozen
class DoubleVote:
    """Evidence: two votes that one voter signed in one term."""

    voter: str
    term: int
    candidates: tuple[str, str]
    signatures: tuple[bytes, bytes]


BallotEvent = OfficeWon | OfficeLost | AdminKnown | DoubleVote


class BallotOutbox(Protocol):
    """The outbox of a replica, as its election uses it."""

    @property
    def ticket(self) -> int:
        """Of the newest write."""

    @property
    def durable(self) -> int:
        """Writes up to this ticket are durable."""

    def keep(self, state: HardState) -> None: ...

    def send(self, peer: str, message: ElectionMessage, *, after_writes: bool = True) -> None:
        """`after_writes`: once all writes up to now are durable."""

    def report(self, event: BallotEvent) -> None: ...
