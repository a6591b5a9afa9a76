"""Requests of clients at one member: answered by the admin, forwarded by the others (spec/tasks.md, amendment 12)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import attrs

from chorus.errors import ChorusError
from chorus.protocols.replication.messages import LogEntry
from chorus.simulation.leadership.face import MemberFace
from chorus.simulation.leadership.requests import ClientRequest, Forward, Forwarded
from chorus.tasks.applied import Applied
from chorus.tasks.journal import Entry, NoQuorum, OutcomeUnknown

FORWARD_S: Final = 5.0
"""Seconds that a member waits for the admin's answer."""
MAX_NUMBERS: Final = 1_000_000
"""Requests that one start forwards at most."""

_Finish = Callable[["Applied | None", bool], None]
"""(what was applied, or None; whether that is unknown)."""


def encode(entry: Entry) -> bytes:
    return json.dumps([entry.kind, entry.subject, dict(entry.body), entry.time], separators=(",", ":")).encode()


@lru_cache(maxsize=4096)
def decode(data: bytes) -> Entry:
    kind, subject, body, time = json.loads(data)
    return Entry(kind, subject, body, time)


@attrs.frozen
class _Proposal:
    term: int
    finish: _Finish


class RequestDesk:
    """Of one start of one member."""

    def __init__(self, member: MemberFace) -> None:
        self._member = member
        self._proposals: dict[int, _Proposal] = {}
        self._forwarded: dict[int, ClientRequest] = {}
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        """(index that must be applied here first, then)."""
        self._numbers = member.starts * MAX_NUMBERS
        """An answer to an earlier start is to none of this one's requests."""

    # A client's request

    def serve(self, request: ClientRequest) -> None:
        member = self._member
        assert member.replica is not None
        if member.holds():
            self._at_admin(request)
            return
        admin = member.replica.admin
        if admin is None or admin == member.peer:
            request.done.errback(NoQuorum("no admin is known"))
            return
        self._numbers += 1
        number = self._numbers
        self._forwarded[number] = request
        member.send(member.number_of(admin), Forward(number, request.data, request.answer))
        member.later(FORWARD_S, lambda: self._give_up(number))

    def _at_admin(self, request: ClientRequest) -> None:
        def finish(applied: Applied | None, unknown: bool) -> None:
            if applied is not None:
                request.done.callback(request.answer(self._member, applied))
            else:
                _fail(request, unknown)

        if request.data is None:
            self._when_applied(self._read_index(), lambda: request.done.callback(request.answer(self._member, None)))
        else:
            self._propose(request.data, finish)

    def _read_index(self) -> int:
        """Of the admin: others may have applied what is committed before its own disk has it."""
        assert self._member.replica is not None
        return self._member.replica.commit

    def _give_up(self, number: int) -> None:
        if (request := self._forwarded.pop(number, None)) is not None:
            _fail(request, True)

    # The journal

    def _propose(self, data: bytes, finish: _Finish) -> None:
        replica = self._member.replica
        assert replica is not None
        try:
            (index,) = replica.propose([data], self._member.now)
        except ChorusError:
            finish(None, False)
            return
        self._proposals[index] = _Proposal(replica.term, finish)

    def applied(self, entry: LogEntry, applied: Applied | None) -> None:
        """Called after each entry that the machine took in."""
        proposal = self._proposals.pop(entry.index, None)
        if proposal is not None:
            own = proposal.term == entry.term
            if own and applied is not None:
                self._member.acknowledged(entry)
            # Another entry stands there, and always will.
            proposal.finish(applied if own else None, False)
        self.advanced()

    def advanced(self) -> None:
        """Answers that waited for this node's own machine."""
        if not self._waiting:
            return
        index = self._member.applied.index
        ready = [then for wanted, then in self._waiting if wanted <= index]
        self._waiting = [each for each in self._waiting if each[0] > index]
        for then in ready:
            then()

    def office_lost(self) -> None:
        proposals, self._proposals = self._proposals, {}
        for proposal in proposals.values():
            proposal.finish(None, True)

    # Between members

    def take(self, source: int, message: object) -> bool:
        """False for a message that is not for here."""
        if isinstance(message, Forward):
            self._forward(source, message)
        elif isinstance(message, Forwarded):
            self._answered(message)
        else:
            return False
        return True

    def _forward(self, source: int, message: Forward) -> None:
        member = self._member
        if not member.holds():
            member.send(source, Forwarded(message.number, None))
        elif message.data is None:
            member.send(source, Forwarded(message.number, self._read_index()))
        else:

            def finish(applied: Applied | None, unknown: bool) -> None:
                index = applied.index if applied is not None else None
                answer: Any = message.answer(member, applied) if applied is not None else None
                member.send(source, Forwarded(message.number, index, answer, unknown))

            self._propose(message.data, finish)

    def _answered(self, message: Forwarded) -> None:
        request = self._forwarded.pop(message.number, None)
        if request is None:
            return
        if message.index is None:
            _fail(request, message.unknown)
            return

        def answer() -> None:
            read = request.data is None
            request.done.callback(request.answer(self._member, None) if read else message.answer)

        self._when_applied(message.index, answer)

    def _when_applied(self, index: int, then: Callable[[], None]) -> None:
        self._waiting.append((index, then))
        self.advanced()


def _fail(request: ClientRequest, unknown: bool) -> None:
    request.done.errback(OutcomeUnknown("the office ended") if unknown else NoQuorum("refused"))
