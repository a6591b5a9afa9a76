"""The admin's side of its lease: rounds of heartbeats and their grants (spec/election.md 4). Pure.

A round counts from the moment before it was sent, and for the roster that was in force then. The lease that a majority
of its voters granted ends X later.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from chorus.protocols.ballot.certificates import grant_statement
from chorus.protocols.ballot.context import BallotContext, OutOfTurn
from chorus.protocols.ballot.messages import Grant, Heartbeat, OfficeCertificate, TransferNow
from chorus.protocols.ballot.profiles import lease_of
from chorus.protocols.ballot.roster import Roster

NONCE_BITS: Final = 62
"""Of a nonce: no two starts draw the same, and it fits each integer on the wire."""


@attrs.frozen
class Round:
    sent_at: float
    roster: Roster
    own_after: int
    """The ticket after which this node's own grant counts."""
    granted: set[str] = attrs.field(factory=set)


class Tenure:
    """One office of this node, from its votes on."""

    def __init__(
        self,
        context: BallotContext,
        certificate: OfficeCertificate,
        roster: Roster,
        transfer: TransferNow | None,
        now: float,
    ) -> None:
        self._context = context
        self._roster = roster
        self._transfer = transfer
        self._first_lease_by = now + roster.lease_s
        self._nonce = context.rng.getrandbits(NONCE_BITS)
        self._number = 0
        self._rounds: dict[int, Round] = {}
        self._granted_under: dict[str, set[bytes]] = {}
        """Rosters under which each peer has granted in this term: it knows them, and has seen the certificate."""
        self._asked: set[str] = set()
        """Peers that were sent a heartbeat: voters, and learners that shall become some."""
        self._settled: tuple[int, bytes] = (0, b"")
        self.certificate = certificate
        self.lease_until = -math.inf

    @property
    def expires(self) -> float:
        """The end of the lease, or of the wait for the first one."""
        return self.lease_until if self.has_lease else self._first_lease_by

    @property
    def has_lease(self) -> bool:
        return self.lease_until > -math.inf

    def is_settled(self, roster: Roster) -> bool:
        """True once a majority of `roster` granted a round that was sent under it.

        Only then may another roster follow: two rosters that follow each other share a voter in all their majorities,
        and a lease must never be older than the roster before the one in force.
        """
        return self._settled[1] == roster.sha256

    def granters(self) -> set[str]:
        """Who granted a round of this lease, learners included: they are up, and agree on its length."""
        return {peer for each in self._rounds.values() for peer in each.granted}

    def open_round(self, now: float, own_after: int) -> Round:
        self._number += 1
        opened = Round(now, self._context.log.roster, own_after)
        self._rounds[self._number] = opened
        return opened

    def heartbeat(self, peer: str) -> Heartbeat:
        """This round's, for `peer`."""
        roster = self._rounds[self._number].roster
        self._asked.add(peer)
        known = self._granted_under.get(peer)
        shown = [] if known and roster.sha256 in known else [roster]
        if not known and self._roster.sha256 != roster.sha256:
            shown.append(self._roster)
        return Heartbeat(
            self.certificate.term,
            roster.epoch,
            roster.sha256,
            self._number,
            self._nonce,
            None if known else self.certificate,
            tuple(each.encode() for each in shown),
            None if known else self._transfer,
        )

    def receive(self, peer: str, grant: Grant) -> Round | None:
        """The round that `grant` is for, if it is granted. Raises `OutOfTurn` for a forged one, or of a peer that was
        not asked."""
        number = self._rounds.get(grant.round)
        if grant.nonce != self._nonce or number is None:
            return None
        if not grant.granted:
            self._granted_under.pop(peer, None)
            return None
        if peer == self._context.me.peer or (peer not in number.roster.by_peer and peer not in self._asked):
            raise OutOfTurn("not_a_voter")
        term, me = self.certificate.term, self._context.me.peer
        statement = grant_statement(number.roster, term, me, grant.round, grant.nonce)
        if not self._context.signing.verify(peer, statement, grant.signature):
            raise OutOfTurn("forged_grant")
        self._granted_under.setdefault(peer, set()).add(number.roster.sha256)
        number.granted.add(peer)
        return number

    def settle(self, now: float) -> float | None:
        """Count the rounds; returns until when this node is promised to itself, if a lease was made longer."""
        promised = None
        for number, each in list(self._rounds.items()):
            until = each.sent_at + lease_of(each.roster.lease_s)
            if until <= now:
                del self._rounds[number]
                continue
            if each.roster.has(self._context.me) and self._context.outbox.durable >= each.own_after:
                each.granted.add(self._context.me.peer)
            if len(each.granted & each.roster.by_peer.keys()) < each.roster.quorum:
                continue
            self._settled = max(self._settled, (number, each.roster.sha256))
            if until > self.lease_until:
                self.lease_until = until
                promised = each.sent_at + each.roster.lease_s
        return promised
