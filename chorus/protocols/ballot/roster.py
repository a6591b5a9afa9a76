"""Rosters: who votes, in which epoch, and under which lease (spec/cluster.md, spec/election.md 4). Pure.

A roster is a journal entry. It governs votes, grants and commits from the moment that it is appended, committed or not.
The authority signs it at birth, so whoever is shown one can tell it from an invented one.
"""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from typing import Any, Final, Protocol, cast

import attrs

from chorus import strictjson
from chorus.errors import PeerError
from chorus.fields import Base64, Integer, ListOf, Object, Refusal, Text, field
from chorus.fields.members import PEER, SHA256

DOMAIN: Final = "chorus-roster/1"
SIZES: Final = (1, 3, 5, 7)
"""Voters of a settled roster; 2, 4 and 6 only in transit."""
MAX_VOTERS: Final = 7
MAX_ROSTER: Final = 4096
"""Bytes; seven voters have about 1,000."""
REMEMBERED: Final = 64
"""Rosters that were read last: candidates show the same few again and again. A quarter of a MiB at most."""
MIN_LEASE_MS: Final = 200
"""Under this the lease, less its margins for drift and timers, leaves no time for a round trip."""
MAX_LEASE_MS: Final = 60_000
STORE_ID: Final = Text(None, 32, "[0-9a-f]{32,64}", "a store id")


class BadRoster(PeerError):
    """Bytes that are no roster, or one that breaks its rules."""

    code = "bad_roster"


@attrs.frozen(order=True)
class Voter:
    """A member with a vote. A wiped or recovered store is another voter: it has forgotten its votes."""

    peer: str = field(PEER, "Peer id.")
    store: str = field(STORE_ID, "Store id, hexadecimal.")


@attrs.frozen(slots=False)
class Roster:
    """The voters of one epoch. `epoch` is the index of its entry, raised above all former ones by a recovery."""

    v: int = field(Integer(1, 1))
    cluster: str = field(SHA256)
    epoch: int = field(Integer(1, 2**53 - 1))
    lease_ms: int = field(Integer(MIN_LEASE_MS, MAX_LEASE_MS), "L: all voters keep the same one.")
    voters: tuple[Voter, ...] = field(ListOf(Object(Voter, closed=True), MAX_VOTERS))
    signature: bytes = field(Base64(64), default=b"")

    @cached_property
    def by_peer(self) -> dict[str, Voter]:
        return {each.peer: each for each in self.voters}

    @property
    def quorum(self) -> int:
        return len(self.voters) // 2 + 1

    @property
    def lease_s(self) -> float:
        return self.lease_ms / 1000

    def has(self, voter: Voter) -> bool:
        return self.by_peer.get(voter.peer) == voter

    @cached_property
    def _encoded(self) -> bytes:
        return strictjson.canonical(cast("Any", _ROSTER.write(self)))

    def encode(self) -> bytes:
        """Canonical JSON."""
        return self._encoded

    def signed_part(self) -> bytes:
        return attrs.evolve(self, signature=b"").encode()

    @cached_property
    def sha256(self) -> bytes:
        """Of its signed part: what votes, grants and certificates name."""
        return hashlib.sha256(self.signed_part()).digest()


class RosterSigning(Protocol):
    """The cluster's authority, as far as this node has it."""

    def verify(self, roster: Roster) -> bool:
        """Signed by the authority that this node knows."""

    def sign(self, roster: Roster) -> Roster | None:
        """The same with a signature; None where this node has no key of the authority."""


_ROSTER: Final = Object(Roster, closed=True)


@lru_cache(maxsize=REMEMBERED)
def read_roster(data: bytes) -> Roster:
    """Inverse of `Roster.encode`; its signature is not verified here. Raises `BadRoster`."""
    value = strictjson.loads(data, max_bytes=MAX_ROSTER, max_depth=4, error=BadRoster)
    try:
        roster = _ROSTER.read(value)
    except Refusal as refusal:
        raise BadRoster(refusal.rule("roster")) from None
    if roster.encode() != data:
        raise BadRoster("a roster that is not in canonical form")
    if not roster.voters or len(roster.by_peer) != len(roster.voters):
        raise BadRoster("a roster names each voter once, and at least one")
    if list(roster.voters) != sorted(roster.voters):
        raise BadRoster("the voters of a roster are in order of their peer ids")
    return roster
