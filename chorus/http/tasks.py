# mypy: allow-untyped-calls
"""`/v1/tasks`: submit, list, show, cancel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chorus import strictjson
from chorus.http import limits
from chorus.http.body import Buffered
from chorus.http.problem import HttpError
from chorus.http.reply import JSON_TYPE, json_reply, query, shield, want, whole_number
from chorus.tasks import ids

if TYPE_CHECKING:
    from klein import Klein

    from chorus.http.ports import TaskPort
    from chorus.http.request import ApiRequest

STATES = (
    *("queued", "submitted", "assigned", "preparing", "running", "moved"),
    *("completed", "failed", "cancelled", "refused"),
)
TERMINAL = frozenset({"completed", "failed", "cancelled", "refused"})
SUBMITTER = "api"
"""Who submits and cancels here: the holder of the node's token."""
MAX_REASON = 256
MAX_CURSOR = 128
_CURSOR = re.compile(r"[A-Za-z0-9._-]+")


def add_tasks(app: Klein, tasks: TaskPort) -> None:
    """Add the routes to `app`."""

    @app.route("/v1/tasks", methods=["POST"])
    async def submit(request: ApiRequest) -> bytes:
        want(request, JSON_TYPE)
        query(request)
        assert isinstance(request.body, Buffered)
        body = strictjson.loads(request.body.getvalue(), max_bytes=limits.MAX_JSON)
        # A client that hangs up does not take its task back.
        document = await shield(tasks.submit(body, SUBMITTER))
        return json_reply(request, document, 202, {"Location": f"/v1/tasks/{document['id']}"})

    @app.route("/v1/tasks", methods=["GET"])
    async def list_tasks(request: ApiRequest) -> bytes:
        want(request, JSON_TYPE)
        asked = query(request, "state", "limit", "after")
        state, after = asked.get("state"), asked.get("after")
        if state is not None and state not in STATES:
            raise HttpError(400, "bad_query", f"state must be one of {', '.join(STATES)}")
        if after is not None and (len(after) > MAX_CURSOR or not _CURSOR.fullmatch(after)):
            raise HttpError(400, "bad_query", "after must be the `next` of the page before")
        limit = whole_number(asked.get("limit", str(limits.DEFAULT_PAGE)), "limit", 1, limits.MAX_PAGE)
        return json_reply(request, await tasks.list(state=state, limit=limit, after=after))

    @app.route("/v1/tasks/<string:task_id>", methods=["GET"])
    async def show(request: ApiRequest, task_id: str) -> bytes:
        want(request, JSON_TYPE)
        query(request)
        return json_reply(request, await tasks.get(known_form(task_id)))

    @app.route("/v1/tasks/<string:task_id>", methods=["DELETE"])
    async def cancel(request: ApiRequest, task_id: str) -> bytes:
        want(request, JSON_TYPE)
        reason = query(request, "reason").get("reason", "")
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise HttpError(400, "bad_query", f"reason must be one line of at most {MAX_REASON} characters")
        document = await shield(tasks.cancel(known_form(task_id), SUBMITTER, reason))
        return json_reply(request, document)


def known_form(task_id: str) -> str:
    """The id, or a 404: what has not the form of an id names no task, and goes no further."""
    if not ids.is_task_id(task_id):
        raise HttpError(404, "unknown_task", "no task has this id")
    return task_id
