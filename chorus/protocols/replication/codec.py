"""Messages of `/chorus/journal/1.0.0` as bytes (`proto/journal.proto`). Pure.

Entries have no index of their own on the wire: they follow on `prev`.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from chorus.errors import LimitExceeded, PeerError
from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.proto.journal_pb2 import Append as WireAppend
from chorus.protocols.proto.journal_pb2 import AppendReply as WireReply
from chorus.protocols.proto.journal_pb2 import Entry as WireEntry
from chorus.protocols.proto.journal_pb2 import Frame
from chorus.protocols.proto.journal_pb2 import Position as WirePosition
from chorus.protocols.proto.journal_pb2 import Pull as WirePull
from chorus.protocols.proto.journal_pb2 import Pulled as WirePulled
from chorus.protocols.replication.limits import MAX_BATCH_ENTRIES, MAX_ENTRY, MAX_FRAME, MAX_INDEX
from chorus.protocols.replication.messages import (
    Append,
    AppendReply,
    EntryKind,
    JournalMessage,
    LogEntry,
    Pull,
    Pulled,
)


class BadJournalMessage(PeerError):
    """Bytes that are no message of `/chorus/journal/1.0.0`."""

    code = "bad_journal_message"


_KINDS = tuple(EntryKind)


def encode(message: JournalMessage) -> bytes:
    """One message without its length, at most `MAX_FRAME` bytes."""
    if isinstance(message, Append):
        prev, entries = _wire_position(message.prev), _wire_entries(message.entries)
        frame = Frame(append=WireAppend(term=message.term, prev=prev, commit=message.commit, entries=entries))
    elif isinstance(message, AppendReply):
        frame = Frame(reply=WireReply(term=message.term, ok=message.ok, match=message.match))
    elif isinstance(message, Pull):
        frame = Frame(pull=WirePull(after=_wire_position(message.after)))
    else:
        prev, entries = _wire_position(message.prev), _wire_entries(message.entries)
        frame = Frame(pulled=WirePulled(prev=prev, commit=message.commit, entries=entries, snapshot=message.snapshot))
    return frame.SerializeToString()


def decode(data: bytes) -> JournalMessage:
    """Inverse of `encode`. Raises `BadJournalMessage` or `LimitExceeded`."""
    if len(data) > MAX_FRAME:
        raise LimitExceeded("journal.frame", len(data), MAX_FRAME)
    try:
        frame = Frame.FromString(data)
    except DecodeError:
        raise BadJournalMessage("no message of the journal") from None
    kind = frame.WhichOneof("message")
    if kind == "append":
        append = frame.append
        prev = _position(append.prev)
        return Append(_number(append.term), prev, _number(append.commit), _entries(prev, append.entries))
    if kind == "reply":
        return AppendReply(_number(frame.reply.term), frame.reply.ok, _number(frame.reply.match))
    if kind == "pull":
        return Pull(_position(frame.pull.after))
    if kind == "pulled":
        pulled = frame.pulled
        prev = _position(pulled.prev)
        return Pulled(_number(pulled.commit), _entries(prev, pulled.entries), pulled.snapshot, prev)
    raise BadJournalMessage("a message of the journal without a kind, or of a later one")


def _wire_position(position: LogPosition) -> WirePosition:
    return WirePosition(term=position.term, index=position.index)


def _wire_entries(entries: Iterable[LogEntry]) -> list[WireEntry]:
    return [WireEntry(term=entry.term, kind=entry.kind, data=entry.data) for entry in entries]


def _position(wire: WirePosition) -> LogPosition:
    return LogPosition(_number(wire.term), _number(wire.index))


def _entries(prev: LogPosition, wire: Iterable[WireEntry]) -> tuple[LogEntry, ...]:
    entries: list[LogEntry] = []
    for index, each in enumerate(wire, prev.index + 1):
        if each.kind >= len(_KINDS):
            raise BadJournalMessage(f"entry {index} is of kind {each.kind}, which this version does not know")
        if len(each.data) > MAX_ENTRY:
            raise LimitExceeded("journal.entry", len(each.data), MAX_ENTRY)
        entries.append(LogEntry(index, _number(each.term), _KINDS[each.kind], each.data))
    if len(entries) > MAX_BATCH_ENTRIES:
        raise LimitExceeded("journal.entries", len(entries), MAX_BATCH_ENTRIES)
    _number(prev.index + len(entries))
    return tuple(entries)


def _number(value: int) -> int:
    if value > MAX_INDEX:
        raise LimitExceeded("journal.number", value, MAX_INDEX)
    return value
