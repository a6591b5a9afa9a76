"""Strangers who hold connections open without a request, on both HTTP ports; accepts that the system refuses."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server
from twisted.python.monkey import MonkeyPatcher

from chorus.http import limits
from chorus.services.endpoints.health import HealthService
from chorus.services.listening import ListenAddress
from tests.http.wire import ApiCase, Wire

CROWD = 256 + 44
"""More than both pools of a port together hold idle."""


class CrowdCase(ApiCase):
    timeout = 60

    async def crowd(self, number: int, *said: bytes) -> list[Wire]:
        """`number` strangers that say so much and no more."""
        found: list[Wire] = []
        while len(found) < number:
            found += await gatherResults([self.connect() for _ in range(min(40, number - len(found)))])
            for wire in found[-40:]:
                for each in said:
                    wire.transport.write(each)
        return found

    async def until(self, condition: Any) -> None:
        while not condition():
            await deferLater(reactor, 0.005)


class Crowd(CrowdCase):
    @property
    def site(self) -> Any:
        return self.service.api.site

    async def test_silent_strangers_do_not_shut_the_owner_out(self) -> None:
        await self.crowd(CROWD)
        for _ in range(3):
            self.assertEqual((await self.ask("GET", "/v1/status")).status, 200)
        await self.until(lambda: self.site.connections <= limits.MAX_NEWCOMERS)
        self.assertGreaterEqual(self.site.evicted, CROWD - limits.MAX_NEWCOMERS)

    async def test_nor_do_those_who_trickle_or_are_refused(self) -> None:
        await self.crowd(limits.MAX_NEWCOMERS, b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX-", b"Slow: ")
        self.assertEqual((await self.ask("GET", "/v1/status")).status, 200)
        refused = self.head("GET", "/v1/status", token="wrong" * 4)
        await self.crowd(limits.MAX_NEWCOMERS, refused, refused[:-1])
        self.assertEqual((await self.ask("GET", "/v1/status")).status, 200)

    async def test_what_the_owner_has_open_stays(self) -> None:
        idle, stream = await self.connect(), await self.connect()
        task = self.tasks.make()
        idle.transport.write(self.head("GET", "/v1/status"))
        await idle.until(b"\r\n\r\n")
        stream.transport.write(self.head("GET", f"/v1/tasks/{task}/events"))
        await stream.until(b"retry:")
        await self.crowd(CROWD)
        self.assertFalse(idle.is_closed or stream.is_closed)
        before = len(idle.received)
        idle.transport.write(self.head("GET", "/v1/status"))
        await idle.until(lambda data: len(data) > before)
        self.tasks.end(task, "completed", "exit")
        await stream.until(b"completed")

    async def test_a_further_request_of_the_owner_takes_the_place_of_an_idle_connection(self) -> None:
        self.patch(limits, "MAX_CONNECTIONS", 2)
        wires = []
        for _ in range(3):
            wires.append(await self.connect())
            wires[-1].transport.write(self.head("GET", "/v1/status"))
            await wires[-1].until(b"\r\n\r\n")
        await wires[0].closed
        self.assertFalse(wires[1].is_closed or wires[2].is_closed)

    async def test_with_all_of_them_at_work_it_is_told_so(self) -> None:
        self.patch(limits, "MAX_CONNECTIONS", 1)
        stream = await self.connect()
        stream.transport.write(self.head("GET", f"/v1/tasks/{self.tasks.make()}/events"))
        await stream.until(b"retry:")
        response = await self.ask("GET", "/v1/status")
        self.assert_problem(response, 503, "busy")
        self.assertFalse(stream.is_closed)


class HealthCrowd(CrowdCase):
    def setUp(self) -> None:
        super().setUp()
        self.health = HealthService(self.node, (), ListenAddress("CHORUS_HEALTH", "127.0.0.1", 0), reactor)
        self.health.startService()
        self.addCleanup(self.health.stopService)
        self.port = self.health.port

    async def test_probes_are_answered(self) -> None:
        for said in (b"", b"GET /hea", b"GET /healthz HTTP/1.1\r\nX: "):
            await self.crowd(limits.MAX_NEWCOMERS + 20, said)
            for path in ("/healthz", "/ready"):
                self.assertEqual((await self.ask("GET", path, token=None)).status, 200)


class Accepting(CrowdCase):
    """epoll has a quota a user, which a task of the same user may use up."""

    def refuse_sockets(self) -> tuple[list[Any], MonkeyPatcher]:
        add, refused = reactor.addReader, []

        def add_reader(reader: Any) -> None:
            if type(reader) is Server:
                refused.append(reader)
                raise OSError(errno.ENOSPC, "No space left on device")
            add(reader)

        patcher = MonkeyPatcher((reactor, "addReader", add_reader))
        patcher.patch()
        self.addCleanup(patcher.restore)
        return refused, patcher

    async def test_a_refused_accept_holds_no_place_and_stops_nothing(self) -> None:
        refused, patched = self.refuse_sockets()
        await self.crowd(5)
        await self.until(lambda: len(refused) == 5)
        self.assertEqual(self.service.api.site.connections, 0)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 5)
        refused.clear()
        patched.restore()
        self.assertEqual((await self.ask("GET", "/v1/status")).status, 200)
        await self.service.stopService()
