"""Hands a task that no agent within reach can run to a member that sees one, and follows it there.

`task.moved` is durable before the member hears of the task, and the member answers the same question the same way, so
the task has one scheduler whatever is cut or killed in between. Its events are copied into this node's history and its
end into this node's journal, so that watchers and dependents here need not know where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from chorus.errors import ChorusError, LocalError, PeerError, UserError
from chorus.identity import PeerId
from chorus.protocols.handover import (
    MAX_FRAME,
    PROTOCOL,
    CancelTaken,
    Declined,
    Message,
    Seek,
    Seen,
    View,
    decode,
    encode,
)
from chorus.protocols.stream import StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.services.handover.following import Following, HandoverContext, overlaid
from chorus.tasks import entries
from chorus.tasks.state import State, TaskState
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.python.failure import Failure


SEEK_S = 5.0
"""Seconds that a member has to name the agents it sees."""
ANSWER_S = 10.0
"""Seconds that a member has to answer a cancellation, and to send the end that forbade it."""
ROUND_S = 2.0
"""Between two looks at tasks that nobody within reach can run."""
MAX_ASKED = 8
"""Members asked in one round; the next round asks others."""
MAX_AGENTS = 64
"""Agents named in one question; `Seek` holds no more."""
DECLINED_S = 30.0
"""Seconds for which a member that declined a task, or does not name the agents it sees, is asked for none."""
ABANDON_S = 300.0
"""Seconds of silence of the member that has a task after which a cancellation ends the task here alone."""


class SchedulerAway(LocalError):
    """The member that has the task does not answer; ask again."""

    code = "scheduler_away"
    http_status = 503


class NotCancelled(UserError):
    """The member that has the task refuses."""

    code = "not_cancelled"
    http_status = 409


class Handover(Service):
    name = "handover"
    _log = Logger()

    def __init__(self, context: HandoverContext) -> None:
        self._context = context
        self._following: dict[str, Following] = {}
        self._declined: dict[PeerId, float] = {}
        self._asked: PeerId | None = None
        self._round = Timer(context.clock, self._due)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        for task in self._context.ledger.machine.unfinished():
            if task.state is State.MOVED:
                self._follow(task.id)
        self._round.arm(ROUND_S)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._round.cancel()
        for following in list(self._following.values()):
            following.stop()
        self._following.clear()

    def peer_joined(self, peer: PeerId) -> None:
        """Ask this member again now about the tasks that it has."""
        for following in list(self._following.values()):
            if following.peer == peer:
                following.hasten()

    # over

    def _due(self) -> None:
        Deferred.fromCoroutine(self._hand_over_stranded()).addErrback(self._broken).addBoth(self._again)

    def _again(self, _: object) -> None:
        if self.running:
            self._round.arm(ROUND_S)

    def _broken(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError):
            self._log.info("a task cannot be handed over now: {error}", error=failure.value)
        else:
            self._log.failure("internal error in handing tasks over", failure=failure)

    async def _hand_over_stranded(self) -> None:
        """Ask members once which of the agents that are wanted are connected to them, all at the same time; each task
        goes to the first that sees one of its own."""
        stranded = list(self._context.stranded())
        wanted = tuple(dict.fromkeys(agent for _, agents in stranded for agent in agents))[:MAX_AGENTS]
        if not wanted:
            return
        members = self._members()
        seen = await gatherResults([Deferred.fromCoroutine(self._seen_by(peer, wanted)) for peer in members])
        for task_id, agents in stranded:
            peer = next((peer for peer, those in zip(members, seen, strict=True) if those.intersection(agents)), None)
            if peer is not None:
                await self._hand_over(task_id, peer)

    async def _hand_over(self, task_id: str, peer: PeerId) -> None:
        task = self._context.ledger.machine.find(task_id)
        # A task that was handed to this node is not handed on.
        if not self.running or task is None or task.state is not State.SUBMITTED or task.handed_by is not None:
            return
        await self._context.ledger.append(entries.moved(self._context.wall(), task_id, str(peer)))
        self._log.info("{task} is handed to {peer}", event="task.handed_over", task=task_id, peer=peer)
        self._follow(task_id)

    def _members(self) -> list[PeerId]:
        """Members to ask in this round, beginning after the one that was asked last."""
        now = self._context.clock.seconds()
        self._declined = {peer: until for peer, until in self._declined.items() if until > now}
        host = self._context.host
        able = sorted(
            each.peer_id
            for each in host.connections()
            if each.peer_id not in self._declined and PROTOCOL in host.protocols_of(each.peer_id)
        )
        last = self._asked
        first = next((place for place, peer in enumerate(able) if last is not None and peer > last), 0)
        found = (able[first:] + able[:first])[:MAX_ASKED]
        self._asked = found[-1] if found else None
        return found

    async def _seen_by(self, peer: PeerId, agents: Sequence[str]) -> frozenset[str]:
        try:
            answer = await self._ask(peer, Seek(tuple(agents)), SEEK_S)
        except ChorusError as error:
            self._log.debug("{peer} does not name the agents it sees: {error}", peer=peer, error=error)
            self._rest(peer)
            return frozenset()
        return frozenset(answer.agents) if isinstance(answer, Seen) else frozenset()

    def _rest(self, peer: PeerId) -> None:
        self._declined[peer] = self._context.clock.seconds() + DECLINED_S

    async def _ask(self, peer: PeerId, question: Message, limit_s: float) -> Message:
        io = StreamIO(await self._context.host.open_stream(peer, [PROTOCOL]), self._context.clock, timeout=limit_s)
        try:
            await io.write_delimited(encode(question))
            return decode(await io.read_delimited(MAX_FRAME))
        finally:
            io.close()

    # there

    def _follow(self, task_id: str) -> None:
        following = Following(self._context, task_id, self._over)
        self._following[task_id] = following
        following.begin()

    def _over(self, following: Following, *, declined: bool) -> None:
        self._following.pop(following.task_id, None)
        if declined:
            self._rest(following.peer)

    def seen(self, task: TaskState) -> TaskState:
        """The task as the member that has it last sent it."""
        following = self._following.get(task.id)
        if task.state is not State.MOVED or following is None or following.view is None:
            return task
        return overlaid(task, following.view)

    async def cancel(self, task: TaskState, by: str, reason: str) -> None:
        """Have the member that has it cancel it. Raises `SchedulerAway` while that member may only be cut off, and
        `NotCancelled` for a task that has ended there; a member that neither answers nor sends an end loses it."""
        peer, following = PeerId.parse(task.scheduler or ""), self._following.get(task.id)
        try:
            answer = await self._ask(peer, CancelTaken(task.id, by, reason), ANSWER_S)
        except (PeerError, StreamClosed) as error:
            if following is not None and following.silent_s < ABANDON_S:
                raise SchedulerAway(f"{peer}, which schedules this task, does not answer: {error}; try again") from None
            await self._end_here(task.id, by, reason, f"{peer}, which had it, does not answer")
            return
        if isinstance(answer, View) and following is not None:
            following.saw(answer)
        elif isinstance(answer, Declined):
            if following is not None:
                # It may have ended there, and its end be on its way.
                await following.when_over().addTimeout(ANSWER_S, self._context.clock, lambda *_: None)
            if self._context.ledger.machine.get(task.id).terminal:
                raise NotCancelled(answer.detail or answer.reason)
            await self._end_here(task.id, by, reason, f"{peer}, which had it, would not")

    async def _end_here(self, task_id: str, by: str, reason: str, why: str) -> None:
        """The task is over for this node, whatever that member makes of it."""
        detail = f"cancelled by {by}" + (f": {reason}" if reason else "") + f"; {why}"
        end = {"reason": "cancelled", "detail": detail}
        await self._context.ledger.append(entries.settled(self._context.wall(), task_id, State.CANCELLED, **end))
        if (following := self._following.pop(task_id, None)) is not None:
            following.stop()
