"""The custodies of this scheduler: one for each task that an agent has, from its assignment until the task has left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.errors import UserError
from chorus.protocols.task_messages import Ack, InputBlob, Resume, Stale
from chorus.services.scheduling.custody import Custody, CustodyContext
from chorus.tasks import deadlines, entries
from chorus.tasks.blobs import input_blob
from chorus.tasks.state import OWNED, State, TaskState

if TYPE_CHECKING:
    from chorus.seams import JSON
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.decisions import TaskDecisions
    from chorus.services.task_streams import SchedulerChannel, TaskStreams
    from chorus.tasks.applied import Change
    from chorus.tasks.terms import StreamName


class UnknownInput(UserError):
    code = "unknown_input"


class Custodies:
    """`fetch_result_blobs` waits for what a result names, as long as that may take."""

    _log = Logger()

    def __init__(
        self,
        context: SchedulerContext,
        streams: TaskStreams,
        fetch_result_blobs: Callable[[Mapping[str, JSON]], Awaitable[None]],
        decisions: TaskDecisions,
    ) -> None:
        self._context = context
        self._streams = streams
        self._shared = CustodyContext(context, fetch_result_blobs, decisions, self._over)
        self._custodies: dict[str, Custody] = {}
        self._of_agent: dict[str, set[Custody]] = {}
        self._watchers: list[Callable[[Custody], None]] = []

    async def start(self) -> None:
        """Take every owned task into custody where the journal left it: leases begin anew, agents resume."""
        owned = [task for task in self._context.ledger.machine if task.state in OWNED]
        for task in owned:
            received = await self._context.stored.received(task.id)
            self.take(task, received, await self._input_bytes(task))
        self._streams.resumed = self.resumed
        if owned:
            self._log.info(
                "tasks with agents: {count}; their leases begin anew", event="coordinator.restarted", count=len(owned)
            )

    def stop(self) -> None:
        """This process ends: send nothing, decide nothing; agents keep their tasks."""
        self._streams.resumed = None
        for custody in list(self._custodies.values()):
            custody.drop()

    def when_over(self, call: Callable[[Custody], None]) -> None:
        """Call `call` with each custody that has ended."""
        self._watchers.append(call)

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

    async def input_of(self, task: TaskState) -> InputBlob | None:
        """The input as an offer names it. Raises `UnknownInput` where it is not at this node any more."""
        sha256 = input_blob(task.spec)
        if sha256 is None:
            return None
        size = (await self._context.blobs.stat(sha256) or {}).get("size")
        if not isinstance(size, int):
            raise UnknownInput(f"the input {sha256} is not here any more")
        return InputBlob(sha256, size)

    async def _input_bytes(self, task: TaskState) -> int:
        try:
            blob = await self.input_of(task)
        except UnknownInput:
            return 0
        return 0 if blob is None else blob.size

    def take(self, task: TaskState, received: Mapping[StreamName, int], input_bytes: int = 0) -> Custody:
        """Of a task that is assigned; its lease begins now, in full, and so does the time its agent may hold it."""
        custody = Custody(self._shared, task, received, deadlines.attempt_limit(task.spec, input_bytes))
        self._custodies[task.id] = custody
        self._of_agent.setdefault(custody.agent, set()).add(custody)
        return custody

    async def assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> Custody:
        """Commit the assignment to the agent at the other end of `channel`, and take custody."""
        input_bytes = await self._input_bytes(task)
        ledger, wall = self._context.ledger, self._context.wall
        lease_s = self._context.settings.lease_s
        await ledger.append(
            entries.assigned(wall(), task.id, agent=str(channel.peer), attempt=task.attempt + 1, lease_s=lease_s)
        )
        assigned = ledger.machine.get(task.id)
        try:
            custody = self.take(assigned, {}, input_bytes)
        except Exception:
            # Nobody else would ever end it.
            assert assigned.fence is not None
            await ledger.append(entries.lease_expired(wall(), task.id, assigned.fence))
            raise
        custody.agent_id = agent_id
        custody.attach(channel)
        return custody

    def changed(self, change: Change) -> None:
        """A task that an agent has was cancelled: its run is killed."""
        before, task = change.before, change.after
        if task is None or task.state is not State.CANCELLED or before is None or before.state not in OWNED:
            return
        if (custody := self.of(task.id)) is not None:
            custody.cancel(task.detail or "")

    def resumed(self, channel: SchedulerChannel, resume: Resume) -> None:
        """An agent asks to go on with a task it holds."""
        agent = str(channel.peer)
        task = self._context.ledger.machine.find(resume.task_id)
        if task is None or task.fence != resume.fence or task.agent != agent:
            self._log.info("stale resume of {task} by {agent}", event="task.stale", agent=agent, task=resume.task_id)
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

    def _over(self, custody: Custody) -> None:
        if self._custodies.get(custody.task_id) is custody:
            del self._custodies[custody.task_id]
        others = self._of_agent.get(custody.agent, set())
        others.discard(custody)
        if not others:
            self._of_agent.pop(custody.agent, None)
        for watcher in self._watchers:
            watcher(custody)
