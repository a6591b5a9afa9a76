# mypy: allow-untyped-calls
"""The factory of an HTTP port: connections and who makes room for whom, the gate before every request, counts.

A connection is a newcomer until one of its requests shows the token. Newcomers have a pool of their own, so that no
stranger takes the owner's place; on the health port, which asks for no token, there are no others. Among them one more
always finds a place: the one goes that has sent no whole request for longest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

from chorus.http import auth, limits
from chorus.http.body import Body, Ignored, too_large
from chorus.http.channel import ApiChannel
from chorus.http.problem import HttpError
from chorus.http.request import ApiRequest
from chorus.newcomers import Newcomers
from chorus.twisted_private import PlainFactory

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IReactorTime
    from twisted.web.resource import IResource

RouteCheck = Callable[[ApiRequest], None]
"""Raises the 404 or 405 of a request that no resource will answer."""


class RequestGate(Protocol):
    """Decides about a request by its head. Both raise a `UserError` to refuse it."""

    def admit(self, request: ApiRequest) -> bool:
        """True if the request shows the token."""

    def body_of(self, request: ApiRequest, length: int | None) -> Body:
        """Where its body goes; `length` in bytes, None when it is chunked."""


def unwanted_body(request: ApiRequest, length: int | None, check: RouteCheck) -> Body:
    """The body of a request that needs none. That there is no such path, or method, is said before its size."""
    check(request)
    if length is not None and length > limits.MAX_IGNORED_BODY:
        raise too_large(limits.MAX_IGNORED_BODY)
    return Ignored()


class PlainGate:
    """The health port's gate: checks host names alone and wants no body."""

    def __init__(self, check: RouteCheck, names: Collection[str] = ()) -> None:
        self._check = check
        self._names = frozenset(names)

    def admit(self, request: ApiRequest) -> bool:
        auth.check_host(request.requestHeaders.getRawHeaders(b"Host") or (), self._names)
        return False

    def body_of(self, request: ApiRequest, length: int | None) -> Body:
        return unwanted_body(request, length, self._check)


class ApiSite(PlainFactory):
    """Serves `resource`. `answers` counts by (method, status); `evicted` connections that made room for others."""

    noisy = False
    displayTracebacks = False

    def __init__(self, resource: IResource, gate: RequestGate, clock: IReactorTime) -> None:
        self.resource = resource
        self.gate = gate
        self.answers: Counter[tuple[str, int]] = Counter()
        self.evicted = 0
        self.clock = clock
        self._channels: set[ApiChannel] = set()
        """All, also those that are about to be closed."""
        self._newcomers: Newcomers[ApiChannel] = Newcomers(limits.MAX_NEWCOMERS)
        self._proven: Newcomers[ApiChannel] = Newcomers(limits.MAX_CONNECTIONS)
        self._idle_callbacks: list[Callable[[], None]] = []

    @property
    def connections(self) -> int:
        return len(self._channels)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        while (channel := self._newcomers.in_the_way()) is not None:
            self._evict(channel)
        channel = ApiChannel()
        channel.site = self
        channel.requestFactory = ApiRequest
        channel.timeOut = limits.IDLE_S
        return channel

    def connection_made(self, channel: ApiChannel) -> None:
        """Count a connection once it has its socket: one that the system refuses before never came."""
        self._channels.add(channel)
        self._newcomers.add(channel)

    def progressed(self, channel: ApiChannel, *, proven: bool) -> None:
        """The head of a request is whole, and fit to be answered. Raises a 503 when too many that showed the token
        before have requests under way."""
        self._newcomers.progressed(channel)
        self._proven.progressed(channel)
        if not proven or channel in self._proven:
            return
        if len(self._proven) >= limits.MAX_CONNECTIONS:
            idle = next((each for each in self._proven if not each.requests), None)
            if idle is None:
                raise HttpError(503, "busy", f"{limits.MAX_CONNECTIONS} connections are open", {"Retry-After": "2"})
            self._evict(idle)
        self._newcomers.remove(channel)
        self._proven.add(channel)

    def connection_closed(self, channel: ApiChannel) -> None:
        self._forget(channel)
        self._channels.discard(channel)
        if not self._channels:
            waiting, self._idle_callbacks = self._idle_callbacks, []
            for callback in waiting:
                callback()

    def _evict(self, channel: ApiChannel) -> None:
        self.evicted += 1
        # At once, and not when its socket is closed: whoever it makes room for comes in this very turn.
        self._forget(channel)
        channel.forceAbortClient()

    def _forget(self, channel: ApiChannel) -> None:
        self._newcomers.remove(channel)
        self._proven.remove(channel)

    def answered(self, request: ApiRequest) -> None:
        method = request.method.decode("ascii", "replace")
        self.answers[method if method in _METHODS else "other", request.code] += 1

    def close_idle(self) -> None:
        """Close the connections on which no request is under way."""
        for channel in list(self._channels):
            if not channel.requests:
                channel.loseConnection()
            else:
                channel.persistent = False

    def abort_all(self) -> None:
        for channel in list(self._channels):
            channel.forceAbortClient()

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call back once no connection is left."""
        if self._channels:
            self._idle_callbacks.append(callback)
        else:
            callback()


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
