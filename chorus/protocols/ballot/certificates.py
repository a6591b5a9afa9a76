"""Signed statements of an election, and the certificate of an office: the signed votes of a majority
(spec/election.md 4). Pure.

A statement is its kind and its fields, each with its length before it, so that none reads as another.
"""

from __future__ import annotations

from typing import Final, Protocol

from chorus.errors import PeerError
from chorus.multiformats import varint
from chorus.protocols.ballot.messages import OfficeCertificate, TransferNow
from chorus.protocols.ballot.roster import Roster

DOMAIN: Final = "chorus-vote/1"
"""Of the signatures, as `chorus.security.signing` separates them."""


class BadOffice(PeerError):
    """A certificate that proves no office under its roster."""

    code = "bad_office"


class Signing(Protocol):
    """Signatures of this node, and of any peer."""

    def sign(self, statement: bytes) -> bytes: ...

    def verify(self, peer: str, statement: bytes, signature: bytes) -> bool: ...


def _statement(*fields: str | bytes | int) -> bytes:
    joined = bytearray()
    for each in fields:
        raw = each if isinstance(each, bytes) else str(each).encode()
        joined += varint.encode(len(raw)) + raw
    return bytes(joined)


def vote_statement(roster: Roster, term: int, candidate: str) -> bytes:
    return _statement("vote", roster.cluster, roster.epoch, term, candidate, roster.sha256)


def grant_statement(roster: Roster, term: int, admin: str, round: int, nonce: int) -> bytes:
    return _statement("grant", roster.cluster, roster.epoch, term, admin, roster.sha256, round, nonce)


def transfer_statement(cluster: str, transfer: TransferNow) -> bytes:
    return _statement("transfer", cluster, transfer.epoch, transfer.term, transfer.admin, transfer.target)


def verify_office(certificate: OfficeCertificate, roster: Roster, signing: Signing) -> None:
    """Verify that `certificate` holds the votes of a majority of `roster`. Raises `BadOffice`."""
    if certificate.epoch != roster.epoch or certificate.roster_sha256 != roster.sha256:
        raise BadOffice("a certificate of another roster")
    if certificate.admin not in roster.by_peer:
        raise BadOffice("an admin that is no voter")
    voters = [voter for voter, _ in certificate.votes]
    if len(set(voters)) != len(voters) or not set(voters) <= set(roster.by_peer):
        raise BadOffice("votes of others than voters, or twice the same")
    if len(voters) < roster.quorum:
        raise BadOffice(f"{len(voters)} votes of {len(roster.voters)} voters are no majority")
    statement = vote_statement(roster, certificate.term, certificate.admin)
    if not all(signing.verify(voter, statement, signature) for voter, signature in certificate.votes):
        raise BadOffice("a vote whose signature is wrong")
