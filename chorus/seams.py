"""Seams of parts that come later: their interface and the plain implementation in use until then.

`Redactor` becomes SHHH, `EventLog` the signed log, `Roles` the certificates. Callers take one through their
constructor, so the real part replaces it without touching them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Document = dict[str, JSON]


@attrs.frozen
class Finding:
    """A secret that a rule saw: where, never what."""

    rule: str
    severity: str
    path: str


class Redactor(Protocol):
    """Sees every payload before it reaches a log, a message, a decision or an artifact summary."""

    def redact(self, text: str, *, context: str) -> tuple[str, tuple[Finding, ...]]:
        """Return the text fit to leave, and what was taken out of it."""
        ...


@attrs.frozen
class PassThrough:
    """The plain `Redactor`: everything passes, nothing is found."""

    def redact(self, text: str, *, context: str) -> tuple[str, tuple[Finding, ...]]:
        return text, ()


class EventLog(Protocol):
    """Keeps the stable, documented events of a node (`task.completed`, `admin.changed`, …)."""

    def record(self, event: str, fields: Mapping[str, JSON]) -> None: ...


class Roles(Protocol):
    """Who may do what; roles come from the configuration until certificates carry them."""

    def is_member(self, peer_id: str) -> bool:
        """Whether a peer belongs to the cluster, be it connected to us or not: asked of the author of each message."""
        ...

    def role_of(self, peer_id: str) -> str: ...

    def may(self, peer_id: str, action: str) -> bool:
        """Whether a member's role allows `task.submit`, `task.cancel` or `task.assign`. Reading is no matter of roles:
        every member may."""
        ...


@attrs.frozen
class MembersMayAll:
    """The plain `Roles`: every admitted member has the base role and may submit, read and cancel.

    Without certificates nobody can say of a peer that is not connected whether it is a member: everybody is taken for
    one, on the word of the members that pass its messages on.
    """

    base_role: str = "agent"

    def is_member(self, peer_id: str) -> bool:
        return True

    def role_of(self, peer_id: str) -> str:
        return self.base_role

    def may(self, peer_id: str, action: str) -> bool:
        return True
