"""Output of one run: stored in two files, read from any offset.

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

from chorus.files import is_shortage, open_plain

if TYPE_CHECKING:
    from chorus.tasks.terms import StreamName

WINDOW = 256 * 1024
"""Newest bytes of a stream kept in memory for a reader that is nearly up to date."""

STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")

_T = TypeVar("_T")


class InThread(Protocol):
    """Runs a blocking call on a thread (`partial(deferToThreadPool, reactor, pool)`)."""

    def __call__(self, function: Callable[..., _T], *args: object) -> Deferred[_T]: ...


class _SpooledStream:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size if path.exists() else 0
        self.written = self.size
        self.window = bytearray()
        self.unwritten: list[bytes] = []


class Spool:
    """Two append-only files in `directory`, which exists; what is there already counts."""

    _log = Logger()

    def __init__(
        self, directory: Path, in_thread: InThread, failed: Callable[[OSError], None] = lambda error: None
    ) -> None:
        """`failed` is called when the files take no more. What a full disk did not take stays in memory for `retry`, at
        most as much as the run's output limit; what a broken one did not take is gone."""
        self._failed = failed
        self._streams = {name: _SpooledStream(directory / name) for name in STREAMS}
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
        """Take output in; bytes that are known already (an adopted sandbox repeats some) are skipped."""
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
        if self._broken is not None and not is_shortage(self._broken):
            return
        found.unwritten.append(data)
        self._begin_flush()

    def retry(self) -> None:
        """Try again to write what the disk did not take."""
        self._broken = None
        self._begin_flush()

    def _begin_flush(self) -> None:
        if not self._flushing and self._broken is None:
            self._flushing = True
            Deferred.fromCoroutine(self._flush()).addErrback(
                lambda failure: self._log.failure("internal error while flushing output", failure=failure)
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
            while waiting := next((each for each in self._streams.values() if each.unwritten), None):
                count, data = len(waiting.unwritten), b"".join(waiting.unwritten)
                await self._in_thread(_write, waiting.path, waiting.written, data)
                waiting.written += len(data)
                del waiting.unwritten[:count]
        except OSError as error:
            self._broken = error
            if not is_shortage(error):
                for stream in self._streams.values():
                    stream.unwritten.clear()
        finally:
            self._flushing = False
            waiters, self._waiting = self._waiting, []
            for waiter in waiters:
                waiter.callback(None)
        if self._broken is not None:
            self._failed(self._broken)


def _write(path: Path, offset: int, data: bytes) -> None:
    """At its place, so that what was written in part before is written over."""
    descriptor = open_plain(path, os.O_WRONLY | os.O_CREAT)
    try:
        view = memoryview(data)
        while view:
            count = os.pwrite(descriptor, view, offset)
            offset, view = offset + count, view[count:]
    finally:
        os.close(descriptor)


def _read(path: Path, offset: int, limit: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(limit)
