"""The agents that placement chooses among: this one, and those whose presence is fresh. An agent that is not connected
to this node is known through others, and out of reach."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from chorus.identity import PeerId
from chorus.services.scheduling.board import Agent
from chorus.tasks.scoring import Candidate

if TYPE_CHECKING:
    from chorus.protocols.stream import Host
    from chorus.services.execution.executor import ExecutorService
    from chorus.services.presence import PresenceView


MAX_OUT_OF_REACH = 64
"""Agents out of reach that are looked at: enough to find somebody who sees one of them."""


class KnownAgents:
    """`usable` says whether this node's own sandbox can run anything now."""

    def __init__(
        self,
        host: Host,
        view: PresenceView,
        executor: ExecutorService,
        *,
        usable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._host = host
        self._view = view
        self._executor = executor
        self._usable = usable

    def __call__(self) -> list[Agent]:
        candidates = {each.peer: each for each in self._view.candidates()}
        found = [self._own()]
        for connection in self._host.connections():
            candidate = candidates.pop(str(connection.peer_id), None)
            if candidate is not None:
                found.append(self._agent(connection.peer_id, candidate))
        for candidate in islice(candidates.values(), MAX_OUT_OF_REACH):
            found.append(self._agent(PeerId.parse(candidate.peer), attrs.evolve(candidate, reachable=False)))
        return found

    def _agent(self, peer: PeerId, candidate: Candidate) -> Agent:
        node = self._view.node(peer)
        assert node is not None and node.capability is not None
        return Agent(peer, node.capability.agent_id, candidate, node.availability_at)

    def _own(self) -> Agent:
        profile = self._executor.profile
        candidate = Candidate(
            peer=str(self._host.peer_id),
            role=profile.role,
            expertise=frozenset(profile.expertise),
            capabilities=frozenset(profile.capabilities),
            specialisation=profile.specialization or None,
            current_tasks=self._executor.current_tasks,
            max_tasks=profile.max_tasks,
            available=not self._executor.draining and self._usable(),
        )
        return Agent(self._host.peer_id, profile.agent_id, candidate)
