"""Interfaces of parts that come later, with the plain implementations in use until then.

`Redactor` becomes SHHH, `EventLog` the signed log, `Roles` the certificates. Callers take one through their
constructor, so the real part replaces it without touching them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Document = dict[str, JSON]
Action = Literal["allow", "redact", "deny"]
"""The caller may use the value as it is, must use the redacted one, or must use none."""

V = TypeVar("V")
J = TypeVar("J", bound=JSON)


@attrs.frozen
class Finding:
    """Secrets of one kind at one place; never their text."""

    rule: str
    severity: str
    path: str
    """Of the value within the document, or the context of a plain text."""
    fingerprint: str
    """Keyed hash of the secret: the same secret has the same one at this node, and nobody can go back from it."""
    count: int = 1
    """Of the places under `path`."""


@attrs.frozen
class Redacted(Generic[V]):
    """A value without the secrets that were found in it."""

    value: V
    findings: tuple[Finding, ...] = ()
    action: Action = "allow"


class RedactorStream(Protocol):
    """Redacts one stream of output. A secret that a chunk may have begun is held back until it is decided."""

    def feed(self, data: bytes) -> Redacted[bytes]:
        """Take `data`; the bytes that may leave now."""
        ...

    def flush(self) -> Redacted[bytes]:
        """End the stream; the bytes that were held back."""
        ...


class Redactor(Protocol):
    """Redacts every payload before it reaches a log, a message, a decision or an artifact summary."""

    def redact(self, value: J, *, context: str) -> Redacted[J]:
        """The same text or JSON document, without secrets."""
        ...

    def stream(self, context: str) -> RedactorStream: ...


@attrs.frozen
class PassThrough:
    """The plain `Redactor` and `RedactorStream`: finds nothing and holds nothing back."""

    def redact(self, value: J, *, context: str) -> Redacted[J]:
        return Redacted(value)

    def stream(self, context: str) -> RedactorStream:
        return self

    def feed(self, data: bytes) -> Redacted[bytes]:
        return Redacted(data)

    def flush(self) -> Redacted[bytes]:
        return Redacted(b"")


@attrs.frozen(order=True)
class Position:
    """An entry's place in the log of one author."""

    author: str
    seq: int


class EventLog(Protocol):
    """Keeps the stable, documented events of a node (`task.completed`, `admin.changed`, …)."""

    def record(self, event: str, fields: Mapping[str, JSON]) -> Deferred[Position]:
        """Fires once the entry is durable."""
        ...


class Roles(Protocol):
    """Decides who may do what; roles come from the configuration until certificates carry them."""

    def is_member(self, peer_id: str) -> bool:
        """True if a peer belongs to the cluster, be it connected to us or not: asked of the author of each message."""
        ...

    def role_of(self, peer_id: str) -> str: ...

    def may(self, peer_id: str, action: str) -> bool:
        """True if a member's role allows `task.submit`, `task.cancel` or `task.assign`. Reading is no matter of roles:
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
