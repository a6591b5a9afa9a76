"""The Docker backend: containers by the engine's API, a warm pool, take-back after a restart of the agent.

All calls are in threads with time limits. What a killed agent or engine left is found by label in every state.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox.contract import Job, OutputSink, Run, SandboxUnavailable
from chorus.sandbox.docker.box import Contained, RunBinding
from chorus.sandbox.docker.containers import Containers, clean_boxes, container_name
from chorus.sandbox.docker.engine import Engine, EngineError
from chorus.sandbox.docker.run import DockerRun, TakenOver
from chorus.sandbox.docker.site import CONTAINER_S, PROBE_S, DockerSite
from chorus.sandbox.docker.spec import LABEL_AGENT, LABEL_BOX, LABEL_FENCE, LABEL_IMAGE, LABEL_TASK
from chorus.sandbox.docker.warm import WarmPool
from chorus.sandbox.files import volumes, workspace
from chorus.sandbox.files.volumes import Volume
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.leftovers import Leftovers
from chorus.sandbox.run import FILES_S, Runs
from chorus.sandbox.settings import SandboxSettings
from chorus.sandbox.workers import TimedOut, Workers
from chorus.tasks.terms import Limits, Reason

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class Docker:
    """`Backend` over an engine. `state` is a folder of this agent's own, on a disk that the engine sees under the same
    path."""

    name = "docker"
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        agent_id: str,
        *,
        state: Path,
        settings: SandboxSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.runs: Runs[DockerRun] = Runs()
        self.containers = containers = Containers(
            Engine(settings.docker_host), agent_id, settings.images, settings.tmp_mb
        )
        workers = Workers(reactor, self.name, 12)
        # What keeps one container from being removed keeps all: the engine is away.
        leftovers = Leftovers[str](
            reactor, lambda container: workers.call(CONTAINER_S, containers.engine.remove, container), alike=True
        )
        self._site = DockerSite(self.name, reactor, workers, now, containers, leftovers)
        self._agent_id = agent_id
        # Not in the folder of the attempt: a task sees the path of one of its mounts, and need not see whose it is.
        self._boxes = state / "boxes"
        self.pool = WarmPool(self._site, state / "warm", settings.warm, settings.defaults)
        self._kept: dict[tuple[str, str], TakenOver] = {}
        self._owed = False
        """A reconciliation that was asked for and could not be made: the engine was away."""
        self._lock = DeferredLock()

    # -- Backend

    def probe(self) -> Deferred[str | None]:
        async def probe() -> str | None:
            try:
                problem: str | None = await self._call(PROBE_S, self.containers.look)
                if problem is None and self._owed:
                    await self._settle()
            except (ChorusError, TimedOut) as error:
                return str(error)
            return problem

        return Deferred.fromCoroutine(probe())

    def has_image(self, job: Job) -> Deferred[bool]:
        image = self.containers.images.image_for(job.language, job.image)
        return self._call(PROBE_S, lambda: self.containers.engine.image_id(image) is not None)

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run:
        return self.runs.begin(DockerRun(self._site, job, scratch, sink, self._container_for))

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
        kept.contained.limits = job.limits
        kept = attrs.evolve(kept, starts=(stdout_from, stderr_from))
        return self.runs.begin(DockerRun(self._site, job, scratch, sink, self._container_for, kept))

    def close(self) -> Deferred[None]:
        def stop(run: DockerRun) -> None:
            if not run.detached:
                run.cancel(Reason.SANDBOX_UNAVAILABLE)

        async def close() -> None:
            self._site.leftovers.close()
            await self.runs.end(stop)
            await self.pool.drain()
            self._site.workers.stop()

        return Deferred.fromCoroutine(close())

    def kept_boxes(self) -> set[Path]:
        """Folders of runs that may still be adopted."""
        return {kept.contained.box.root for kept in self._kept.values()}

    # -- its parts

    def _call(self, limit: float, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return self._site.workers.call(limit, function, *args)

    async def _settle(self) -> None:
        """Make up for a reconciliation that the engine was away for: nobody waits for those runs any more."""
        async with self._lock:
            if self._owed:
                await self._reconcile_once(lambda task, fence: False)

    async def _reconcile_once(self, keep: Callable[[str, str], bool]) -> None:
        if self.containers.engine.missing() is None:
            self._kept = await self._call(FILES_S, self._reconcile, keep)
            self._owed = False
            self.pool.begin()

    async def _container_for(self, job: Job, image: str, warm: bool) -> Contained:
        if self._owed:
            await self._settle()
        ready = self.pool.take(image, job.limits) if warm else None
        if ready is not None:
            try:
                await self._call(CONTAINER_S, self.containers.fit, ready, job)
            except (ChorusError, TimedOut) as error:
                self._log.info("a warm container of {image} was not usable: {error}", image=image, error=error)
                await self._site.discard(ready)
            else:
                return ready
        box = Box(self._boxes / uuid.uuid4().hex)
        made: Contained = await self._call(
            CONTAINER_S, self.containers.make, container_name(job), image, box, job.limits, job
        )
        return made

    # -- blocking

    def _reconcile(self, keep: Callable[[str, str], bool]) -> dict[tuple[str, str], TakenOver]:
        engine = self.containers.engine
        kept = {}
        mine = {run.contained.id for run in self.runs if run.contained is not None}
        for entry in engine.labelled(LABEL_AGENT, self._agent_id):
            if entry["Id"] in mine:
                continue
            found = self._recognise(entry, keep)
            if found is not None:
                kept[found.binding.task_id, found.binding.fence] = found
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
        used |= {found.contained.box.root for found in kept.values()}
        for folder in (self._boxes, self.pool.folder):
            clean_boxes(folder, used)
        return kept

    def _recognise(self, entry: Mapping[str, Any], keep: Callable[[str, str], bool]) -> TakenOver | None:
        """The run in a container that may be taken over, or None for an orphan."""
        label = entry.get("Labels") or {}
        box = Box(Path(label.get(LABEL_BOX) or "/nonexistent"))
        binding = RunBinding.read(box)
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
        return TakenOver(found, binding)
