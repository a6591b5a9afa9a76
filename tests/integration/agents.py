"""Real agents as processes, each with a data directory of its own, and what a test asks of them over HTTP.

Everything here blocks, with a time limit: tests run it in a thread.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chorus.errors import ChorusError
from chorus.identity import Identity
from chorus.sandbox.files import volumes
from chorus.services.cluster import load_token
from tests.integration.forks import ROOT, Twistd

START_S = 120.0


class Stuck(AssertionError):
    """Something did not happen in time."""


def until(what: str, found: Callable[[], Any], limit: float = 120.0, every: float = 0.05) -> Any:
    """The first true value of `found`, asked again and again. Raises `Stuck`."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(every)
    raise Stuck(f"{what} did not happen within {limit:.0f} s")


FIXED_PORTS = (10_000, 32_000)
"""Below those that the kernel gives to outgoing connections: one of these could take an agent's while it is away."""


def free_port() -> int:
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(*FIXED_PORTS)))
            return int(probe.getsockname()[1])


class Agent:
    """One `twistd chorus agent`. Its ports stay the same over restarts."""

    def __init__(self, folder: Path, name: str, **settings: str) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(mode=0o700, parents=True)
        self.data = self.folder / "data"
        self.log = self.folder / "agent.log"
        self.settings = {
            "CHORUS_DATA_DIR": str(self.data),
            "CHORUS_AGENT_ID": name,
            "CHORUS_P2P_PORT": str(free_port()),
            "CHORUS_API_PORT": str(free_port()),
            "CHORUS_HEALTH_PORT": str(free_port()),
            "CHORUS_MDNS_ENABLED": "false",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Agent:
        env = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}
        with self.log.open("ab") as log:
            self.process = Twistd(
                ["--nodaemon", "--pidfile=", "chorus", "agent"],
                cwd=self.folder,
                env={**env, "PYTHONPATH": str(ROOT), **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(f"start of {self.name}", self._answers, START_S)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise Stuck(f"{self.name} ended with {self.process.returncode}: {self.tail()}")
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            self.get("/v1/status")
            return True
        return False

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)

    def stop(self, limit: float = 120.0) -> int:
        """SIGTERM, and its exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Stuck(f"{self.name} did not stop within {limit:.0f} s: {self.tail()}") from None

    @property
    def token(self) -> str:
        return (self.data / "api-token").read_text().strip()

    @contextlib.contextmanager
    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.settings["CHORUS_API_PORT"]), timeout=30)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self.token}", **headers})
            yield connection.getresponse()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        with self.request("GET", path) as response:
            return json.loads(response.read())

    def submit(self, **body: Any) -> str:
        with self.request(
            "POST", "/v1/tasks", json.dumps(body).encode(), **{"Content-Type": "application/json"}
        ) as answer:
            document = json.loads(answer.read())
            assert answer.status == 202, document
            return str(document["id"])

    def upload(self, data: bytes) -> str:
        with self.request("PUT", "/v1/blobs", data, **{"Content-Type": "application/octet-stream"}) as answer:
            document = json.loads(answer.read())
            assert answer.status == 201, document
            return str(document["sha256"])

    def blob(self, sha256: str) -> bytes:
        with self.request("GET", f"/v1/blobs/{sha256}") as answer:
            data = answer.read()
            assert answer.status == 200, data
            return data

    def task(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/tasks/{task_id}")
        return found

    def ended(self, task_id: str, limit: float = 180.0) -> dict[str, Any]:
        """The document of a task once its state is final."""
        final = {"completed", "failed", "cancelled", "refused"}

        def look() -> dict[str, Any] | None:
            document = self.task(task_id)
            return document if document["state"] in final else None

        try:
            found: dict[str, Any] = until(f"the end of {task_id}", look, limit, 0.1)
        except Stuck as stuck:
            raise Stuck(f"{stuck}: {self.task(task_id)}\n{self.tail()}") from None
        return found

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """The whole history of a task that is over."""
        with self.request("GET", f"/v1/tasks/{task_id}/events", Accept="text/event-stream") as answer:
            lines = answer.read().decode().splitlines()
        return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]

    def peers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/peers")["peers"]
        return found


class Mesh:
    """Agents of one cluster; the first founds it. `stop` ends whatever still runs."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self.agents: list[Agent] = []

    def add(self, name: str, **settings: str) -> Agent:
        joining = {"CHORUS_JOIN": load_token(self.agents[0].data).text()} if self.agents else {}
        agent = Agent(self.folder, name, **{**self.settings, **joining, **settings})
        self.agents.append(agent)
        agent.start()
        return agent

    def meet(self) -> None:
        """Wait until everybody knows what everybody else can do."""
        others = len([agent for agent in self.agents if agent.process is not None and agent.process.poll() is None]) - 1

        def known() -> bool:
            return all(
                sum(peer["availability"] is not None and peer["capabilities"] is not None for peer in agent.peers())
                >= others
                for agent in self.agents
            )

        try:
            until("meeting", known)
        except Stuck as stuck:
            seen = {agent.name: agent.peers() for agent in self.agents}
            raise Stuck(f"{stuck}: {seen}\n{self.agents[-1].tail()}") from None

    def stop(self) -> None:
        """End everything, and remove what killed agents left behind: nobody will start them again."""
        for agent in self.agents:
            agent.kill()
            with contextlib.suppress(ChorusError, OSError):
                mark = str(Identity.load_or_create(agent.data / "identity").peer_id)[-12:]
                for left in Path("/run/chorus-sandbox").glob(f"chorus-{mark}-*"):
                    volumes.remove_tree(left)
        volumes.remove_tree(self.folder)


def processes_with(marker: str) -> list[int]:
    """Processes whose command line holds `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
