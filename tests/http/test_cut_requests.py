"""Clients of the API that go away at each byte of a request (spec/security.md 2.6, "Twisted")."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from tests.http.wire import ApiCase, Wire

SUBMISSION = b'{"commands":["make test"],"title":"cut"}'


class Cut(ApiCase):
    async def cut(self, session: bytes, first: int = 0) -> None:
        """Every connection sends one byte more than the last, then half of them close and half break."""
        for start in range(first, len(session), 50):
            wires: list[Wire] = await gatherResults(
                [self.connect() for _ in range(start, min(start + 50, len(session)))]
            )
            for number, wire in enumerate(wires, start):
                wire.transport.write(session[:number])
            await deferLater(reactor, 0)
            for number, wire in enumerate(wires):
                if number % 2:
                    wire.transport.loseConnection()
                else:
                    wire.transport.abortConnection()
            await gatherResults([wire.closed for wire in wires])
        while self.service.api.site.connections:
            await deferLater(reactor, 0.01)
        self.assertEqual((await self.ask("GET", "/v1/status")).status, 200)

    async def test_submission(self) -> None:
        head = self.head(
            "POST", "/v1/tasks", "Content-Type: application/json", f"Content-Length: {len(SUBMISSION)}", token="x" * 20
        )
        await self.cut(head + SUBMISSION)
        head = self.head("POST", "/v1/tasks", "Content-Type: application/json", f"Content-Length: {len(SUBMISSION)}")
        await self.cut(head + SUBMISSION)
        self.assertEqual(self.tasks.tasks, {}, "a task without its last byte is no task")

    async def test_chunked_submission(self) -> None:
        head = self.head("POST", "/v1/tasks", "Content-Type: application/json", "Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (SUBMISSION[:20], SUBMISSION[20:]))
        await self.cut(head + body + b"0\r\n\r\n", first=len(head))
        self.assertEqual(self.tasks.tasks, {})

    async def test_upload(self) -> None:
        head = self.head("PUT", "/v1/blobs", "Content-Length: 60")
        await self.cut(head + bytes(60))
        self.assertEqual(self.blobs.blobs, {})
