"""Follows one task at the member that schedules it: its events into this node's history, its end into its journal.

The member's messages are checked like an agent's, and an attempt there has a deadline here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.backoff import Backoff
from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.protocols.handover import (
    MAX_FRAME,
    PROTOCOL,
    Declined,
    Event,
    HandoverError,
    Message,
    Take,
    Taken,
    View,
    decode,
    encode,
)
from chorus.protocols.stream import StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.protocols.task_messages import Result, from_json
from chorus.services.scheduling.results import MIB, ResultOverLimits, excess, result_document
from chorus.tasks import entries
from chorus.tasks.deadlines import attempt_limit, limit_of
from chorus.tasks.state import TERMINAL, State, TaskState
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from chorus.protocols.stream import Host
    from chorus.seams import JSON
    from chorus.services.scheduling.events import TaskEvents
    from chorus.services.scheduling.ledger import Ledger
    from chorus.services.scheduling.store import StoredEvents


TAKE_S = 120.0
"""Seconds that a member has to take a task: it fetches the input first."""
RETRY = Backoff(1.0, 30.0)
"""Back-off while the member that has a task cannot be reached; in seconds."""
OVERTIME = 2.0
"""How many times as long as an attempt may take at most it may take there: that member has deadlines of its own."""
MAX_COPIED_NOTES = 16 * 1024 * 1024
"""Bytes of a task's history that are copied beside its output; a member that sends more is followed, not copied."""
MAX_INPUT_BYTES = 1024**3
"""An input that size is allowed for in a deadline: its real one is known where it lies."""
PAGE = 64
"""Events read at once when looking for where the copy of a history ends."""


Stranded = Sequence[tuple[str, Sequence[str]]]
"""Tasks that nobody but agents out of reach may run, each with those agents."""


@attrs.frozen
class HandoverContext:
    """The scheduler's parts that handing over works on."""

    host: Host
    ledger: Ledger
    events: TaskEvents
    stored: StoredEvents
    stranded: Callable[[], Stranded]
    fetch_result_blobs: Callable[[Mapping[str, JSON], PeerId], Deferred[None]]
    """Fetches what a result names from that member, as far as it can be had in time."""
    clock: IReactorTime
    wall: Callable[[], float]


class Following:
    """One task that another member schedules: the conversation with that member, begun anew until the task is over."""

    _log = Logger()

    def __init__(self, context: HandoverContext, task_id: str, over: Callable[..., None]) -> None:
        self._context = context
        self.task_id = task_id
        self.peer = PeerId.parse(context.ledger.machine.get(task_id).scheduler or "")
        self.view: View | None = None
        self._over = over
        self._cursor: int | None = None
        self._known = False
        self._budget = MAX_COPIED_NOTES + _output_limit(context.ledger.machine.get(task_id))
        self._rounds = 0
        self._io: StreamIO | None = None
        self._stopped = False
        self._heard_at = context.clock.seconds()
        self._attempt = -1
        self._attempt_ends = math.inf
        """By the clock: an attempt that began has until then, whatever else the member sends of it meanwhile."""
        self._timer = Timer(context.clock, self.begin)
        self._deadline = Timer(context.clock, self._overdue)
        self._waiting: list[Deferred[None]] = []

    def when_over(self) -> Deferred[None]:
        """Fires when this is followed no more."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    @property
    def silent_s(self) -> float:
        """Seconds since that member last said anything of the task."""
        return self._context.clock.seconds() - self._heard_at

    def saw(self, view: View) -> None:
        """Take in that member's view of the task. Raises `PeerError` for a result that is none. An attempt that begins
        may take so long, and no longer, whatever the member sends; the time of the next one begins with that."""
        if view.result is not None:
            spec = self._context.ledger.machine.get(self.task_id).spec
            view = attrs.evolve(view, result=checked_result(view.result, spec))
        self.view = view
        if view.state in {State.ASSIGNED, State.PREPARING, State.RUNNING}:
            self._limit(view.attempt)
        else:
            # It may wait there for its next attempt as long as it likes.
            self._deadline.cancel()

    def _limit(self, attempt: int) -> None:
        now = self._context.clock.seconds()
        if attempt > self._attempt:
            self._attempt = attempt
            task = self._context.ledger.machine.get(self.task_id)
            self._attempt_ends = now + OVERTIME * attempt_limit(task.spec, MAX_INPUT_BYTES)
        self._deadline.arm(max(0.0, self._attempt_ends - now))

    def _overdue(self) -> None:
        failed = Deferred.fromCoroutine(self._fail("did not end it within its time limit with all margins"))
        failed.addCallback(lambda _: self._ended(declined=False)).addErrback(self._broken)

    async def _fail(self, what: str) -> None:
        end = {"reason": "lease_lost", "detail": f"{self.peer}, which it was handed to, {what}"}
        await self._context.ledger.append(entries.settled(self._context.wall(), self.task_id, State.FAILED, **end))

    def begin(self) -> None:
        if self._io is None and not self._stopped:
            Deferred.fromCoroutine(self._converse()).addCallbacks(self._ended, self._broken)

    def hasten(self) -> None:
        if self._timer.armed:
            self._timer.arm(0)

    def stop(self) -> None:
        self._stopped = True
        self._timer.cancel()
        self._deadline.cancel()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)
        if self._io is not None:
            self._io.reset(StreamClosed("this node stops"))

    def _ended(self, declined: bool) -> None:
        self._io = None
        self.stop()
        self._over(self, declined=declined)

    def _broken(self, failure: Failure) -> None:
        self._io = None
        if self._stopped:
            return
        if not isinstance(failure.value, ChorusError):
            self._log.failure("internal error in following {task}", task=self.task_id, failure=failure)
        elif self._rounds == 0:
            self._log.info(
                "{task} is with {peer}, which does not answer: {error}",
                event="task.scheduler_away",
                task=self.task_id,
                peer=self.peer,
                error=failure.value,
            )
        self._rounds += 1
        self._timer.arm(RETRY.ceiling(self._rounds))

    async def _converse(self) -> bool:
        """Until the task is over there, or was declined (true)."""
        if self._cursor is None:
            self._cursor = await _last_copied(self._context.stored, self.task_id)
            self._known = self._known or self._cursor > 0
        stream = await self._context.host.open_stream(self.peer, [PROTOCOL])
        self._io = io = StreamIO(stream, self._context.clock, timeout=TAKE_S)
        try:
            await io.write_delimited(encode(self._take()))
            answer = decode(await io.read_delimited(MAX_FRAME))
            if isinstance(answer, Declined):
                return await self._refused(answer)
            if not isinstance(answer, Taken):
                raise HandoverError(f"{answer.TYPE} is no answer to take")
            self._known = True
            self._rounds = 0
            while not (self.view is not None and self.view.final):
                # A connection that is gone ends the stream; a task may be silent for as long as it likes.
                await self._heard(decode(await io.read_delimited(MAX_FRAME, timeout=math.inf)))
        finally:
            io.close()
        if not self._stopped:
            await self._settle(self.view)
        return False

    def _take(self) -> Take:
        task = self._context.ledger.machine.get(self.task_id)
        # What it depended on is over, and known here alone.
        spec = {name: value for name, value in task.spec.items() if name != "depends_on"}
        return Take(task.id, spec, task.submitter, self._cursor or 0, self._known)

    async def _refused(self, answer: Declined) -> bool:
        if self._known:
            await self._fail(f"does not know it any more: {answer.detail}")
            return False
        detail = f"{self.peer} does not take it: {answer.detail or answer.reason}"
        await self._context.ledger.append(entries.returned(self._context.wall(), self.task_id, detail))
        return True

    async def _heard(self, message: Message) -> None:
        self._heard_at = self._context.clock.seconds()
        if isinstance(message, View):
            self.saw(message)
        elif isinstance(message, Event):
            await self._copy(message)
        else:
            raise HandoverError(f"{message.TYPE} has no place among a task's events")

    async def _copy(self, event: Event) -> None:
        assert self._cursor is not None
        if event.id <= self._cursor:
            return
        self._cursor = event.id
        if event.kind == "state" and event.data.get("state") in TERMINAL:
            # Told by this node's own journal, once the end is in it.
            return
        size = len(encode(event))
        self._budget -= size
        if self._budget < 0:
            return
        events = self._context.events
        events.append(self.task_id, event.kind, {**event.data, "source": event.id}, size)
        if events.congested:
            relieved: Deferred[None] = Deferred()
            events.when_relieved(lambda: relieved.callback(None))
            await relieved

    async def _settle(self, view: View) -> None:
        end: dict[str, JSON] = {
            name: value
            for name, value in attrs.asdict(view, recurse=False).items()
            if name in _END and value is not None
        }
        if view.result is not None:
            await self._context.fetch_result_blobs(view.result, self.peer)
        if not self._stopped:
            await self._context.ledger.append(entries.settled(self._context.wall(), self.task_id, view.state, **end))


_END = ("reason", "detail", "attempt", "agent", "sandbox", "image", "started_at", "result")
SHOWN = ("attempt", "reason", "detail", "agent", "sandbox", "image", "started_at", "ended_at", "updated_at", "result")
"""Fields of a view that are the same in a task."""


def overlaid(task: TaskState, view: View) -> TaskState:
    """This node's record of a task, with what the member that has it says of it."""
    shown = {name: getattr(view, name) for name in SHOWN}
    return attrs.evolve(task, state=State(view.state), **shown)


def checked_result(document: Mapping[str, JSON], spec: Mapping[str, JSON]) -> dict[str, JSON]:
    """A result as another member's journal has it, held against what an agent may say of such a task. Raises
    `PeerError`."""
    output = document.get("output")
    said = {**document, "type": Result.TYPE}
    for stream in ("stdout", "stderr"):
        row = output.get(stream) if isinstance(output, dict) else None
        if isinstance(row, dict):
            said |= {f"{stream}_{name}": row[name] for name in ("bytes", "sha256") if name in row}
    message = from_json(said)
    assert isinstance(message, Result)
    result = result_document(message, _agent(document.get("agent")), message.agent_id)
    if (over := excess(spec, result)) is not None:
        raise ResultOverLimits(over)
    return result


def _agent(name: JSON) -> str:
    """The peer id of the agent that has the result, "" where none is named. Raises `PeerError`."""
    return str(PeerId.parse(name)) if isinstance(name, str) and name else ""


def _output_limit(task: TaskState) -> int:
    """Bytes of output that the attempts of a task may send, in base64."""
    megabytes = limit_of(task.spec, "output_mb")
    tries = task.max_attempts + task.retries
    return (16 if megabytes is None else int(megabytes)) * MIB * 2 * tries * 4 // 3


async def _last_copied(stored: StoredEvents, task_id: str) -> int:
    """The number, at the member that has the task, of the last event that is copied here and durable."""
    after, last = 0, 0
    while page := await stored.read(task_id, after, PAGE):
        after = page[-1].id
        last = max([last, *_sources(each.data for each in page)])
    return last


def _sources(events: Iterable[dict[str, JSON]]) -> list[int]:
    return [source for data in events if isinstance(source := data.get("source"), int)]
