"""Output of one run on its way: kept in two files, read again from any offset.

A sandbox pushes output and cannot be paused; a scheduler may be slow, gone, or ask again from an earlier offset. So
every byte goes to a file (up to the run's output limit, which the sandbox holds), and only the newest
`WINDOW` bytes of each stream stay in memory, so that a reader who keeps up never waits for the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

if TYPE_CHECKING:
    from chorus.sandbox.contract import StreamName

WINDOW = 256 * 1024
"""Newest bytes of a stream kept in memory for a reader that is nearly up to date."""

STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")

_T = TypeVar("_T")


class InThread(Protocol):
    """Runs a blocking call on a thread (`partial(deferToThreadPool, reactor, pool)`)."""

    def __call__(self, function: Callable[..., _T], *args: object) -> Deferred[_T]: ...


class _Stream:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size if path.exists() else 0
        self.window = bytearray()
        self.unwritten: list[bytes] = []


class Spool:
    """Two append-only files in `directory`, which exists; what is there already counts."""

    _log = Logger()

    def __init__(self, directory: Path, in_thread: InThread) -> None:
        self._streams = {name: _Stream(directory / name) for name in STREAMS}
        self._in_thread = in_thread
        self._flushing = False
        self._waiting: list[Deferred[None]] = []
        self._broken: OSError | None = None

    def size(self, stream: StreamName) -> int:
        """Bytes of `stream` so far, those not yet in the file included."""
        return self._streams[stream].size

    def path(self, stream: StreamName) -> Path:
        return self._streams[stream].path

    def append(self, stream: StreamName, offset: int, data: bytes) -> None:
        """Take output in. What is known already (a sandbox that repeats itself after adoption) is passed over."""
        found = self._streams[stream]
        if offset > found.size:
            self._log.error(
                "output of {stream} jumps from {size} to {offset}; what lay between is lost",
                stream=stream,
                size=found.size,
                offset=offset,
            )
        elif offset < found.size:
            data = data[found.size - offset :]
        if not data:
            return
        found.size += len(data)
        found.window += data
        if len(found.window) > 2 * WINDOW:
            del found.window[:-WINDOW]
        if self._broken is not None:
            return
        found.unwritten.append(data)
        if not self._flushing:
            self._flushing = True
            Deferred.fromCoroutine(self._flush()).addErrback(
                lambda failure: self._log.failure("flushing output broke", failure=failure)
            )

    def recent(self, stream: StreamName, offset: int, limit: int) -> bytes | None:
        """Up to `limit` bytes from `offset`, when they are in memory; None when they must be read."""
        found = self._streams[stream]
        start = offset - (found.size - len(found.window))
        return bytes(found.window[start : start + limit]) if start >= 0 else None

    async def read(self, stream: StreamName, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset`, from the file when need be. Raises OSError."""
        data = self.recent(stream, offset, limit)
        if data is None:
            await self.flushed()
            data = await self._in_thread(_read, self._streams[stream].path, offset, limit)
        return data

    async def flushed(self) -> None:
        """Everything taken in is in the files. Raises OSError when they could not take it."""
        while self._flushing:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
        if self._broken is not None:
            raise self._broken

    async def _flush(self) -> None:
        try:
            while work := [(found.path, _take(found)) for found in self._streams.values() if found.unwritten]:
                await self._in_thread(_append, work)
        except OSError as error:
            self._broken = error
            self._log.error("output cannot be kept: {error}", error=error)
        finally:
            self._flushing = False
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)


def _take(stream: _Stream) -> bytes:
    data = b"".join(stream.unwritten)
    stream.unwritten.clear()
    return data


def _append(work: list[tuple[Path, bytes]]) -> None:
    for path, data in work:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def _read(path: Path, offset: int, limit: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(limit)
