"""Refusals of the replicated journal: of a peer's message, and of what this node's own parts ask for."""

from __future__ import annotations

from chorus.errors import PeerError, UserError


class BadAppend(PeerError):
    """Entries that do not follow on each other, terms that fall, or a roster that its authority did not sign."""

    code = "bad_append"


class StaleAppend(PeerError):
    """Entries of a former admin: the log has some of a later term."""

    code = "stale_append"


class ContradictsCommitted(PeerError):
    """Another entry than the one that is committed here: not applied, and reported as `LogContradiction`."""

    code = "contradicts_committed"


class BadAppendReply(PeerError):
    """A follower claims entries that the admin does not have."""

    code = "bad_append_reply"


class BadPulled(PeerError):
    """Entries of a pull that do not follow on each other, or that are not committed."""

    code = "bad_pulled"


class EntryTooLarge(UserError):
    """One entry over `MAX_ENTRY`."""

    code = "entry_too_large"
    http_status = 413


class RosterRefused(UserError):
    """A change of voters that is not allowed, or not yet."""

    code = "roster_refused"
    http_status = 409
