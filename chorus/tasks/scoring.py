"""Scores of agents for a task (spec/tasks.md, "Choosing the agent"): a weighted sum, ties by peer id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from chorus.tasks.spec import Required

UNKNOWN_SUCCESS = 0.8
"""Success rate of an agent that has run nothing lately: better than one that fails, worse than one that is proven."""


class TaskNeeds(Protocol):
    """The fields of a task that scoring reads: of a `TaskSpec`, or of the `Demand` that stands for it."""

    @property
    def required(self) -> Required: ...

    @property
    def language(self) -> str | None: ...

    @property
    def commands(self) -> Sequence[object]: ...


@attrs.frozen
class Weights:
    """Weights of the parts of a score, each from 0 to 1."""

    expertise: float = 30.0
    role: float = 10.0
    specialisation: float = 10.0
    free_capacity: float = 20.0
    success: float = 15.0
    locality: float = 10.0
    load: float = 5.0
    tried: float = 40.0
    """Taken off for an agent that lost or gave back this task: another one goes first where there is one."""


DEFAULT_WEIGHTS = Weights()


@attrs.frozen
class Candidate:
    """An agent as its last broadcasts and the scheduler's own view show it."""

    peer: str
    """Peer id, as text; the last resort of a tie."""
    role: str | None = None
    expertise: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    specialisation: str | None = None
    current_tasks: int = 0
    max_tasks: int = 1
    available: bool = True
    """`available_for_work`, and reachable."""
    succeeded: int = 0
    failed: int = 0
    """Attempts in the last while that ended well, and that ended by failure of infrastructure there."""
    has_input: bool = False
    """The input blob lies there already."""
    load: float = 0.0
    """Of the machine, per core; 0 idle, 1 and more full."""
    models: bool = False
    """It has an AI provider."""
    reachable: bool = True
    """True if the agent is connected to this node; else it is known only through others."""

    @property
    def free(self) -> bool:
        """True if the agent takes work and has room for one task more."""
        return self.available and self.reachable and self.current_tasks < self.max_tasks

    @property
    def refuses(self) -> bool:
        """True if the agent takes nothing though it has room: it drains, has no sandbox, or answers no offers."""
        return not self.available and self.current_tasks < self.max_tasks

    @property
    def standing(self) -> tuple[object, ...]:
        """The properties that its answer to an offer may hang on, other than how much it has to do."""
        return self.role, self.expertise, self.capabilities, self.specialisation, self.max_tasks, self.models


@attrs.frozen
class Ranked:
    candidate: Candidate
    score: float


@attrs.frozen
class Ranking:
    order: tuple[Ranked, ...]
    """Best first; empty when nobody is suitable."""
    nobody: str | None
    """One line for the user that says why `order` is empty."""
    absent: bool = False
    """True if no agent has what the task requires, however free it is."""


def rank(
    spec: TaskNeeds, candidates: Sequence[Candidate], tried: Iterable[str] = (), *, weights: Weights = DEFAULT_WEIGHTS
) -> Ranking:
    """Order those who may run `spec` now. `tried` are peers that lost or gave back this task."""
    tried = frozenset(tried)
    suitable = [each for each in candidates if missing(spec, each) is None]
    free = [each for each in suitable if each.free]
    ranked = [Ranked(each, score(spec, each, each.peer in tried, weights)) for each in free]
    ranked.sort(key=lambda each: (-each.score, each.candidate.peer))
    return Ranking(tuple(ranked), None if ranked else _why_nobody(spec, candidates, suitable), not suitable)


def why_absent(spec: TaskNeeds, candidates: Sequence[Candidate]) -> str | None:
    """Why none of `candidates` may run `spec` however free it is; None as soon as one may. Scores nobody."""
    if any(missing(spec, each) is None for each in candidates):
        return None
    return _why_nobody(spec, candidates, ())


def score(spec: TaskNeeds, candidate: Candidate, tried: bool, weights: Weights = DEFAULT_WEIGHTS) -> float:
    """The weighted sum for one agent, rounded to 9 digits so that the order is the same on every machine."""
    wanted = {each.lower() for each in spec.required.expertise}
    if spec.language is not None:
        wanted.add(spec.language.lower())
    known = {each.lower() for each in candidate.expertise}
    special = (candidate.specialisation or "").lower()
    free = candidate.max_tasks - candidate.current_tasks
    runs = candidate.succeeded + candidate.failed
    total = (
        weights.expertise * (len(wanted & known) / len(wanted) if wanted else 0.5)
        + weights.role * (spec.required.role is None or spec.required.role == candidate.role)
        + weights.specialisation * (special in wanted)
        + weights.free_capacity * max(0.0, free / max(1, candidate.max_tasks))
        # One unknown run is mixed in, so that a single failure does not weigh like a hundred.
        + weights.success * (candidate.succeeded + UNKNOWN_SUCCESS) / (runs + 1)
        + weights.locality * candidate.has_input
        + weights.load * (1.0 - min(1.0, max(0.0, candidate.load)))
        - weights.tried * tried
    )
    return round(total, 9)


def missing(spec: TaskNeeds, candidate: Candidate) -> str | None:
    """The first thing that `required` asks for and this agent has not; None when it has all."""
    required = spec.required
    if required.role is not None and required.role != candidate.role:
        return f"the role {required.role}"
    if (lacks := _first_missing(required.expertise, candidate.expertise)) is not None:
        return f"the expertise {lacks}"
    if (lacks := _first_missing(required.capabilities, candidate.capabilities)) is not None:
        return f"the capability {lacks}"
    return "an AI provider to plan the commands" if not spec.commands and not candidate.models else None


def _first_missing(wanted: Iterable[str], known: frozenset[str]) -> str | None:
    lower = {each.lower() for each in known}
    return next((each for each in wanted if each.lower() not in lower), None)


def _why_nobody(spec: TaskNeeds, candidates: Sequence[Candidate], suitable: Sequence[Candidate]) -> str:
    if not candidates:
        return "no agent is known yet"
    if not suitable:
        lacks = {what for each in candidates if (what := missing(spec, each)) is not None}
        if len(lacks) == 1:
            (what,) = lacks
            # Not to be confused with the roles of `chorus keys`, which are about reading.
            of_role = what == f"the role {spec.required.role}"
            asked = "; an agent announces its role as CHORUS_AGENT_ROLE" if of_role else ""
            return f"no agent has {what} ({_agents(len(candidates))} known{asked})"
        return f"no agent has all that the task requires: one lacks {', another '.join(sorted(lacks)[:3])}"
    executing = [each for each in suitable if each.max_tasks]
    if not executing:
        return f"no suitable agent executes tasks ({_agents(len(suitable))} that may run 0)"
    if not any(each.reachable for each in executing):
        return (
            f"{_agents(len(executing))} that may run it cannot be reached from this node; members that see "
            f"{'it' if len(executing) == 1 else 'them'} are asked to take the task over"
        )
    executing = [each for each in executing if each.reachable]
    full = sum(each.current_tasks >= each.max_tasks for each in executing)
    if full == len(executing):
        return f"every suitable agent is busy ({_agents(full)})"
    return f"no suitable agent takes work now ({full} busy, {len(executing) - full} not available)"


def _agents(count: int) -> str:
    return "1 agent" if count == 1 else f"{count} agents"
