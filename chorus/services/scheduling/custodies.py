"""Which of this scheduler's tasks are with agents: one custody each, from the assignment until the task has left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.protocols.task_messages import Ack, Resume, Stale
from chorus.services.scheduling.custody import Custody, Desk
from chorus.tasks import deadlines, entries
from chorus.tasks.state import OWNED, State, TaskState

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.seams import JSON
    from chorus.services.blobs.named import NamedBlobs
    from chorus.services.scheduling.events import TaskEvents
    from chorus.services.task_streams import SchedulerChannel
    from chorus.tasks.journal import Entry
    from chorus.tasks.machine import TaskMachine
    from chorus.tasks.terms import StreamName


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
        named: NamedBlobs,
        ended: Callable[[Custody], None],
    ) -> None:
        """`lease_s` is the length of new leases."""
        self._machine = machine
        self._wall = wall
        self._lease_s = lease_s
        self._append = append
        self._ended = ended
        self._desk = Desk(clock, wall, events, append, machine.get, self._over, bring, named)
        self._custodies: dict[str, Custody] = {}
        self._of_agent: dict[str, set[Custody]] = {}

    def of(self, task_id: str) -> Custody | None:
        return self._custodies.get(task_id)

    def count(self, agent: str) -> int:
        """Tasks of ours that this agent has."""
        return sum(not custody.collecting for custody in self._of_agent.get(agent, ()))

    def agent_id(self, agent: str) -> str | None:
        """The name of a peer that has a task of ours, when it is known from its assignment."""
        return next((each.agent_id for each in self._of_agent.get(agent, ()) if each.agent_id is not None), None)

    def received(self, task: TaskState) -> Mapping[str, int] | None:
        """Bytes of each stream that have come from the agent that has the task now; None when nobody has it."""
        custody = self._custodies.get(task.id)
        return dict(custody.received.items()) if custody is not None and task.state in OWNED else None

    def take(self, task: TaskState, received: Mapping[StreamName, int], input_bytes: int = 0) -> Custody:
        """Of a task that is assigned; its lease begins now, in full, and so does the time its agent may hold it."""
        assert task.fence is not None and task.agent is not None
        lease_s = task.lease_s or self._lease_s
        limit_s = deadlines.attempt_limit(task.spec, input_bytes)
        custody = Custody(self._desk, task.id, task.fence, task.agent, lease_s, received, limit_s)
        self._custodies[task.id] = custody
        self._of_agent.setdefault(task.agent, set()).add(custody)
        return custody

    async def assign(
        self, task: TaskState, channel: SchedulerChannel, agent_id: str | None, input_bytes: int
    ) -> Custody:
        """Commit the assignment to the agent at the other end of `channel`, and take custody."""
        agent = str(channel.peer)
        await self._append(
            entries.assigned(self._wall(), task.id, agent=agent, attempt=task.attempt + 1, lease_s=self._lease_s)
        )
        assigned = self._machine.get(task.id)
        try:
            custody = self.take(assigned, {}, input_bytes)
        except Exception:
            # Nobody else would ever end it.
            assert assigned.fence is not None
            lost = entries.lease_expired(self._wall(), task.id, assigned.fence)
            await self._append(lost)
            raise
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
            custody.collect()
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
        others = self._of_agent.get(custody.agent, set())
        others.discard(custody)
        if not others:
            self._of_agent.pop(custody.agent, None)
        self._ended(custody)
