# mypy: allow-untyped-calls
"""The HTTP/1.1 connection: Twisted's channel, with a decision at the end of the headers instead of after the body.

`ApiRequest.begin` decides about a request as soon as its headers are complete. A refusal with (much) body still to come
is answered at once; then the write side is closed and what the client still sends is dropped for a while, so that the
answer is not lost to a reset. Slow requests meet deadlines, whatever they trickle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import connectionDone

from chorus.http import limits
from chorus.http.body import UploadBody
from chorus.http.problem import CONTENT_TYPE, Problem
from chorus.twisted_private import OpenChannel

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from chorus.http.request import ApiRequest

TLS_GREETING = b"\x16"
"""First byte of a TLS client. It waits for an answer before it sends anything that would end a line of HTTP."""


class ApiChannel(OpenChannel):
    """One connection. `site` is set by the factory."""

    maxHeaders = limits.MAX_HEADERS
    totalHeadersSize = limits.MAX_HEADER_BYTES
    MAX_LENGTH = limits.MAX_HEADER_BYTES

    site: Any
    transport: Any
    factory: Any = None
    requestFactory: Any
    timeOut: Any
    requests: list[ApiRequest]
    _deadline: IDelayedCall | None = None
    _reading_request = False
    _body_pending = False
    _lingering: IDelayedCall | None = None
    _lingered = 0
    _refused = False

    def callLater(self, period: float, func: Any) -> IDelayedCall:
        call: IDelayedCall = self.site.clock.callLater(period, func)
        return call

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.connection_made(self)

    def dataReceived(self, data: bytes) -> None:
        if self._lingering is not None:
            self._lingered += len(data)
            if self._lingered > limits.LINGER_BYTES:
                self.transport.abortConnection()
            return
        if self._refused:
            return
        if not self._reading_request and not self.handling_request:
            self._reading_request = True
            if data[:1] == TLS_GREETING:
                self._answer_raw(Problem(400, "bad_request", "this port speaks plain HTTP, not TLS"))
                return
            self._set_deadline(limits.HEADERS_S, self._too_slow)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        # The rest of a read goes on arriving after a refusal.
        if self._refused:
            return
        if self.persistent and line[:1] in (b" ", b"\t"):
            # A folded header (RFC 9112 5.2): what is in front of us may have read it as another one.
            self.bad_request()
            return
        super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if (name == b"content-length" and len(value) > limits.MAX_LENGTH_DIGITS) or (
            name == b"transfer-encoding" and value.lower() != b"chunked"
        ):
            self.bad_request()
            return False
        accepted: bool = super().headerReceived(line)
        return accepted

    def rawDataReceived(self, data: bytes) -> None:
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        self.persistent = self.checkPersistence(request, self.head()[2])
        self._body_pending = self.length != 0
        # With a body, its end stops this clock; an upload replaces it by its own.
        self._set_deadline(limits.BODY_S, self._too_slow)
        refusal = request.begin(*self.head(), self.length)
        if refusal is not None:
            if self.length is None or self.length > limits.MAX_INLINE_DRAIN or self._expects_continue(request):
                self.refuse(request, refusal)
            return
        if isinstance(request.body, UploadBody):
            self._watch_upload(request.body)
        if self._body_pending and self._expects_continue(request):
            self.send_continue()

    def refuse(self, request: ApiRequest, refusal: Problem) -> None:
        """Answer before the body is here, and hear no more of this connection."""
        self._refused = True
        self._clear_deadline()
        self.persistent = False
        request.setHeader("Connection", "close")
        request.answer(refusal)

    def _watch_upload(self, upload: UploadBody) -> None:
        """Replace the body's deadline: an upload must grow by `UPLOAD_WINDOW_BYTES` a window, unless it is we who hold
        it; and it pauses when its writer falls behind."""
        last = upload.received

        def look() -> None:
            nonlocal last
            if not upload.held and upload.received - last < limits.UPLOAD_WINDOW_BYTES:
                self._too_slow()
            else:
                last = upload.received
                self._set_deadline(limits.UPLOAD_WINDOW_S, look)

        self._set_deadline(limits.UPLOAD_WINDOW_S, look)
        upload.hold_by(self.pause_reading, self.resume_reading)

    def allContentReceived(self) -> None:
        if self._refused:
            return
        self._clear_deadline()
        self._reading_request = False
        self._body_pending = False
        super().allContentReceived()

    def loseConnection(self) -> None:
        if not self._body_pending or self._lingering is not None:
            super().loseConnection()
            return
        # Past this point only dataReceived above, the timer or the peer's own close act.
        self.setTimeout(None)
        # Bytes to drop must be read, whoever paused.
        self.resume_reading()
        self._lingering = self.callLater(limits.LINGER_S, self._end_linger)
        self.transport.loseWriteConnection()

    def timeoutConnection(self) -> None:
        # An idle connection; a request that is under way has deadlines of its own.
        self._body_pending = False
        super().timeoutConnection()

    def forceAbortClient(self) -> None:
        self.forget_abort()
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self._clear_deadline()
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        self.site.connection_closed(self)
        super().connectionLost(reason)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._answer_raw(Problem(431, "headers_too_large", f"the headers are over {limits.MAX_HEADER_BYTES} bytes"))

    def bad_request(self) -> None:
        if self._refused:
            return
        if self.over_header_limits:
            problem = Problem(
                431,
                "headers_too_large",
                f"more than {self.maxHeaders} header fields or {self.totalHeadersSize} bytes of them",
            )
        else:
            problem = Problem(400, "bad_request", "not a well-formed HTTP/1.1 request")
        self._answer_raw(problem)

    def _too_slow(self) -> None:
        problem = Problem(408, "too_slow", "the request did not arrive in time")
        if self.requests and self.requests[-1].begun:
            self.refuse(self.requests[-1], problem)
        else:
            self._answer_raw(problem)

    def _answer_raw(self, problem: Problem) -> None:
        """Answer where there is no request to do it: its head is no HTTP."""
        self._refused = True
        self._clear_deadline()
        self._body_pending = True
        body = problem.body()
        head = (
            f"HTTP/1.1 {problem.status} {problem.document()['title']}\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        for request in self.requests:
            request.abandon()
        self.loseConnection()

    @staticmethod
    def _expects_continue(request: ApiRequest) -> bool:
        # In bytes: also asked about a request whose headers were refused because they are no text.
        values = request.requestHeaders.getRawHeaders(b"Expect") or [b""]
        return values[0].lower() == b"100-continue"

    def _end_linger(self) -> None:
        self.transport.abortConnection()

    def _set_deadline(self, seconds: float, act: Any) -> None:
        self._clear_deadline()
        self._deadline = self.callLater(seconds, act)

    def _clear_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
