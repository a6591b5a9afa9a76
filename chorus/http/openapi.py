"""The OpenAPI 3.1 document of the API, built from the code's own limits and shapes."""

from __future__ import annotations

from typing import Any

from chorus import __version__
from chorus.fields import Schema
from chorus.http import limits, problem
from chorus.http.blobs import OCTETS
from chorus.http.events import CONTENT_TYPE as EVENT_STREAM
from chorus.http.events import MAX_EVENT_ID, MAX_WAIT
from chorus.http.reply import JSON_TYPE
from chorus.http.schemas import SHA256, TASK_ID, all_schemas, ref
from chorus.http.tasks import MAX_CURSOR, MAX_REASON, STATES
from chorus.tasks.spec import LimitPolicy

_ALWAYS = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    406: "The Accept header leaves nothing that this path gives.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    414: "The target of the request is too long.",
    421: "The Host header names another host.",
    431: "The headers are too large.",
    500: "An error inside the node.",
    503: "Not possible at present; try again.",
}


def document(policy: LimitPolicy) -> dict[str, Any]:
    """The document of a node with this policy of limits, JSON-ready."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CHORUS node",
            "version": __version__,
            "description": "The API of one node: give it tasks, follow them, fetch what they made. Errors are problem "
            "documents (RFC 9457) with a stable `code`. Every path but this document wants the node's bearer token.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": [
            {"name": "tasks", "description": "Work for the mesh."},
            {"name": "blobs", "description": "Content by its SHA-256."},
            {"name": "node", "description": "This node and its peers."},
        ],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "CHORUS_API_TOKEN, or `api-token` in the node's data directory.",
                }
            },
            "schemas": all_schemas(policy),
            "responses": {
                "Problem": {
                    "description": "What is wrong.",
                    "content": {problem.CONTENT_TYPE: {"schema": ref("Problem")}},
                }
            },
        },
    }


def _paths() -> dict[str, Any]:
    task_id = _parameter("path", "task_id", TASK_ID, "The task's id.")
    sha256 = _parameter("path", "sha256", SHA256, "The blob's id: the SHA-256 of its bytes.")
    return {
        "/v1/tasks": {
            "post": _operation(
                "submitTask",
                "tasks",
                "Submit a task",
                "Answered once the task is durable; it starts when an agent takes it.",
                {202: _json("Task", "Accepted and durable.", {"Location": _header("Path of the task.")})},
                [409, 415, 422],
                body={"required": True, "content": {JSON_TYPE: {"schema": ref("TaskSpec")}}},
                links={202: _task_links()},
            ),
            "get": _operation(
                "listTasks",
                "tasks",
                "List tasks, newest first",
                "A few facts of each, of bounded size; `/v1/tasks/{task_id}` has the whole task.",
                {200: _json("TaskList", "One page.")},
                [],
                parameters=[
                    _parameter("query", "state", {"type": "string", "enum": list(STATES)}, "Only tasks in this state."),
                    _parameter(
                        "query",
                        "limit",
                        {"type": "integer", "minimum": 1, "maximum": limits.MAX_PAGE, "default": limits.DEFAULT_PAGE},
                        "Tasks in the page.",
                    ),
                    _parameter(
                        "query",
                        "after",
                        {"type": "string", "minLength": 1, "maxLength": MAX_CURSOR, "pattern": "^[A-Za-z0-9._-]+$"},
                        "`next` of the page before.",
                    ),
                ],
            ),
        },
        "/v1/tasks/{task_id}": {
            "parameters": [task_id],
            "get": _operation("getTask", "tasks", "Show a task", "", {200: _json("Task", "The task.")}, [404]),
            "delete": _operation(
                "cancelTask",
                "tasks",
                "Cancel a task",
                "Ends it if it has not ended; what it wrote so far is kept. Repeating it changes nothing.",
                {200: _json("Task", "The task after it.")},
                [404, 409],
                parameters=[
                    _parameter(
                        "query",
                        "reason",
                        {"type": "string", "maxLength": MAX_REASON, "pattern": "^[ -~]*$"},
                        "Why, for the task's history.",
                    )
                ],
            ),
        },
        "/v1/tasks/{task_id}/events": {
            "parameters": [task_id],
            "get": _operation(
                "watchTask",
                "tasks",
                "Follow a task's events",
                "Server-sent events: `id:` is the event's number, `event:` its type, `data:` a TaskEvent on one line. "
                "The stream goes on while the task does, and ends after its terminal state.",
                {
                    200: {"description": "Events.", "content": {EVENT_STREAM: {"schema": ref("ServerSentEvent")}}},
                    204: {"description": "The task has ended and the client has seen all events."},
                },
                [404],
                parameters=[
                    _parameter("query", "after", _number(), "Start after this event."),
                    _parameter("header", "Last-Event-ID", _number(), "The same; it goes before `after`."),
                    _parameter(
                        "query",
                        "wait",
                        {"type": "integer", "minimum": 0, "maximum": MAX_WAIT},
                        "End the stream after so many seconds even if the task goes on; 0: only what is there now.",
                    ),
                ],
            ),
        },
        "/v1/blobs": {"put": _upload("putBlob", [])},
        "/v1/blobs/{sha256}": {
            "parameters": [sha256],
            "put": _upload("putBlobAs", []),
            "get": _operation(
                "getBlob",
                "blobs",
                "Fetch a blob",
                "From a peer, where it is not on this node.",
                {
                    200: _octets("The whole blob."),
                    206: _octets("The part asked for.", {"Content-Range": _header("Which part.")}),
                    304: {"description": "The client has it already."},
                },
                [404, 416, 502],
                parameters=[
                    _parameter(
                        "header",
                        "Range",
                        {"type": "string", "examples": ["bytes=0-1023"]},
                        "One range; others are ignored.",
                    ),
                    _parameter("header", "If-None-Match", {"type": "string"}, "ETags."),
                ],
            ),
        },
        "/v1/peers": {
            "get": _operation("listPeers", "node", "Peers of this node", "", {200: _json("PeerList", "Peers.")}, [])
        },
        "/v1/pubsub": {
            "get": _operation(
                "getPubSub",
                "node",
                "Pub/sub: meshes and scores",
                "What each peer's score is made of: P1 to P4 by topic, P5 (application), P6 (group_size) and P7 "
                "(behaviour), with the thresholds that the router acts on.",
                {200: _json("PubSub", "Topics, peers, counters.")},
                [],
            )
        },
        "/v1/status": {
            "get": _operation("getStatus", "node", "This node", "", {200: _json("Status", "Its state.")}, [])
        },
        "/metrics": {
            "get": _operation(
                "getMetrics",
                "node",
                "Metrics in the Prometheus text format",
                "",
                {200: {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
                [],
            )
        },
        "/openapi.json": {
            "get": {
                **_operation(
                    "getDescription",
                    "node",
                    "This document",
                    "",
                    {200: {"description": "OpenAPI 3.1.", "content": {JSON_TYPE: {"schema": {"type": "object"}}}}},
                    [],
                ),
                "security": [],
            }
        },
    }


def _operation(
    name: str,
    tag: str,
    summary: str,
    description: str,
    responses: dict[int, Schema],
    problems: list[int],
    *,
    parameters: list[Schema] | None = None,
    body: Schema | None = None,
    links: dict[int, Schema] | None = None,
) -> Schema:
    answers: dict[str, Schema] = {str(code): dict(answer) for code, answer in responses.items()}
    for code in sorted({*_ALWAYS, *problems}):
        answers[str(code)] = {"$ref": "#/components/responses/Problem"}
    for code, found in (links or {}).items():
        answers[str(code)]["links"] = found
    operation: Schema = {"operationId": name, "tags": [tag], "summary": summary, "responses": answers}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    return operation


def _upload(name: str, parameters: list[Schema]) -> Schema:
    asked = _parameter("query", "sha256", SHA256, "What the content must hash to; it is refused when it does not.")
    return _operation(
        name,
        "blobs",
        "Upload a blob",
        "Streams to disk; answered once it is durable. What the content must hash to can also be said as a "
        "Content-Digest header (RFC 9530, sha-256).",
        {201: _json("Blob", "Durable here.", {"Location": _header("Path of the blob.")})},
        [409, 415, 422, 507],
        parameters=[*parameters, asked],
        body={"required": True, "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}},
    )


def _task_links() -> Schema:
    from_answer = {"task_id": "$response.body#/id"}
    return {name: {"operationId": name, "parameters": from_answer} for name in ("getTask", "cancelTask", "watchTask")}


def _parameter(place: str, name: str, schema: Schema, description: str) -> Schema:
    return {"in": place, "name": name, "required": place == "path", "schema": schema, "description": description}


def _number() -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": MAX_EVENT_ID}


def _header(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}}


def _json(name: str, description: str, headers: Schema | None = None) -> Schema:
    answer: Schema = {"description": description, "content": {JSON_TYPE: {"schema": ref(name)}}}
    return {**answer, "headers": headers} if headers else answer


def _octets(description: str, headers: Schema | None = None) -> Schema:
    shared = {"ETag": _header("The SHA-256 in quotes."), "Accept-Ranges": _header("`bytes`.")}
    return {
        "description": description,
        "headers": {**shared, **(headers or {})},
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    }
