# mypy: allow-untyped-calls
"""`/v1/peers`, `/v1/pubsub`, `/v1/status` and `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.http.reply import JSON_TYPE, bytes_reply, json_reply, query, want

if TYPE_CHECKING:
    from klein import Klein

    from chorus.http.ports import NodePort
    from chorus.http.request import ApiRequest
    from chorus.observe.metrics import Metrics


def add_node(app: Klein, node: NodePort, metrics: Metrics) -> None:
    """Add the routes to `app`."""

    @app.route("/v1/peers", methods=["GET"])
    def peers(request: ApiRequest) -> bytes:
        want(request, JSON_TYPE)
        query(request)
        return json_reply(request, {"peers": node.peers()})

    @app.route("/v1/pubsub", methods=["GET"])
    def pubsub(request: ApiRequest) -> bytes:
        want(request, JSON_TYPE)
        query(request)
        return json_reply(request, node.pubsub())

    @app.route("/v1/status", methods=["GET"])
    def status(request: ApiRequest) -> bytes:
        want(request, JSON_TYPE)
        query(request)
        return json_reply(request, node.status())

    @app.route("/metrics", methods=["GET"])
    def exposition(request: ApiRequest) -> bytes:
        want(request, "text/plain")
        return bytes_reply(request, metrics.render(), metrics.CONTENT_TYPE)
