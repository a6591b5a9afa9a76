"""Jobs, a recording sink, and the reasons why a kind of sandbox cannot be tested on this machine."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from chorus.sandbox.contract import Job, Run, RunResult
from chorus.sandbox.files import volumes
from chorus.sandbox.workers import Pause
from chorus.tasks.terms import Limits, Reason

IMAGE = "chorus-python-dev"
WAIT_S = 60.0
"""What a loaded machine may take for anything that is waited for."""


def shell(*texts: str, **fields: Any) -> Job:
    """A job whose commands are shell texts; `limits` is a dict."""
    limits = Limits(**{"timeout_s": 20.0, "disk_mb": 64, "memory_mb": 256, "pids": 64, **fields.pop("limits", {})})
    defaults: dict[str, Any] = {
        "task_id": "task-1", "attempt": 1, "fence": "0.1.7", "agent_id": "agent-test", "env": {}, "language": "base",
        "image": None, "input_archive": None, "artifacts": (),
    }  # fmt: skip
    commands = tuple(("/bin/sh", "-c", text) for text in texts)
    return Job(commands=commands, limits=limits, **{**defaults, **fields})


def python(code: str, **fields: Any) -> Job:
    return attrs.evolve(shell(**fields), commands=(("python3", "-c", code),))


class Recorder:
    """A sink that checks that bytes come in order, without holes."""

    def __init__(self, stdout_from: int = 0, stderr_from: int = 0) -> None:
        self.at = {"stdout": stdout_from, "stderr": stderr_from}
        self.got = {"stdout": b"", "stderr": b""}
        self._waiting: list[tuple[str, bytes, Deferred[None]]] = []

    def __call__(self, stream: str, offset: int, data: bytes) -> None:
        assert offset == self.at[stream], (stream, offset, self.at[stream])
        assert data
        self.at[stream] += len(data)
        self.got[stream] += data
        for entry in list(self._waiting):
            if entry[1] in self.got[entry[0]]:
                self._waiting.remove(entry)
                entry[2].callback(None)

    def seen(self, stream: str, text: bytes) -> Deferred[None]:
        """Fires once `text` was in the stream."""
        fires: Deferred[None] = Deferred()
        self._waiting.append((stream, text, fires))
        if text in self.got[stream]:
            self._waiting.pop()
            fires.callback(None)
        return fires


def archive(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "input.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755
            tar.addfile(info, io.BytesIO(data))
    return path


async def child(
    command: str, *arguments: str, env: dict[str, str] | None = None, cwd: str | None = None
) -> tuple[str, int]:
    """Run a process to its end: its output and errors together, and its exit code (negative for a signal)."""

    def by_signal(failure: Any) -> Any:
        # What it fails with is a tuple, which cannot be raised.
        return (*failure.value[:2], -failure.value[2]) if isinstance(failure.value, tuple) else failure

    ended = getProcessOutputAndValue(command, arguments, env or dict(os.environ), cwd).addErrback(by_signal)
    out, err, code = await ended
    return (out + err).decode(errors="replace"), code


def import_path() -> str:
    """PYTHONPATH for a child that imports what this process does."""
    inherited = os.environ.get("PYTHONPATH", "")
    return f"{Path(__file__).parents[2]}{os.pathsep if inherited else ''}{inherited}"


def loop_mounts() -> bool:
    """Whether this process may give a task a file system of its own."""
    folder = Path(tempfile.mkdtemp(prefix="chorus-test-"))
    try:
        return volumes.mount_volume(folder / "image", folder / "fs", 8, None, loop=True).enforcement == "loop"
    finally:
        volumes.remove_tree(folder)


def no_bubblewrap() -> str | None:
    """Why bubblewrap cannot be tested here."""
    return None if shutil.which("bwrap") else "bubblewrap is not installed (apt-get install bubblewrap)"


class SandboxCase(TestCase):
    """A test with real sandboxes: `self.backend` is made by the subclass, runs get fresh scratch folders."""

    timeout = 180
    backend: Any

    def scratch(self) -> Path:
        # Not below trial's folder: unmounting and foreign owners are easier to see to in a place of its own.
        path = Path(tempfile.mkdtemp(prefix="chorus-test-"))
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        return path

    async def until(self, condition: Any) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                self.fail("waited in vain")
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]

    def pauses(self) -> list[float]:
        """Fills with the seconds for which a run pauses between two looks or attempts."""
        real, seen = Pause.wait, list[float]()

        def wait(pause: Pause, seconds: float) -> Any:
            seen.append(seconds)
            return real(pause, seconds)

        self.patch(Pause, "wait", wait)
        return seen

    def go(self, job: Job, sink: Any = None) -> tuple[Run, Path]:
        scratch = self.scratch() / "scratch"
        return self.backend.start(job, scratch, sink or (lambda *_: None)), scratch

    async def outcome(self, job: Job, sink: Any = None) -> tuple[RunResult, bytes, bytes]:
        """Run to the end: the result, and what was kept of both streams."""
        run, scratch = self.go(job, sink)
        result = await run.result
        self.assert_clean(scratch)
        kept = [scratch / name for name in ("stdout", "stderr")]
        out, err = (path.read_bytes() if path.exists() else b"" for path in kept)
        self.assertEqual((len(out), len(err)), (result.stdout_bytes, result.stderr_bytes))
        return result, out, err

    async def exits(self, job: Job) -> bytes:
        """Run, expect success, return stdout."""
        result, out, err = await self.outcome(job)
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), (result, out[-2000:], err[-2000:]))
        return out

    def assert_clean(self, scratch: Path) -> None:
        """Nothing is left but what a run leaves on purpose."""
        self.assertLessEqual({path.name for path in scratch.iterdir()}, {"stdout", "stderr", "artifacts"})
        self.assertNotIn(os.path.realpath(scratch), Path("/proc/self/mountinfo").read_text())


def no_docker() -> str | None:
    """Why the Docker backend cannot be tested here."""
    host = os.environ.get("CHORUS_TEST_DOCKER_HOST")
    if not host:
        return "CHORUS_TEST_DOCKER_HOST names no container engine (scripts/dockerd-test start)"
    from chorus.sandbox.docker.engine import Engine

    try:
        if Engine(host).image_id(IMAGE) is None:
            return f"the engine at {host} has no {IMAGE} (deploy/images/build python)"
    except Exception as error:
        return f"the engine at {host} does not answer: {error}"
    return None
