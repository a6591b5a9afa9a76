# mypy: allow-untyped-calls
"""`/v1/tasks/{id}/events`: a task's history and its live continuation as server-sent events.

`id:` is the event's number in the task, `event:` its type, `data:` the whole event as one line of JSON. A stream starts
after `Last-Event-ID` (or `?after=`), ends after the last event of a task in a terminal state, and answers 204 to a
client that has seen that one already, which tells an EventSource to stop asking.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred

from chorus.http import limits
from chorus.http.outflow import Outflow
from chorus.http.problem import HttpError
from chorus.http.reply import query, shield, want, whole_number
from chorus.http.tasks import TERMINAL, known_form

if TYPE_CHECKING:
    from klein import Klein
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from chorus.http.ports import Subscription, TaskPort
    from chorus.http.request import ApiRequest
    from chorus.tasks.events import TaskEvent

CONTENT_TYPE = "text/event-stream"
RETRY_MS = 2000
"""Told to clients: how long to wait before they connect again."""
MAX_EVENT_ID = 2**53 - 1
MAX_WAIT = 86_400
GRACE_S = 0.2
"""What `?wait=0` allows for reading the history: a stream has no mark between the old events and the new."""


def add_events(app: Klein, tasks: TaskPort, clock: IReactorTime, open_streams: set[EventStream]) -> None:
    """Add the route to `app`; `open_streams` holds the streams that are open, for the limit and the shutdown."""

    @app.route("/v1/tasks/<string:task_id>/events", methods=["GET"])
    async def events(request: ApiRequest, task_id: str) -> None:
        want(request, CONTENT_TYPE)
        after, wait = _asked(request)
        document = await tasks.get(known_form(task_id))
        if request.method == b"HEAD":
            _headers(request)
            return
        if len(open_streams) >= limits.MAX_STREAMS:
            raise HttpError(503, "busy", f"{limits.MAX_STREAMS} event streams are open already", {"Retry-After": "5"})
        stream = EventStream(request, clock)
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


class EventStream:
    """One client's stream. `closed` fires when it is over, whoever ended it."""

    def __init__(self, request: ApiRequest, clock: IReactorTime) -> None:
        self._request = request
        self._clock = clock
        self._subscription: Subscription | None = None
        self._heartbeat: IDelayedCall | None = None
        self._limit: IDelayedCall | None = None
        self._started = False
        self._backlog = 0
        self.closed: Deferred[None] = Deferred()
        self._out = Outflow(request, clock, pause=self._pause, resume=self._resume, gone=self._close)

    def start(self) -> None:
        """Send the head of the answer now; else the first event does."""
        if not self._started and not self._out.over:
            self._started = True
            _headers(self._request)
            self._out.write(b"retry: %d\n\n" % RETRY_MS)
            self._beat()

    def deliver(self, event: TaskEvent) -> None:
        self.start()
        data = encode(event)
        if self._out.paused:
            self._backlog += len(data)
            if self._backlog > limits.MAX_STREAM_BACKLOG:
                self._out.cut()
        self._out.write(data)

    def ended(self) -> None:
        """No event will follow."""
        if self._out.over:
            return
        if not self._started:
            self._request.setResponseCode(204)
        # Klein finishes the request when `answered` fires.
        self._out.release()
        self._close()

    def attach(self, subscription: Subscription) -> None:
        if self._out.over:
            subscription.stop()
            return
        self._subscription = subscription
        if self._out.paused:
            subscription.pause()

    def abandon(self) -> None:
        """The subscription failed: take the producer away so that an error can be the answer."""
        self._out.release()
        self._close()

    def shut_down(self) -> None:
        """End the answer; the client will ask again, with the id of its last event."""
        self.start()
        self.ended()

    def end_after(self, seconds: int) -> None:
        """End the stream when it has been open so long; at 0 as soon as what is there has been sent."""
        if not self._out.over:
            self._limit = self._clock.callLater(max(seconds, GRACE_S), self.shut_down)

    def answered(self) -> Deferred[None]:
        """Fires when `closed` does; cancelling it (the client went away) harms nothing."""
        waiter: Deferred[None] = Deferred(lambda _: None)

        def over(result: None) -> None:
            if not waiter.called:
                waiter.callback(None)
            return result

        self.closed.addCallback(over)
        return waiter

    def _beat(self) -> None:
        self._heartbeat = self._clock.callLater(limits.HEARTBEAT_S, self._beat)
        if not self._out.paused:
            self._out.write(b": alive\n\n")

    def _pause(self) -> None:
        if self._subscription is not None:
            self._subscription.pause()

    def _resume(self) -> None:
        self._backlog = 0
        if self._subscription is not None:
            self._subscription.resume()

    def _close(self) -> None:
        for call in (self._heartbeat, self._limit):
            if call is not None and call.active():
                call.cancel()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.stop()
        if not self.closed.called:
            self.closed.callback(None)


def encode(event: TaskEvent) -> bytes:
    """One event in the stream's format. JSON has no raw line breaks, so one data line is enough."""
    data = json.dumps(attrs.asdict(event), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n".encode("utf-8", "replace")


def _asked(request: ApiRequest) -> tuple[int, int | None]:
    """The event to start after, and how many seconds to wait for more (None: to the end)."""
    parameters = query(request, "after", "wait")
    wait = whole_number(parameters["wait"], "wait", 0, MAX_WAIT) if "wait" in parameters else None
    text = parameters.get("after")
    asked = 0 if text is None else whole_number(text, "after", 0, MAX_EVENT_ID)
    header = request.requestHeaders.getRawHeaders("Last-Event-ID")
    if header and header[-1].strip():
        # A client that reconnects repeats its first address; the header is where it is now.
        asked = whole_number(header[-1].strip(), "Last-Event-ID", 0, MAX_EVENT_ID)
    return asked, wait


def _headers(request: ApiRequest) -> None:
    request.setHeader("Content-Type", CONTENT_TYPE)
    request.setHeader("X-Accel-Buffering", "no")
