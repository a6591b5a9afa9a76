# mypy: allow-untyped-calls
"""The factory of an HTTP port: connections, the gate before every request, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.protocol import ServerFactory

from chorus.http import auth, limits
from chorus.http.body import Body, Ignored, too_large
from chorus.http.channel import ApiChannel
from chorus.http.request import ApiRequest

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IReactorTime
    from twisted.web.resource import IResource


class Gate(Protocol):
    """Decides about a request by its head. Both raise a `UserError` to refuse it."""

    def admit(self, request: ApiRequest) -> None: ...

    def body_of(self, request: ApiRequest, length: int | None) -> Body:
        """Where its body goes; `length` in bytes, None when it is chunked."""


class PlainGate:
    """Host names alone; no body wanted. What the health port has."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(names)

    def admit(self, request: ApiRequest) -> None:
        auth.check_host(request.requestHeaders.getRawHeaders(b"Host") or (), self._names)

    def body_of(self, request: ApiRequest, length: int | None) -> Body:
        if length is not None and length > limits.MAX_IGNORED_BODY:
            raise too_large(limits.MAX_IGNORED_BODY)
        return Ignored()


class ApiSite(ServerFactory):
    """Serves `resource`. `answers` counts by (method, status); `refused` connections over the limit."""

    noisy = False
    displayTracebacks = False
    # Read by Twisted's request: no form of ours has fields.
    _parsePOSTFormSubmission = False

    def __init__(self, resource: IResource, gate: Gate, clock: IReactorTime) -> None:
        self.resource = resource
        self.gate = gate
        self.answers: Counter[tuple[str, int]] = Counter()
        self.refused = 0
        self.clock = clock
        self._channels: set[ApiChannel] = set()
        self._idle_callbacks: list[Callable[[], None]] = []

    @property
    def connections(self) -> int:
        return len(self._channels)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self._channels) >= limits.MAX_CONNECTIONS:
            self.refused += 1
            return None
        channel = ApiChannel()
        channel.site = self
        channel.requestFactory = ApiRequest
        channel.timeOut = limits.IDLE_S
        self._channels.add(channel)
        return channel

    def connection_closed(self, channel: ApiChannel) -> None:
        self._channels.discard(channel)
        if not self._channels:
            waiting, self._idle_callbacks = self._idle_callbacks, []
            for callback in waiting:
                callback()

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
