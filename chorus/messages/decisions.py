"""Decisions and contexts: their addresses, never what is in them (spec/system.md 9, 13; spec/ucxl.md)."""

from __future__ import annotations

from typing import ClassVar

import attrs

from chorus.messages.fields import ADDRESS, COUNT, ID, NAME, NAMES, TEXT, Integer, OneOf, field
from chorus.messages.topics import COORDINATION, DECISIONS, ISSUE, PROJECT, ROLE

MAX_LEVELS = 16
"""Levels of a hierarchy of contexts that one request may walk."""


@attrs.frozen(kw_only=True)
class DecisionAnnouncement:
    """A decision was published. Whoever may read it resolves the address."""

    TYPE: ClassVar[str] = "DecisionAnnouncement"
    TOPICS: ClassVar[tuple[str, ...]] = (DECISIONS, PROJECT, ISSUE)

    address: str = field(ADDRESS, "Where it is.")


@attrs.frozen(kw_only=True)
class DecisionVote:
    """What an agent or a person thinks of a published decision."""

    TYPE: ClassVar[str] = "DecisionVote"
    TOPICS: ClassVar[tuple[str, ...]] = (DECISIONS, PROJECT, ISSUE)

    address: str = field(ADDRESS, "The decision, by the hash of one version.")
    vote: str = field(OneOf(("for", "against", "abstain")), "A later vote of one sender replaces its earlier one.")
    reason: str = field(TEXT, "Why, in a sentence or two.", default="")
    person: str | None = field(NAME, "Who voted, where it was a person.", default=None)


@attrs.frozen(kw_only=True)
class ContextUpdate:
    """The admin's context intelligence (SLURP) has something new on an address."""

    TYPE: ClassVar[str] = "ContextUpdate"
    TOPICS: ClassVar[tuple[str, ...]] = (DECISIONS, ROLE, PROJECT, ISSUE)

    address: str = field(ADDRESS, "Where the context is.")
    change: str = field(OneOf(("created", "revised", "stale", "shared", "revoked")), "What happened to it.")
    roles: tuple[str, ...] = field(NAMES, "Roles that may read it.", default=())
    distance: int = field(COUNT, "Decisions between it and the newest that bears on it: 0 is current.", default=0)
    fence: str = field(ID, "Fencing token of the admin: an older one than the last is passed over.")


@attrs.frozen(kw_only=True)
class ContextRequest:
    """Somebody needs the context of an address. The admin answers with a ContextUpdate."""

    TYPE: ClassVar[str] = "ContextRequest"
    TOPICS: ClassVar[tuple[str, ...]] = (COORDINATION, PROJECT, ISSUE)

    request_id: str = field(ID, "To tell requests apart.")
    address: str = field(ADDRESS, "What it is about.")
    levels: int = field(Integer(0, MAX_LEVELS), "Levels above it to take in.", default=0)
    purpose: str = field(TEXT, "What it is wanted for.", default="")
