"""The sandbox of a node: chooses a backend for each job, watches whether there is one, cleans up after itself."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox.contract import (
    Backend,
    Choice,
    Job,
    OutputSink,
    Run,
    RunResult,
)
from chorus.sandbox.files import volumes
from chorus.sandbox.images import ImageMap
from chorus.sandbox.selection import ORDER, Selection
from chorus.sandbox.settings import Mode, SandboxSettings
from chorus.services.execution.chosen import ChosenRun
from chorus.tasks.languages import LANGUAGES
from chorus.tasks.terms import Limits
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.seams import JSON

PROBE_INTERVAL_S = 30.0
"""Between two looks at the backends: an engine that stops shows in /ready within that time."""


@attrs.frozen
class SandboxStatus:
    """The sandbox as /ready and /v1/status show it."""

    usable: bool
    mode: Mode
    backends: Mapping[str, str | None]
    """Name to None when usable, else what is missing."""
    images: tuple[str, ...]
    """Of the language map, those that the engine has."""
    active: int
    warm: Mapping[str, int]

    @property
    def detail(self) -> str:
        if self.usable:
            return ", ".join(name for name, problem in self.backends.items() if problem is None)
        return "; ".join(problem for problem in self.backends.values() if problem is not None) or "not looked at yet"

    def to_json(self) -> dict[str, JSON]:
        return {**attrs.asdict(self), "images": list(self.images), "detail": self.detail}


def make_backends(
    reactor: IReactorTime, agent_id: str, *, state: Path, settings: SandboxSettings
) -> dict[str, Backend]:
    """The backends that the mode may use. `state` is a folder of this agent's own. An address of the engine that is not
    given comes from DOCKER_HOST, else it is the usual socket."""
    found: dict[str, Backend] = {}
    for name in ORDER[settings.mode]:
        if name == "docker":
            from chorus.sandbox.docker.backend import Docker

            host = settings.docker_host or os.environ.get("DOCKER_HOST") or None
            found[name] = Docker(reactor, agent_id, state=state, settings=attrs.evolve(settings, docker_host=host))
        else:
            from chorus.sandbox.bubblewrap.backend import Bubblewrap

            found[name] = Bubblewrap(reactor, agent_id, tmp_mb=settings.tmp_mb)
    return found


def clean_scratch(root: Path, keep: Collection[Path]) -> int:
    """Remove boxes that a killed agent left below a folder of attempts: their mounts first. Blocking; how many."""
    found = [*root.glob("*/box"), *root.glob("*/scratch/box")]
    left = {path for path in found if path.is_dir() and path not in keep}
    removed = 0
    for box in left:
        try:
            volumes.remove_tree(box)
            removed += 1
        except OSError as error:
            SandboxService._log.error("{path} could not be removed: {error}", path=str(box), error=error)
    return removed


class SandboxService(Service):
    """`start`, `choose`, `reconcile` and `adopt` are what executors call; `status` and `usable` what health asks."""

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        backends: Mapping[str, Backend],
        *,
        mode: Mode = "auto",
        images: ImageMap | None = None,
        scratch_root: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._scratch_root = scratch_root
        self._now = now
        self._backends = dict(backends)
        self._selection = Selection(mode, self._backends, images or ImageMap())
        self._problems: dict[str, str | None] = {name: "not looked at yet" for name in ORDER[mode]}
        self._present: tuple[str, ...] = ()
        self._next_look = Timer(reactor, self._look_again)
        self._adoptable: dict[tuple[str, str], Backend] = {}
        self.active = 0
        self.started_total = 0
        self.ended_total: dict[str, int] = {}

    # -- life

    def startService(self) -> Deferred[None]:
        """Fires when the backends have been looked at once; an unusable sandbox is no error of the start."""
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    def stopService(self) -> Deferred[None]:
        """Drains the warm pool and ends what still runs (an executor detaches first what shall go on)."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        await self.look()
        status = self.status()
        if status.usable:
            self._log.info("sandbox: {detail}", event="sandbox.usable", detail=status.detail)
        else:
            self._log.warn("no sandbox: {detail}", event="sandbox.unusable", detail=status.detail)
        self._arm()

    async def _stop(self) -> None:
        self._next_look.cancel()
        for backend in self._backends.values():
            await backend.close()

    def _look_again(self) -> None:
        looking = Deferred.fromCoroutine(self.look())
        looking.addErrback(lambda failure: self._log.failure("internal error while probing the sandboxes", failure))
        looking.addCallback(lambda _: self._arm())

    def _arm(self) -> None:
        if self.running:
            self._next_look.arm(PROBE_INTERVAL_S)

    async def look(self) -> None:
        """Ask every backend whether it is usable."""
        for name, backend in self._backends.items():
            problem = await backend.probe()
            before, self._problems[name] = self._problems.get(name), problem
            if problem is not None and before is None:
                self._log.warn("{name} is lost: {problem}", event="sandbox.lost", name=name, problem=problem)
        self._present = await self._images_present()

    async def _images_present(self) -> tuple[str, ...]:
        docker = self._backends.get("docker")
        if docker is None or self._problems.get("docker") is not None:
            return ()
        present = []
        for language in LANGUAGES:
            job = Job("", 0, "", "", (), {}, Limits(), language, None, None, ())
            with contextlib.suppress(ChorusError):
                if await docker.has_image(job):
                    present.append(self._selection.images.image_for(language))
        return tuple(present)

    # -- health

    @property
    def usable(self) -> bool:
        return any(problem is None for problem in self._problems.values())

    def status(self) -> SandboxStatus:
        pool = getattr(self._backends.get("docker"), "pool", None)
        warm = pool.waiting if pool is not None else {}
        return SandboxStatus(self.usable, self._selection.mode, dict(self._problems), self._present, self.active, warm)

    # -- executors

    def choose(self, job: Job) -> Deferred[Choice]:
        """The sandbox that would run it now. Fails with `SandboxUnavailable` or `ImageMissing`."""

        async def chosen() -> Choice:
            return (await self._selection.choose(job))[1]

        return Deferred.fromCoroutine(chosen())

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run:
        """Begin; no usable sandbox is a result with its reason."""
        return self._count(ChosenRun(self._selection, job, scratch, sink, self._now))

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]:
        """At start, before any run: remove what an earlier process left, but what `keep(task_id, fence)` says may be
        adopted. A backend that does not answer is passed over: what it has is found when it is asked again."""

        async def reconcile() -> list[tuple[str, str]]:
            for backend in self._backends.values():
                try:
                    for key in await backend.reconcile(keep):
                        self._adoptable[key] = backend
                except ChorusError as error:
                    self._log.info("{name} was not reconciled: {error}", name=backend.name, error=error)
            if self._scratch_root is not None:
                await self._clean(self._scratch_root)
            return list(self._adoptable)

        return Deferred.fromCoroutine(reconcile())

    async def _clean(self, root: Path) -> None:
        keep = {box for backend in self._backends.values() for box in getattr(backend, "kept_boxes", set)()}
        try:
            count = await deferToThread(clean_scratch, root, keep)
        except OSError as error:
            self._log.error("remains of an earlier run could not be removed: {error}", error=error)
        else:
            if count:
                self._log.info("sandboxes of an earlier run removed: {count}", event="sandbox.cleaned", count=count)

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> Run | None:
        """Take over a kept sandbox."""
        backend = self._adoptable.pop((job.task_id, job.fence), None)
        run = backend.adopt(job, scratch, sink, stdout_from, stderr_from) if backend is not None else None
        return self._count(run) if run is not None else None

    def _count(self, run: Run) -> Run:
        self.active += 1
        self.started_total += 1

        def ended(result: RunResult) -> RunResult:
            self.active -= 1
            self.ended_total[result.reason] = self.ended_total.get(result.reason, 0) + 1
            return result

        run.result.addCallback(ended)
        return run
