"""Making, filling, starting and removing containers. Blocking."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

import attrs
from twisted.logger import Logger

from chorus.sandbox.contract import ImageMissing, Job, SandboxUnavailable
from chorus.sandbox.docker import seccomp as seccomp_docker
from chorus.sandbox.docker.box import Contained, RunBinding
from chorus.sandbox.docker.engine import Engine, EngineError
from chorus.sandbox.docker.spec import Users, cap_file, container, execution, labels, resources
from chorus.sandbox.files import volumes, workspace
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.images import ImageMap
from chorus.sandbox.uids import Uid, Uids
from chorus.tasks.terms import Limits

READY_S = 20.0
"""How long a started container may take to open its pipes."""


def container_name(job: Job) -> str:
    return f"chorus-{job.task_id[-36:]}-{job.attempt}-{uuid.uuid4().hex[:8]}"


def clean_boxes(folder: Path, used: Collection[Path]) -> None:
    """Remove what an earlier process left in a folder of boxes, but those in use."""
    for root in set(folder.iterdir()) - set(used) if folder.is_dir() else ():
        try:
            volumes.remove_tree(root)
        except OSError as error:
            Containers._log.error("{path} could not be removed: {error}", path=str(root), error=error)


def _users(uid: Uid) -> Users:
    return Users.of_agent(os.geteuid(), os.getegid(), uid.number)


def _fill_control(box: Box, users: Users) -> None:
    """Fills the control folder of a container, apart from the commands."""
    out = box.control / "out"
    volumes.make_folder(out, 0o755)
    if users.owner:
        os.chown(out, *users.pump)
    for name, text in users.files.items():
        volumes.make_folder(box.control / "etc", 0o755, exist_ok=True)
        volumes.write_readable(box.control / "etc" / name, text)


class Containers:
    """Makes, fills, starts and removes containers. Blocking."""

    _log = Logger()

    def __init__(self, engine: Engine, agent_id: str, images: ImageMap, tmp_mb: int | None = None) -> None:
        self.engine = engine
        self.images = images
        self.uids = Uids()
        self._agent_id = agent_id
        self._tmp_mb = tmp_mb
        self._loop = True
        self._runtime: str | None = None
        self._seccomp: str | None = seccomp_docker.profile()

    def look(self) -> str | None:
        """None if this engine will do, else one line."""
        missing = self.engine.missing()
        if missing is not None:
            return missing
        info = self.engine.info()
        if info.maps_users:
            return "the container engine maps users (rootless or userns-remap), which is not supported here"
        self._runtime = "runsc" if "runsc" in info.runtimes else None
        self._seccomp = seccomp_docker.profile() if info.seccomp else None
        held = {
            "memory": info.memory_limit,
            "pids": info.pids_limit,
            "cpu": info.cpu_limit,
            "seccomp": info.seccomp,
        }
        lacking = [name for name, there in held.items() if not there]
        self.caveats = tuple(f"no_{name}: the engine does not hold it on this machine" for name in lacking)
        return None

    caveats: tuple[str, ...] = ()

    def make(self, name: str, image: str, box: Box, limits: Limits, job: Job | None) -> Contained:
        """A started container, its pipes open, without a task. Raises `ImageMissing` and `SandboxUnavailable`."""
        try:
            return self._make(name, image, box, limits, job, loop=self._loop)
        except EngineError as error:
            if error.status == 404:
                raise ImageMissing(image, self.images.how_to_get(image)) from None
            if "bind source path does not exist" not in str(error) or not self._loop:
                raise SandboxUnavailable(f"the engine refuses the container: {error}") from None
        # An engine in another mount namespace does not see what is mounted here: a plain folder it may.
        self._loop = False
        try:
            return self._make(name, image, box, limits, job, loop=False)
        except EngineError as error:
            raise SandboxUnavailable(f"the engine does not see {box.root}: {error}") from None

    def _make(self, name: str, image: str, box: Box, limits: Limits, job: Job | None, *, loop: bool) -> Contained:
        uid = self._take_uid()
        users = _users(uid)
        made = None
        try:
            volume = workspace.prepare(box, limits.disk_mb, users.owner, loop=loop)
            _fill_control(box, users)
            label = labels(self._agent_id, image, box, job)
            body = container(
                image, box, limits, users, label, self._runtime, seccomp=self._seccomp, tmp_mb=self._tmp_mb
            )
            made = self.engine.create(name, body)
            self.engine.start(made)
            found = Contained(made, image, box, volume, limits, uid, warm=job is None)
            self._await_ready(found)
            found.attach(self.engine.inspect(made)["State"])
        except BaseException:
            if made is not None:
                with contextlib.suppress(SandboxUnavailable, EngineError):
                    self.engine.remove(made)
            try:
                volumes.remove_tree(box.root)
            except OSError as error:
                self._log.error("{path} could not be removed: {error}", path=str(box.root), error=error)
            uid.release()
            raise
        return found

    def _take_uid(self) -> Uid:
        """Another agent than root runs its tasks as itself."""
        return self.uids.take() if os.geteuid() == 0 else Uid(os.geteuid())

    def _await_ready(self, found: Contained) -> None:
        deadline = time.monotonic() + READY_S
        looks = 0
        while not found.marked("ready"):
            looks += 1
            # Once a second ask whether it still lives: an image without a shell never gets ready.
            if looks % 200 == 0 and not self.engine.inspect(found.id)["State"].get("Running"):
                raise SandboxUnavailable(f"{found.image} does not start: has it /bin/sh, mkfifo and dd?")
            if time.monotonic() > deadline:
                raise SandboxUnavailable(f"a container of {found.image} is not ready after {READY_S:g} s")
            time.sleep(0.005)

    def fill(self, found: Contained, job: Job, stop: Callable[[], bool]) -> None:
        """Input and script; raises what `workspace.fill` does."""
        workspace.fill(found.box, job, _users(found.uid).owner, stop)
        workspace.write_script(found.box, job)
        volumes.write_readable(found.box.control / "cap", cap_file(job.limits))

    def fit(self, warm: Contained, job: Job) -> None:
        """Give a warm container this job's limits."""
        limits = job.limits
        if resources(limits) != resources(warm.limits):
            self.engine.update(warm.id, resources(limits))
        warm.volume = attrs.evolve(warm.volume, limit_mb=limits.disk_mb)
        warm.limits = limits

    def begin(self, found: Contained, job: Job, now: float) -> RunBinding:
        """Start the commands; what it takes to find them again is durable before."""
        prepared = self.engine.prepare_execution(found.id, execution(job, _users(found.uid)))
        volume = found.volume
        binding = RunBinding(
            job.task_id, job.fence, prepared, now, volume.enforcement, job.limits.disk_mb, found.uid.number
        )
        binding.write(found.box)
        self.engine.start_execution(prepared)
        if found.warm:
            # For the eyes of whoever lists containers, so not before the task runs.
            with contextlib.suppress(EngineError, SandboxUnavailable):
                self.engine.rename(found.id, container_name(job))
        return binding

    def oom_killed(self, found: Contained) -> bool:
        return bool(self.engine.inspect(found.id)["State"].get("OOMKilled"))

    def remove(self, found: Contained) -> None:
        """Kill and remove the container; the box stays. Raises `SandboxUnavailable` when the engine is away."""
        found.kill_now()
        self.engine.remove(found.id)
        found.release()
