"""Bytes that are no text, in every header and in the target, on channels without a socket: never a traceback."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport

from chorus.http.app import ApiRoutes
from chorus.http.gate import ApiRules
from chorus.http.ports import ApiPorts
from chorus.http.site import ApiSite
from chorus.observe.metrics import Metrics
from chorus.services.endpoints.health import HealthService
from chorus.services.listening import ListenAddress
from tests.http.fakes import FakeBlobs, FakeDecisions, FakeKeys, FakeNode, FakeTasks
from tests.http.wire import TOKEN, Response
from tests.support import PureTestCase

HEADERS = (
    *("Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Connection", "Content-Digest"),
    *("Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Expect", "Forwarded", "Host", "If-Match"),
    *("If-Modified-Since", "If-None-Match", "If-Range", "Keep-Alive", "Last-Event-ID", "Origin", "Range", "Referer"),
    *("TE", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "Via", "X-Forwarded-For", "X-Forwarded-Host"),
)
HOSTILE = (b"\xff", b"caf\xe9", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"a, \x80;q=1", b"\xfe\xff\x00a")
"""No UTF-8: a lone byte, Latin-1, a cut sequence, a surrogate, five bytes, one within a list, UTF-16 with a NUL."""
REQUESTS = (
    *(("GET", "/v1/status"), ("GET", "/v1/tasks"), ("POST", "/v1/tasks"), ("PUT", "/v1/blobs"), ("GET", "/metrics")),
    *(("GET", "/v1/blobs/" + "0" * 64), ("PUT", "/v1/blobs/" + "0" * 64), ("GET", "/v1/tasks/x/events")),
    *(("GET", "/openapi.json"), ("GET", "/nowhere"), ("DELETE", "/v1/status")),
)


class ChannelCase(PureTestCase):
    def setUp(self) -> None:
        self.now = self.clock()
        ports = ApiPorts(FakeTasks(), FakeBlobs(), FakeNode(), FakeDecisions(), FakeKeys())
        api = ApiRoutes(ports, Metrics(), ApiRules(TOKEN, (), 1000), self.now)
        self.site: ApiSite = api.site

    def say(self, data: bytes) -> bytes:
        """Everything that one connection answers to `data`."""
        channel = self.site.buildProtocol(None)
        transport = StringTransport()
        transport.abortConnection = lambda: None  # type: ignore[method-assign]
        transport.loseWriteConnection = lambda: None
        channel.makeConnection(transport)
        channel.dataReceived(data)
        said = transport.value()
        channel.connectionLost()
        self.now.advance(600)
        return said

    def head(self, method: str, path: str | bytes, *lines: bytes, token: str = TOKEN, host: bool = True) -> bytes:
        target = path if isinstance(path, bytes) else path.encode()
        first = method.encode() + b" " + target + b" HTTP/1.1"
        own = [b"Authorization: Bearer " + token.encode()] if token else []
        return b"\r\n".join([first, *([b"Host: localhost"] if host else []), *own, *lines, b"", b""])

    def assert_refused(self, said: bytes, statuses: set[int], about: Any) -> None:
        self.assertTrue(said, about)
        response = Response(said)
        self.assertIn(response.status, statuses, about)
        self.assertEqual(response.headers["content-type"], "application/problem+json", about)
        self.assertEqual(response.json["status"], response.status, about)
        self.assertEqual(self.flushLoggedErrors(), [], about)


class Headers(ChannelCase):
    def test_every_header_with_every_kind_of_bytes(self) -> None:
        for name in HEADERS:
            for value in HOSTILE:
                for token in (TOKEN, ""):
                    plain = name not in {"Host", "Authorization"}
                    lines = [name.encode() + b": " + value]
                    head = self.head("GET", "/v1/status", *lines, token=token if plain or name == "Host" else "",
                                     host=name != "Host")  # fmt: skip
                    expected = {400} if token and name != "Authorization" else {400, 401}
                    self.assert_refused(self.say(head), expected, (name, value, token))

    def test_every_path_with_each_header_that_something_reads(self) -> None:
        for method, path in REQUESTS:
            for name in HEADERS:
                if name in {"Host", "Authorization"}:
                    continue
                body = [b"Content-Length: 5"] if method in {"POST", "PUT"} and name != "Content-Length" else []
                head = self.head(method, path, *body, name.encode() + b": \xff")
                self.assert_refused(self.say(head + b"12345"), {400}, (method, path, name))

    def test_text_beyond_ascii_is_taken(self) -> None:
        said = self.say(self.head("GET", "/v1/status", "User-Agent: 日本".encode(), b"Accept: */*"))
        self.assertEqual(Response(said).status, 200)

    def test_names_that_are_no_text(self) -> None:
        for name in (b"\xff", b"X\xe9", b"X\x00", b"", b" X", b"X "):
            self.assert_refused(self.say(self.head("GET", "/v1/status", name + b": 1")), {400}, name)


class Targets(ChannelCase):
    def test_bytes_and_escapes_that_are_no_text(self) -> None:
        for hostile in (b"\xff", b"%ff", b"%C3", b"%ed%a0%80", b"caf%E9"):
            for target in (b"/" + hostile, b"/v1/tasks/" + hostile, b"/v1/blobs/" + hostile, b"/v1/tasks?x=" + hostile):
                self.assert_refused(self.say(self.head("GET", target)), {400}, target)
            for known in (b"state", b"limit", b"after", b"sha256", b"reason", b"wait"):
                self.assert_refused(self.say(self.head("GET", b"/v1/tasks?%s=%s" % (known, hostile))), {400}, known)
                self.assert_refused(self.say(self.head("GET", b"/v1/tasks?%s=1" % hostile)), {400}, hostile)
            for target in (b"/v1/blobs?sha256=" + hostile, b"/v1/blobs/" + hostile):
                self.assert_refused(self.say(self.head("PUT", target, b"Content-Length: 1") + b"x"), {400}, target)

    def test_methods_that_are_no_text(self) -> None:
        for method in ("GÉT", "\x80", "get", "G" * 17):
            said = self.say(self.head("GET", "/v1/status").replace(b"GET", method.encode("latin-1"), 1))
            self.assert_refused(said, {400}, method)


class HealthBytes(Headers):
    """The same on the health port, which asks for no token."""

    def setUp(self) -> None:
        super().setUp()
        service = HealthService(FakeNode(), (), ListenAddress("CHORUS_HEALTH", "127.0.0.1", 0), self.now)
        self.site = service.site()

    def head(self, method: str, path: str | bytes, *lines: bytes, token: str = "", host: bool = True) -> bytes:
        return super().head("GET", "/ready", *lines, token=token, host=host)


class Order(ChannelCase):
    """A wrong path or method is said before anything about the body."""

    BODIES = (
        (b"Content-Length: 99999999", b"x"),
        (b"Content-Length: 20000", b"x" * 20000),
        (b"Transfer-Encoding: chunked", b"5000\r\n" + b"x" * 0x5000 + b"\r\n0\r\n\r\n"),
        (b"Content-Length: 0", b""),
    )

    def test_no_such_path(self) -> None:
        for method in ("PUT", "POST", "GET", "DELETE", "PATCH"):
            for path in ("/v1/blob", "/v1", "/", "/v1/tasks/", "/v1/blobs/a/b"):
                for size, body in self.BODIES:
                    response = Response(self.say(self.head(method, path, size) + body))
                    self.assertEqual(response.status, 404, (method, path, size))

    def test_a_path_in_another_spelling_takes_no_body(self) -> None:
        for method, path in (("POST", "/v1/%74asks"), ("PUT", "/v1/b%6Cobs")):
            for size, body in self.BODIES:
                response = Response(self.say(self.head(method, path, size) + body))
                self.assertIn(response.status, (404, 413), (method, path, size))

    def test_no_such_method(self) -> None:
        for method, path, allowed in (
            ("POST", "/v1/blobs", "PUT"),
            ("POST", "/v1/blobs/" + "0" * 64, "GET, HEAD, PUT"),
            ("PUT", "/v1/tasks", "GET, HEAD, POST"),
            ("PATCH", "/v1/tasks/x", "DELETE, GET, HEAD"),
            ("POST", "/v1/status", "GET, HEAD"),
            ("POST", "/openapi.json", "GET, HEAD"),
        ):
            for size, body in self.BODIES:
                response = Response(self.say(self.head(method, path, size) + body))
                self.assertEqual((response.status, response.headers["allow"]), (405, allowed), (method, path, size))

    def test_the_token_comes_first(self) -> None:
        said = self.say(self.head("PUT", "/v1/blob", b"Content-Length: 20000", token="") + bytes(20000))
        self.assertEqual(Response(said).status, 401)

    def test_too_large_where_the_path_is_right(self) -> None:
        for method, path in (("GET", "/v1/status"), ("DELETE", "/v1/tasks/x")):
            said = self.say(self.head(method, path, b"Content-Length: 20000") + bytes(20000))
            self.assertEqual(Response(said).status, 413)

    def test_on_the_health_port(self) -> None:
        service = HealthService(FakeNode(), (), ListenAddress("CHORUS_HEALTH", "127.0.0.1", 0), self.now)
        self.site = service.site()
        for path, status in (("/nowhere", 404), ("/healthz", 405), ("/ready", 405)):
            for size, body in self.BODIES:
                response = Response(self.say(self.head("POST", path, size, token="") + body))
                self.assertEqual(response.status, status, (path, size))
                self.assertEqual(response.headers.get("allow"), "GET, HEAD" if status == 405 else None)
