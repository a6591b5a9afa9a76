# mypy: allow-untyped-calls
"""`/v1/tasks`: submit, list, show, cancel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chorus import strictjson
from chorus.http import limits
from chorus.http.body import Buffered
from chorus.http.ports import STATES
from chorus.http.problem import HttpError
from chorus.http.reply import json_reply, whole_number
from chorus.http.routes import ApiOperation, JsonBody, Route, header, json_answer, parameter
from chorus.shield import shield
from chorus.tasks import ids

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest
    from chorus.http.routes import Serving

SUBMITTER = "api"
"""The holder of the node's token, who submits and cancels here."""
MAX_REASON = 256
MAX_CURSOR = 128
_CURSOR = re.compile(r"[A-Za-z0-9._-]+")


async def _submit(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    assert isinstance(request.body, Buffered)
    body = strictjson.loads(request.body.getvalue(), max_bytes=limits.MAX_JSON)
    # A client that hangs up does not take its task back.
    document = await shield(serving.ports.tasks.submit(body, SUBMITTER))
    return json_reply(request, document, 202, {"Location": f"/v1/tasks/{document['id']}"})


async def _list(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    state, after = query.get("state"), query.get("after")
    if state is not None and state not in STATES:
        raise HttpError(400, "bad_query", f"state must be one of {', '.join(STATES)}")
    if after is not None and (len(after) > MAX_CURSOR or not _CURSOR.fullmatch(after)):
        raise HttpError(400, "bad_query", "after must be the `next` of the page before")
    limit = whole_number(query.get("limit", str(limits.DEFAULT_PAGE)), "limit", 1, limits.MAX_PAGE)
    return json_reply(request, await serving.ports.tasks.list(state=state, limit=limit, after=after))


async def _show(serving: Serving, request: ApiRequest, query: dict[str, str], task_id: str) -> bytes:
    return json_reply(request, await serving.ports.tasks.get(known_form(task_id)))


async def _cancel(serving: Serving, request: ApiRequest, query: dict[str, str], task_id: str) -> bytes:
    reason = query.get("reason", "")
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise HttpError(400, "bad_query", f"reason must be one line of at most {MAX_REASON} characters")
    document = await shield(serving.ports.tasks.cancel(known_form(task_id), SUBMITTER, reason))
    return json_reply(request, document)


def known_form(task_id: str) -> str:
    """The id, or a 404: text that has not the form of an id names no task, and goes no further."""
    if not ids.is_task_id(task_id):
        raise HttpError(404, "unknown_task", "no task has this id")
    return task_id


_LINKS = {
    name: {"operationId": name, "parameters": {"task_id": "$response.body#/id"}}
    for name in ("getTask", "cancelTask", "watchTask")
}
ROUTES = (
    Route(
        "POST",
        "/v1/tasks",
        _submit,
        ApiOperation(
            "submitTask",
            "tasks",
            "Submit a task",
            {
                202: {
                    **json_answer("Task", "Accepted and durable.", {"Location": header("Path of the task.")}),
                    "links": _LINKS,
                }
            },
            (409, 415, 422),
            "Answered once the task is durable; it starts when an agent takes it.",
        ),
        body=JsonBody("TaskSpec"),
    ),
    Route(
        "GET",
        "/v1/tasks",
        _list,
        ApiOperation(
            "listTasks",
            "tasks",
            "List tasks, newest first",
            {200: json_answer("TaskList", "One page.")},
            description="A few facts of each, of bounded size; `/v1/tasks/{task_id}` has the whole task.",
            parameters=(
                parameter("query", "state", {"type": "string", "enum": list(STATES)}, "Only tasks in this state."),
                parameter(
                    "query",
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": limits.MAX_PAGE, "default": limits.DEFAULT_PAGE},
                    "Tasks in the page.",
                ),
                parameter(
                    "query",
                    "after",
                    {"type": "string", "minLength": 1, "maxLength": MAX_CURSOR, "pattern": "^[A-Za-z0-9._-]+$"},
                    "`next` of the page before.",
                ),
            ),
        ),
    ),
    Route(
        "GET",
        "/v1/tasks/{task_id}",
        _show,
        ApiOperation("getTask", "tasks", "Show a task", {200: json_answer("Task", "The task.")}, (404,)),
    ),
    Route(
        "DELETE",
        "/v1/tasks/{task_id}",
        _cancel,
        ApiOperation(
            "cancelTask",
            "tasks",
            "Cancel a task",
            {200: json_answer("Task", "The task after it.")},
            (404, 409),
            "Ends it if it has not ended; what it wrote so far is kept. Repeating it changes nothing.",
            (
                parameter(
                    "query",
                    "reason",
                    {"type": "string", "maxLength": MAX_REASON, "pattern": "^[ -~]*$"},
                    "Why, for the task's history.",
                ),
            ),
        ),
    ),
)
