"""What the node says of itself: peers, status and health checks (`http.ports.NodeView`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from chorus import __version__
from chorus.services.pubsub.view import pubsub_document

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Connection
    from chorus.seams import JSON, Document
    from chorus.services.p2p.host import P2PService
    from chorus.services.presence import Load, PresenceView, Profile
    from chorus.services.pubsub.service import PubSubService


@attrs.frozen
class Check:
    """One health check. `critical` ones make the node unhealthy; those `for_ready` only make it take no new work."""

    name: str
    look: Callable[[], str | None]
    """None when all is well, else one line that says what is wrong."""
    critical: bool = False
    for_ready: bool = False

    def document(self) -> Document:
        try:
            trouble = self.look()
        except Exception as error:
            trouble = f"the check failed: {type(error).__name__}"
        return {
            "name": self.name,
            "ok": trouble is None,
            "critical": self.critical,
            "ready": self.critical or self.for_ready,
            "detail": trouble or "",
        }


class NodeView:
    """`extra` adds members to the status document (tasks, sandbox, …)."""

    def __init__(
        self,
        *,
        host: P2PService,
        presence: PresenceView,
        profile: Callable[[], Profile],
        load: Callable[[], Load],
        cluster_id: Callable[[], bytes | None],
        clock: IReactorTime,
        wall: Callable[[], float],
        state: Callable[[], str],
        pubsub: PubSubService,
        extra: Sequence[tuple[str, Callable[[], JSON]]] = (),
    ) -> None:
        self._host = host
        self._presence = presence
        self._profile = profile
        self._load = load
        self._cluster_id = cluster_id
        self._clock = clock
        self._wall = wall
        self._state = state
        self._pubsub = pubsub
        self._extra = tuple(extra)
        self._begun = clock.seconds()
        self._since: dict[Connection, float] = {}
        self._checks: list[Check] = []
        host.watch_peers(self._joined, self._left)

    def add_check(self, check: Check) -> None:
        self._checks.append(check)

    def _joined(self, connection: Connection) -> None:
        self._since[connection] = self._wall()

    def _left(self, connection: Connection) -> None:
        self._since.pop(connection, None)

    def pubsub(self) -> Document:
        return pubsub_document(self._pubsub)

    def peers(self) -> list[Document]:
        """One document a connected member, by peer id; nulls where it has not said it yet."""
        return [self._peer(each) for each in sorted(self._host.connections(), key=lambda each: each.peer_id)]

    def _score(self, peer: PeerId) -> float | None:
        view = self._pubsub.router.score_view(peer.raw)
        return None if view is None or not view.connected else round(view.score, 3)

    def _peer(self, connection: Connection) -> Document:
        peer = connection.peer_id
        node = self._presence.node(peer)
        capability = node.capability if node is not None else None
        availability = node.availability if node is not None else None
        latency = self._host.latency(peer)
        return {
            "peer_id": str(peer),
            "agent_id": capability.agent_id if capability is not None else None,
            "role": node.role.role if node is not None and node.role is not None else None,
            "address": str(connection.remote_address),
            "direction": "inbound" if connection.inbound else "outbound",
            "connected_since": self._since.get(connection),
            "latency_ms": None if latency is None else round(latency * 1000, 3),
            "score": self._score(peer),
            "direct": self._pubsub.router.is_direct(peer.raw),
            "availability": None
            if availability is None
            else {
                "status": availability.status,
                "available": availability.available_for_work,
                "current_tasks": availability.current_tasks,
                "max_tasks": availability.max_tasks,
            },
            "capabilities": None
            if capability is None
            else {
                "capabilities": list(capability.capabilities),
                "expertise": list(capability.expertise),
                "specialization": capability.specialization,
                "version": capability.version,
            },
        }

    def status(self) -> Document:
        profile, load, cluster = self._profile(), self._load(), self._cluster_id()
        document: Document = {
            "agent_id": profile.agent_id,
            "peer_id": str(self._host.peer_id),
            "cluster_id": None if cluster is None else cluster.hex(),
            "version": __version__,
            "role": profile.role,
            "state": self._state(),
            "uptime_s": round(self._clock.seconds() - self._begun, 3),
            "addresses": [str(each.with_peer(self._host.peer_id)) for each in self._host.listen_addresses()],
            "peers": len(self._host.connections()),
            "load": {"status": load.status, "current": load.current_tasks, "maximum": load.max_tasks},
        }
        for name, read in self._extra:
            document[name] = read()
        return document

    def checks(self) -> list[Document]:
        return [check.document() for check in self._checks]
