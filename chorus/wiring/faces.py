"""What looks at the node from outside: the API, health and metrics, and the view of the node that they show.

Imports Klein and prometheus_client, which install the default reactor: import this late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from chorus.http.auth import load_or_make_token
from chorus.observe.metrics import Metrics
from chorus.preflight import plain
from chorus.services.endpoints.api import ApiService
from chorus.services.endpoints.health import HealthService
from chorus.services.endpoints.node_view import NodeView
from chorus.tasks.spec import LimitPolicy
from chorus.wiring.surroundings import MIB, task_limits

if TYPE_CHECKING:
    from chorus.http.ports import Blobs, Tasks
    from chorus.seams import JSON
    from chorus.services.presence import Load
    from chorus.wiring.messages import Messages
    from chorus.wiring.network import Network
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class Faces:
    view: NodeView
    metrics: Metrics
    """Empty yet."""
    api: ApiService
    health: HealthService


def build_faces(
    around: Surroundings,
    network: Network,
    messages: Messages,
    *,
    tasks: Tasks,
    blobs: Blobs,
    load: Callable[[], Load],
    state: Callable[[], str],
    extra: Sequence[tuple[str, Callable[[], JSON]]],
) -> Faces:
    """`extra` as in `NodeView`. Makes the API's token where there is none; raises `OSError` where it cannot."""
    settings = around.settings
    view = _view(around, network, messages, load, state, extra)
    metrics = Metrics()
    api = ApiService(
        tasks=tasks,
        blobs=blobs,
        node=view,
        metrics=metrics,
        token=plain(settings.api_token) or load_or_make_token(around.path),
        address=settings.api_bind,
        port=settings.api_port,
        last_port=around.last_port("api"),
        host_names=settings.api_hosts,
        max_blob=settings.max_blob_mb * MIB,
        reactor=around.reactor,
        policy=LimitPolicy(*task_limits(settings)),
    )
    health = HealthService(
        node=view,
        address=settings.health_bind,
        port=settings.health_port,
        last_port=around.last_port("health"),
        host_names=settings.api_hosts,
        reactor=around.reactor,
    )
    return Faces(view, metrics, api, health)


def _view(
    around: Surroundings,
    network: Network,
    messages: Messages,
    load: Callable[[], Load],
    state: Callable[[], str],
    extra: Sequence[tuple[str, Callable[[], JSON]]],
) -> NodeView:
    presence, cluster = messages.presence, network.cluster
    return NodeView(
        host=network.p2p,
        presence=presence.view,
        profile=lambda: presence.profile,
        load=load,
        cluster_id=lambda: None if cluster is None else cluster.cluster_id,
        clock=around.reactor,
        wall=around.wall,
        state=state,
        pubsub=messages.pubsub,
        extra=extra,
    )
