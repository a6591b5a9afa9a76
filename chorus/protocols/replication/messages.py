"""Messages of `/chorus/journal/1.0.0`: appends of the replicated journal and pulls of learners. Values alone."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs

from chorus.protocols.ballot.messages import LogPosition

BEGINNING: Final = LogPosition()


class EntryKind(IntEnum):
    NOOP = 0
    """The first entry of a term; its data is the application's (the machine version)."""
    ENTRY = 1
    ROSTER = 2
    """Its data is an encoded `Roster`."""


@attrs.frozen
class LogEntry:
    """One entry of the log; `data` is opaque to replication, rosters excepted."""

    index: int
    term: int
    kind: EntryKind
    data: bytes


@attrs.frozen
class Append:
    """The admin's entries after `prev`; without entries it says how far is committed. Entries of one message follow on
    each other without a gap."""

    term: int
    prev: LogPosition
    commit: int
    entries: tuple[LogEntry, ...] = ()


@attrs.frozen
class AppendReply:
    """`ok`: the log holds everything up to `match`, durably. Otherwise `match` is an index at which both may agree."""

    term: int
    ok: bool
    match: int


@attrs.frozen
class Pull:
    """A learner asks a voter for committed entries after `after`; the answer waits for some, 10 s at most."""

    after: LogPosition


@attrs.frozen
class Pulled:
    """Committed entries after `prev`, maybe none; `prev` is where the learner asked from, or lower where the voter has
    another entry there. `snapshot`: the voter has not got them any more; fetch its snapshot instead."""

    commit: int
    entries: tuple[LogEntry, ...] = ()
    snapshot: bool = False
    prev: LogPosition = BEGINNING


JournalMessage = Append | AppendReply | Pull | Pulled
