"""Whole nodes as processes on free ports, for the tests of what a node is from outside.

A `Node` finds its ports in the `ports.json` that it writes; everything blocks, with a time limit, so scenarios run in
a thread (`threaded`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from chorus.services.cluster import load_token
from tests.integration.agents import START_S, Agent, Stuck, until
from tests.integration.forks import ROOT, Twistd

FREE_PORTS = {f"CHORUS_{name}_PORT": "0" for name in ("P2P", "API", "HEALTH")}


def threaded(scenario: Callable[[Any], None]) -> Callable[[Any], Deferred[None]]:
    """Run a blocking scenario off the reactor's thread, so that the test's time limit holds."""

    def test(self: Any) -> Deferred[None]:
        return deferToThread(scenario, self)

    test.__doc__ = scenario.__doc__
    test.__name__ = scenario.__name__
    return test


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


class Node(Agent):
    """One `twistd chorus agent` or `hap`, by default on free ports."""

    def __init__(self, folder: Path, name: str, command: str = "agent", **settings: str) -> None:
        super().__init__(folder, name, **{**FREE_PORTS, **settings})
        self.command = command

    def launch(self) -> Node:
        """Start the process without waiting for the node."""
        with self.log.open("ab") as log:
            self.process = Twistd(
                ["--nodaemon", "--pidfile=", "chorus", self.command],
                cwd=self.folder,
                env=environment(**self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def start(self) -> Node:
        self.launch()
        return self.wait()

    def wait(self) -> Node:
        """Until the node runs and answers."""
        until(f"start of {self.name}", self._runs, START_S)
        return self

    def _runs(self) -> bool:
        assert self.process is not None
        # A process that was killed leaves its ports.json behind.
        return self._answers() and self.ports["pid"] == self.process.pid and self.status()["state"] == "running"

    @property
    def ports(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.data / "ports.json").read_text())
        except FileNotFoundError as error:
            raise ConnectionError("it has not said its ports") from error
        return found

    def keep_port(self) -> None:
        """Listen for peers on the same port after a restart, as a real node does."""
        self.settings["CHORUS_P2P_PORT"] = str(self.ports["p2p"])

    @contextlib.contextmanager
    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.ports["api"]), timeout=30)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self.token}", **headers})
            yield connection.getresponse()
        finally:
            connection.close()

    def answer(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, Any]:
        """Status, content type and document."""
        with self.request(method, path, body, **headers) as response:
            return response.status, response.headers.get_content_type(), json.loads(response.read())

    def probe(self, path: str, port: int | None = None) -> tuple[int, dict[str, Any]]:
        """What the health port says; name the `port` where `ports.json` may be gone."""
        connection = http.client.HTTPConnection("127.0.0.1", port or int(self.ports["health"]), timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/v1/status")
        return found

    @property
    def peer_id(self) -> str:
        return str(self.status()["peer_id"])

    def members(self) -> set[str]:
        """Peer ids of the connected members."""
        return {str(peer["peer_id"]) for peer in self.peers()}

    def metrics(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """(sample name, label values) → value."""
        with self.request("GET", "/metrics") as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    def refused(self, outcome: str) -> float:
        """How many admissions ended with that code."""
        return self.metrics().get(("chorus_admissions_total", (outcome,)), 0.0)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def memory_mb(self) -> float:
        """Resident, in MB of 10^6 bytes."""
        return self._status_kib("VmRSS") * 1024 / 1e6

    def _status_kib(self, field: str) -> int:
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

    def cpu_s(self) -> float:
        """Processor seconds used so far, of user and system."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class NodeCase(TestCase):
    """A folder of its own; whatever runs at the end is killed, by its process id."""

    timeout = 600

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-node-"))
        self.nodes: list[Node] = []
        self.addCleanup(self._end)

    def _end(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def node(self, name: str, command: str = "agent", **settings: str) -> Node:
        """A node that has not been started."""
        node = Node(self.folder, name, command, **settings)
        self.nodes.append(node)
        return node

    def joining(self, member: Node, name: str, command: str = "agent", **settings: str) -> Node:
        return self.node(name, command, **{"CHORUS_JOIN": load_token(member.data).text(), **settings})

    def together(self, *nodes: Node, limit: float = 120.0) -> None:
        """Wait until each of `nodes` is connected with all the others and with nobody else."""
        ids = {node.peer_id for node in nodes}

        def complete() -> bool:
            return all(node.members() == ids - {node.peer_id} for node in nodes)

        try:
            until("a complete mesh", complete, limit)
        except Stuck as stuck:
            seen = {node.name: (node.peer_id, sorted(node.members()), node.tail()) for node in nodes}
            raise Stuck(f"{stuck}: {seen}") from None

    def ends(self, node: Node, limit: float = 120.0) -> int:
        """Exit status of a node that is on its way out."""
        assert node.process is not None
        try:
            return node.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Stuck(f"{node.name} did not end within {limit:.0f} s: {node.tail()}") from None

    def refusal(self, data: Path, command: str = "agent", *, status: int | None = None, **settings: str) -> str:
        """The one line with which a node that must not start says why.

        Fails for a start, exit status 0 or another than `status`, a traceback, or more or less than one line.
        """
        given = {"CHORUS_DATA_DIR": str(data), "CHORUS_MDNS_ENABLED": "false", **FREE_PORTS, **settings}
        process = Twistd(
            ["--nodaemon", "--pidfile=", "chorus", command],
            cwd=self.folder,
            env=environment(**given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            self.fail(f"it started: {settings} {output} {errors}")
        self.assertGreater(process.returncode, 0, output + errors)
        self.assertIn(process.returncode, (status or process.returncode,), output + errors)
        self.assertNotIn("Traceback", output + errors)  # type: ignore[no-untyped-call]
        (line,) = [line for line in errors.splitlines() if line.startswith("chorus: ")]
        self.assertEqual(errors.strip(), line, "one line, and nothing beside it")  # type: ignore[no-untyped-call]
        return line.removeprefix("chorus: ")

    def refusals(self, cases: dict[str, dict[str, str]]) -> dict[str, str]:
        """`refusal` of many settings at once, by name, each in a new data directory."""
        with ThreadPoolExecutor(4) as pool:
            pending = {
                name: pool.submit(self.refusal, self.folder / f"refused-{name}", **settings)
                for name, settings in cases.items()
            }
            return {name: future.result() for name, future in pending.items()}


def need_bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        raise SkipTest("bubblewrap is not installed (apt-get install bubblewrap)")
