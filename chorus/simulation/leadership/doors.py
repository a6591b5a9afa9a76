"""Things outside the cluster that admins act upon: each remembers the highest fence that it has seen and refuses lower.

The admin checks its lease, may be stopped between that and the act, and its message may be late: only the fence at the
door keeps two admins apart then (`election.fence`, spec/election.md 6).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from chorus.protocols.ballot.certificates import BadOffice, verify_office
from chorus.protocols.ballot.messages import OfficeCertificate
from chorus.simulation.leadership.face import MemberFace
from chorus.simulation.leadership.signer import SimSigning
from chorus.simulation.leadership.watch import LeadershipWatch
from chorus.simulation.world import World, nanoseconds
from chorus.tasks.journal import Fence

DOORS: Final = 2
BETWEEN_S: Final = 0.4
"""Seconds between two acts of an admin on average."""
HESITATE: Final = 0.1
"""Share of acts before which the machine is stopped, after the check."""
LATE_S: Final = 2.0
"""Seconds that an act is on its way at most."""


class FencedDoor:
    """Opens for a certified admin whose fence is not lower than one before."""

    def __init__(self, watch: LeadershipWatch) -> None:
        self.highest: Fence | None = None
        self._watch = watch
        self._effects: list[Fence] = []

    def knock(self, token: Fence, certificate: OfficeCertificate) -> None:
        self._watch.counters["acts"] += 1
        if not self._certified(token, certificate):
            self._watch.counters["acts uncertified"] += 1
            return
        if self.refuses(token):
            self._watch.counters["acts fenced off"] += 1
            return
        self.highest = token
        if self._effects and token < self._effects[-1]:
            detail = f"an act under {token} took effect after one under {self._effects[-1]}"
            self._watch.judge.accuse("election.fence", detail)
        self._effects.append(token)

    def refuses(self, token: Fence) -> bool:
        return self.highest is not None and token < self.highest

    def _certified(self, token: Fence, certificate: OfficeCertificate) -> bool:
        roster = self._watch.rosters.get(certificate.roster_sha256)
        if roster is None or certificate.term != token.term:
            return False
        try:
            verify_office(certificate, roster, SimSigning(certificate.admin))
        except BadOffice:
            return False
        return True


class AdminActs:
    """Has every member that holds the office act now and then."""

    def __init__(self, world: World, members: Sequence[MemberFace], doors: list[FencedDoor], *, hesitate: bool) -> None:
        self._world = world
        self._members = members
        self._doors = doors
        self.hesitate = hesitate
        self._rng: random.Random = world.rng("acts")
        self._turn()

    def _turn(self) -> None:
        for member in self._members:
            if not member.paused and member.holds() and member.token is not None and member.office is not None:
                self._act(member, member.token, member.office)
        self._world.after(nanoseconds(self._rng.expovariate(1 / BETWEEN_S)), self._turn)

    def _act(self, member: MemberFace, token: Fence, office: OfficeCertificate) -> None:
        door = self._rng.choice(self._doors)

        def act() -> None:
            delay = self._rng.random() ** 4 * LATE_S
            self._world.after(nanoseconds(delay), lambda: door.knock(token, office))

        if self.hesitate and self._rng.random() < HESITATE:
            standstill = self._rng.uniform(0.1, 2.5) * member.profile.lease_s
            member.pause(standstill)
            start = member.starts

            def late() -> None:
                if member.starts == start:
                    act()

            # Right when it goes on, before anything else reaches it.
            self._world.after(nanoseconds(standstill), late)
        else:
            act()
