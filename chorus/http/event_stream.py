# mypy: allow-untyped-calls
"""One client's stream of a task's events, as server-sent events.

`id:` is the event's number in the task, `event:` its type, `data:` the whole event as one line of JSON.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred

from chorus.http import limits
from chorus.http.outflow import Outflow
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.http.ports import Subscription
    from chorus.http.request import ApiRequest
    from chorus.tasks.events import TaskEvent

CONTENT_TYPE = "text/event-stream"
RETRY_MS = 2000
"""How long clients are asked to wait before they connect again."""
GRACE_S = 0.2
"""The time that `?wait=0` leaves for reading the history: a stream has no mark between the old events and the new."""


class EventStream:
    """One client's stream. `closed` fires when it is over, whoever ended it."""

    def __init__(self, request: ApiRequest, clock: IReactorTime) -> None:
        self._request = request
        self._subscription: Subscription | None = None
        self._heartbeat = Timer(clock, self._beat)
        self._limit = Timer(clock, self.shut_down)
        self._started = False
        self._backlog = 0
        self.closed: Deferred[None] = Deferred()
        self._out = Outflow(request, clock, pause=self._pause, resume=self._resume, gone=self._close)

    def start(self) -> None:
        """Send the head of the answer now; else the first event does."""
        if not self._started and not self._out.over:
            self._started = True
            set_headers(self._request)
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
            self._limit.arm(max(seconds, GRACE_S))

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
        self._heartbeat.arm(limits.HEARTBEAT_S)
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
        self._heartbeat.cancel()
        self._limit.cancel()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.stop()
        if not self.closed.called:
            self.closed.callback(None)


def encode(event: TaskEvent) -> bytes:
    """One event in the stream's format. JSON has no raw line breaks, so one data line is enough."""
    data = json.dumps(attrs.asdict(event), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n".encode("utf-8", "replace")


def set_headers(request: ApiRequest) -> None:
    request.setHeader("Content-Type", CONTENT_TYPE)
    request.setHeader("X-Accel-Buffering", "no")
