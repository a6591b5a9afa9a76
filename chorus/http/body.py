"""Bodies of requests while they arrive: bounded before they are buffered."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

from chorus.http import limits
from chorus.http.problem import HttpError

if TYPE_CHECKING:
    from chorus.http.ports import BlobWriter


class Body(Protocol):
    """Takes a body as it arrives; `write` raises `UserError` the moment it is too much."""

    received: int

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        """The body will not be complete."""


def too_large(maximum: int) -> HttpError:
    return HttpError(413, "body_too_large", f"the body is over {maximum} bytes")


class Buffered:
    """A body kept in memory."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._buffer = BytesIO()
        self.received = 0

    def write(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self._maximum:
            raise too_large(self._maximum)
        self._buffer.write(data)

    def abort(self) -> None:
        self._buffer = BytesIO()

    def getvalue(self) -> bytes:
        return self._buffer.getvalue()


class Ignored:
    """A body that nothing wants: counted and dropped."""

    def __init__(self, maximum: int = limits.MAX_IGNORED_BODY) -> None:
        self._maximum = maximum
        self.received = 0

    def write(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self._maximum:
            raise too_large(self._maximum)

    def abort(self) -> None:
        pass


class UploadBody:
    """A body that goes on to a blob writer. The caller of `take` finishes it; else it is aborted at the end."""

    def __init__(self, writer: BlobWriter, released: Callable[[], None]) -> None:
        self._writer = writer
        self._released: Callable[[], None] | None = released
        self._taken = False
        self.received = 0
        self.held = False
        """The writer asked the sender to pause."""

    def hold_by(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """How to make the sender pause and go on."""

        def press(pressed: bool) -> None:
            self.held = pressed
            if pressed:
                pause()
            else:
                resume()

        self._writer.on_pressure = press

    def write(self, data: bytes) -> None:
        self.received += len(data)
        self._writer.write(data)

    def take(self) -> BlobWriter:
        """The writer, which the caller now owns."""
        self._taken = True
        return self._writer

    def abort(self) -> None:
        if self._released is None:
            return
        released, self._released = self._released, None
        self._writer.on_pressure = None
        if not self._taken:
            self._writer.abort()
        released()
