"""Effects of a replica in their order: what must be durable, what may be sent after it, and what has happened. Pure.

A message that was queued with `after_writes` leaves once every write that was queued before it is durable ("durable
before reply"). The shell performs the writes in order, reports each with `persisted`, and drains again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import attrs

from chorus.protocols.ballot.effects import BallotEvent, HardState
from chorus.protocols.ballot.messages import ElectionMessage
from chorus.protocols.ballot.roster import Roster
from chorus.protocols.replication.messages import JournalMessage, LogEntry

ReplicaMessage = ElectionMessage | JournalMessage


@attrs.frozen
class LogWrite:
    """One durable step, applied in this order: hard state, cut, entries. It is one transaction."""

    ticket: int
    hard_state: HardState | None = None
    cut_after: int | None = None
    """Entries above this index are removed first."""
    entries: tuple[LogEntry, ...] = ()


@attrs.frozen
class Committed:
    """Entries to apply, in order; each is given once in a start."""

    entries: tuple[LogEntry, ...]


@attrs.frozen
class RosterChanged:
    """The roster in force is another one; not committed yet unless `committed`."""

    roster: Roster
    committed: bool


@attrs.frozen
class SnapshotWanted:
    """`peer` needs entries that this admin has compacted: send it a snapshot."""

    peer: str


@attrs.frozen
class LogContradiction:
    """`peer` sent another entry at `index` than the one that is committed here. Nothing of the message was taken;
    somebody's log is corrupt. `peer` None: a voter that was pulled from."""

    peer: str | None
    term: int
    index: int


ReplicaEvent = BallotEvent | Committed | RosterChanged | SnapshotWanted | LogContradiction


@attrs.frozen
class ReplicaOutput:
    write: LogWrite | None
    messages: tuple[tuple[str, ReplicaMessage], ...]
    events: tuple[ReplicaEvent, ...]


class ReplicaOutbox:
    """Shared by the cores of one replica."""

    def __init__(self) -> None:
        self._ticket = 0
        self._durable = 0
        self._open = False
        """A write has been queued since the last drain; `_ticket` is its own."""
        self._hard_state: HardState | None = None
        self._cut_after: int | None = None
        self._entries: list[LogEntry] = []
        self._gated: deque[tuple[int, str, ReplicaMessage]] = deque()
        self._ready: list[tuple[str, ReplicaMessage]] = []
        self._events: list[ReplicaEvent] = []

    def keep(self, state: HardState) -> None:
        self._begin()
        self._hard_state = state

    def append(self, entries: Iterable[LogEntry], *, cut_after: int | None = None) -> None:
        """Append entries, after removing those above `cut_after`."""
        self._begin()
        if cut_after is not None:
            while self._entries and self._entries[-1].index > cut_after:
                self._entries.pop()
            self._cut_after = cut_after if self._cut_after is None else min(cut_after, self._cut_after)
        self._entries.extend(entries)

    def _begin(self) -> None:
        if not self._open:
            self._ticket += 1
            self._open = True

    def send(self, peer: str, message: ReplicaMessage, *, after_writes: bool = True) -> None:
        if after_writes and self._ticket > self._durable:
            self._gated.append((self._ticket, peer, message))
        else:
            self._ready.append((peer, message))

    def report(self, event: ReplicaEvent) -> None:
        self._events.append(event)

    @property
    def ticket(self) -> int:
        """Of the newest write; what is queued now is durable once `persisted(ticket)` was called."""
        return self._ticket

    @property
    def durable(self) -> int:
        return self._durable

    def persisted(self, ticket: int) -> None:
        self._durable = max(self._durable, ticket)
        while self._gated and self._gated[0][0] <= self._durable:
            _, peer, message = self._gated.popleft()
            self._ready.append((peer, message))

    def drain(self) -> ReplicaOutput:
        messages, self._ready = tuple(self._ready), []
        events, self._events = tuple(self._events), []
        return ReplicaOutput(self._take(), messages, events)

    def _take(self) -> LogWrite | None:
        if not self._open:
            return None
        write = LogWrite(self._ticket, self._hard_state, self._cut_after, tuple(self._entries))
        self._open, self._hard_state, self._cut_after = False, None, None
        self._entries.clear()
        return write
