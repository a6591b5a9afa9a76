# mypy: allow-untyped-calls
"""`/v1/blobs`: content by its SHA-256, streamed both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any

from twisted.internet.threads import deferToThreadPool

from chorus.http import limits
from chorus.http.body import Upload
from chorus.http.gate import SHA256
from chorus.http.outflow import Outflow
from chorus.http.problem import HttpError
from chorus.http.reply import JSON_TYPE, json_reply, query, shield, want

if TYPE_CHECKING:
    from klein import Klein

    from chorus.http.ports import BlobPort
    from chorus.http.request import ApiRequest

OCTETS = "application/octet-stream"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


def add_blobs(app: Klein, blobs: BlobPort, reactor: Any) -> None:
    """Add the routes to `app`. Files are read in the reactor's thread pool."""
    downloads = _Downloads(reactor)

    @app.route("/v1/blobs", methods=["PUT"])
    @app.route("/v1/blobs/<string:sha256>", methods=["PUT"])
    async def put(request: ApiRequest, sha256: str | None = None) -> bytes:
        want(request, JSON_TYPE)
        if not isinstance(request.body, Upload):
            # The path reached here in a spelling (an escaped slash) that the gate did not take for an upload.
            raise HttpError(404, "not_found", "no such path; /openapi.json lists all of them")
        document = await shield(request.body.take().finish())
        return json_reply(request, document, 201, {"Location": f"/v1/blobs/{document['sha256']}"})

    @app.route("/v1/blobs/<string:sha256>", methods=["GET"])
    async def get(request: ApiRequest, sha256: str) -> None:
        want(request, OCTETS)
        query(request)
        if not SHA256.fullmatch(sha256):
            raise HttpError(404, "unknown_blob", "no blob has this id (64 lower-case hexadecimal digits)")
        etag = f'"{sha256}"'
        request.setHeader("ETag", etag)
        request.setHeader("Cache-Control", "private, max-age=31536000, immutable")
        if _matches(request.requestHeaders.getRawHeaders("If-None-Match"), etag):
            request.setResponseCode(304)
            return
        with downloads:
            file, size = await shield(blobs.open(sha256), lambda unwanted: unwanted[0].close())
            try:
                await downloads.send(request, file, size, etag)
            finally:
                file.close()


class _Downloads:
    """Counts the downloads that run, and sends one."""

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


def _matches(values: Sequence[str] | None, etag: str) -> bool:
    tags = [tag.strip() for value in values or () for tag in value.split(",")]
    return "*" in tags or etag in [tag.removeprefix("W/") for tag in tags]


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
