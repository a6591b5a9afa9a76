"""Which of this scheduler's tasks are with agents: one custody each, from the assignment until the task has left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.protocols.task_messages import Ack, Resume, Stale
from chorus.services.custody import Custody, Desk
from chorus.tasks import entries
from chorus.tasks.state import OWNED, State, TaskState

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.sandbox.contract import StreamName
    from chorus.seams import JSON
    from chorus.services.task_events import TaskEvents
    from chorus.services.task_streams import SchedulerChannel
    from chorus.tasks.journal import Entry
    from chorus.tasks.machine import TaskMachine


class Custodies:
    """`append` commits an entry, `bring` waits for what a result names, `ended` is called after a custody has."""

    _log = Logger()

    def __init__(
        self,
        *,
        machine: TaskMachine,
        events: TaskEvents,
        clock: IReactorTime,
        wall: Callable[[], float],
        lease_s: float,
        append: Callable[[Entry], Awaitable[int]],
        bring: Callable[[Mapping[str, JSON]], Awaitable[None]],
        ended: Callable[[Custody], None],
    ) -> None:
        """`lease_s` is the length of new leases."""
        self._machine = machine
        self._wall = wall
        self._lease_s = lease_s
        self._append = append
        self._ended = ended
        self._desk = Desk(clock, wall, events, append, machine.get, self._over, bring)
        self._custodies: dict[str, Custody] = {}

    def of(self, task_id: str) -> Custody | None:
        return self._custodies.get(task_id)

    def count(self, agent: str) -> int:
        """Tasks of ours that this agent has."""
        return sum(custody.agent == agent and not custody.collecting for custody in self._custodies.values())

    def agent_id(self, agent: str) -> str | None:
        """The name of a peer that has a task of ours, when it is known from its assignment."""
        for custody in self._custodies.values():
            if custody.agent == agent and custody.agent_id is not None:
                return custody.agent_id
        return None

    def received(self, task: TaskState) -> Mapping[str, int] | None:
        """Bytes of each stream that have come from the agent that has the task now; None when nobody has it."""
        custody = self._custodies.get(task.id)
        return dict(custody.received.items()) if custody is not None and task.state in OWNED else None

    def take(self, task: TaskState, received: Mapping[StreamName, int]) -> Custody:
        """Of a task that is assigned; its lease begins now, in full."""
        assert task.fence is not None and task.agent is not None
        lease_s = task.lease_s or self._lease_s
        custody = Custody(self._desk, task.id, task.fence, task.agent, lease_s, received)
        self._custodies[task.id] = custody
        return custody

    async def assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> Custody:
        """Commit the assignment to the agent at the other end of `channel`, and take custody."""
        agent = str(channel.peer)
        await self._append(
            entries.assigned(self._wall(), task.id, agent=agent, attempt=task.attempt + 1, lease_s=self._lease_s)
        )
        custody = self.take(self._machine.get(task.id), {})
        custody.agent_id = agent_id
        custody.attach(channel)
        return custody

    def resumed(self, channel: SchedulerChannel, resume: Resume) -> None:
        """An agent asks to go on with a task it holds."""
        agent = str(channel.peer)
        task = self._machine.get(resume.task_id) if resume.task_id in self._machine else None
        if task is None or task.fence != resume.fence or task.agent != agent:
            self._log.info("{agent} resumes {task} in vain", event="task.stale", agent=agent, task=resume.task_id)
            channel.send(Stale())
            return
        custody = self._custodies.get(task.id)
        if custody is not None and custody.fence == resume.fence:
            custody.resume(channel)
        elif task.state is State.CANCELLED and task.result is None:
            custody = self.take(task, {})
            custody.collecting = True
            custody.resume(channel)
        else:
            channel.send(Ack())

    def detach(self) -> None:
        """This process ends: agents keep their tasks."""
        for custody in list(self._custodies.values()):
            custody.detach()

    def _over(self, custody: Custody) -> None:
        if self._custodies.get(custody.task_id) is custody:
            del self._custodies[custody.task_id]
        self._ended(custody)
