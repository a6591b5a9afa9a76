"""Announced decisions: learned one after the other, at a bounded rate, and tried again where the DHT is slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.bounded import Bounded
from chorus.errors import ChorusError
from chorus.timer import Timer
from chorus.ucxl.address import Address, AddressError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

MAX_WAITING = 10_000
"""Addresses that wait; of more the oldest are dropped: a reader who asks for one finds it in the DHT."""
PAUSE_S = 0.02
"""Between two: 50 a second at most, each some walks through the DHT."""
TRIES = 3
AGAIN_S = 5.0
"""Seconds until all that failed is tried again."""


class AnnouncedDecisions:
    """`learn` reads one and enters it into the index."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, learn: Callable[[Address], Deferred[None]]) -> None:
        self._learn = learn
        self._waiting: Bounded[str, int] = Bounded(MAX_WAITING)
        self._failed: Bounded[str, int] = Bounded(MAX_WAITING)
        self._turn = Timer(clock, self._next)
        self._again = Timer(clock, self._try_again)
        self._up = True

    def heard(self, address: str) -> None:
        """Of an announcement, which anybody may have made up."""
        try:
            Address.published(address)
        except AddressError:
            return
        self._waiting.put(address, TRIES)
        self._go_on()

    def stop(self) -> None:
        self._up = False
        self._turn.cancel()
        self._again.cancel()

    def _go_on(self) -> None:
        if self._up and self._waiting and not self._turn.armed:
            self._turn.arm(PAUSE_S)

    def _next(self) -> None:
        address = next(iter(self._waiting))
        left = self._waiting.pop(address)
        self._learn(Address.published(address)).addErrback(self._missed, address, left - 1)
        self._go_on()

    def _missed(self, failure: Failure, address: str, left: int) -> None:
        if not isinstance(failure.value, ChorusError):
            self._log.failure("internal error in learning {address}", address=address, failure=failure)
        elif left and self._up:
            self._failed.put(address, left)
            if not self._again.armed:
                self._again.arm(AGAIN_S)

    def _try_again(self) -> None:
        for address, left in self._failed.items():
            self._waiting.put(address, left)
        self._failed.clear()
        self._go_on()
