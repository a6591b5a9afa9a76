"""Messages of `/chorus/election/1.0.0`: pre-votes, votes, heartbeats and their grants, transfer (spec/election.md 4).

The sender of each is the peer at the other end of the authenticated channel. Votes and grants are signed as well: a
majority of signed votes is the certificate of an office.
"""

from __future__ import annotations

from typing import Literal

import attrs

Answer = Literal["yes", "no", "wait"]
"""To a pre-vote; `wait` means that a better member lives and has not stood yet."""


@attrs.frozen(order=True)
class LogPosition:
    """The last entry of a log: compared as Raft compares candidates."""

    term: int = 0
    index: int = 0


@attrs.frozen
class TransferNow:
    """The admin hands its office to `target`: it ended its lease before it sent this. Signed by it."""

    epoch: int
    term: int
    admin: str
    target: str
    signature: bytes = b""


@attrs.frozen
class PreVote:
    """Would you vote for me in `term`? Changes no state."""

    term: int
    roster: bytes
    """The candidate's, encoded with the authority's signature: a voter that lags behind can tell that it has a vote."""
    last: LogPosition
    score: int
    transfer: TransferNow | None = None


@attrs.frozen
class PreVoteReply:
    term: int
    """Of the candidacy that is answered."""
    own_term: int
    answer: Answer


@attrs.frozen
class RequestVote:
    term: int
    roster: bytes
    last: LogPosition
    transfer: TransferNow | None = None


@attrs.frozen
class Vote:
    """The answer to `RequestVote`; `signature` covers `certificates.vote_statement` and is empty in a refusal."""

    term: int
    own_term: int
    granted: bool
    signature: bytes = b""


@attrs.frozen
class OfficeCertificate:
    """Signed votes of a majority: proof that `admin` won `term` under the roster of `epoch`."""

    epoch: int
    term: int
    admin: str
    roster_sha256: bytes
    votes: tuple[tuple[str, bytes], ...]
    """(voter, signature), in order of voters."""


@attrs.frozen
class Heartbeat:
    """The admin asks for a grant of its lease. `nonce` is drawn at each start and win: a round number of another start
    never counts."""

    term: int
    epoch: int
    roster_sha256: bytes
    round: int
    nonce: int
    certificate: OfficeCertificate | None = None
    """In the first rounds of a term, and whenever the peer has not granted in this term yet."""
    rosters: tuple[bytes, ...] = ()
    """Encoded: those that the certificate and this round name, as long as the peer has not granted under them."""
    transfer: TransferNow | None = None
    """Beside the certificate, where the office was handed over: it ends the peer's promise to the admin before."""


@attrs.frozen
class Grant:
    """The answer to a heartbeat. Granted: the voter gives no vote or pre-vote to another node for L from now."""

    own_term: int
    round: int
    nonce: int
    granted: bool
    score: int
    signature: bytes = b""


ElectionMessage = PreVote | PreVoteReply | RequestVote | Vote | Heartbeat | Grant | TransferNow
