from __future__ import annotations

from typing import Any

from twisted.internet import reactor

from chorus.http.gate import ApiRules
from chorus.http.ports import ApiPorts
from chorus.observe.metrics import Metrics
from chorus.services.endpoints.api import ApiService
from chorus.services.endpoints.health import HealthService
from chorus.services.listening import ListenAddress, PortInUse
from tests.http.fakes import FakeBlobs, FakeDecisions, FakeKeys, FakeNode, FakeTasks
from tests.http.wire import ApiCase


class Health(ApiCase):
    def setUp(self) -> None:
        super().setUp()
        self.health = HealthService(self.node, ("probe",), ListenAddress("CHORUS_HEALTH", "127.0.0.1", 0), reactor)
        self.health.startService()
        self.addCleanup(self.health.stopService)
        self.port = self.health.port

    async def get(self, path: str, **more: Any) -> tuple[int, Any]:
        response = await self.ask("GET", path, token=None, **more)
        return response.status, response.json

    async def test_all_well(self) -> None:
        self.assertEqual(await self.get("/healthz"), (200, {"status": "alive"}))
        self.assertEqual(await self.get("/ready"), (200, {"status": "ready", "failing": []}))
        self.assertEqual(await self.get("/health"), (200, {"status": "healthy", "checks": self.node.checks()}))
        self.assertEqual(await self.get("/health/checks"), (200, {"checks": self.node.checks()}))

    async def test_a_critical_check_fails(self) -> None:
        self.node.ok = False
        self.assertEqual((await self.get("/healthz"))[0], 200)
        self.assertEqual(await self.get("/ready"), (503, {"status": "not ready", "failing": ["p2p"]}))
        status, document = await self.get("/health")
        self.assertEqual((status, document["status"]), (503, "unhealthy"))
        self.assertEqual((await self.get("/health/checks"))[0], 200)

    async def test_another_check_fails(self) -> None:
        self.node.extra_ok = False
        self.assertEqual((await self.get("/ready"))[0], 200)
        status, document = await self.get("/health")
        self.assertEqual((status, document["status"]), (200, "degraded"))

    async def test_a_full_node_is_healthy_and_not_ready(self) -> None:
        capacity = {"name": "capacity", "ok": False, "critical": False, "ready": True, "detail": "3 of 3 tasks"}
        self.node.checks = lambda: [capacity]  # type: ignore[method-assign]
        self.assertEqual(await self.get("/ready"), (503, {"status": "not ready", "failing": ["capacity"]}))
        self.assertEqual((await self.get("/health"))[0], 200)

    async def test_alive_does_not_depend_on_the_checks(self) -> None:
        self.node.checks = lambda: 1 / 0  # type: ignore[method-assign]
        self.assertEqual((await self.get("/healthz"))[0], 200)
        self.assertEqual((await self.get("/health"))[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_other_requests(self) -> None:
        self.assert_problem(await self.ask("GET", "/v1/tasks", token=None), 404, "not_found")
        response = await self.ask("POST", "/ready", token=None)
        self.assert_problem(response, 405, "method_not_allowed")
        self.assertEqual(response.headers["allow"], "GET, HEAD")
        head = await self.ask("HEAD", "/ready", token=None)
        self.assertEqual((head.status, head.rest), (200, b""))
        self.assert_problem(await self.ask("GET", "/ready", token=None, host="evil.example"), 421, "unknown_host")
        self.assertEqual((await self.get("/ready", host="probe"))[0], 200)
        self.assert_problem(await self.ask("GET", "/ready", token=None, body=b"x" * 20_000), 413, "body_too_large")


class Ports(ApiCase):
    async def test_a_port_in_use_is_one_line_that_names_the_variable(self) -> None:
        for service, variable in (
            (
                HealthService(FakeNode(), (), ListenAddress("CHORUS_HEALTH", "127.0.0.1", self.port), reactor),
                "HEALTH",
            ),
            (
                ApiService(
                    ApiPorts(FakeTasks(), FakeBlobs(), FakeNode(), FakeDecisions(), FakeKeys()),
                    Metrics(),
                    ApiRules("t" * 16, (), 1),
                    ListenAddress("CHORUS_API", "127.0.0.1", self.port),
                    reactor,
                ),
                "API",
            ),
        ):
            with self.assertRaises(PortInUse) as caught:
                service.startService()
            text = str(caught.exception)
            self.assertTrue(
                text.startswith(f"CHORUS_{variable}_PORT: cannot listen on 127.0.0.1 port {self.port}"), text
            )
            self.assertIn("in use", text)
            self.assertNotIn("\n", text)
            await service.stopService()

    async def test_a_stop_waits_for_the_request_under_way(self) -> None:
        from twisted.internet.defer import Deferred

        self.tasks.before_submit = Deferred()
        wire = await self.connect()
        body = b'{"commands":["true"]}'
        wire.transport.write(
            self.head("POST", "/v1/tasks", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
        )
        await self.ask("GET", "/v1/status")
        stopped = self.service.stopService()
        self.assertNoResult(stopped)
        self.tasks.before_submit.callback(None)
        await stopped
        self.assertIn(b"HTTP/1.1 202", await wire.closed)

    async def test_a_stop_cuts_what_does_not_end(self) -> None:
        from chorus.services.endpoints import api

        self.patch(api, "DRAIN_S", 0.05)
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", "Content-Length: 100") + b"x")
        await self.ask("GET", "/v1/status")
        await self.service.stopService()
        await wire.closed
        self.assertTrue(self.blobs.writers[0].aborted)
