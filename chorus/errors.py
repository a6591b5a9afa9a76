"""One root for every error, one stable `code` for each; three branches say whose fault it was.

Boundaries translate in one place each: HTTP to a problem document, the wire to a reset or close, the command line
to one line and an exit code. Subclasses live beside the code that raises them and set `code`.
"""

from __future__ import annotations

from typing import ClassVar


class ChorusError(Exception):
    """Root. `code` is stable and documented; `str(error)` is one line fit for a person."""

    code: ClassVar[str] = "error"


class UserError(ChorusError):
    """An error of a user or an API client; the text says what to do instead."""

    code = "user_error"
    http_status: ClassVar[int] = 400
    exit_code: ClassVar[int] = 2


class PeerError(ChorusError):
    """An error of a peer: its stream or connection is reset or closed, and the error is counted by `code`."""

    code = "peer_error"


class LocalError(ChorusError):
    """A failure of this node (disk, engine, bug); never blamed on a peer or a user."""

    code = "local_error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1


class LimitExceeded(PeerError):
    """A named limit was passed by a peer."""

    code = "limit_exceeded"

    def __init__(self, limit: str, value: int | float, maximum: int | float) -> None:
        super().__init__(f"{limit}: {value} is over the limit of {maximum}")
        self.limit = limit
        self.value = value
        self.maximum = maximum
