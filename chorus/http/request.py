# mypy: allow-untyped-calls
"""One request: decided at the end of its headers, its body streamed into a `Body`, its errors problem documents."""

from __future__ import annotations

import http
import re
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import parse_qs
from twisted.web.server import Request

from chorus.http import limits, problem
from chorus.http.body import Body, Ignored
from chorus.http.problem import NO_SUCH_PATH, SECURITY_HEADERS, HttpError, Problem

_METHOD = re.compile(rb"[A-Z]{1,16}")


class ApiRequest(Request):
    """`begun` once its head is read; `body` is where the body went; `refusal` why it is not served."""

    _log = Logger()
    channel: Any = None
    """The `ApiChannel`; None once the client is gone, and after the end."""
    begun = False
    body: Body
    refusal: Problem | None = None

    def __init__(self, channel: Any, *args: object, **kwargs: object) -> None:
        super().__init__(channel, *args, **kwargs)
        self.body = Ignored()

    def begin(self, method: bytes, uri: bytes, version: bytes, length: int | None) -> Problem | None:
        """Called when the headers are complete, before any of the body. The reason of a refusal, or None."""
        self.begun = True
        self.method, self.uri, self.clientproto = method, uri, version
        self.path, _, arguments = uri.partition(b"?")
        self.args = {}
        try:
            self._check_head()
            self.args = parse_qs(arguments, True)
            site = self.channel.site
            proven = site.gate.admit(self)
            self._check_text()
            site.progressed(self.channel, proven=proven)
            body = site.gate.body_of(self, length)
        except Exception as error:
            self._refuse(error)
        else:
            self.body = body
        return self.refusal

    def handleContentChunk(self, data: bytes) -> None:
        if self.refusal is not None:
            return
        try:
            self.body.write(data)
        except Exception as error:
            self._refuse(error)
            assert self.refusal is not None
            self.channel.refuse(self, self.refusal)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        # `begin` has read the head already, and nothing here parses forms.
        self.process()

    def process(self) -> None:
        if self.refusal is not None:
            self.answer(self.refusal)
            return
        self._common_headers()
        self.site = self.channel.site
        self.prepath: list[bytes] = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            self.render(self.site.resource)
        except Exception:
            self.processingFailed(Failure())

    def fail_with(self, failure: Failure) -> bytes:
        """The body of the answer that the failure is, its status and headers set; the caller writes and finishes."""
        found = problem.of(cast("BaseException", failure.value))
        if found is None:
            self._log.failure("answering {method} {path}", failure, method=self.method, path=self.path)
            found = problem.internal()
        if self.startedWriting:
            # Too late for a status: a cut connection says that the body is not whole.
            if self.channel is not None:
                self.channel.forceAbortClient()
            return b""
        return self.prepare(found)

    def processingFailed(self, reason: Failure) -> None:
        body = self.fail_with(reason)
        if not self.finished and self.channel is not None:
            self.write(body)
            self.finish()

    def prepare(self, found: Problem) -> bytes:
        """Set status and headers for `found`; returns the body."""
        body = found.body()
        self._common_headers()
        self.responseHeaders.removeHeader("ETag")
        self.setHeader("Cache-Control", "no-store")
        self.setResponseCode(found.status)
        for name, value in found.headers.items():
            self.setHeader(name, value)
        self.setHeader("Content-Type", problem.CONTENT_TYPE)
        self.setHeader("Content-Length", str(len(body)))
        return body

    def answer(self, found: Problem) -> None:
        """Write the problem document and end."""
        self.write(self.prepare(found))
        self.finish()

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        # Twisted's own table of phrases ends before 421.
        super().setResponseCode(code, message or http.HTTPStatus(code).phrase.encode())

    def finish(self) -> None:
        self.body.abort()
        self.channel.site.answered(self)
        super().finish()

    def connectionLost(self, reason: Failure) -> None:
        self.body.abort()
        super().connectionLost(reason)

    def abandon(self) -> None:
        """The connection was answered in this request's place."""
        self.body.abort()

    def gotLength(self, length: int | None) -> None:
        """`begin` took its place."""

    def _check_head(self) -> None:
        if len(self.uri) > limits.MAX_URI:
            raise HttpError(414, "uri_too_long", f"the request's target is over {limits.MAX_URI} bytes")
        if self.clientproto not in {b"HTTP/1.1", b"HTTP/1.0"}:
            raise HttpError(505, "http_version", "this port speaks HTTP/1.1")
        if not _METHOD.fullmatch(self.method):
            raise HttpError(400, "bad_method", "the method is malformed")
        if not self.path.startswith(b"/"):
            raise HttpError(400, "bad_target", "the request's target must be a path")
        try:
            decoded = unquote_to_bytes(self.path).decode()
        except UnicodeDecodeError:
            raise HttpError(400, "bad_target", "the path is not UTF-8") from None
        if b"//" in self.path:
            # Routers differ on what an empty segment means.
            raise NO_SUCH_PATH.error()
        if "\0" in decoded:
            raise HttpError(400, "bad_target", "the path holds a NUL")

    def _check_text(self) -> None:
        """Refuse headers that are not UTF-8: later readers take them for text."""
        for name, values in self.requestHeaders.getAllRawHeaders():
            for value in values:
                try:
                    value.decode()
                except UnicodeDecodeError:
                    raise HttpError(400, "bad_header", f"the header {name.decode()} is not UTF-8") from None

    def _refuse(self, error: Exception) -> None:
        self.refusal = problem.of(error)
        if self.refusal is None:
            self._log.failure("deciding about {method} {path}", method=self.method, path=self.path)
            self.refusal = problem.internal()
        self.body.abort()

    def _common_headers(self) -> None:
        self.setHeader("Server", "chorus")
        for name, value in SECURITY_HEADERS.items():
            if not self.responseHeaders.hasHeader(name):
                self.setHeader(name, value)
