"""Questions to the memory and their answers, as values. Pure."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.errors import UserError
from chorus.ucxl.address import PARTS, TEMPORAL, Address, AddressError, First, Latest, Temporal, exact
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Head, Version
from chorus.ucxl.words import words

MAX_QUERY_WORDS: Final = 8
"""Words of one search; each costs a look-up for every row that is looked at."""


class UnknownDecision(UserError):
    """Nothing is known under the address, or not the version asked for."""

    code = "unknown_decision"
    http_status = 404


class ChainGap(UnknownDecision):
    """A version that the one after it names cannot be had: nobody has it, nobody can be asked, or it is damaged."""

    def __init__(self, content: str) -> None:
        super().__init__(f"the chain names a version ={content}, which cannot be had now")
        self.content = content


@attrs.frozen(kw_only=True)
class FoundDecision:
    """One version. Whoever may not read it sees all but `record`."""

    address: str
    """Without the version."""
    seq: int
    content: str
    """Content hash, hexadecimal."""
    time: int
    """When it was made; where this node may not read it, when it learned of it. Unix seconds."""
    record: Decision | None = None
    head: Head | None = None
    version: Version | None = None


class DecisionUnreadable(UserError):
    """This node holds no role that the decision was encrypted for."""

    code = "decision_unreadable"
    http_status = 403

    def __init__(self, found: FoundDecision) -> None:
        super().__init__(f"this node holds no role that may read {exact(found.address, found.content)}")
        self.found = found


@attrs.frozen(kw_only=True)
class DecisionHistory:
    """Versions under one address, the newest first."""

    address: str
    versions: tuple[FoundDecision, ...]
    heads: tuple[Head, ...] = ()
    """All that holders and the index have of the newest number; two are a fork."""
    next: str | None = None
    """`after` of the next page."""
    missing: str | None = None
    """Content hash of a version that the last one names, and that cannot be had now: the history ends there."""


@attrs.frozen(kw_only=True)
class IndexedDecision:
    """A row of the index."""

    address: str
    seq: int
    content: str
    time: int
    """As in `FoundDecision`."""
    kind: str | None = None
    """None where this node may not read it."""
    summary: str | None = None


@attrs.frozen(kw_only=True)
class DecisionPage:
    """Matches of a search, the newest first. A page may hold less than asked for, even nothing, and have a next one:
    the work for one page is bounded."""

    decisions: tuple[IndexedDecision, ...]
    next: str | None = None


@attrs.frozen(kw_only=True)
class PlacedDecision:
    """A decision that was taken: durable here, on its way to others."""

    address: str
    seq: int
    content: str
    state: str
    """`pending`, `stored` or `safe` (spec/amendments.md 27)."""


@attrs.frozen(kw_only=True)
class MemoryStatus:
    role: str
    """That this node writes under."""
    epoch: int
    decisions: int
    """In the index."""
    readable: int
    pending: int
    """Publications that are not safe yet."""
    servers: int
    """Live servers of the DHT, this node included where `serving`."""
    serving: bool = False
    """True if this node is one of them."""


@attrs.frozen(kw_only=True)
class DecisionQuery:
    """Every condition that is not None holds. `until` is exclusive, `since` inclusive; Unix seconds."""

    agent: str | None = None
    role: str | None = None
    project: str | None = None
    task: str | None = None
    path: str | None = None
    """As it is written in an address; finds what is below it too."""
    since: int | None = None
    until: int | None = None
    words: tuple[str, ...] = ()
    """All of them stand in it."""

    @classmethod
    def of(cls, pattern: Address | None, text: str = "", **conditions: str | int | None) -> DecisionQuery:
        """Conditions beside a pattern narrow it. Raises `AddressError` for a pattern that names a version, `UserError`
        for a text of too many words or of none."""
        found: dict[str, str | int | None] = {}
        if pattern is not None:
            if pattern.temporal is not None:
                raise AddressError(
                    TEMPORAL, pattern.offset_of(TEMPORAL), "a search names no version; ask for the history, or by times"
                )
            found = {part: getattr(pattern, part) for part in PARTS if part not in pattern.wildcards}
            found["path"] = pattern.path_text or None
        for name, value in conditions.items():
            if value is None or value == "any":
                continue
            if found.get(name, value) != value:
                raise UserError(f"{name} is {value}, and {found[name]} in the address")
            found[name] = value
        given = words([text], MAX_QUERY_WORDS + 1)
        if len(given) > MAX_QUERY_WORDS:
            raise UserError(f"a search has at most {MAX_QUERY_WORDS} words")
        if text and not given:
            raise UserError("the text of a search has no word: letters or digits")
        return cls(words=given, **found)  # type: ignore[arg-type]


def number_of(temporal: Temporal | None, latest: int) -> int | None:
    """The `seq` that is meant, of a chain that ends at `latest`; no version is the latest.

    None for a time and a hash, which numbers do not tell. Raises `UnknownDecision` outside of the chain.
    """
    match temporal:
        case None | Latest():
            number = latest - ((temporal and temporal.back) or 0)
        case First():
            number = 1 + (temporal.on or 0)
        case _:
            return None
    if not 1 <= number <= latest:
        raise UnknownDecision(f"the chain ends at version {latest}, and has no version {temporal}")
    return number
