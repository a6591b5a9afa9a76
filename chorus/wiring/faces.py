"""Builds the parts that show the node to others: the API, health and metrics.

Imports Klein and prometheus_client, which install the default reactor: import this late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from chorus.http.auth import load_or_make_token
from chorus.http.closed import ClosedBlobs, ClosedDecisions, ClosedKeys, ClosedTasks
from chorus.http.gate import ApiRules
from chorus.http.ports import ApiPorts
from chorus.observe.metrics import Metrics
from chorus.preflight import plain
from chorus.services.endpoints import node_metrics
from chorus.services.endpoints.api import ApiService
from chorus.services.endpoints.health import HealthService
from chorus.services.endpoints.node_checks import HealthChecks, node_checks
from chorus.services.endpoints.node_view import NodeView
from chorus.services.listening import ListenAddress
from chorus.tasks.spec import LimitPolicy
from chorus.wiring.surroundings import MIB, task_limits

if TYPE_CHECKING:
    from chorus.services.endpoints.node import NodeParts
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class Faces:
    api: ApiService
    health: HealthService


def build_faces(context: Surroundings, node: NodeParts) -> Faces:
    """Makes the API's token where there is none; raises `TokenFileError` where it cannot."""
    settings, tasks = context.settings, node.tasks
    metrics = Metrics()
    node_metrics.register(metrics, node)
    api = ApiService(
        ApiPorts(
            ClosedTasks() if tasks is None else tasks.coordinator,
            ClosedBlobs() if tasks is None else tasks.readable,
            NodeView(node, context.reactor, context.wall),
            ClosedDecisions() if tasks is None else tasks.ucxl,
            node.keys or ClosedKeys(),
        ),
        metrics,
        ApiRules(
            plain(settings.api_token) or load_or_make_token(context.path),
            settings.api_hosts,
            settings.max_blob_mb * MIB,
            LimitPolicy(*task_limits(settings)),
        ),
        ListenAddress("CHORUS_API", settings.api_bind, settings.api_port, context.last_port("api")),
        context.reactor,
    )
    health = HealthService(
        HealthChecks(node_checks(node, api)),
        settings.api_hosts,
        ListenAddress("CHORUS_HEALTH", settings.health_bind, settings.health_port, context.last_port("health")),
        context.reactor,
    )
    return Faces(api, health)
