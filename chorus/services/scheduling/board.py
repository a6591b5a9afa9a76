"""The agents as placement sees them at one moment, and what has changed since another moment (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from chorus.identity import PeerId
from chorus.tasks import scoring


@attrs.frozen
class Agent:
    """An agent that is known to be alive. Placement fills in the scheduler's own experience with it."""

    peer: PeerId
    agent_id: str
    candidate: scoring.Candidate
    said_at: float = float("inf")
    """When it said how much it has to do, on this node's clock; infinite for what is known without being said."""


@attrs.frozen
class _Shape:
    standing: object
    free: bool
    refuses: bool


Shapes = Mapping[str, _Shape]


class Board:
    """`seen` gives the candidate that an agent is, with what is known of it here."""

    def __init__(self, agents: Sequence[Agent], seen: Callable[[Agent], scoring.Candidate]) -> None:
        self.agents = {str(each.peer): each for each in agents}
        self._seen = seen
        self.candidates = {peer: seen(agent) for peer, agent in self.agents.items()}

    def look_again(self, peer: str) -> None:
        """Update an agent's candidate after one more of our tasks was offered to it."""
        self.candidates[peer] = self._seen(self.agents[peer])

    def shapes(self) -> Shapes:
        """Of each agent, what a parked task may hang on."""
        return {peer: _Shape(each.standing, each.free, each.refuses) for peer, each in self.candidates.items()}


@attrs.frozen
class Changes:
    others: bool
    """Some agent came, left, or has become a different one: tasks may be taken that could not be before."""
    freed: bool
    """Some agent has room that had none, or takes work again."""
    refusing: bool
    """Some agent takes nothing for now; what it declined before, it may take afterwards."""


def changes(before: Shapes, now: Shapes) -> Changes:
    common = [(before[peer], shape) for peer, shape in now.items() if peer in before]
    return Changes(
        others=before.keys() != now.keys() or any(old.standing != new.standing for old, new in common),
        freed=any(new.free and not old.free for old, new in common),
        refusing=any(new.refuses and not old.refuses for old, new in common),
    )
