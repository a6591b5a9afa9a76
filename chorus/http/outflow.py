# mypy: allow-untyped-calls
"""Answers that take long: written as fast as the client reads, ended when it takes nothing for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from chorus.http import limits
from chorus.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    from chorus.http.request import ApiRequest


@implementer(IPushProducer)
class Outflow:
    """The producer of one answer, until `release`. `pause` and `resume` follow the socket; `gone` is called once when
    the client went away before."""

    def __init__(
        self,
        request: ApiRequest,
        clock: IReactorTime,
        *,
        pause: Callable[[], None] = lambda: None,
        resume: Callable[[], None] = lambda: None,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._request = request
        self._pause, self._resume, self._gone = pause, resume, gone
        self._stall = Timer(clock, self.cut)
        self._waiting: list[Deferred[None]] = []
        self.paused = False
        self.over = False
        request.notifyFinish().addErrback(lambda _: self._lost())
        request.registerProducer(self, True)

    def pauseProducing(self) -> None:
        if self.over or self.paused:
            return
        self.paused = True
        self._stall.arm(limits.STALL_S)
        self._pause()

    def resumeProducing(self) -> None:
        if not self.paused:
            return
        self._let_go()
        if not self.over:
            self._resume()

    def stopProducing(self) -> None:
        self._lost()

    def ready(self) -> Deferred[None]:
        """Fires once the socket takes more, or nobody is left to take it (see `over`)."""
        deferred: Deferred[None] = Deferred()
        if self.paused and not self.over:
            self._waiting.append(deferred)
        else:
            deferred.callback(None)
        return deferred

    def write(self, data: bytes) -> None:
        if not self.over:
            self._request.write(data)

    def cut(self) -> None:
        """The answer cannot be whole: drop the connection, so that the client sees it."""
        if not self.over:
            if self._request.channel is not None:
                # First, so that nothing which follows can end the answer properly.
                self._request.channel.forceAbortClient()
            self._lost()

    def release(self) -> None:
        """Produce no more: the answer is whole, or somebody else's. Idempotent."""
        if self.over:
            return
        self.over = True
        if self._request.channel is not None:
            self._request.unregisterProducer()
        self._let_go()

    def _let_go(self) -> None:
        """Nothing is held back any more."""
        self._stall.cancel()
        self.paused = False
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _lost(self) -> None:
        if not self.over:
            self.release()
            self._gone()
