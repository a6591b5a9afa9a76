"""The status document of a node (`GET /v1/status`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus import __version__

if TYPE_CHECKING:
    from chorus.seams import JSON, Document
    from chorus.services.endpoints.node import NodeParts, TaskParts
    from chorus.services.presence import Load


def status_document(node: NodeParts, uptime_s: float) -> Document:
    """{agent_id, peer_id, cluster_id, …, tasks, sandbox, clocks}, as `openapi` describes it."""
    profile, load, p2p = node.presence.profile, node.load(), node.p2p
    cluster_id = None if node.cluster is None else node.cluster.cluster_id
    return {
        "agent_id": profile.agent_id,
        "peer_id": str(p2p.peer_id),
        "cluster_id": None if cluster_id is None else cluster_id.hex(),
        "version": __version__,
        "role": profile.role,
        "state": node.state(),
        "uptime_s": round(uptime_s, 3),
        "addresses": [str(each.with_peer(p2p.peer_id)) for each in p2p.listen_addresses()],
        "peers": len(p2p.connections()),
        "load": {"status": load.status, "current": load.current_tasks, "maximum": load.max_tasks},
        "alone": node.alone(),
        "tasks": _tasks(node.tasks, load),
        "sandbox": _sandbox(node.tasks),
        "clocks": node.messaging.wrong_clocks(),
    }


def _tasks(tasks: TaskParts | None, load: Load) -> JSON:
    counts: dict[str, JSON] = {"running_here": load.current_tasks, "maximum_here": load.max_tasks}
    return counts if tasks is None else {**counts, "unfinished": tasks.coordinator.active}


def _sandbox(tasks: TaskParts | None) -> JSON:
    if tasks is None:
        return {"usable": False, "detail": "open mode runs no tasks"}
    return tasks.sandbox.status().to_json()
