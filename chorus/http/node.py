# mypy: allow-untyped-calls
"""`/v1/peers`, `/v1/pubsub`, `/v1/status`, `/metrics` and `/openapi.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.http.reply import JSON_TYPE, bytes_reply, json_reply
from chorus.http.routes import ApiOperation, Route, answer, json_answer

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest
    from chorus.http.routes import Serving


def _peers(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return json_reply(request, {"peers": serving.ports.node.peers()})


def _pubsub(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return json_reply(request, serving.ports.node.pubsub())


def _status(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return json_reply(request, serving.ports.node.status())


def _metrics(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return bytes_reply(request, serving.metrics.render(), serving.metrics.CONTENT_TYPE)


def _description(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return json_reply(request, serving.description)


ROUTES = (
    Route(
        "GET",
        "/v1/peers",
        _peers,
        ApiOperation("listPeers", "node", "Peers of this node", {200: json_answer("PeerList", "Peers.")}),
    ),
    Route(
        "GET",
        "/v1/pubsub",
        _pubsub,
        ApiOperation(
            "getPubSub",
            "node",
            "Pub/sub: meshes and scores",
            {200: json_answer("PubSub", "Topics, peers, counters.")},
            description="What each peer's score is made of: P1 to P4 by topic, P5 (application), P6 (group_size) and "
            "P7 (behaviour), with the thresholds that the router acts on.",
        ),
    ),
    Route(
        "GET",
        "/v1/status",
        _status,
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
    Route(
        "GET",
        "/openapi.json",
        _description,
        ApiOperation(
            "getDescription",
            "node",
            "This document",
            {200: answer("OpenAPI 3.1.", {JSON_TYPE: {"schema": {"type": "object"}}})},
        ),
        open=True,
    ),
)
