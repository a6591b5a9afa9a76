"""Names and texts for why a connection ended or did not come about."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
)

from chorus.errors import ChorusError, LimitExceeded

_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (ConnectionRefusedError, "refused", "connection refused"),
    (TCPTimedOutError, "timeout", "no answer"),
    (TimeoutError, "timeout", "no answer in time"),
    (NoRouteError, "unreachable", "no route"),
    (DNSLookupError, "unknown_name", "the name cannot be resolved"),
)


def reason(error: ChorusError | None) -> str:
    """The name an end is counted under."""
    if error is None:
        return "normal"
    return f"{error.code}.{error.limit}" if isinstance(error, LimitExceeded) else error.code


def describe(error: Any) -> tuple[str, str]:
    """(reason to count, text) for why TCP did not come about."""
    for kind, code, text in _REASONS:
        if isinstance(error, kind):
            return code, text
    if isinstance(error, ConnectError):
        return "connect_failed", f"cannot connect: {error}"
    return "connect_failed", str(error)
