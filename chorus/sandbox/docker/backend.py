"""The Docker backend: containers by the engine's API, a warm pool, take-back after a restart of the agent.

All calls are in threads with time limits. What a killed agent or engine left is found by label in every state.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox.contract import Job, OutputSink, Run, RunResult, SandboxUnavailable
from chorus.sandbox.docker.box import Binding, Contained, Containers, clean_boxes, container_name
from chorus.sandbox.docker.engine import Engine, EngineError
from chorus.sandbox.docker.run import CONTAINER_S, FILES_S, PROBE_S, DockerRun
from chorus.sandbox.docker.spec import LABEL_AGENT, LABEL_BOX, LABEL_FENCE, LABEL_IMAGE, LABEL_TASK
from chorus.sandbox.docker.warm import WarmPool
from chorus.sandbox.files import volumes, workspace
from chorus.sandbox.files.volumes import Volume
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.images import ImageMap
from chorus.sandbox.workers import TimedOut, Workers
from chorus.tasks.terms import Limits, Reason

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

LEFTOVERS_S = 5.0
"""Between two attempts to remove what an engine that was away still has."""


class Docker:
    """`Backend` over an engine. `state` is a folder of this agent's own, on a disk that the engine sees under the same
    path; `defaults` are the limits that warm containers are made with."""

    name = "docker"
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        agent_id: str,
        *,
        state: Path,
        host: str | None = None,
        images: ImageMap | None = None,
        warm: Mapping[str, int] | None = None,
        defaults: Limits | None = None,
        tmp_mb: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.reactor: Any = reactor
        self.now = now
        self.images = images or ImageMap()
        self.workers = Workers(reactor, "docker", 12)
        self.runs: set[DockerRun] = set()
        self._agent_id = agent_id
        self.containers = Containers(Engine(host), agent_id, self.images, tmp_mb)
        # Not in the folder of the attempt: a task sees the path of one of its mounts, and need not see whose it is.
        self._boxes = state / "boxes"
        self.pool = WarmPool(self, state / "warm", dict(warm or {}), defaults or Limits())
        self._kept: dict[tuple[str, str], tuple[Contained, Binding]] = {}
        self._leftovers: set[str] = set()
        self._sweep: Any = None
        self._closed = False
        self._owed = False
        """A reconciliation that was asked for and could not be made: the engine was away."""
        self._lock = DeferredLock()

    # -- Backend

    def probe(self) -> Deferred[str | None]:
        async def probe() -> str | None:
            try:
                problem = await self.workers.call(PROBE_S, self.containers.look)
                if problem is None and self._owed:
                    await self.settle()
            except (ChorusError, TimedOut) as error:
                return str(error)
            return problem

        return Deferred.fromCoroutine(probe())

    def has_image(self, job: Job) -> Deferred[bool]:
        image = self.images.image_for(job.language, job.image)
        return self.workers.call(PROBE_S, lambda: self.containers.engine.image_id(image) is not None)

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run:
        return self._begin(DockerRun(self, job, scratch, sink))

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]:
        async def reconcile() -> list[tuple[str, str]]:
            self._owed = True
            async with self._lock:
                await self._reconcile_once(keep)
            return list(self._kept)

        return Deferred.fromCoroutine(reconcile())

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> Run | None:
        kept = self._kept.pop((job.task_id, job.fence), None)
        if kept is None:
            return None
        kept[0].limits = job.limits
        return self._begin(DockerRun(self, job, scratch, sink, kept, (stdout_from, stderr_from)))

    def close(self) -> Deferred[None]:
        async def close() -> None:
            self._closed = True
            if self._sweep is not None and self._sweep.active():
                self._sweep.cancel()
            ending: list[Deferred[None]] = []
            for run in list(self.runs):
                ended: Deferred[None] = Deferred()
                run.gone.append(ended)
                ending.append(ended)
                if not run.detached:
                    run.cancel(Reason.SANDBOX_UNAVAILABLE)
            if ending:
                await gatherResults(ending)
            await self.pool.drain()
            self.workers.stop()

        return Deferred.fromCoroutine(close())

    def kept_boxes(self) -> set[Path]:
        """Folders of runs that may still be adopted."""
        return {found.box.root for found, _ in self._kept.values()}

    # -- for the runs

    async def settle(self) -> None:
        """Make up for a reconciliation that the engine was away for: nobody waits for those runs any more."""
        async with self._lock:
            if self._owed:
                await self._reconcile_once(lambda task, fence: False)

    async def _reconcile_once(self, keep: Callable[[str, str], bool]) -> None:
        if self.containers.engine.missing() is None:
            self._kept = await self.workers.call(FILES_S, self._reconcile, keep)
            self._owed = False
            self.pool.begin()

    async def container_for(self, job: Job, image: str, *, warm: bool) -> Contained:
        """A warm container if one fits and is wanted, else a new one."""
        if self._owed:
            await self.settle()
        ready = self.pool.take(image, job.limits) if warm else None
        if ready is not None:
            try:
                await self.workers.call(CONTAINER_S, self.containers.fit, ready, job)
            except (ChorusError, TimedOut) as error:
                self._log.info("a warm container of {image} was not usable: {error}", image=image, error=error)
                await self.discard(ready)
            else:
                return ready
        box = Box(self._boxes / uuid.uuid4().hex)
        made: Contained = await self.workers.call(
            CONTAINER_S, self.containers.make, container_name(job), image, box, job.limits, job
        )
        return made

    async def discard(self, found: Contained) -> None:
        """Remove a container that nobody uses, and its box."""
        try:
            await self.workers.call(CONTAINER_S, self.containers.remove, found)
        except (ChorusError, TimedOut):
            self.remove_later(found.id)
        try:
            await self.workers.call(FILES_S, volumes.remove_tree, found.box.root)
        except (OSError, TimedOut) as error:
            self._log.error("{path} could not be removed: {error}", path=str(found.box.root), error=error)

    def remove_later(self, container: str) -> None:
        """The engine is away: try again until it is back."""
        self._leftovers.add(container)
        if self._sweep is None and not self._closed:
            self._sweep = self.reactor.callLater(LEFTOVERS_S, self._sweep_once)

    def _sweep_once(self) -> None:
        async def sweep() -> None:
            for container in list(self._leftovers):
                try:
                    await self.workers.call(CONTAINER_S, self.containers.engine.remove, container)
                except (ChorusError, TimedOut):
                    break
                self._leftovers.discard(container)
            self._sweep = None
            if self._leftovers and not self._closed:
                self._sweep = self.reactor.callLater(LEFTOVERS_S, self._sweep_once)

        Deferred.fromCoroutine(sweep()).addErrback(lambda failure: self._log.failure("sweep", failure))

    def _begin(self, run: DockerRun) -> Run:
        self.runs.add(run)

        def forget(result: RunResult) -> RunResult:
            self.runs.discard(run)
            return result

        run.result.addCallback(forget)
        run.begin()
        return run

    # -- blocking

    def _reconcile(self, keep: Callable[[str, str], bool]) -> dict[tuple[str, str], tuple[Contained, Binding]]:
        engine = self.containers.engine
        kept = {}
        mine = {run.contained.id for run in self.runs if run.contained is not None}
        for entry in engine.labelled(LABEL_AGENT, self._agent_id):
            if entry["Id"] in mine:
                continue
            found = self._recognise(entry, keep)
            if found is not None:
                kept[found[1].task_id, found[1].fence] = found
                continue
            try:
                engine.remove(entry["Id"])
            except (EngineError, SandboxUnavailable) as error:
                self._log.error("orphan {id} could not be removed: {error}", id=entry["Id"][:12], error=error)
            if (box := (entry.get("Labels") or {}).get(LABEL_BOX)) and Path(box).is_absolute():
                try:
                    volumes.remove_tree(Path(box))
                except OSError as error:
                    self._log.error("{path} could not be removed: {error}", path=box, error=error)
        used = {run.contained.box.root for run in self.runs if run.contained is not None}
        used |= {found.box.root for found, _ in kept.values()}
        for folder in (self._boxes, self.pool.folder):
            clean_boxes(folder, used)
        return kept

    def _recognise(
        self, entry: Mapping[str, Any], keep: Callable[[str, str], bool]
    ) -> tuple[Contained, Binding] | None:
        """The run in a container that may be taken over, or None for an orphan."""
        label = entry.get("Labels") or {}
        box = Box(Path(label.get(LABEL_BOX) or "/nonexistent"))
        binding = Binding.read(box)
        task, fence = label.get(LABEL_TASK), label.get(LABEL_FENCE)
        if binding is None or (task is not None and (task, fence) != (binding.task_id, binding.fence)):
            return None
        if entry.get("State") not in ("running", "paused") or not keep(binding.task_id, binding.fence):
            return None
        engine = self.containers.engine
        try:
            if entry["State"] == "paused":
                engine.resume(entry["Id"])
            engine.execution(binding.execution)
            volume = Volume(box.fs, binding.disk, binding.disk_mb, "taken over", workspace.WRITABLE)
            limits = Limits(disk_mb=binding.disk_mb)
            uid = self.containers.uids.hold(binding.uid)
            found = Contained(entry["Id"], label.get(LABEL_IMAGE, ""), box, volume, limits, uid)
            found.attach(engine.inspect(entry["Id"])["State"])
        except EngineError:
            return None
        return found, binding
