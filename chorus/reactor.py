"""The reactor every CHORUS process runs on: asyncio's (uvloop when installed), on the boot clock.

Twisted's own `seconds()` is wall time, so setting the clock would fire or stall every timer. Here `seconds()` is
CLOCK_BOOTTIME: it never jumps, and it goes on while the machine sleeps, so a lease that ended during a suspend has
ended (spec/cluster.md, "Clock").
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import sys
import time
from types import FrameType
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from chorus.errors import UserError

_log = Logger()


class WrongReactor(UserError):
    """Another reactor was installed before CHORUS could choose."""

    code = "wrong_reactor"


class BootClockReactor(AsyncioSelectorReactor):
    """`IReactorTime.seconds()` is seconds since boot, suspended time included.

    A process that SIGTERM or SIGINT asked to stop, and that did, ends with exit status 0. Twisted would have it end by
    that signal, which an orchestrator takes for a failure (status 143).
    """

    def seconds(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sigTerm(self, number: int, frame: FrameType | None = None) -> None:
        self._asked_to_stop("SIGTERM")

    def sigInt(self, number: int, frame: FrameType | None = None) -> None:
        self._asked_to_stop("SIGINT")

    def _asked_to_stop(self, signal: str) -> None:
        # From the thread's queue: a log call inside a signal handler may meet a lock that the main thread holds.
        self.callFromThread(_log.info, "received {signal}", signal=signal)  # type: ignore[no-untyped-call]
        self.callFromThread(self._stop_once)  # type: ignore[no-untyped-call]

    def _stop_once(self) -> None:
        # The second signal of an impatient user finds the stop under way.
        with contextlib.suppress(ReactorNotRunning):
            self.stop()  # type: ignore[no-untyped-call]


class UvloopReactor(BootClockReactor):
    """The same on uvloop's loop.

    libuv ends its watch of a descriptor on POLLERR, after one last call of the reader. Where a peer sent data and then
    reset the connection, that last call only brings the data: nothing would ever say that the connection is gone, and
    the next write would fail inside uvloop. So such a descriptor is read until it says so itself.
    """

    def _readOrWrite(self, selectable: Any, read: bool) -> None:
        super()._readOrWrite(selectable, read)  # type: ignore[no-untyped-call]
        if read and _in_error(selectable.fileno()):
            self.callLater(0, self._read_on, selectable)  # type: ignore[no-untyped-call]

    def _read_on(self, selectable: Any) -> None:
        if selectable in self._readers and selectable.fileno() != -1:
            self._readOrWrite(selectable, True)


def _in_error(descriptor: int) -> bool:
    if descriptor == -1:
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, else asyncio's selector loop (a proactor cannot carry Twisted)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop()
    return uvloop.new_event_loop()


def install() -> None:
    """Install the reactor of this process. Idempotent; raises `WrongReactor` when another kind is in place."""
    present = sys.modules.get("twisted.internet.reactor")
    if present is not None:
        if not isinstance(present, BootClockReactor):
            raise WrongReactor(
                "another Twisted reactor is installed already; run twistd without --reactor, "
                "chorus brings its own (asyncio on the boot clock)"
            )
        return
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    from twisted.internet.main import installReactor

    kind = BootClockReactor if isinstance(loop, asyncio.SelectorEventLoop) else UvloopReactor
    installReactor(kind(loop))  # type: ignore[no-untyped-call]
