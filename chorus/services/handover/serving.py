"""Answers members that hand tasks over: names the agents it sees, takes a task as its scheduler, sends its events,
cancels it. Only the member that handed a task over gets its events, or has it cancelled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import attrs
from twisted.internet.defer import Deferred, DeferredLock, DeferredQueue
from twisted.logger import Logger

from chorus.errors import ChorusError, PeerError
from chorus.protocols.handover import (
    FINAL,
    MAX_FRAME,
    PROTOCOL,
    CancelTaken,
    Declined,
    Event,
    HandoverError,
    Message,
    Seek,
    Seen,
    Take,
    Taken,
    View,
    decode,
    encode,
)
from chorus.protocols.stream import ProtocolOptions, StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.services.handover.following import SHOWN
from chorus.tasks.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from chorus.http.ports import Subscription
    from chorus.identity import PeerId
    from chorus.protocols.stream import Host, Stream
    from chorus.services.scheduling.board import Agent
    from chorus.services.scheduling.coordinator import CoordinatorService
    from chorus.tasks.events import TaskEvent

FIRST_S = 10.0
"""Seconds an inbound stream has for its question."""
WRITE_S = 60.0
"""Seconds for a member that takes nothing of what it asked for."""
MAX_STREAMS_PER_PEER = 160
"""Conversations of one member: one for each task that it handed over, and questions beside them."""
MAX_TAKEN_PER_PEER = 128
"""Unfinished tasks that one member may have handed to this node."""
MAX_TAKEN_PER_DAY = 2000
MAX_INPUT_PER_DAY = 4 * 1024**3
"""Tasks, and bytes of inputs, that this node takes of one member in a day: both are kept as long as its own."""
MAX_WAITING = 128
MAX_WAITING_BYTES = 256 * 1024
"""Events waiting for a member that reads slowly; the rest stay in the store meanwhile."""
DAY_S = 86400.0


@attrs.define
class _Day:
    """Tasks and inputs taken from one member since a time."""

    since: float = float("-inf")
    tasks: int = 0
    input_bytes: int = 0
    turn: DeferredLock = attrs.Factory(DeferredLock)

    def is_over(self, now: float) -> bool:
        return now - self.since >= DAY_S

    def begin(self, now: float) -> None:
        if self.is_over(now):
            self.since, self.tasks, self.input_bytes = now, 0, 0

    @property
    def full(self) -> bool:
        return self.tasks >= MAX_TAKEN_PER_DAY or self.input_bytes >= MAX_INPUT_PER_DAY


ENOUGH = Declined("full", "this node has taken enough of yours for a day")


class HandoverServing:
    """`agents` gives every agent within reach, this node's own included."""

    _log = Logger()

    def __init__(
        self, host: Host, tasks: CoordinatorService, agents: Callable[[], Sequence[Agent]], clock: IReactorTime
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._agents = agents
        self._clock = clock
        self._streams: set[StreamIO] = set()
        self._telling: dict[str, StreamIO] = {}
        """The conversation in which each task's events are sent: a member that asks again has lost the one before."""
        self._taking: Counter[PeerId] = Counter()
        self._taken: dict[PeerId, _Day] = {}
        self.refused_peers = 0

    def start(self) -> None:
        self._host.register(PROTOCOL, self._opened, ProtocolOptions(max_inbound_per_peer=MAX_STREAMS_PER_PEER))

    def stop(self) -> None:
        self._host.unregister(PROTOCOL)
        for io in list(self._streams):
            io.reset(StreamClosed("this node stops"))

    def _opened(self, stream: Stream) -> None:
        io = StreamIO(stream, self._clock, timeout=WRITE_S)
        self._streams.add(io)
        Deferred.fromCoroutine(self._serve(io)).addCallbacks(lambda _: io.close(), self._failed, (), {}, (io,)).addBoth(
            lambda _: self._streams.discard(io)
        )

    def _failed(self, failure: Failure, io: StreamIO) -> None:
        problem = failure.value
        io.reset(problem if isinstance(problem, ChorusError) else None)
        if isinstance(problem, PeerError):
            self.refused_peers += 1
            peer = io.stream.connection.peer_id
            self._log.info("a handover of {peer} is refused: {problem}", peer=peer, problem=problem)
        elif not isinstance(problem, ChorusError):
            self._log.failure("internal error in serving a handover", cast("Any", failure))

    async def _serve(self, io: StreamIO) -> None:
        question = decode(await io.read_delimited(MAX_FRAME, timeout=FIRST_S))
        peer = io.stream.connection.peer_id
        if not self._tasks.is_up:
            await self._say(io, Declined("stopping", "this node schedules nothing now"))
        elif isinstance(question, Seek):
            here = {str(agent.peer) for agent in self._agents() if agent.candidate.reachable}
            await self._say(io, Seen(tuple(each for each in question.agents if each in here)))
        elif isinstance(question, Take):
            await self._take(io, peer, question)
        elif isinstance(question, CancelTaken):
            await self._cancel(io, peer, question)
        else:
            raise HandoverError(f"a conversation cannot begin with {question.TYPE}")

    async def _say(self, io: StreamIO, message: Message) -> None:
        await io.write_delimited(encode(message))

    async def _take(self, io: StreamIO, peer: PeerId, take: Take) -> None:
        declined = self._refusal(peer, take)
        if declined is None and take.task not in self._tasks.machine:
            declined = await self._take_over(peer, take)
        if declined is not None:
            await self._say(io, declined)
            return
        if (before := self._telling.get(take.task)) is not None:
            before.reset(StreamClosed("this task is told in another conversation"))
        self._telling[take.task] = io
        try:
            await self._say(io, Taken())
            await _Telling(io, self._tasks, take.task).run(take.after)
        finally:
            if self._telling.get(take.task) is io:
                del self._telling[take.task]

    async def _take_over(self, peer: PeerId, take: Take) -> Declined | None:
        day = self._taken.setdefault(peer, _Day())
        day.begin(self._clock.seconds())
        # Counted from here on: what it waits for must not let others pass.
        self._taking[peer] += 1
        day.tasks += 1
        try:
            # One after the other: how much may be fetched depends on what the one before has fetched.
            async with day.turn:
                if day.input_bytes >= MAX_INPUT_PER_DAY:
                    return ENOUGH
                most = MAX_INPUT_PER_DAY - day.input_bytes
                fetched = await self._tasks.intake.take_over(take.task, take.spec, take.submitter, peer, most)
                day.input_bytes += fetched
        except ChorusError as error:
            return Declined(error.code[:64], str(error)[:1000])
        finally:
            self._taking[peer] -= 1
        return None

    def _refusal(self, peer: PeerId, take: Take) -> Declined | None:
        machine = self._tasks.machine
        if take.task in machine:
            ours = machine.get(take.task).handed_by == str(peer)
            return None if ours else Declined("unknown_task", "no task of yours has this id here")
        if take.known:
            return Declined("unknown_task", "this node does not know it (any more)")
        count = self._taking[peer] + sum(task.handed_by == str(peer) for task in machine.unfinished())
        if count >= MAX_TAKEN_PER_PEER:
            return Declined("full", f"{count} tasks of yours are here already")
        day = self._taken.get(peer)
        if day is not None and not day.is_over(self._clock.seconds()) and day.full:
            return ENOUGH
        return None

    async def _cancel(self, io: StreamIO, peer: PeerId, cancel: CancelTaken) -> None:
        machine = self._tasks.machine
        if cancel.task not in machine or machine.get(cancel.task).handed_by != str(peer):
            await self._say(io, Declined("unknown_task", "no task of yours has this id here"))
            return
        try:
            await self._tasks.cancel(cancel.task, cancel.by, cancel.reason)
        except ChorusError as error:
            await self._say(io, Declined(error.code[:64], str(error)[:1000]))
            return
        await self._say(io, view_of(self._tasks, cancel.task))


class _Telling:
    """One task's events on their way to the member that handed it over, at that member's pace."""

    def __init__(self, io: StreamIO, tasks: CoordinatorService, task_id: str) -> None:
        self._io = io
        self._tasks = tasks
        self._task_id = task_id
        self._waiting: DeferredQueue[tuple[Event, int] | None] = DeferredQueue()
        """Events and their sizes; None where there is no more, since the task is over or the member gone."""
        self._waiting_bytes = 0
        self._subscription: Subscription | None = None
        self._paused = False
        self._over = False

    async def run(self, after: int) -> None:
        """Until the task is over and its end is sent, or the member is gone."""
        Deferred.fromCoroutine(self._io.closed(timeout=math.inf)).addBoth(lambda _: self._waiting.put(None))
        self._subscription = await self._tasks.watch(self._task_id, after, self._deliver, self._ended)
        self._pause_when_full()
        try:
            await self._send_state()
            while (waiting := await self._waiting.get()) is not None:
                await self._send(*waiting)
            if self._over:
                await self._send_state()
        finally:
            self._subscription.stop()

    async def _send(self, event: Event, size: int) -> None:
        self._waiting_bytes -= size
        await self._io.write_delimited(encode(event))
        if event.kind == "state" and event.data.get("state") not in FINAL:
            await self._send_state()
        if self._paused and not self._waiting.pending and self._subscription is not None:
            self._paused = False
            self._subscription.resume()

    async def _send_state(self) -> None:
        view = view_of(self._tasks, self._task_id)
        if view.final and not self._over:
            # Events of its end are on their way; the final view comes after them.
            return
        await self._io.write_delimited(encode(view))

    def _deliver(self, event: TaskEvent) -> None:
        waiting = Event(event.id, event.type, event.data)
        size = len(encode(waiting))
        self._waiting_bytes += size
        self._waiting.put((waiting, size))
        self._pause_when_full()

    def _pause_when_full(self) -> None:
        full = len(self._waiting.pending) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES
        if full and not self._paused and self._subscription is not None:
            self._paused = True
            self._subscription.pause()

    def _ended(self) -> None:
        self._over = True
        self._waiting.put(None)


def view_of(tasks: CoordinatorService, task_id: str) -> View:
    """The state of a task of this node, for the member that handed it over."""
    task = tasks.machine.get(task_id)
    return View(
        state=str(task.state if task.state is not State.REFUSED else State.FAILED),
        agent_id=tasks.agent_id_of(task),
        fence=None if task.fence is None else str(task.fence),
        **{name: getattr(task, name) for name in SHOWN},
    )
