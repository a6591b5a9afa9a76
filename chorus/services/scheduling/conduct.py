"""The scheduler's own view of agents: how attempts went there, where places became free, who leaves offers unanswered
(pure; times are of the node's clock)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from chorus.backoff import Backoff
from chorus.bounded import Bounded
from chorus.tasks import scoring
from chorus.tasks.state import DRAINING, OWN_FAILURES, OWNED, State

if TYPE_CHECKING:
    from chorus.tasks.applied import Change

RECENT = 20
"""Attempts of an agent that its success rate is made of."""
MAX_FREED = 64
"""Ends of tasks remembered of one agent; those before its last broadcast do not count."""
MAX_REMEMBERED = 1000
"""Agents whose conduct is remembered."""
REST_S = 15.0
REST_LIMIT_S = 600.0
"""How long an agent that left an offer unanswered is offered nothing; doubled each time in a row, up to the limit: one
that boasts and never answers delays a task now and then, not each of them."""

REST = Backoff(REST_S, REST_LIMIT_S)


@attrs.frozen
class _Silence:
    times: int
    until: float


class Conduct:
    """Of all agents, by peer id."""

    def __init__(self) -> None:
        self._outcomes: Bounded[str, deque[bool]] = Bounded(MAX_REMEMBERED)
        self._freed: Bounded[str, deque[float]] = Bounded(MAX_REMEMBERED)
        self._silent: Bounded[str, _Silence] = Bounded(MAX_REMEMBERED)

    def changed(self, change: Change) -> None:
        """A task has left its agent: completed there, or back in the queue."""
        before, task = change.before, change.after
        if task is None or not change.moved:
            return
        if task.state is State.COMPLETED and task.agent is not None:
            self.outcome(task.agent, well=True)
        if task.state is not State.SUBMITTED or before is None or before.state not in OWNED:
            return
        if before.agent is not None and task.reason != DRAINING:
            self.outcome(before.agent, well=task.reason in OWN_FAILURES)

    def outcome(self, agent: str, *, well: bool) -> None:
        """An attempt there has ended: `well` unless the agent or its machine failed."""
        outcomes = self._outcomes.get(agent) or deque(maxlen=RECENT)
        outcomes.append(well)
        self._outcomes.put(agent, outcomes)

    def freed(self, agent: str, now: float) -> None:
        """One of our tasks ended there; its own broadcast of that comes up to a second later."""
        freed = self._freed.get(agent) or deque(maxlen=MAX_FREED)
        freed.append(now)
        self._freed.put(agent, freed)

    def kept_waiting(self, agent: str, now: float) -> None:
        """Count an offer that the agent did not accept for long. Offers that end together count as one."""
        self.outcome(agent, well=False)
        before = self._silent.get(agent)
        if before is None or now >= before.until:
            times = 1 if before is None else before.times + 1
            self._silent.put(agent, _Silence(times, now + REST.ceiling(times)))

    def answered(self, agent: str) -> None:
        self._silent.pop(agent, None)

    def rests(self, agent: str, now: float) -> bool:
        """True if the agent gets no offers now."""
        silence = self._silent.get(agent)
        return silence is not None and now < silence.until

    def seen(self, said: scoring.Candidate, said_at: float, ours: int, now: float) -> scoring.Candidate:
        """The candidate with what is known of it here: how it did lately, at least the tasks that we gave it or are
        offering it (`ours`), and without those that have ended since its word (`said_at`)."""
        peer = said.peer
        outcomes = self._outcomes.get(peer, ())
        freed = sum(time > said_at for time in self._freed.get(peer, ()))
        full = said.current_tasks >= said.max_tasks
        # It said no because it was full; one that drains says no whatever it has.
        available = said.available or (full and freed > 0)
        return attrs.evolve(
            said,
            current_tasks=max(said.current_tasks - freed, ours),
            available=available and not self.rests(peer, now),
            succeeded=sum(outcomes),
            failed=len(outcomes) - sum(outcomes),
        )
