"""The real API on a real socket, and a client that says exactly what a test wants to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase

from chorus.http.gate import ApiRules
from chorus.http.ports import ApiPorts
from chorus.observe.metrics import Metrics
from chorus.services.endpoints.api import ApiService
from chorus.services.listening import ListenAddress
from tests.http.fakes import FakeBlobs, FakeDecisions, FakeKeys, FakeNode, FakeTasks
from tests.ucxl import samples

TOKEN = "test-token-0123456789"
MAX_BLOB = 4 * 1024 * 1024


class Wire(Protocol):
    """Collects what comes; `closed` fires at the end of the connection."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.closed: Deferred[bytes] = Deferred()
        self._waiting: list[tuple[Callable[[bytearray], bool], Deferred[bytes]]] = []
        self.is_closed = False

    @property
    def received(self) -> bytes:
        return bytes(self.buffer)

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        self._look()

    def connectionLost(self, reason: Any = None) -> None:
        self.is_closed = True
        self._look()
        self.closed.callback(self.received)

    def until(self, seen: bytes | Callable[[bytearray], bool]) -> Deferred[bytes]:
        """Fires with everything so far once it holds `seen`; fails when the connection ends first."""
        test = seen if callable(seen) else (lambda data: seen in data)
        deferred: Deferred[bytes] = Deferred()
        self._waiting.append((test, deferred))
        self._look()
        return deferred

    def _look(self) -> None:
        for item in list(self._waiting):
            test, deferred = item
            if test(self.buffer):
                self._waiting.remove(item)
                deferred.callback(self.received)
            elif self.is_closed:
                self._waiting.remove(item)
                deferred.errback(AssertionError(f"closed after {self.received!r}"))


class Response:
    def __init__(self, raw: bytes) -> None:
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.version, status, _ = first.split(" ", 2)
        self.status = int(status)
        self.headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        if self.headers.get("transfer-encoding") == "chunked":
            self.body, self.rest, self.complete = _chunks(rest)
        else:
            length = int(self.headers.get("content-length", 0))
            self.body, self.rest = rest[:length], rest[length:]
            self.complete = len(self.body) == length

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        size, found, rest = data.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return body, data, False
        length = int(size, 16)
        body += rest[:length]
        data = rest[length + 2 :]
        if length == 0:
            return body, data, True


class ApiCase(TestCase):
    """A running API in `self.service`, with `self.tasks`, `self.blobs`, `self.node` and `self.decisions`
    behind it."""

    timeout = 120

    def setUp(self) -> None:
        self.tasks, self.blobs, self.node, self.metrics = FakeTasks(), FakeBlobs(), FakeNode(), Metrics()
        self.decisions, self.keys = FakeDecisions(samples.chain(3)), FakeKeys()
        self.service = ApiService(
            ApiPorts(self.tasks, self.blobs, self.node, self.decisions, self.keys),
            self.metrics,
            ApiRules(TOKEN, ("node1.example.org",), MAX_BLOB),
            ListenAddress("CHORUS_API", "127.0.0.1", 0),
            reactor,
        )
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.port = self.service.port

    def connect(self) -> Deferred[Wire]:
        wire = Wire()
        self.addCleanup(lambda: None if wire.is_closed or wire.transport is None else wire.transport.abortConnection())
        return connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), wire)

    def head(
        self, method: str, path: str, *lines: str, token: str | None = TOKEN, host: str | None = "127.0.0.1"
    ) -> bytes:
        head = [f"{method} {path} HTTP/1.1"]
        if host is not None:
            head.append(f"Host: {host}")
        if token is not None:
            head.append(f"Authorization: Bearer {token}")
        return "\r\n".join([*head, *lines, "", ""]).encode("latin-1")

    async def ask(self, method: str, path: str, *lines: str, body: bytes | None = None, **more: Any) -> Response:
        """One request on its own connection, to its whole answer."""
        if body is not None:
            lines = (*lines, f"Content-Length: {len(body)}")
        return await self.say(self.head(method, path, *lines, **more) + (body or b""), head_only=method == "HEAD")

    async def say(self, data: bytes, head_only: bool = False) -> Response:
        wire = await self.connect()
        wire.transport.write(data)

        def whole(received: bytearray) -> bool:
            return b"\r\n\r\n" in received and (head_only or Response(bytes(received)).complete)

        response = Response(await wire.until(whole))
        wire.transport.abortConnection()
        await wire.closed
        return response

    async def post(self, body: object, *lines: str, **more: Any) -> Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", "/v1/tasks", "Content-Type: application/json", *lines, body=data, **more)

    def assert_problem(self, response: Response, status: int, code: str) -> None:
        self.assertEqual((response.status, response.headers.get("content-type")), (status, "application/problem+json"))
        self.assertEqual(response.json["code"], code)
        self.assertEqual(response.json["status"], status)
        self.assertEqual(response.json["type"], f"urn:chorus:problem:{code}")
