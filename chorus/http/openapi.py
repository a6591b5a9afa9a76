"""The OpenAPI 3.1 document of the API, made from the table of routes and the code's own limits and shapes."""

from __future__ import annotations

from typing import Any

from chorus import __version__
from chorus.fields import Schema
from chorus.fields.members import PEER
from chorus.http import problem
from chorus.http.routes import Route, parameter
from chorus.http.schemas.components import all_schemas
from chorus.http.schemas.words import SHA256, TASK_ID, ref
from chorus.http.table import ROUTES
from chorus.security.roles import ROLE
from chorus.tasks.spec import LimitPolicy

_ALWAYS = (400, 401, 406, 408, 413, 414, 421, 431, 500, 503)
"""Errors that every route may answer."""
_PATH_PARAMETERS = {
    "task_id": parameter("path", "task_id", TASK_ID, "The task's id."),
    "sha256": parameter("path", "sha256", SHA256, "The blob's id: the SHA-256 of its bytes."),
    "peer_id": parameter("path", "peer_id", PEER.schema(), "A member that the founder has met."),
    "role": parameter("path", "role", ROLE.schema(), "A role of the list."),
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
            {"name": "decisions", "description": "Signed records by their addresses."},
            {"name": "keys", "description": "Roles and their keys."},
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
    paths: dict[str, Any] = {}
    for route in ROUTES:
        shared = [_PATH_PARAMETERS[name] for name in route.path_parameters]
        item = paths.setdefault(route.path, {"parameters": shared} if shared else {})
        item[route.method.lower()] = _operation(route)
    return paths


def _operation(route: Route) -> Schema:
    operation = route.operation
    answers = {str(code): dict(answer) for code, answer in operation.answers.items()}
    for code in sorted({*_ALWAYS, *operation.problems}):
        answers[str(code)] = {"$ref": "#/components/responses/Problem"}
    found: Schema = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": answers,
    }
    if operation.description:
        found["description"] = operation.description
    if operation.parameters:
        found["parameters"] = list(operation.parameters)
    if route.body is not None:
        found["requestBody"] = {"required": True, "content": route.body.content()}
    if route.open:
        found["security"] = []
    return found
