# mypy: allow-untyped-calls
"""The API as one resource: routes, errors, token and body policy. Klein installs the reactor when it is imported, so
this module is imported late."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from klein import Klein
from werkzeug.exceptions import HTTPException

from chorus.http import openapi, problem
from chorus.http.blobs import add_blobs
from chorus.http.events import EventStream, add_events
from chorus.http.gate import ApiGate
from chorus.http.node import add_node
from chorus.http.reply import JSON_TYPE, json_reply, query, want
from chorus.http.site import ApiSite
from chorus.http.tasks import add_tasks

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.http.ports import BlobPort, NodePort, TaskPort
    from chorus.http.request import ApiRequest
    from chorus.observe.metrics import Metrics
    from chorus.tasks.spec import LimitPolicy


class Api:
    """The API of one node: `site` listens, `streams` are the event streams that are open."""

    def __init__(
        self,
        *,
        tasks: TaskPort,
        blobs: BlobPort,
        node: NodePort,
        metrics: Metrics,
        token: str,
        host_names: Collection[str],
        max_blob: int,
        reactor: Any,
        policy: LimitPolicy,
    ) -> None:
        """`max_blob` is in bytes; `policy` is told by the API's description alone, the coordinator applies it."""
        description = openapi.document(policy)
        self.streams: set[EventStream] = set()
        app = Klein()
        # A path has one spelling: no redirects from others.
        app.url_map.merge_slashes = False
        app.url_map.strict_slashes = True
        add_tasks(app, tasks)
        add_events(app, tasks, reactor, self.streams)
        add_blobs(app, blobs, reactor)
        add_node(app, node, metrics)

        @app.route("/openapi.json", methods=["GET"])
        def document(request: ApiRequest) -> bytes:
            want(request, JSON_TYPE)
            query(request)
            return json_reply(request, description)

        # Klein's stubs know requests by their interface alone.
        @app.handle_errors(HTTPException)  # type: ignore[arg-type]
        def unroutable(request: ApiRequest, failure: Failure) -> bytes:
            return request.prepare(problem.from_routing(failure.value))

        @app.handle_errors(Exception)  # type: ignore[arg-type]
        def failed(request: ApiRequest, failure: Failure) -> bytes:
            return request.fail_with(failure)

        def route(request: ApiRequest) -> None:
            path = unquote_to_bytes(request.path).decode()
            try:
                app.url_map.bind("").match(path, method=request.method.decode())
            except HTTPException as error:
                raise problem.from_routing(error).error() from None

        self.gate = ApiGate(token=token, names=host_names, blobs=blobs, max_blob=max_blob, route=route)
        self.site = ApiSite(app.resource(), self.gate, reactor)
        self._add_metrics(metrics)

    def end_streams(self) -> None:
        """End every event stream; clients ask again where they were."""
        for stream in list(self.streams):
            stream.shut_down()

    def _add_metrics(self, metrics: Metrics) -> None:
        site, gate = self.site, self.gate
        metrics.counter(
            "chorus_http_requests_total",
            "Requests answered by the API.",
            lambda: {(method, str(status)): count for (method, status), count in site.answers.items()},
            labels=("method", "status"),
        )
        metrics.counter("chorus_http_unauthorized_total", "Requests without the token.", lambda: gate.unauthorized)
        metrics.counter(
            "chorus_http_connections_refused_total", "Connections that made room for others.", lambda: site.evicted
        )
        metrics.gauge("chorus_http_connections", "Open connections to the API.", lambda: site.connections)
        metrics.gauge("chorus_http_event_streams", "Open event streams.", lambda: len(self.streams))
        metrics.gauge("chorus_http_uploads", "Uploads under way.", lambda: gate.uploads)
