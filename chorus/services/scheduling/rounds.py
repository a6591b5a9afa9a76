"""Rounds of placing: one task is offered to agents in order of their scores, and assigned to the first that accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from chorus.errors import ChorusError, UserError
from chorus.protocols.task_messages import Assign
from chorus.services.scheduling import offering
from chorus.services.scheduling.offering import Accepted, AgentDeclined, Offering
from chorus.tasks import entries
from chorus.tasks.errors import IllegalEntry
from chorus.tasks.groups import Nobody
from chorus.tasks.state import State, TaskState
from chorus.tasks.terms import Reason

if TYPE_CHECKING:
    from chorus.protocols.task_messages import InputBlob
    from chorus.services.scheduling.board import Agent
    from chorus.services.scheduling.conduct import Conduct
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.custodies import Custodies
    from chorus.services.task_streams import SchedulerChannel, TaskStreams
    from chorus.tasks import scoring

PASSING = frozenset({"full", "busy_with_it", "other_scheduler", "unacknowledged", "no_disk", "no_descriptors"})
"""Reasons to decline that go by themselves. Whoever declined for another one would only decline again until it has
become a different agent: it changed what it can, was away, or could not take work for a while."""
COMMON = frozenset(
    {
        *("full", "unacknowledged", "no_disk", "no_descriptors", "store_damaged", "draining", "wrong_role"),
        *("missing_expertise", "missing_capabilities", "no_model", "over_limits", "image_missing"),
        "sandbox_unavailable",
        offering.UNREACHABLE,
    }
)
"""Reasons that would be the same for every task of the same demand. Any other one may be the task's own."""


class Rounds:
    """All rounds under way. `conduct` learns how agents answer."""

    def __init__(self, context: SchedulerContext, custodies: Custodies, streams: TaskStreams, conduct: Conduct) -> None:
        self._context = context
        self._custodies = custodies
        self._conduct = conduct
        self._stopped = False
        self.offering = Offering(streams, context.clock)
        self.placing: dict[str, str | None] = {}
        """Tasks being placed, and the agent each is offered to at this moment."""

    def stop(self) -> None:
        self._stopped = True
        self.offering.stop()

    def seen(self, agent: Agent) -> scoring.Candidate:
        """The candidate that an agent is, with what is known of it here."""
        peer = str(agent.peer)
        offered = sum(other == peer for other in self.placing.values())
        claimed = attrs.evolve(agent.candidate, peer=peer)
        ours = self._custodies.count(peer) + offered
        return self._conduct.seen(claimed, agent.said_at, ours, self._context.clock.seconds())

    async def place(
        self, task_id: str, order: Sequence[scoring.Candidate], agents: Mapping[str, Agent]
    ) -> Nobody | bool:
        """Offer it to the candidates in order. True if assigned, False if it needs no agent any more, else why not."""
        try:
            task = self._context.ledger.machine.get(task_id)
            blob = await self._custodies.input_of(task)
            return await self._offer_around(task, order, agents, blob)
        except IllegalEntry as error:
            # Cancelled while it was offered, or the like.
            return Nobody(f"it cannot be assigned now: {error}", fixed=True, alone=True)
        except ChorusError as error:
            return Nobody(f"it cannot be assigned now: {error}", fixed=True, alone=isinstance(error, UserError))

    async def _offer_around(
        self, task: TaskState, order: Sequence[scoring.Candidate], agents: Mapping[str, Agent], blob: InputBlob | None
    ) -> Nobody | bool:
        reasons: list[str] = []
        declined: dict[str, object] = {}
        alone = False
        for place, candidate in enumerate(order):
            agent = agents[candidate.peer]
            self.placing[task.id] = None
            if place and not self.seen(agent).free:
                # It was when the round began.
                reasons.append(f"{agent.agent_id} has no room any more")
                continue
            self.placing[task.id] = candidate.peer
            answer = await self._offer(task, agent, blob)
            if isinstance(answer, Accepted):
                return await self._accepted(task, answer.channel, agent.agent_id)
            if not self._ready(task.id):
                return False
            reasons.append(answer.detail or answer.reason)
            alone = alone or answer.reason not in COMMON
            if answer.reason not in PASSING:
                declined[candidate.peer] = candidate.standing
        # Sorted, since the order of the offers changes from round to round and the reasons do not.
        return Nobody("; ".join(sorted(set(reasons))), declined, offered=True, alone=alone)

    async def _offer(self, task: TaskState, agent: Agent, blob: InputBlob | None) -> Accepted | AgentDeclined:
        answer = await self.offering.offer(task, agent.peer, agent.agent_id, blob)
        if isinstance(answer, AgentDeclined) and answer.slow:
            self._conduct.kept_waiting(str(agent.peer), self._context.clock.seconds())
        elif isinstance(answer, Accepted) or answer.reason != offering.UNREACHABLE:
            self._conduct.answered(str(agent.peer))
        return answer

    async def _accepted(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> bool:
        """True if it is assigned. The agent keeps a place for it, and learns at once where it is not."""
        try:
            if self._ready(task.id):
                await self._assign(task, channel, agent_id)
                return True
        except BaseException:
            channel.reset()
            raise
        channel.reset()
        return False

    async def _assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> None:
        """Raises what keeps it from being committed or sent; once it is committed, its lease hands the task on."""
        custody = await self._custodies.assign(task, channel, agent_id)
        if channel.may_send(Assign) and channel.send(Assign(custody.fence, custody.lease_s)):
            return
        # It went away between its yes and our commit, and so cannot have begun: no lease to wait for.
        detail = f"{agent_id or channel.peer} went away before it was told"
        now, lost = self._context.wall(), str(Reason.LEASE_LOST)
        await self._context.ledger.append(entries.released(now, task.id, custody.fence, lost, detail))
        custody.drop()

    def _ready(self, task_id: str) -> bool:
        """True if the task still waits for an agent, and this node still places."""
        task = self._context.ledger.machine.find(task_id)
        return not self._stopped and task is not None and task.state is State.SUBMITTED
