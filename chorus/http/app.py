# mypy: allow-untyped-calls
"""The API as one resource: the table of routes on Klein, with errors, token and body policy. Klein installs the reactor
when it is imported, so this module is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from klein import Klein
from werkzeug.exceptions import HTTPException

from chorus.http import openapi, problem
from chorus.http.downloads import Downloads
from chorus.http.gate import ApiGate
from chorus.http.reply import query, want
from chorus.http.routes import Route, Serving
from chorus.http.site import ApiSite
from chorus.http.table import ROUTES

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.http.event_stream import EventStream
    from chorus.http.gate import ApiRules
    from chorus.http.ports import ApiPorts
    from chorus.http.request import ApiRequest
    from chorus.observe.metrics import Metrics


class ApiRoutes:
    """The API of one node: `site` listens, `streams` are the event streams that are open."""

    def __init__(self, ports: ApiPorts, metrics: Metrics, rules: ApiRules, reactor: Any) -> None:
        self.streams: set[EventStream] = set()
        description = openapi.document(rules.policy)
        app = _klein(Serving(ports, metrics, reactor, Downloads(reactor), self.streams, description))

        def check(request: ApiRequest) -> None:
            path = unquote_to_bytes(request.path).decode()
            try:
                app.url_map.bind("").match(path, method=request.method.decode())
            except HTTPException as error:
                raise problem.from_routing(error).error() from None

        self.gate = ApiGate(rules, ROUTES, ports.blobs, check)
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


def _klein(serving: Serving) -> Klein:
    app = Klein()
    # A path has one spelling: no redirects from others.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    for route in ROUTES:
        _add(app, route, serving)

    # Klein's stubs know requests by their interface alone.
    @app.handle_errors(HTTPException)  # type: ignore[arg-type]
    def unroutable(request: ApiRequest, failure: Failure) -> bytes:
        return request.prepare(problem.from_routing(failure.value))

    @app.handle_errors(Exception)  # type: ignore[arg-type]
    def failed(request: ApiRequest, failure: Failure) -> bytes:
        return request.fail_with(failure)

    return app


def _add(app: Klein, route: Route, serving: Serving) -> None:
    @app.route(route.rule, methods=[route.method], endpoint=route.operation.name)
    def serve(request: ApiRequest, **path: str) -> Any:
        if route.body is not None and not isinstance(request.body, route.body.taken):
            # The path reached here in a spelling (an escaped character) in which the gate knows no such body.
            raise problem.NO_SUCH_PATH.error()
        want(request, *route.media_types)
        asked = {} if route.any_query else query(request, *route.query)
        return route.serve(serving, request, asked, **path)
