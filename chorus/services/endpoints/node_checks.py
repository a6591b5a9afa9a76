"""The health checks of a node's parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from chorus import descriptors

if TYPE_CHECKING:
    from twisted.application.service import Service

    from chorus.seams import Document
    from chorus.services.endpoints.node import NodeParts, TaskParts
    from chorus.services.presence import Load


@attrs.frozen
class HealthCheck:
    """`critical` checks make the node unhealthy; those `for_ready` only make it take no new work."""

    name: str
    look: Callable[[], str | None]
    """None when all is well, else one line that says what is wrong."""
    critical: bool = False
    for_ready: bool = False
    normal: Callable[[], str] = str
    """The detail while all is well; empty, mostly."""

    def document(self) -> Document:
        try:
            trouble = self.look()
            detail = trouble or self.normal()
        except Exception as error:
            trouble = detail = f"the check failed: {type(error).__name__}"
        return {
            "name": self.name,
            "ok": trouble is None,
            "critical": self.critical,
            "ready": self.critical or self.for_ready,
            "detail": detail,
        }


class HealthChecks:
    """`http.ports.HealthPort`: the given checks, each made when somebody asks."""

    def __init__(self, checks: Sequence[HealthCheck]) -> None:
        self._checks = checks

    def checks(self) -> list[Document]:
        return [check.document() for check in self._checks]


def node_checks(node: NodeParts, api: Service) -> list[HealthCheck]:
    """Every check of the parts that `node` has."""
    store = _running("store", node.store)
    found = [
        HealthCheck("node", lambda: None if node.state() == "running" else node.state(), critical=True),
        HealthCheck("p2p", _running("p2p", node.p2p), critical=True),
        HealthCheck("pubsub", _running("pubsub", node.pubsub), critical=True),
        HealthCheck("api", _running("api", api), critical=True),
        HealthCheck("store", lambda: store() or node.store.database.damage, critical=True),
        HealthCheck("peers", node.alone, critical=True),
        HealthCheck("clocks", node.messaging.wrong_clocks),
        HealthCheck("dht", node.dht.trouble, normal=node.dht.condition),
    ]
    return found if node.tasks is None else found + _task_checks(node.tasks, node.load)


def _running(name: str, service: Service) -> Callable[[], str | None]:
    return lambda: None if service.running else f"{name} is not running"


def _task_checks(tasks: TaskParts, load: Callable[[], Load]) -> list[HealthCheck]:
    sandbox = tasks.sandbox

    def capacity() -> str | None:
        now = load()
        return None if now.current_tasks < now.max_tasks else f"{now.current_tasks} of {now.max_tasks} tasks"

    found = [HealthCheck("coordinator", _running("coordinator", tasks.coordinator), critical=True)]
    if load().max_tasks:
        found += [
            HealthCheck("sandbox", lambda: None if sandbox.usable else sandbox.status().detail, for_ready=True),
            HealthCheck("capacity", capacity, for_ready=True),
            HealthCheck("descriptors", descriptors.trouble, for_ready=True),
        ]
    return [*found, HealthCheck("disk", tasks.headroom.disk, for_ready=True)]
