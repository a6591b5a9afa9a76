"""The executor's conversation with the scheduler of one attempt, reopened as long as anything is left to send.

It breaks with its stream, with this process or with the scheduler's; each new one begins with `resume`, after a
back-off, or at once when the scheduler's node comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.backoff import Backoff
from chorus.errors import ChorusError, PeerError
from chorus.protocols.task_messages import Cancel, Continue, Message, Resume
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from chorus.services.execution.row import RunRecord
    from chorus.services.task_streams import ExecutorChannel, TaskStreams

ANSWER_S = 30.0
"""Seconds a scheduler has to answer a `resume` or to acknowledge an outcome before the conversation is begun anew."""
RECONNECT = Backoff(0.25, 15.0)
"""Back-off between attempts to reach the scheduler; it doubles up to the limit."""


class Conversation:
    """`heard` gets every message; `closed` is called whenever a conversation has ended, `drained` when writing may go
    on, and `due` when a back-off is over: whoever still has something to say calls `connect` then."""

    _log = Logger()

    def __init__(
        self,
        streams: TaskStreams,
        clock: IReactorTime,
        record: RunRecord,
        *,
        heard: Callable[[Message], None],
        closed: Callable[[], None],
        drained: Callable[[], None],
        due: Callable[[], None],
    ) -> None:
        self._streams = streams
        self._clock = clock
        self._record = record
        self._heard = heard
        self._closed = closed
        self._drained = drained
        self.channel: ExecutorChannel | None = None
        """None while there is no conversation."""
        self.resumed_at = 0.0
        """When the last `resume` was sent, on this agent's clock."""
        self._answer = Timer(clock, self._no_answer)
        self._retry = Timer(clock, due)
        self._retries = 0
        self._connecting = False
        self._over = False

    def take_up(self, channel: ExecutorChannel) -> None:
        """Go on over a channel whose first messages have been exchanged."""
        self.channel = channel
        channel.heard = self._hear
        channel.closed = self._ended
        channel.drained = self._drained

    def connect(self) -> None:
        """Resume with the scheduler now, if there is no conversation (it has just come back, or we have)."""
        if self._over or self.channel is not None or self._connecting:
            return
        self._retry.cancel()
        self._connecting = True
        self._streams.resume_at(self._record.scheduler).addCallbacks(self._connected, self._not_connected)

    def may_say(self, message: type[Message]) -> bool:
        return self.channel is not None and self.channel.may_send(message)

    def say(self, message: Message) -> None:
        """Send a message, or drop it where there is no conversation: the outcome repeats it."""
        if self.channel is not None and self.channel.may_send(type(message)):
            self.channel.send(message)

    def expect_answer(self) -> None:
        """Begin the conversation anew unless the scheduler answers in time."""
        self._answer.arm(ANSWER_S)

    def refuse(self, error: PeerError) -> None:
        """End this conversation for an illegal message of the scheduler; another begins after the back-off."""
        if self.channel is not None:
            self.channel.reset(error)

    def end(self) -> None:
        """Begin no other. The one under way, if there is one, goes on to its end."""
        self._over = True
        self._answer.cancel()
        self._retry.cancel()

    def hang_up(self) -> None:
        """End it at once."""
        self.end()
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.reset()

    def _hear(self, message: Message) -> None:
        if isinstance(message, Cancel | Continue):
            self._answer.cancel()
        self._heard(message)
        if isinstance(message, Cancel | Continue) and self.channel is not None:
            # Taken as it is, it ends the back-off.
            self._retries = 0

    def _ended(self, error: ChorusError | None) -> None:
        self.channel = None
        self._answer.cancel()
        self._closed()
        self._connect_later()

    def _connect_later(self) -> None:
        if not self._retry.armed and not self._over:
            self._retries += 1
            self._retry.arm(RECONNECT.ceiling(self._retries))

    def _connected(self, channel: ExecutorChannel) -> None:
        self._connecting = False
        if self._over or channel.is_closed:
            channel.reset()
            self._connect_later()
            return
        self.take_up(channel)
        self.resumed_at = self._clock.seconds()
        self.expect_answer()
        channel.send(Resume(self._record.task_id, self._record.fence))

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = False
        if not isinstance(failure.value, ChorusError):
            self._log.failure("internal error in resuming {task}", task=self._record.task_id, failure=failure)
        self._connect_later()

    def _no_answer(self) -> None:
        if self.channel is not None:
            self.channel.reset()
