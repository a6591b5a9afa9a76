"""Decisions and contexts: their addresses, never what is in them (spec/system.md 9, 13; spec/ucxl.md)."""

from __future__ import annotations

from chorus.fields import Integer, OneOf, field
from chorus.fields.members import ADDRESS, COUNT, ID, NAME, NAMES, TEXT
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import COORDINATION, DECISIONS, ISSUE, PROJECT, ROLE

MAX_LEVELS = 16
"""Levels of a hierarchy of contexts that one request may walk."""


@payload(DECISIONS, PROJECT, ISSUE)
class DecisionAnnouncement(Payload):
    """A decision was published. Whoever may read it resolves the address."""

    address: str = field(ADDRESS, "Where it is.")


@payload(DECISIONS, PROJECT, ISSUE)
class DecisionVote(Payload):
    """An agent's or a person's opinion of a published decision."""

    address: str = field(ADDRESS, "The decision, by the hash of one version.")
    vote: str = field(OneOf(("for", "against", "abstain")), "A later vote of one sender replaces its earlier one.")
    reason: str = field(TEXT, "Why, in a sentence or two.", default="")
    person: str | None = field(NAME, "Who voted, where it was a person.", default=None)


@payload(COORDINATION, PROJECT, ISSUE)
class ContextRequest(Payload):
    """Somebody needs the context of an address. The admin answers with a ContextUpdate."""

    request_id: str = field(ID, "To tell requests apart.")
    address: str = field(ADDRESS, "What it is about.")
    levels: int = field(Integer(0, MAX_LEVELS), "Levels above it to take in.", default=0)
    purpose: str = field(TEXT, "What it is wanted for.", default="")


@payload(DECISIONS, ROLE, PROJECT, ISSUE)
class ContextUpdate(Payload):
    """The admin's context intelligence (SLURP) has something new on an address."""

    address: str = field(ADDRESS, "Where the context is.")
    change: str = field(OneOf(("created", "revised", "stale", "shared", "revoked")), "What happened to it.")
    roles: tuple[str, ...] = field(NAMES, "Roles that may read it.", default=())
    distance: int = field(COUNT, "Decisions between it and the newest that bears on it: 0 is current.", default=0)
    fence: str = field(ID, "Fencing token of the admin: an older one than the last is passed over.")
