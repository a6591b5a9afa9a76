# mypy: allow-untyped-calls
"""`/v1/tasks/{id}/events`: a task's history and its live continuation.

A stream starts after `Last-Event-ID` (or `?after=`), ends after the last event of a task in a terminal state, and
answers 204 to a client that has seen that one already, which makes an EventSource stop asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.fields import Schema
from chorus.http import limits
from chorus.http.event_stream import CONTENT_TYPE, EventStream, set_headers
from chorus.http.ports import TERMINAL
from chorus.http.problem import HttpError
from chorus.http.reply import whole_number
from chorus.http.routes import ApiOperation, Route, answer, parameter
from chorus.http.schemas.words import ref
from chorus.http.tasks import known_form
from chorus.shield import shield

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest
    from chorus.http.routes import Serving

MAX_EVENT_ID = 2**53 - 1
MAX_WAIT = 86_400


async def _watch(serving: Serving, request: ApiRequest, query: dict[str, str], task_id: str) -> None:
    after, wait = _asked(request, query)
    tasks, open_streams = serving.ports.tasks, serving.streams
    document = await tasks.get(known_form(task_id))
    if request.method == b"HEAD":
        set_headers(request)
        return
    if len(open_streams) >= limits.MAX_STREAMS:
        raise HttpError(503, "busy", f"{limits.MAX_STREAMS} event streams are open already", {"Retry-After": "5"})
    stream = EventStream(request, serving.reactor)
    open_streams.add(stream)
    stream.closed.addBoth(lambda _: open_streams.discard(stream))
    try:
        subscription = await shield(
            tasks.watch(task_id, after, stream.deliver, stream.ended), lambda unwanted: unwanted.stop()
        )
    except BaseException:
        stream.abandon()
        raise
    stream.attach(subscription)
    if document["state"] not in TERMINAL:
        stream.start()
    if wait is not None:
        stream.end_after(wait)
    await stream.answered()


def _asked(request: ApiRequest, query: dict[str, str]) -> tuple[int, int | None]:
    """The event to start after, and how many seconds to wait for more (None: to the end)."""
    wait = whole_number(query["wait"], "wait", 0, MAX_WAIT) if "wait" in query else None
    text = query.get("after")
    start = 0 if text is None else whole_number(text, "after", 0, MAX_EVENT_ID)
    header = request.requestHeaders.getRawHeaders("Last-Event-ID")
    if header and header[-1].strip():
        # A client that reconnects repeats its first address; the header is where it is now.
        start = whole_number(header[-1].strip(), "Last-Event-ID", 0, MAX_EVENT_ID)
    return start, wait


_EVENT_ID: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_EVENT_ID}
ROUTES = (
    Route(
        "GET",
        "/v1/tasks/{task_id}/events",
        _watch,
        ApiOperation(
            "watchTask",
            "tasks",
            "Follow a task's events",
            {
                200: answer("Events.", {CONTENT_TYPE: {"schema": ref("ServerSentEvent")}}),
                204: {"description": "The task has ended and the client has seen all events."},
            },
            (404,),
            "Server-sent events: `id:` is the event's number, `event:` its type, `data:` a TaskEvent on one line. "
            "The stream goes on while the task does, and ends after its terminal state.",
            (
                parameter("query", "after", _EVENT_ID, "Start after this event."),
                parameter("header", "Last-Event-ID", _EVENT_ID, "The same; it goes before `after`."),
                parameter(
                    "query",
                    "wait",
                    {"type": "integer", "minimum": 0, "maximum": MAX_WAIT},
                    "End the stream after so many seconds even if the task goes on; 0: only what is there now.",
                ),
            ),
        ),
    ),
)
