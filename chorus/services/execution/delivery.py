"""Delivery of a run's output and outcome: output in order and without gaps, then the outcome.

Nothing is sent that the scheduler has: it names the offsets from which a new conversation goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.protocols.task_messages import MAX_OUTPUT, Message, Output
from chorus.services.execution.output import STREAMS

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.services.execution.conversation import Conversation
    from chorus.services.execution.output import Spool
    from chorus.services.task_streams import ExecutorChannel
    from chorus.tasks.terms import StreamName


class OutputDelivery:
    """Of one attempt, over as many conversations as it takes."""

    _log = Logger()

    def __init__(self, conversation: Conversation, task_id: str) -> None:
        self._conversation = conversation
        self._task_id = task_id
        self._spool: Spool | None = None
        self._sent: dict[StreamName, int] | None = None
        """None while the scheduler has not named its offsets."""
        self._reading = False
        self._pumping = False
        self._outcome: Message | None = None

    def take_from(self, spool: Spool) -> None:
        """Deliver the output of this spool."""
        self._spool = spool

    def begin(self, *, stdout: int = 0, stderr: int = 0) -> None:
        """A conversation is ready for output from these offsets; `pump` sends it."""
        self._sent = {"stdout": stdout, "stderr": stderr}

    def interrupt(self) -> None:
        """The conversation has ended."""
        self._sent = None

    def finish(self, outcome: Message) -> None:
        """Let the outcome follow the output. It must be as durable as it will ever be."""
        self._outcome = outcome
        self.pump()

    def pump(self) -> None:
        """Send what the scheduler lacks: output in order, then the outcome. May be entered again from its own calls."""
        if self._pumping:
            return
        self._pumping = True
        try:
            self._pump()
        finally:
            self._pumping = False

    def _pump(self) -> None:
        channel = self._conversation.channel
        spool = self._spool
        while channel is not None and channel.writable and not self._reading and not channel.is_closed:
            sent = self._sent
            stream = next((s for s in STREAMS if spool and sent is not None and sent[s] < spool.size(s)), None)
            if stream is None or spool is None or sent is None or not channel.may_send(Output):
                self._send_outcome(channel)
                return
            data = spool.recent(stream, sent[stream], MAX_OUTPUT)
            if data is None:
                self._reading = True
                Deferred.fromCoroutine(self._read(channel, spool, stream, sent)).addErrback(self._broken)
                if self._reading:
                    return
                continue
            offset = sent[stream]
            sent[stream] += len(data)
            channel.send(Output(stream, offset, data))

    async def _read(
        self, channel: ExecutorChannel, spool: Spool, stream: StreamName, sent: dict[StreamName, int]
    ) -> None:
        offset = sent[stream]
        data = b""
        try:
            data = await spool.read(stream, offset, MAX_OUTPUT)
        except OSError as error:
            self._log.error("output of {task} cannot be read: {error}", task=self._task_id, error=error)
        except Exception:
            # The outcome goes out all the same.
            self._log.failure("output of {task} cannot be read", task=self._task_id)
        finally:
            self._reading = False
        if not data:
            # The file lost it (disk full): there is nothing more to send of this stream.
            sent[stream] = spool.size(stream)
        elif channel is self._conversation.channel and channel.may_send(Output):
            sent[stream] += len(data)
            channel.send(Output(stream, offset, data))
        self.pump()

    def _send_outcome(self, channel: ExecutorChannel) -> None:
        if self._outcome is not None and channel.may_send(type(self._outcome)):
            self._conversation.expect_answer()
            channel.send(self._outcome)

    def _broken(self, failure: Failure) -> None:
        self._log.failure("internal error in an attempt at {task}", task=self._task_id, failure=failure)
