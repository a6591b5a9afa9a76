"""Offers one task to one agent.

On any failure the conversation is reset (so that the agent gives its place to another offer) and no timer
stays behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred

from chorus.errors import ChorusError, LocalError
from chorus.protocols.stream import StreamClosed
from chorus.protocols.task_messages import Accept, Decline, Message, Offer
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.task_messages import InputBlob
    from chorus.services.task_streams import SchedulerChannel, TaskStreams
    from chorus.tasks.state import TaskState

OFFER_S = 15.0
"""Seconds an agent has to answer an offer: it may have to ask a slow container engine."""
SLOW_S = 5.0
"""An answer that takes longer is waited for, but a no has cost the task so much time that it counts against the agent,
like none at all."""
UNREACHABLE = "unreachable"
"""A reason of ours, for an agent that did not come to decline."""


class NoOfferAnswer(LocalError):
    code = "no_answer"


@attrs.frozen
class AgentDeclined:
    reason: str
    detail: str
    slow: bool = False
    """True if the task has waited for it for so long that the agent is asked later next time."""


@attrs.frozen
class Accepted:
    channel: SchedulerChannel


class Offering:
    """All offers under way."""

    def __init__(self, streams: TaskStreams, clock: IReactorTime) -> None:
        self._streams = streams
        self._clock = clock
        self._waiting: set[_Answer] = set()
        self.count = 0
        """Offers made."""

    async def offer(self, task: TaskState, peer: PeerId, name: str, blob: InputBlob | None) -> Accepted | AgentDeclined:
        self.count += 1
        begun = self._clock.seconds()
        try:
            channel = await self._streams.offer_to(peer)
            try:
                message = await self._answer(channel, Offer(task.id, task.attempt + 1, task.spec, blob))
            except BaseException:
                channel.reset()
                raise
        except ChorusError as error:
            return AgentDeclined(UNREACHABLE, f"{name} does not answer: {error}", self._is_slow(begun))
        if isinstance(message, Decline):
            detail = message.detail or f"{name} declines: {message.reason}"
            return AgentDeclined(message.reason, detail, self._is_slow(begun))
        return Accepted(channel)

    def _is_slow(self, begun: float) -> bool:
        return self._clock.seconds() - begun >= SLOW_S

    async def _answer(self, channel: SchedulerChannel, offer: Offer) -> Message:
        answer = _Answer(channel, self._clock)
        self._waiting.add(answer)
        try:
            channel.send(offer)
            return await answer.deferred
        finally:
            self._waiting.discard(answer)
            answer.over()

    def stop(self) -> None:
        for answer in list(self._waiting):
            answer.give_up(StreamClosed("this node stops"))


class _Answer:
    """Waits for the answer to one offer."""

    def __init__(self, channel: SchedulerChannel, clock: IReactorTime) -> None:
        self._channel = channel
        self.deferred: Deferred[Message] = Deferred()
        self._limit = Timer(clock, self._late)
        self._limit.arm(OFFER_S)
        channel.heard = self._heard
        channel.closed = self._closed
        if channel.is_closed:
            self._closed(None)

    def _heard(self, message: Message) -> None:
        if isinstance(message, Accept | Decline):
            self._limit.cancel()
            if not self.deferred.called:
                self.deferred.callback(message)

    def _closed(self, error: ChorusError | None) -> None:
        self._limit.cancel()
        if not self.deferred.called:
            self.deferred.errback(error or StreamClosed("it ended the conversation"))

    def _late(self) -> None:
        self.give_up(NoOfferAnswer(f"no answer in {OFFER_S:.0f} s"))

    def give_up(self, error: ChorusError) -> None:
        self._closed(error)
        self._channel.reset()

    def over(self) -> None:
        """Nobody waits for it any more; later messages go to whoever takes the channel over."""
        self._limit.cancel()
        self._channel.heard = lambda _: None
        self._channel.closed = lambda _: None
        self.deferred.addErrback(lambda _: None)
