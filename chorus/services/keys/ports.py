"""Roles and keys as other parts use them (spec/amendments.md 28, 36)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.identity import PeerId


class Keyring(Protocol):
    """The newest valid `roles.json`, and this node's own keys. Reads are immediate."""

    @property
    def epoch(self) -> int:
        """Grows by one with each rotation; 0 before there are roles."""

    @property
    def founder(self) -> PeerId | None:
        """May sign in the place of an author: it re-encrypts after a rotation."""

    @property
    def role(self) -> str:
        """The role that this node writes under: the highest granted one, else the base role."""

    def roles_of(self, peer: PeerId | str) -> frozenset[str]:
        """Roles that a peer may write under; empty for one that is not in `roles.json`."""

    def wrote_under(self, peer: PeerId | str) -> Mapping[str, int]:
        """Roles that a peer holds or held, each with the last epoch in which it did: what it wrote then stays valid."""

    def recipients(self, role: str) -> tuple[str, ...]:
        """age recipients of a role and of all roles that may read it, in the newest epoch. Raises `UnknownRole`."""

    def identities(self) -> tuple[str, ...]:
        """age identities of this node's roles, the newest epoch first."""

    def watch(self, changed: Callable[[], Deferred[None] | None]) -> None:
        """Call `changed` after each new `roles.json` and each new key; members are told that this node has it once all
        Deferreds have fired."""
