"""schemathesis against the real site on a real socket: the OpenAPI document is true.

`CHORUS_TEST_API` (address) with `CHORUS_TEST_API_TOKEN` runs the same against a whole node.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import TestCase

from chorus.http.gate import ApiRules
from chorus.http.ports import ApiPorts
from chorus.observe.metrics import Metrics
from chorus.seams import Document
from chorus.services.endpoints.api import ApiService
from chorus.services.listening import ListenAddress
from tests.http.fakes import FakeBlobs, FakeDecisions, FakeKeys, FakeNode, FakeTasks
from tests.http.wire import MAX_BLOB, TOKEN

ROOT = Path(__file__).resolve().parents[2]
MISSING = (
    None if importlib.util.find_spec("schemathesis") else "schemathesis is not installed (pip install schemathesis)"
)
EXAMPLES = 12
"""Per operation and phase; with the document's own boundary values about 900 requests in all."""

AT_THE_SITE = "examples,coverage"
"""What each value alone does: the site judges it, whatever stands behind."""

AT_A_NODE = "fuzzing,stateful"
"""What goes through to the node, and what follows from what went before."""


class QuickTasks(FakeTasks):
    """Tasks that complete by themselves, so that an event stream has an end."""

    def add(self, task_id: str, kind: str, data: Document) -> None:
        super().add(task_id, kind, data)
        if data.get("state") == "submitted":
            reactor.callLater(0.02, self.complete, task_id)

    def complete(self, task_id: str) -> None:
        if self.tasks[task_id]["state"] == "submitted":
            self.end(task_id, "completed", "exit")


class Collected(ProcessProtocol):
    def __init__(self) -> None:
        self.output = b""
        self.ended: Deferred[int] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.output += data

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.exitCode if reason.value.exitCode is not None else -1)


async def check_description(case: TestCase, address: str, token: str, phases: str) -> None:
    """Fail `case` where the API at `address` is not as its OpenAPI document says."""
    # schemathesis keeps its examples where it runs.
    folder = case.mktemp()
    os.makedirs(folder)
    process = Collected()
    words = ["-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml"), "run"]
    words += [f"{address}/openapi.json", "--header", f"Authorization: Bearer {token}", "--no-color"]
    words += [
        "--phases",
        phases,
        "--max-examples",
        str(EXAMPLES),
        "--generation-deterministic",
        # How long it takes to make up a request says nothing of the API.
        "--suppress-health-check",
        "too_slow",
        "--request-timeout",
        "30",
    ]
    transport = reactor.spawnProcess(process, sys.executable, [sys.executable, *words], dict(os.environ), folder)

    def end() -> object:
        if transport.pid is None:
            return None
        transport.signalProcess("KILL")
        return process.ended

    case.addCleanup(end)
    status = await process.ended
    text = process.output.decode(errors="replace")
    case.assertEqual(status, 0, text)
    tested = re.search(r"Tested: (\d+)", text)
    case.assertIsNotNone(tested, text)
    case.assertIn(f"Operations:       {tested[1]} selected / {tested[1]} total", text)  # type: ignore[index]


class Schemathesis(TestCase):
    timeout = 900
    skip = MISSING

    async def test_the_api_is_as_described(self) -> None:
        phases = AT_THE_SITE
        address, token = os.environ.get("CHORUS_TEST_API"), os.environ.get("CHORUS_TEST_API_TOKEN", TOKEN)
        if address is None:
            service = ApiService(
                ApiPorts(QuickTasks(), FakeBlobs(), FakeNode(), FakeDecisions(), FakeKeys()),
                Metrics(),
                ApiRules(TOKEN, (), MAX_BLOB),
                ListenAddress("CHORUS_API", "127.0.0.1", 0),
                reactor,
            )
            service.startService()
            self.addCleanup(service.stopService)
            address = f"http://127.0.0.1:{service.port}"
        else:
            phases = f"{AT_THE_SITE},{AT_A_NODE}"
        await check_description(self, address, token, phases)
