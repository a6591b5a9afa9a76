"""What a scheduler has seen of agents itself: how attempts went there, who has become free, who leaves offers
unanswered (pure; times are of the node's clock)."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

import attrs

from chorus.backoff import Backoff
from chorus.tasks import scoring

RECENT = 20
"""Attempts of an agent that its success rate is made of."""
MAX_FREED = 64
"""Ends of tasks remembered of one agent; those before its last word do not count."""
MAX_REMEMBERED = 1000
"""Agents whose conduct is remembered."""
REST_S = 15.0
REST_LIMIT_S = 600.0
"""How long an agent that left an offer unanswered is offered nothing; doubled each time in a row, up to the limit: one
that boasts and never answers delays a task now and then, not each of them."""

REST = Backoff(REST_S, REST_LIMIT_S)

T = TypeVar("T")


@attrs.frozen
class _Silence:
    times: int
    until: float


class Conduct:
    """Of all agents, by peer id."""

    def __init__(self) -> None:
        self._outcomes: dict[str, deque[bool]] = {}
        self._freed: dict[str, deque[float]] = {}
        self._silent: dict[str, _Silence] = {}

    def outcome(self, agent: str, *, well: bool) -> None:
        """An attempt there has ended: `well` unless the agent or its machine failed."""
        self._outcomes.setdefault(agent, deque(maxlen=RECENT)).append(well)
        _forget_oldest(self._outcomes)

    def freed(self, agent: str, now: float) -> None:
        """It has one of our tasks less than it had; its own word of that comes up to a second later."""
        self._freed.setdefault(agent, deque(maxlen=MAX_FREED)).append(now)
        _forget_oldest(self._freed)

    def kept_waiting(self, agent: str, now: float) -> None:
        """It left an offer without a yes for long. Offers of one moment that end together make one rest."""
        self.outcome(agent, well=False)
        before = self._silent.pop(agent, None)
        if before is not None and now < before.until:
            self._silent[agent] = before
            return
        times = 1 if before is None else before.times + 1
        self._silent[agent] = _Silence(times, now + REST.ceiling(times))
        _forget_oldest(self._silent)

    def answered(self, agent: str) -> None:
        self._silent.pop(agent, None)

    def rests(self, agent: str, now: float) -> bool:
        """Whether it is offered nothing now."""
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


def _forget_oldest(remembered: dict[str, T]) -> None:
    while len(remembered) > MAX_REMEMBERED:
        del remembered[next(iter(remembered))]
