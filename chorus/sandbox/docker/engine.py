"""The container engine's API through docker-py: blocking, one client a thread, a time limit on every call.

docker-py is imported at the first call: an agent without an engine does not pay for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from chorus.errors import LocalError
from chorus.sandbox.contract import SandboxUnavailable

DEFAULT_HOST = "unix:///var/run/docker.sock"

CALL_S = 10.0
"""Of a socket read of an ordinary call."""

SLOW_CALL_S = 60.0
"""The same of creating, starting and removing, which wait for the disk."""

INSTALL = "apt-get install docker.io, or set DOCKER_HOST"
START = "start the installed dockerd (systemctl start docker), or set DOCKER_HOST"


class EngineError(LocalError):
    """The engine answered, and refused."""

    code = "engine_error"

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@attrs.frozen
class EngineInfo:
    """The properties of an engine that matter here."""

    runtimes: frozenset[str]
    seccomp: bool
    maps_users: bool
    """Rootless or with remapped users: a user inside is another one on the host."""
    pids_limit: bool
    memory_limit: bool
    cpu_limit: bool


def _text(error: Exception) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())[:300]


class Engine:
    """One engine, by its address."""

    def __init__(self, host: str | None) -> None:
        self.host = host or DEFAULT_HOST
        self._local = threading.local()

    def missing(self) -> str | None:
        """A look without a connection: nothing is imported where there is not even a socket."""
        if self.host.startswith("unix://"):
            path = Path(self.host.removeprefix("unix://"))
            if not path.exists():
                # Debian keeps it out of the PATH of ordinary users.
                installed = shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
                return f"no container engine at {self.host}: {START if installed else INSTALL}"
        return None

    def info(self) -> EngineInfo:
        with self._client(CALL_S) as client:
            found = client.info()
        security = " ".join(found.get("SecurityOptions") or ())
        return EngineInfo(
            runtimes=frozenset(found.get("Runtimes") or ()),
            seccomp="name=seccomp" in security,
            maps_users="name=rootless" in security or "name=userns" in security,
            pids_limit=bool(found.get("PidsLimit")),
            memory_limit=bool(found.get("MemoryLimit")),
            cpu_limit=bool(found.get("CpuCfsQuota")),
        )

    def image_id(self, name: str) -> str | None:
        try:
            with self._client(CALL_S) as client:
                return str(client.inspect_image(name)["Id"])
        except EngineError as error:
            # 400: no name of an image at all.
            if error.status in (400, 404):
                return None
            raise

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        with self._client(SLOW_CALL_S) as client:
            answer = client._post_json(client._url("/containers/create"), data=dict(body), params={"name": name})
            return str(client._result(answer, True)["Id"])

    def start(self, container: str) -> None:
        with self._client(SLOW_CALL_S) as client:
            client.start(container)

    def update(self, container: str, resources: Mapping[str, Any]) -> None:
        with self._client(CALL_S) as client:
            answer = client._post_json(client._url("/containers/{0}/update", container), data=dict(resources))
            client._result(answer, True)

    def rename(self, container: str, name: str) -> None:
        with self._client(CALL_S) as client:
            client.rename(container, name)

    def inspect(self, container: str) -> dict[str, Any]:
        with self._client(CALL_S) as client:
            found: dict[str, Any] = client.inspect_container(container)
            return found

    def prepare_execution(self, container: str, body: Mapping[str, Any]) -> str:
        """A command that is not started yet; its id."""
        with self._client(CALL_S) as client:
            answer = client._post_json(client._url("/containers/{0}/exec", container), data=dict(body))
            return str(client._result(answer, True)["Id"])

    def start_execution(self, found: str) -> None:
        """Start it and leave it running."""
        with self._client(SLOW_CALL_S) as client:
            answer = client._post_json(client._url("/exec/{0}/start", found), data={"Detach": True, "Tty": False})
            client._raise_for_status(answer)

    def execution(self, found: str) -> tuple[bool, int | None]:
        """(running, exit code); the code is None for one that runs or never began."""
        with self._client(CALL_S) as client:
            state = client.exec_inspect(found)
            return bool(state.get("Running")), state.get("ExitCode")

    def remove(self, container: str) -> None:
        """Kill and remove in whatever state; one that is gone already is fine."""
        with self._client(SLOW_CALL_S) as client:
            with contextlib.suppress(Exception):
                # A frozen process takes no signal.
                if client.inspect_container(container)["State"].get("Paused"):
                    client.unpause(container)
            try:
                client.remove_container(container, force=True, v=True)
            except Exception as error:
                # 404: gone; 409: another removal is under way.
                if getattr(error, "status_code", None) not in (404, 409):
                    raise

    def resume(self, container: str) -> None:
        with self._client(CALL_S) as client:
            client.unpause(container)

    def labelled(self, label: str, value: str) -> list[dict[str, Any]]:
        """All containers with this label, in every state."""
        with self._client(CALL_S) as client:
            found: list[dict[str, Any]] = client.containers(all=True, filters={"label": f"{label}={value}"})
            return found

    @contextlib.contextmanager
    def _client(self, limit: float) -> Iterator[Any]:
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        try:
            client = getattr(self._local, "client", None)
            if client is None:
                client = docker.APIClient(base_url=self.host, version="auto", timeout=int(CALL_S))
                self._local.client = client
            client.timeout = limit
            yield client
        except docker.errors.APIError as error:
            raise EngineError(error.response.status_code if error.response is not None else 500, _text(error)) from None
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            # The next call tries with a fresh connection.
            self._local.client = None
            raise SandboxUnavailable(f"no container engine answers at {self.host}: {_text(error)}") from None
