# mypy: allow-untyped-calls
"""Downloads: a file sent as fast as its reader takes it, whole or the part that was asked for (RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from twisted.internet.threads import deferToThreadPool

from chorus.http import limits
from chorus.http.outflow import Outflow
from chorus.http.problem import HttpError
from chorus.http.reply import OCTETS

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


class Downloads:
    """Counts the downloads that run, and sends one. Files are read in the reactor's thread pool."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._running = 0

    def __enter__(self) -> None:
        if self._running >= limits.MAX_DOWNLOADS:
            raise HttpError(503, "busy", f"{limits.MAX_DOWNLOADS} downloads run already", {"Retry-After": "2"})
        self._running += 1

    def __exit__(self, *_: object) -> None:
        self._running -= 1

    async def send(self, request: ApiRequest, file: IO[bytes], size: int, etag: str) -> None:
        start, stop = 0, size
        if wanted := _range(request, size, etag):
            start, stop = wanted
            request.setResponseCode(206)
            request.setHeader("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        request.setHeader("Accept-Ranges", "bytes")
        request.setHeader("Content-Type", OCTETS)
        request.setHeader("Content-Disposition", "attachment")
        request.setHeader("Content-Length", str(stop - start))
        if request.method == b"HEAD" or start == stop:
            return
        out = Outflow(request, self._reactor)
        try:
            if start:
                await self._in_thread(file.seek, start)
            while start < stop and not out.over:
                data = await self._in_thread(file.read, min(limits.DOWNLOAD_CHUNK, stop - start))
                if not data:
                    raise OSError(f"{etag} became shorter while it was read")
                start += len(data)
                out.write(data)
                await out.ready()
        except BaseException:
            # The length is promised: only a cut connection says that it was not kept.
            out.cut()
            raise
        out.release()

    async def _in_thread(self, work: Callable[[int], Any], argument: int) -> Any:
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work, argument)


def _range(request: ApiRequest, size: int, etag: str) -> tuple[int, int] | None:
    """(start, stop) of a single satisfiable range; None where the whole is the answer (RFC 9110, 14.2: a Range that is
    not understood, or of several parts, may be ignored). Raises a 416."""
    headers = request.requestHeaders
    given = headers.getRawHeaders("Range") or []
    match = _RANGE.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None or (match[1] == "" and match[2] == "") or request.method == b"HEAD":
        return None
    condition = headers.getRawHeaders("If-Range")
    if condition and condition != [etag]:
        return None
    if match[1] == "":
        start, stop = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        stop = min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= stop:
        raise HttpError(416, "bad_range", f"the blob has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, stop
