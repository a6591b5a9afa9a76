"""The agents that placement chooses among: this one, and those whose presence is fresh and who are connected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.services.placement import Agent
from chorus.tasks.scoring import Candidate

if TYPE_CHECKING:
    from chorus.protocols.stream import Host
    from chorus.services.executor import ExecutorService
    from chorus.services.presence import PresenceView


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
            peer = connection.peer_id
            candidate = candidates.get(str(peer))
            if candidate is not None:
                node = self._view.node(peer)
                assert node is not None and node.capability is not None
                found.append(Agent(peer, node.capability.agent_id, candidate, node.availability_at))
        return found

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
