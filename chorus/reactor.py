"""The reactor every CHORUS process runs on: asyncio's (uvloop when installed), on the boot clock.

Twisted's own `seconds()` is wall time, so setting the clock would fire or stall every timer. Here `seconds()` is
CLOCK_BOOTTIME: it never jumps, and it goes on while the machine sleeps, so a lease that ended during a suspend has
ended (spec/cluster.md, "Clock").
"""

from __future__ import annotations

import asyncio
import sys
import time

from twisted.internet.asyncioreactor import AsyncioSelectorReactor

from chorus.errors import UserError


class WrongReactor(UserError):
    """Another reactor was installed before CHORUS could choose."""

    code = "wrong_reactor"


class BootClockReactor(AsyncioSelectorReactor):
    """`IReactorTime.seconds()` is seconds since boot, suspended time included."""

    def seconds(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


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

    installReactor(BootClockReactor(loop))  # type: ignore[no-untyped-call]
