# mypy: allow-untyped-calls
"""`/v1/peers`, `/v1/pubsub`, `/v1/status`, `/metrics` and `/openapi.json`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.http.reply import JSON_TYPE, bytes_reply, json_reply
from chorus.http.routes import ApiOperation, Route, answer, json_answer

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest
    from chorus.http.routes import Serving


def _metrics(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return bytes_reply(request, serving.metrics.render(), serving.metrics.CONTENT_TYPE)


def _document(path: str, read: Callable[[Serving], object], operation: ApiOperation, *, open: bool = False) -> Route:
    """A route that answers with the document that `read` gives."""
    return Route("GET", path, lambda serving, request, _: json_reply(request, read(serving)), operation, open=open)


ROUTES = (
    _document(
        "/v1/peers",
        lambda serving: {"peers": serving.ports.node.peers()},
        ApiOperation("listPeers", "node", "Peers of this node", {200: json_answer("PeerList", "Peers.")}),
    ),
    _document(
        "/v1/pubsub",
        lambda serving: serving.ports.node.pubsub(),
        ApiOperation(
            "getPubSub",
            "node",
            "Pub/sub: meshes and scores",
            {200: json_answer("PubSub", "Topics, peers, counters.")},
            description="What each peer's score is made of: P1 to P4 by topic, P5 (application), P6 (group_size) and "
            "P7 (behaviour), with the thresholds that the router acts on.",
        ),
    ),
    _document(
        "/v1/status",
        lambda serving: serving.ports.node.status(),
        ApiOperation("getStatus", "node", "This node", {200: json_answer("Status", "Its state.")}),
    ),
    Route(
        "GET",
        "/metrics",
        _metrics,
        ApiOperation(
            "getMetrics",
            "node",
            "Metrics in the Prometheus text format",
            {200: answer("Metrics.", {"text/plain": {"schema": {"type": "string"}}})},
        ),
        # Scrapers add parameters of their own.
        any_query=True,
    ),
    _document(
        "/openapi.json",
        lambda serving: serving.description,
        ApiOperation(
            "getDescription",
            "node",
            "This document",
            {200: answer("OpenAPI 3.1.", {JSON_TYPE: {"schema": {"type": "object"}}})},
        ),
        open=True,
    ),
)
