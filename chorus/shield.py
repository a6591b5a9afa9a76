"""Work that goes on when whoever waits for it is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError

T = TypeVar("T")
_log = Logger()


def shield(work: Deferred[T], unwanted: Callable[[T], object] | None = None) -> Deferred[T]:
    """`work` for a caller that may be cancelled (its client went away, it stops) while the work itself must go on, such
    as a commit; `unwanted` then gets the result that nobody waits for."""
    cancelled = False

    def cancel(_: Deferred[T]) -> None:
        nonlocal cancelled
        cancelled = True

    outer: Deferred[T] = Deferred(cancel)

    def done(result: T) -> None:
        if not cancelled:
            outer.callback(result)
        elif unwanted is not None:
            unwanted(result)

    def failed(failure: Failure) -> None:
        if not cancelled:
            outer.errback(failure)
        elif isinstance(failure.value, ChorusError):
            _log.info("failed when nobody waited for it any more: {error}", error=failure.value)
        else:
            _log.failure("internal error in work that nobody waited for any more", failure)

    work.addCallbacks(done, failed)
    return outer
