"""Signatures of tier D: keyed hashes that everybody can check and nobody here forges. Never used outside it."""

from __future__ import annotations

from hashlib import blake2b

import attrs

from chorus.protocols.ballot.roster import Roster


def _mark(name: str, statement: bytes) -> bytes:
    return blake2b(statement, key=name.encode()[:64], digest_size=32).digest()


@attrs.frozen
class SimSigning:
    """Signs as `peer`."""

    peer: str

    def sign(self, statement: bytes) -> bytes:
        return _mark(self.peer, statement)

    def verify(self, peer: str, statement: bytes, signature: bytes) -> bool:
        return signature == _mark(peer, statement)


class SimAuthority:
    """The cluster's authority; every node of a simulation has its key."""

    def sign(self, roster: Roster) -> Roster | None:
        return attrs.evolve(roster, signature=_mark("authority", roster.signed_part()))

    def verify(self, roster: Roster) -> bool:
        return roster.signature == _mark("authority", roster.signed_part())
