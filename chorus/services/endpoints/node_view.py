"""The node as its API shows it: peers, pub/sub and status (`http.ports.NodePort`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.services.endpoints.node_status import status_document
from chorus.services.pubsub.view import pubsub_document

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Connection
    from chorus.seams import Document
    from chorus.services.endpoints.node import NodeParts


class NodeView:
    """`clock` counts the uptime, `wall` dates connections in Unix seconds."""

    def __init__(self, node: NodeParts, clock: IReactorTime, wall: Callable[[], float]) -> None:
        self._node = node
        self._clock = clock
        self._wall = wall
        self._begun = clock.seconds()
        self._since: dict[Connection, float] = {}
        node.p2p.watch_peers(self._joined, self._left)

    def _joined(self, connection: Connection) -> None:
        self._since[connection] = self._wall()

    def _left(self, connection: Connection) -> None:
        self._since.pop(connection, None)

    def pubsub(self) -> Document:
        return pubsub_document(self._node.pubsub)

    def peers(self) -> list[Document]:
        """One document a connected member, by peer id; nulls where it has not said it yet."""
        return [self._peer(each) for each in sorted(self._node.p2p.connections(), key=lambda each: each.peer_id)]

    def _score(self, peer: PeerId) -> float | None:
        view = self._node.pubsub.router.score_view(peer.raw)
        return None if view is None or not view.connected else round(view.score, 3)

    def _peer(self, connection: Connection) -> Document:
        peer = connection.peer_id
        node = self._node.presence.view.node(peer)
        capability = node.capability if node is not None else None
        availability = node.availability if node is not None else None
        latency = self._node.p2p.latency(peer)
        return {
            "peer_id": str(peer),
            "agent_id": capability.agent_id if capability is not None else None,
            "role": node.role.role if node is not None and node.role is not None else None,
            "address": str(connection.remote_address),
            "direction": "inbound" if connection.inbound else "outbound",
            "connected_since": self._since.get(connection),
            "latency_ms": None if latency is None else round(latency * 1000, 3),
            "score": self._score(peer),
            "direct": self._node.pubsub.router.is_direct(peer.raw),
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
        return status_document(self._node, self._clock.seconds() - self._begun)
